#pragma once

#include "vmtest/deadline.h"
#include "vmtest/machine_config.h"
#include "vmtest/vm_handle.h"

namespace vmtest {

/// What a driver offers whose devices may come and go while the guest runs: Driver::hotplug(). The machine must have been started
/// with ports to plug into (MachineConfig::hotplug_ports). The same rules on threads as for Driver; the VM is Running throughout.
///
/// The caller keeps account of the ports, and of the devices for a later start() or fork.
class HotplugFacet {
 public:
  virtual ~HotplugFacet() = default;
  HotplugFacet() = default;
  HotplugFacet(const HotplugFacet&) = delete;
  HotplugFacet& operator=(const HotplugFacet&) = delete;

  /// Plugs a disk into its port, DiskConfig::hotplug_port. The guest finds it a moment later. Throws Error with the hypervisor's
  /// words; nothing is plugged in then.
  virtual void attach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) = 0;
  /// Plugs a network card of kind User or Isolated into its port, NicConfig::hotplug_port.
  virtual void attach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) = 0;
  /// Asks the guest to let go of a disk that was plugged in, and returns when its port and its file are free. Throws Timeout when
  /// the guest does not let go in time.
  virtual void detach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) = 0;
  virtual void detach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) = 0;
};

}  // namespace vmtest
