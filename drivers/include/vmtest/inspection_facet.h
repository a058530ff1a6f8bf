#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "vmtest/deadline.h"
#include "vmtest/vm_handle.h"

namespace vmtest {

/// A number that the hypervisor counts up from a VM's start.
struct Counter {
  /// The device's name in the hypervisor: "root", "data0", "net0", "net-port1".
  std::string device;
  /// What is counted, as the guest sees it. Of disks "read_bytes", "write_bytes", "read_ops", "write_ops", of network cards
  /// "rx_bytes", "tx_bytes", "rx_frames", "tx_frames"; what else a hypervisor counts goes by its own name.
  std::string name;
  std::uint64_t value = 0;

  bool operator==(const Counter&) const = default;
};

/// What a driver offers that can look into a VM from outside: Driver::inspection(). The same rules on threads as for Driver.
class InspectionFacet {
 public:
  virtual ~InspectionFacet() = default;
  InspectionFacet() = default;
  InspectionFacet(const InspectionFacet&) = delete;
  InspectionFacet& operator=(const InspectionFacet&) = delete;

  /// Running or Suspended. All there are, by device and name.
  [[nodiscard]] virtual std::vector<Counter> counters(const VmHandle& vm, const Deadline& deadline) = 0;
  /// Running. Interrupts the guest in a way that it cannot mask; a Linux kernel says so on its console.
  virtual void inject_nmi(const VmHandle& vm, const Deadline& deadline) = 0;
  /// Running or Suspended -> the same; the guest stands still meanwhile. Writes the guest's memory to `file`, an ELF core that
  /// crash and gdb read (made, 0600). Throws Error when it is there already, Unsupported where the hypervisor was built without;
  /// no file is left then.
  virtual void dump_memory(const VmHandle& vm, const std::filesystem::path& file, const Deadline& deadline) = 0;
};

}  // namespace vmtest
