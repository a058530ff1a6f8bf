#include "network/tap.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <net/route.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

#include "vmtest/error.h"

namespace vmtest {
namespace {

constexpr std::uint32_t kRange = 0xC6120000;  // 198.18.0.0
constexpr std::uint32_t kHalf = 0x00010000;   // 198.19.0.0 is the other half
constexpr const char* kControl = "/dev/net/tun";
constexpr const char* kMend = "a TAP network needs CAP_NET_ADMIN: run as root, or use Network::User, which needs nothing";

std::string dotted(std::uint32_t address) {
  const in_addr raw{htonl(address)};
  char text[INET_ADDRSTRLEN] = {};
  ::inet_ntop(AF_INET, &raw, text, sizeof text);
  return text;
}

std::uint32_t parse_address(const std::string& text) {
  in_addr parsed{};
  if (::inet_pton(AF_INET, text.c_str(), &parsed) != 1) throw Error("\"" + text + "\" is no IPv4 address");
  return ntohl(parsed.s_addr);
}

/// Empty when somebody has it.
FileDescriptor try_claim(const TapSubnet& subnet) {
  FileDescriptor claim(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!claim) throw_errno("cannot make a socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // The first byte stays 0: a name, not a file.
  const std::string name = "vmtest-tap-network-" + dotted(subnet.network);
  name.copy(address.sun_path + 1, sizeof address.sun_path - 1);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (::bind(claim.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0) return claim;
  if (errno != EADDRINUSE) throw_errno("cannot claim the network " + dotted(subnet.network));
  return {};
}

TapDevice attach(const std::string& name) {
  FileDescriptor fd(::open(kControl, O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!fd) {
    const std::string why = std::string("cannot open ") + kControl + ": " + std::strerror(errno);
    throw Unsupported(why + (errno == ENOENT ? "; load its kernel module: modprobe tun" : std::string("; ") + kMend));
  }
  ifreq request{};
  name.copy(request.ifr_name, sizeof request.ifr_name - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) {
    const std::string why = "cannot use TAP \"" + name + "\": " + std::strerror(errno);
    if (errno == EPERM || errno == EACCES) throw Unsupported(why + "; " + kMend);
    throw Error(why + (errno == EBUSY ? "; another VM has it" : ""));
  }
  return {std::move(fd), request.ifr_name};
}

ifreq interface_request(const std::string& name) {
  ifreq request{};
  name.copy(request.ifr_name, sizeof request.ifr_name - 1);
  return request;
}

void set_address(int socket, ifreq request, unsigned long operation, std::uint32_t address, const std::string& what) {
  sockaddr_in value{};
  value.sin_family = AF_INET;
  value.sin_addr.s_addr = htonl(address);
  std::memcpy(&request.ifr_addr, &value, sizeof value);
  if (::ioctl(socket, operation, &request) != 0) throw_errno("cannot set the " + what + " of " + request.ifr_name);
}

}  // namespace

TapSubnet tap_subnet(unsigned number) {
  if (number >= kTapSubnets) throw Error("there is no TAP subnet " + std::to_string(number));
  const std::uint32_t network = kRange + (number % 2) * kHalf + (number / 2) * 4;
  return {network, dotted(network + 1), dotted(network + 2)};
}

std::vector<Route> parse_routes(std::string_view text) {
  std::vector<Route> routes;
  std::istringstream lines{std::string(text)};
  std::string line;
  std::getline(lines, line);  // column names
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    std::string interface, gateway, reference_count, use, metric;
    std::uint32_t destination = 0;
    std::uint32_t mask = 0;
    std::uint32_t flags = 0;
    fields >> interface >> std::hex >> destination >> gateway >> flags >> reference_count >> use >> metric >> mask;
    if (!fields || (flags & RTF_UP) == 0 || mask == 0) continue;
    routes.push_back({ntohl(destination), ntohl(mask)});
  }
  return routes;
}

bool collides(const TapSubnet& subnet, const std::vector<Route>& routes) {
  constexpr std::uint32_t kMask = ~std::uint32_t{0} << (32 - kTapPrefixLength);
  return std::any_of(routes.begin(), routes.end(), [&](const Route& route) {
    const std::uint32_t common = route.mask & kMask;
    return (route.destination & common) == (subnet.network & common);
  });
}

TapDevice make_tap() { return attach("vmtest%d"); }

TapDevice make_tap(const std::string& name) { return attach(name); }

TapDevice open_tap(const std::string& name) {
  const FileDescriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = interface_request(name);
  if (name.size() >= IFNAMSIZ || ::ioctl(socket.get(), SIOCGIFINDEX, &request) != 0) {
    throw Error("there is no TAP \"" + name + "\" on this host; leave its name empty to have one made");
  }
  return attach(name);
}

std::string tap_of_descriptor(pid_t process, const std::string& descriptor) {
  // Linux' drivers/net/tun.c writes a line "iff:\tNAME" there.
  std::ifstream lines("/proc/" + std::to_string(process) + "/fdinfo/" + descriptor);
  for (std::string key, value; lines >> key >> value;) {
    if (key == "iff:") return value;
  }
  return {};
}

void configure_interface(const std::string& name, const std::string& address, int prefix_length) {
  const FileDescriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) throw_errno("cannot make a socket to set up " + name);
  const std::uint32_t parsed = parse_address(address);
  ifreq request = interface_request(name);
  set_address(socket.get(), request, SIOCSIFADDR, parsed, "address");
  set_address(socket.get(), request, SIOCSIFNETMASK, ~std::uint32_t{0} << (32 - prefix_length), "netmask");
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) throw_errno("cannot read the flags of " + name);
  request.ifr_flags |= IFF_UP;
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) throw_errno("cannot set up " + name);
}

Support tap_support() {
  try {
    (void)make_tap();
    return {Support::Kind::Supported, ""};
  } catch (const std::exception& error) {
    return {Support::Kind::NeedsHost, error.what()};
  }
}

TapNetwork take_tap_network() {
  const std::vector<Route> routes = parse_routes(read_file("/proc/thread-self/net/route"));
  for (unsigned number = 0; number < kTapSubnets; ++number) {
    TapSubnet subnet = tap_subnet(number);
    if (collides(subnet, routes)) continue;
    if (FileDescriptor claim = try_claim(subnet)) return {std::move(subnet), std::move(claim)};
  }
  throw Error("no free network for a TAP in 198.18.0.0/15: other VMs or routes of this host have it");
}

std::string tap_name_of(const std::string& host_address) {
  char name[IFNAMSIZ];
  std::snprintf(name, sizeof name, "vmtest%08x", parse_address(host_address));
  return name;
}

std::string host_mac_of(const std::string& host_address) {
  const std::uint32_t address = parse_address(host_address);
  char text[18];
  // Locally administered, of one station.
  std::snprintf(text, sizeof text, "02:00:%02x:%02x:%02x:%02x", address >> 24, address >> 16 & 0xff, address >> 8 & 0xff,
                address & 0xff);
  return text;
}

}  // namespace vmtest
