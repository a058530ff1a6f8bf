#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "vmtest/deadline.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {

/// What a VM takes of the host.
struct VmResources {
  std::string name;
  /// What it is expected to take at most: a fork shares most of its memory with others.
  unsigned memory_mib = 0;
  unsigned vcpus = 0;
};

/// Whose turn it is when VMs wait for resources.
enum class Turn {
  Queued,  ///< first come, first served
  /// Before all who wait. For who has a VM and wants another: those who wait may wait for that one's end, and never be
  /// admitted if its owner stood behind them.
  Next,
};

/// One lease: a locked place in the ledger. The lock belongs to the open descriptor, so it ends when the last copy of it
/// is closed, by whatever cause, and passes to another process with the descriptor.
class Lease {
 public:
  Lease() = default;
  explicit Lease(FileDescriptor fd) : fd_(std::move(fd)) {}
  [[nodiscard]] int descriptor() const { return fd_.get(); }
  [[nodiscard]] bool valid() const { return fd_.valid(); }

 private:
  FileDescriptor fd_;
};

/// The host-wide account of what living VMs of this user take: memory, vCPUs, ports. One file of records whose
/// byte locks say which are alive; a dead owner's record is free at once, and there is nothing to clean up.
/// Holds between unrelated processes. May be used by several threads.
class Ledger {
 public:
  /// What may be taken altogether.
  struct Limits {
    unsigned memory_mib = 0;
    unsigned vcpus = 0;
    /// How long a VM is given to take its memory of the host: until then the host's available memory does not show all of it.
    std::chrono::milliseconds settle_time = std::chrono::seconds(10);
  };
  /// Nine tenths of the host's memory and four vCPUs per host CPU; VMTEST_MAX_MEMORY_MIB and VMTEST_MAX_VCPUS say otherwise.
  [[nodiscard]] static Limits default_limits();

  /// The ledger of this host and user.
  Ledger();
  /// A ledger in `file`, for tests.
  Ledger(std::filesystem::path file, Limits limits);

  /// Takes resources for several VMs together; waits for its turn until they fit: into the limits, and, while other VMs run,
  /// into what the host has to spare, less what those admitted just now have yet to take. Throws Unsupported when they never
  /// will, Timeout when the deadline passes (saying who holds what). One lease per VM; none when `is_needless`, which is asked
  /// while it waits, says that they are not wanted any more.
  [[nodiscard]] std::vector<Lease> admit(const std::vector<VmResources>& vms, const Deadline& deadline, Turn turn = Turn::Queued,
                                         const std::function<bool()>& is_needless = {});
  /// Takes a TCP port of the loopback, if nobody has it: neither the ledger nor a listening socket.
  [[nodiscard]] std::optional<Lease> try_port(std::uint16_t port);
  /// Whether somebody waits for admission at present.
  [[nodiscard]] bool somebody_waits() const;
  /// Whether one of them is to go before all others (Turn::Next) and there is no room for it: it has a VM, and its owner cannot
  /// go on.
  [[nodiscard]] bool somebody_is_next() const;
  /// Living leases.
  [[nodiscard]] std::vector<VmResources> admitted() const;
  /// Ports held at present.
  [[nodiscard]] std::vector<std::uint16_t> ports() const;

 private:
  [[nodiscard]] FileDescriptor open() const;

  std::filesystem::path file_;
  Limits limits_;
};

}  // namespace vmtest
