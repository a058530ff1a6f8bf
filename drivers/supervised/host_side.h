#pragma once

#include <optional>
#include <string>
#include <vector>

#include "network/ports.h"
#include "network/tap.h"
#include "vmtest/hotplug_facet.h"
#include "vmtest/machine_config.h"
#include "vmtest/supervisor.h"

namespace vmtest {

/// The host side of a VM's network: taken before anything else exists, given back by going out of scope.
struct HostSide {
  std::optional<LeasedPort> port;
  /// TAPs that the hypervisor inherits by descriptor.
  std::vector<TapDevice> taps;
  std::vector<FileDescriptor> network_claims;
  /// Of the first card's TAP: the guest's address with its prefix length, and the host's.
  std::string static_address;
  std::string gateway;
};

/// For a hypervisor that has user-mode networks, and inherits TAPs: a port for SSH, TAPs made or opened.
[[nodiscard]] HostSide take_ports_and_taps(const PrepareRequest& request);
/// For a hypervisor that makes TAPs itself, by the name that tap_name_of() gives: their networks. Throws Unsupported for a card
/// that is on no TAP, for a port, and for a further TAP without a name of its own.
[[nodiscard]] HostSide take_tap_networks(const PrepareRequest& request);

/// A network of its own for the TAP of a card that is plugged in.
struct PluggedNetwork {
  PluggedNic card;
  FileDescriptor claim;
};
/// Takes one; the TAP gets the name that tap_name_of() gives. Throws Unsupported where this host has no TAPs.
[[nodiscard]] PluggedNetwork take_plugged_network(const NicConfig& nic);
/// Names under which the supervisor keeps the claim, and the TAP where the hypervisor inherits it, of a card on that TAP.
[[nodiscard]] std::string held_network(const NicConfig& nic);
[[nodiscard]] std::string held_tap(const NicConfig& nic);

/// From now on the supervisor keeps them until the VM ends: TAPs under the names "tap0", "tap1".
void hand_over(SupervisorConnection& supervisor, const HostSide& side, const std::vector<int>& leases);

}  // namespace vmtest
