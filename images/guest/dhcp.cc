#include "guest/dhcp.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>

namespace vmtest::guest {
namespace {

constexpr unsigned char kBootRequest = 1;
constexpr unsigned char kBootReply = 2;
constexpr unsigned char kEthernet = 1;
constexpr std::uint16_t kClientPort = 68;
constexpr std::uint16_t kServerPort = 67;

// Offsets in the fixed part of a message (RFC 2131, section 2).
constexpr std::size_t kTransaction = 4;
constexpr std::size_t kFlags = 10;
constexpr std::size_t kCurrentAddress = 12;
constexpr std::size_t kYourAddress = 16;
constexpr std::size_t kHardwareAddress = 28;
constexpr std::size_t kCookie = 236;
constexpr std::size_t kOptions = 240;
constexpr std::string_view kMagicCookie = "\x63\x82\x53\x63";
// Some relays drop messages below the size of a BOOTP message.
constexpr std::size_t kSmallest = 300;

enum Option : unsigned char {
  kPad = 0,
  kSubnetMask = 1,
  kRouter = 3,
  kNameServer = 6,
  kHostName = 12,
  kRequestedAddress = 50,
  kLeaseTime = 51,
  kMessageType = 53,
  kServerIdentifier = 54,
  kParameters = 55,
  kRenewalTime = 58,
  kEnd = 255,
};

std::string packed(const std::string& address) {
  std::string bytes(4, '\0');
  inet_pton(AF_INET, address.c_str(), bytes.data());
  return bytes;
}

std::string dotted(std::string_view bytes) {
  std::array<char, INET_ADDRSTRLEN> text{};
  inet_ntop(AF_INET, bytes.data(), text.data(), text.size());
  return text.data();
}

std::uint32_t big_endian(std::string_view bytes) {
  std::uint32_t value = 0;
  for (const char c : bytes.substr(0, 4)) {
    value = value << 8 | static_cast<unsigned char>(c);
  }
  return value;
}

std::string big_endian(std::uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) {
    bytes += static_cast<char>(value >> shift & 0xFF);
  }
  return bytes;
}

void add_option(std::string& packet, Option option, std::string_view value) {
  packet += static_cast<char>(option);
  packet += static_cast<char>(value.size());
  packet += value;
}

std::vector<std::string> addresses(std::string_view value) {
  std::vector<std::string> out;
  for (; value.size() >= 4; value.remove_prefix(4)) {
    out.push_back(dotted(value.substr(0, 4)));
  }
  return out;
}

/// Calls `visit(option, value)` for each option; false when one runs over the end.
template <typename Visit>
bool each_option(std::string_view options, Visit&& visit) {
  while (!options.empty()) {
    const auto option = static_cast<unsigned char>(options[0]);
    options.remove_prefix(1);
    if (option == kEnd) {
      return true;
    }
    if (option == kPad) {
      continue;
    }
    if (options.empty() || static_cast<unsigned char>(options[0]) >= options.size()) {
      return false;
    }
    const std::size_t size = static_cast<unsigned char>(options[0]);
    visit(option, options.substr(1, size));
    options.remove_prefix(1 + size);
  }
  return true;
}

}  // namespace

std::string build_dhcp_request(const DhcpRequest& request) {
  std::string packet(kOptions, '\0');
  packet[0] = static_cast<char>(kBootRequest);
  packet[1] = static_cast<char>(kEthernet);
  packet[2] = static_cast<char>(request.mac.size());
  packet.replace(kTransaction, 4, big_endian(request.transaction));
  packet[kFlags] = static_cast<char>(0x80);
  if (!request.current.empty()) {
    packet.replace(kCurrentAddress, 4, packed(request.current));
  }
  std::copy(request.mac.begin(), request.mac.end(), packet.begin() + kHardwareAddress);
  packet.replace(kCookie, 4, kMagicCookie);
  add_option(packet, kMessageType, std::string(1, static_cast<char>(request.type)));
  if (!request.requested.empty()) {
    add_option(packet, kRequestedAddress, packed(request.requested));
  }
  if (!request.server.empty()) {
    add_option(packet, kServerIdentifier, packed(request.server));
  }
  if (!request.hostname.empty()) {
    add_option(packet, kHostName, std::string_view(request.hostname).substr(0, 63));
  }
  const std::array parameters{static_cast<char>(kSubnetMask), static_cast<char>(kRouter), static_cast<char>(kNameServer),
                              static_cast<char>(kLeaseTime), static_cast<char>(kRenewalTime)};
  add_option(packet, kParameters, {parameters.data(), parameters.size()});
  packet += static_cast<char>(kEnd);
  packet.resize(std::max(packet.size(), kSmallest));
  return packet;
}

