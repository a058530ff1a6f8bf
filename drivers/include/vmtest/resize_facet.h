#pragma once

#include <cstdint>
#include <string>

#include "vmtest/deadline.h"
#include "vmtest/vm_handle.h"

namespace vmtest {

/// How large a VM is at this moment, as its hypervisor counts it.
struct MachineSize {
  unsigned vcpus = 0;
  /// What the guest has taken: it plugs memory in and gives it back in its own time.
  unsigned memory_mib = 0;

  bool operator==(const MachineSize&) const = default;
};

/// What a driver offers whose VMs grow and shrink while the guest runs: Driver::resizing(). The machine must have been started
/// with room for it (MachineConfig::max_vcpus, max_memory_mib, memory_balloon). The same rules on threads as for Driver; the VM
/// is Running throughout.
///
/// These calls return when the hypervisor has done its part. The guest does the rest: it brings new vCPUs online, takes memory.
class ResizeFacet {
 public:
  virtual ~ResizeFacet() = default;
  ResizeFacet() = default;
  ResizeFacet(const ResizeFacet&) = delete;
  ResizeFacet& operator=(const ResizeFacet&) = delete;

  /// Plugs vCPUs in, or asks the guest to let go of some, until there are so many. Throws Error beyond the machine's maximum and
  /// for none, Unsupported where this hypervisor cannot take vCPUs away.
  virtual void resize_vcpus(const VmHandle& vm, unsigned vcpus, const Deadline& deadline) = 0;
  /// Offers the guest so much memory in all: what it has beyond MachineConfig::memory_mib by virtio-mem, below that by the
  /// balloon. Throws Error beyond the machine's maximum, and below its memory where it has no balloon.
  virtual void resize_memory(const VmHandle& vm, unsigned memory_mib, const Deadline& deadline) = 0;
  /// Makes a disk larger; the guest is told. Throws Error when it would not grow, or there is no disk of that id.
  virtual void resize_disk(const VmHandle& vm, const std::string& disk, std::uint64_t size_mib, const Deadline& deadline) = 0;
  [[nodiscard]] virtual MachineSize size(const VmHandle& vm, const Deadline& deadline) = 0;
};

}  // namespace vmtest
