#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace vmtest::vz::standin {

/// What a DHCP client (RFC 2131) asks for.
struct DhcpQuestion {
  /// As they stand in the message, 236 bytes from its beginning.
  std::string head;
  /// 1 discover, 3 request.
  unsigned type = 0;
  std::string hostname = {};
  /// The client's identifier: its kind, then its bytes. The card's address where it gives none.
  std::string identifier = {};
};
/// The question in a message; empty for anything else.
[[nodiscard]] std::optional<DhcpQuestion> parse_dhcp(std::string_view message);

/// What the server hands out: addresses are dotted.
struct DhcpOffer {
  std::string server;
  std::string address;
  std::string netmask;
  unsigned lease_seconds = 86400;
};
/// The answer to a discovery (an offer) or a request (an acknowledgement).
[[nodiscard]] std::string answer_dhcp(const DhcpQuestion& question, const DhcpOffer& offer);

/// An entry of /var/db/dhcpd_leases: as hw_address macOS puts down the client's identifier.
[[nodiscard]] std::string lease_entry(const DhcpQuestion& question, const std::string& address, long expiry);

}  // namespace vmtest::vz::standin
