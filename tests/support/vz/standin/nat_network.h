#pragma once

#include <memory>
#include <string>
#include <thread>

#include "dhcp_messages.h"
#include "network/tap.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::vz::standin {

/// The framework's NAT for one card, as far as the host sees it: a network that the host is on, with a DHCP server that puts its
/// leases down as macOS' does. There is no way out of it. Gone with this.
class NatNetwork {
 public:
  /// Leases go to that file. Throws vmtest::Unsupported where TAPs are not permitted.
  explicit NatNetwork(std::string lease_file);
  ~NatNetwork();
  NatNetwork(const NatNetwork&) = delete;
  NatNetwork& operator=(const NatNetwork&) = delete;

  /// The TAP, for QEMU.
  [[nodiscard]] int descriptor() const { return tap_.descriptor.get(); }

 private:
  void serve();
  void put_down(const DhcpQuestion& question, unsigned lease_seconds) const;

  const std::string lease_file_;
  TapDevice tap_;
  TapNetwork network_;
  FileDescriptor socket_;
  FileDescriptor stop_;
  FileDescriptor stop_end_;
  std::thread thread_;
};

}  // namespace vmtest::vz::standin
