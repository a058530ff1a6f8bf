#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "guest/files.h"

namespace vmtest::guest {

/// A hardware address.
using MacAddress = std::array<unsigned char, 6>;

/// What a DHCP server (RFC 2131, RFC 2132) hands out. IPv4 addresses are dotted.
struct DhcpLease {
  std::string address;
  int prefix_length = 24;
  std::string server;
  std::vector<std::string> routers;
  std::vector<std::string> nameservers;
  /// Seconds; the server's renewal time, or half the lease.
  std::uint32_t lease_seconds = 3600;
  std::uint32_t renew_seconds = 1800;
};

/// DHCP message types that matter to a client.
enum class DhcpType : unsigned char { Discover = 1, Offer = 2, Request = 3, Acknowledge = 5, Refuse = 6 };

/// What a client's message says.
struct DhcpRequest {
  DhcpType type = DhcpType::Discover;
  std::uint32_t transaction = 0;
  MacAddress mac{};
  std::string hostname;
  /// The address and server of the offer that is taken; empty in a discovery and a renewal.
  std::string requested;
  std::string server;
  /// The address held, when renewing.
  std::string current;
};

/// A server's answer.
struct DhcpReply {
  DhcpType type = DhcpType::Offer;
  DhcpLease lease;
};

/// The bytes of a client's message, from the first one of the UDP payload on. The broadcast flag is set.
[[nodiscard]] std::string build_dhcp_request(const DhcpRequest& request);
/// Reads a server's answer; empty when it is broken or meant for another transaction or card.
[[nodiscard]] std::optional<DhcpReply> parse_dhcp_reply(std::string_view packet, std::uint32_t transaction,
                                                        const MacAddress& mac);

/// One card's way to a lease. The owner polls descriptor(), calls receive() when it is readable and send() when a while passed
/// without an answer.
class DhcpClient {
 public:
  /// `interface` must be up. `current` is the address to renew, or empty for a new lease. Throws when the socket cannot be had.
  DhcpClient(const std::string& interface, const MacAddress& mac, std::string hostname, std::string current);

  [[nodiscard]] int descriptor() const { return socket_.get(); }
  /// Sends the message of the current state (again).
  void send();
  /// Takes what has arrived; the lease once the server has confirmed it.
  [[nodiscard]] std::optional<DhcpLease> receive();

 private:
  Descriptor socket_;
  DhcpRequest request_;
};

}  // namespace vmtest::guest
