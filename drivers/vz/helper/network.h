#pragma once

#import <Virtualization/Virtualization.h>

#include <vector>

#include "objc_handle.h"
#include "unix_socket.h"
#include "vm_config.h"

namespace vmtest::vz {

/// Sockets made for network cards are added to `sockets`, which must live as long as the VM.
[[nodiscard]] Handle<VZNetworkDeviceConfiguration*> make_network_device(const Nic& nic, std::vector<DatagramPair>& sockets);
/// Names of the host's interfaces that can be bridged to.
[[nodiscard]] std::vector<std::string> bridged_interfaces();

}  // namespace vmtest::vz
