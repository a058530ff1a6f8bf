#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "vmtest/capability.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {

/// Small networks for TAPs are taken from 198.18.0.0/15, which is set aside for tests between devices (RFC 2544) and so in
/// nobody's way on ordinary networks: 32768 of four addresses each, the host's the first usable, the guest's the second.
inline constexpr unsigned kTapSubnets = 32768;
inline constexpr int kTapPrefixLength = 30;

/// One of them.
struct TapSubnet {
  /// Its network address, host byte order.
  std::uint32_t network = 0;
  /// Dotted addresses.
  std::string host;
  std::string guest;

  bool operator==(const TapSubnet&) const = default;
};
/// The subnet of a number below kTapSubnets. Neighbouring numbers lie in different halves of the range, so that somebody
/// who routes one half away does not stop us.
[[nodiscard]] TapSubnet tap_subnet(unsigned number);

/// An IPv4 route of the host.
struct Route {
  std::uint32_t destination = 0;
  std::uint32_t mask = 0;

  bool operator==(const Route&) const = default;
};
/// The routes in the text of /proc/net/route, but default routes.
[[nodiscard]] std::vector<Route> parse_routes(std::string_view text);
/// Whether a route leads to some address of the subnet.
[[nodiscard]] bool collides(const TapSubnet& subnet, const std::vector<Route>& routes);

/// A TAP device of the host. It is gone with the last descriptor of it, unless it was made persistent by somebody else.
struct TapDevice {
  FileDescriptor descriptor;
  std::string name;
};
/// Makes a TAP named by the kernel (vmtest0 ...). Throws Unsupported when this host or user cannot.
[[nodiscard]] TapDevice make_tap();
/// The same by a name of ours. Throws Error when somebody else has it.
[[nodiscard]] TapDevice make_tap(const std::string& name);
/// Attaches to the TAP `name`, which must exist. Throws Error when it does not or is in use, Unsupported as above.
[[nodiscard]] TapDevice open_tap(const std::string& name);
/// The name of the TAP behind a descriptor of a process, by its number there; empty when it is none.
[[nodiscard]] std::string tap_of_descriptor(pid_t process, const std::string& descriptor);
/// Gives the interface an address and sets it up.
void configure_interface(const std::string& name, const std::string& address, int prefix_length);

/// Whether this host and user may make TAPs; tried.
[[nodiscard]] Support tap_support();

/// A network for a TAP, nobody else's while a copy of the claim is open in any process.
struct TapNetwork {
  TapSubnet subnet;
  /// A socket in the abstract namespace of Unix sockets, which is as wide as the network's own: so no other user has the network,
  /// nor who shares the host's network from within a container.
  FileDescriptor claim;
};
/// Takes one that neither another VM nor a route of the host has.
[[nodiscard]] TapNetwork take_tap_network();
/// A name for the TAP on the network whose host has that address, for hypervisors that make it: as unlike others as the network.
[[nodiscard]] std::string tap_name_of(const std::string& host_address);
/// The host's MAC address on it, so that a guest finds the host under the same one when another TAP takes its place.
[[nodiscard]] std::string host_mac_of(const std::string& host_address);

}  // namespace vmtest