std::optional<DhcpReply> parse_dhcp_reply(std::string_view packet, std::uint32_t transaction, const MacAddress& mac) {
  const auto same_byte = [](unsigned char ours, char theirs) { return ours == static_cast<unsigned char>(theirs); };
  if (packet.size() < kOptions || static_cast<unsigned char>(packet[0]) != kBootReply ||
      big_endian(packet.substr(kTransaction, 4)) != transaction || packet.substr(kCookie, 4) != kMagicCookie ||
      !std::equal(mac.begin(), mac.end(), packet.begin() + kHardwareAddress, same_byte)) {
    return std::nullopt;
  }
  DhcpReply reply;
  reply.lease.address = dotted(packet.substr(kYourAddress, 4));
  reply.lease.renew_seconds = 0;
  bool typed = false;
  const bool whole = each_option(packet.substr(kOptions), [&](unsigned char option, std::string_view value) {
    if (option == kMessageType && value.size() == 1) {
      reply.type = static_cast<DhcpType>(value[0]);
      typed = true;
    } else if (option == kSubnetMask && value.size() == 4) {
      reply.lease.prefix_length = std::popcount(big_endian(value));
    } else if (option == kRouter) {
      reply.lease.routers = addresses(value);
    } else if (option == kNameServer) {
      reply.lease.nameservers = addresses(value);
    } else if (option == kServerIdentifier && value.size() == 4) {
      reply.lease.server = dotted(value);
    } else if (option == kLeaseTime && value.size() == 4) {
      reply.lease.lease_seconds = big_endian(value);
    } else if (option == kRenewalTime && value.size() == 4) {
      reply.lease.renew_seconds = big_endian(value);
    }
  });
  if (!whole || !typed) {
    return std::nullopt;
  }
  if (reply.lease.renew_seconds == 0) {
    reply.lease.renew_seconds = reply.lease.lease_seconds / 2;
  }
  return reply;
}

DhcpClient::DhcpClient(const std::string& interface, const MacAddress& mac, std::string hostname, std::string current)
    : socket_(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
  constexpr int kOn = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kClientPort);
  if (!socket_ || setsockopt(socket_.get(), SOL_SOCKET, SO_BROADCAST, &kOn, sizeof kOn) != 0 ||
      setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &kOn, sizeof kOn) != 0 ||
      setsockopt(socket_.get(), SOL_SOCKET, SO_BINDTODEVICE, interface.c_str(), static_cast<socklen_t>(interface.size() + 1)) !=
          0 ||
      bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    fail_errno("cannot open the DHCP socket on " + interface);
  }
  // A transaction number only tells answers apart; a boot must not wait for good entropy here.
  getrandom(&request_.transaction, sizeof request_.transaction, GRND_INSECURE);
  request_.type = current.empty() ? DhcpType::Discover : DhcpType::Request;
  request_.mac = mac;
  request_.hostname = std::move(hostname);
  request_.current = std::move(current);
}

void DhcpClient::send() {
  const std::string packet = build_dhcp_request(request_);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kServerPort);
  address.sin_addr.s_addr = INADDR_BROADCAST;
  // A failure (link not up yet) is answered by sending again.
  (void)sendto(socket_.get(), packet.data(), packet.size(), 0, reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

std::optional<DhcpLease> DhcpClient::receive() {
  std::array<char, 1500> buffer;
  ssize_t size = 0;
  while ((size = recv(socket_.get(), buffer.data(), buffer.size(), 0)) > 0) {
    const auto reply = parse_dhcp_reply({buffer.data(), static_cast<std::size_t>(size)}, request_.transaction, request_.mac);
    if (!reply) {
      continue;
    }
    if (reply->type == DhcpType::Acknowledge && request_.type == DhcpType::Request) {
      return reply->lease;
    }
    if (reply->type == DhcpType::Offer && request_.type == DhcpType::Discover) {
      request_.type = DhcpType::Request;
      request_.requested = reply->lease.address;
      request_.server = reply->lease.server;
      send();
    } else if (reply->type == DhcpType::Refuse) {
      request_.type = DhcpType::Discover;
      request_.requested.clear();
      request_.server.clear();
      request_.current.clear();
      send();
    }
  }
  return std::nullopt;
}

}  // namespace vmtest::guest
