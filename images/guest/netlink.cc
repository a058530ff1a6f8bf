#include "guest/netlink.h"

#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace vmtest::guest {
namespace {

/// An IP address as the kernel wants it.
struct Address {
  unsigned char family = AF_INET;
  unsigned char prefix_length = 32;
  std::string bytes;
  bool any = false;
};

Address parse_address(const std::string& text) {
  const std::size_t slash = text.find('/');
  const std::string host = text.substr(0, slash);
  Address out;
  out.family = host.find(':') == std::string::npos ? AF_INET : AF_INET6;
  const unsigned longest = out.family == AF_INET ? 32 : 128;
  out.bytes.resize(longest / 8);
  unsigned long length = longest;
  if (slash != std::string::npos) {
    char* end = nullptr;
    length = std::strtoul(text.c_str() + slash + 1, &end, 10);
    if (end == text.c_str() + slash + 1 || *end != '\0') {
      length = longest + 1;
    }
  }
  if (inet_pton(out.family, host.c_str(), out.bytes.data()) != 1 || length > longest) {
    throw std::runtime_error("\"" + text + "\" is not an IP address with a prefix length");
  }
  out.prefix_length = static_cast<unsigned char>(length);
  out.any = out.bytes.find_first_not_of('\0') == std::string::npos;
  return out;
}

template <typename Header>
std::string bytes_of(const Header& header) {
  return {reinterpret_cast<const char*>(&header), sizeof header};
}

void add_attribute(std::string& body, std::uint16_t type, std::string_view value) {
  rtattr attribute{};
  attribute.rta_type = type;
  attribute.rta_len = static_cast<std::uint16_t>(RTA_LENGTH(value.size()));
  body += bytes_of(attribute);
  body += value;
  body.resize(RTA_ALIGN(body.size()));
}

std::string address_message(unsigned interface, const Address& address) {
  ifaddrmsg header{};
  header.ifa_family = address.family;
  header.ifa_prefixlen = address.prefix_length;
  // Duplicate detection would keep an IPv6 address unusable for a second.
  header.ifa_flags = address.family == AF_INET6 ? IFA_F_NODAD : 0;
  header.ifa_index = interface;
  std::string body = bytes_of(header);
  add_attribute(body, IFA_LOCAL, address.bytes);
  add_attribute(body, IFA_ADDRESS, address.bytes);
  if (address.family == AF_INET && address.prefix_length < 31) {
    in_addr_t broadcast = 0;
    std::memcpy(&broadcast, address.bytes.data(), sizeof broadcast);
    broadcast |= htonl(0xFFFFFFFFU >> address.prefix_length);
    add_attribute(body, IFA_BROADCAST, bytes_of(broadcast));
  }
  return body;
}

}  // namespace

Netlink::Netlink() : socket_(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)) {
  if (!socket_) {
    fail_errno("cannot open a netlink socket");
  }
}

void Netlink::request(std::uint16_t type, std::uint16_t flags, const std::string& body, const std::string& what) {
  nlmsghdr header{};
  header.nlmsg_len = static_cast<std::uint32_t>(NLMSG_LENGTH(body.size()));
  header.nlmsg_type = type;
  header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
  header.nlmsg_seq = ++sequence_;
  const std::string message = bytes_of(header) + body;
  if (::send(socket_.get(), message.data(), message.size(), 0) < 0) {
    fail_errno(what);
  }
  alignas(nlmsghdr) std::array<char, 8192> buffer;
  while (true) {
    const ssize_t size = recv(socket_.get(), buffer.data(), buffer.size(), 0);
    if (size < 0 && errno == EINTR) {
      continue;
    }
    if (size < static_cast<ssize_t>(NLMSG_LENGTH(sizeof(nlmsgerr)))) {
      fail_errno(what);
    }
    const auto* answer = reinterpret_cast<const nlmsghdr*>(buffer.data());
    if (answer->nlmsg_type != NLMSG_ERROR || answer->nlmsg_seq != sequence_) {
      continue;
    }
    errno = -static_cast<const nlmsgerr*>(NLMSG_DATA(answer))->error;
    if (errno != 0 && errno != EEXIST) {
      fail_errno(what);
    }
    return;
  }
}

void Netlink::link_up(unsigned interface) {
  ifinfomsg header{};
  header.ifi_index = static_cast<int>(interface);
  header.ifi_flags = IFF_UP;
  header.ifi_change = IFF_UP;
  request(RTM_NEWLINK, 0, bytes_of(header), "cannot bring the interface up");
}

void Netlink::add_address(unsigned interface, const std::string& address, std::uint32_t lifetime_seconds) {
  std::string body = address_message(interface, parse_address(address));
  if (lifetime_seconds != 0) {
    ifa_cacheinfo lifetime{};
    lifetime.ifa_prefered = lifetime_seconds;
    lifetime.ifa_valid = lifetime_seconds;
    add_attribute(body, IFA_CACHEINFO, bytes_of(lifetime));
  }
  request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body, "cannot set address " + address);
}

void Netlink::remove_address(unsigned interface, const std::string& address) {
  request(RTM_DELADDR, 0, address_message(interface, parse_address(address)), "cannot remove address " + address);
}

void Netlink::replace_route(unsigned interface, const std::string& to, const std::string& via) {
  const Address destination = parse_address(to);
  const Address gateway = parse_address(via);
  if (destination.family != gateway.family) {
    throw std::runtime_error("route to " + to + " via " + via + " mixes IPv4 and IPv6");
  }
  rtmsg header{};
  header.rtm_family = destination.family;
  header.rtm_dst_len = destination.prefix_length;
  header.rtm_table = RT_TABLE_MAIN;
  header.rtm_protocol = RTPROT_BOOT;
  header.rtm_scope = RT_SCOPE_UNIVERSE;
  header.rtm_type = RTN_UNICAST;
  header.rtm_flags = RTNH_F_ONLINK;
  std::string body = bytes_of(header);
  if (!destination.any) {
    add_attribute(body, RTA_DST, destination.bytes);
  }
  add_attribute(body, RTA_GATEWAY, gateway.bytes);
  add_attribute(body, RTA_OIF, bytes_of(interface));
  request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body, "cannot set the route to " + to + " via " + via);
}

}  // namespace vmtest::guest
