#pragma once

#include "vmtest/deadline.h"
#include "vmtest/machine_config.h"
#include "vmtest/vm_handle.h"

namespace vmtest {

/// A network card as it was plugged in.
struct PluggedNic {
  /// The request, with what the driver took for it: the card to give back by detach_nic(), and to have at a later start().
  NicConfig nic;
  /// Where a network was taken for it: the address with prefix length that the guest is to give it, by which the host reaches the
  /// guest, and the host's own there. Empty otherwise.
  std::string static_address = {};
  std::string gateway = {};
};

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
  /// Whether the VM's guest sees the serial number of a disk that is plugged in. Where it does not, a disk with one is refused.
  [[nodiscard]] virtual bool shows_serial_numbers(const VmHandle& /*vm*/) const { return true; }
  /// Plugs a network card into its port, NicConfig::hotplug_port. For one on a TAP that has no name a network of its own is
  /// taken, nobody else's until it is detached. Throws Unsupported for a kind of connection that this hypervisor cannot plug in.
  [[nodiscard]] virtual PluggedNic attach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) = 0;
  /// Asks the guest to let go of a disk that was plugged in, and returns when its port and its file are free. Throws Timeout when
  /// the guest does not let go in time.
  virtual void detach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) = 0;
  virtual void detach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) = 0;
};

}  // namespace vmtest
