#pragma once

#import <Virtualization/Virtualization.h>

#include <memory>
#include <vector>

#include "port_relay.h"
#include "vm_config.h"

namespace vmtest::vz {

/// Sets the serial port and the named console ports. Relays are added to `relays`, which must outlive the VM.
void add_ports(VZVirtualMachineConfiguration* configuration, const VmConfig& config,
               std::vector<std::unique_ptr<PortRelay>>& relays);
/// Sets shared directories.
void add_shares(VZVirtualMachineConfiguration* configuration, const VmConfig& config);
/// Sets entropy, balloon, vsock, graphics, sound, input devices and the USB controller.
void add_other_devices(VZVirtualMachineConfiguration* configuration, const VmConfig& config);

}  // namespace vmtest::vz
