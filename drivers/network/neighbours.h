#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vmtest {

// Finding a guest's address by its MAC in what the host knows. The MAC must match wholly, whatever its case.

/// In the text of /proc/net/arp: complete entries only.
[[nodiscard]] std::optional<std::string> find_in_arp_table(std::string_view text, std::string_view mac);
/// In what macOS' `arp -an` prints: "? (192.168.64.3) at 52:54:0:12:34:56 on bridge100 ifscope [bridge]".
[[nodiscard]] std::optional<std::string> find_in_bsd_arp(std::string_view text, std::string_view mac);
/// In what `ip neigh show` prints: no failed or incomplete entries, no link-local addresses; IPv4 before IPv6.
[[nodiscard]] std::optional<std::string> find_in_neighbours(std::string_view text, std::string_view mac);
/// In a lease file of dnsmasq (lines "expiry MAC address name client-id", expiry 0 for never): the lease that lasts longest
/// of those still valid at `now`, seconds since the epoch.
[[nodiscard]] std::optional<std::string> find_in_dnsmasq_leases(std::string_view text, std::string_view mac, std::int64_t now);

/// In macOS' /var/db/dhcpd_leases: blocks in braces of lines "name=value", among them ip_address, hw_address
/// ("1,52:54:0:12:34:56", without leading zeros) and lease (its end in hexadecimal seconds since the epoch): as for dnsmasq, the
/// later one of two alike. Since macOS 15 a guest whose DHCP client has another identifier than its MAC stands there by that
/// ("ff,...") and is not found.
[[nodiscard]] std::optional<std::string> find_in_bootpd_leases(std::string_view text, std::string_view mac, std::int64_t now);

/// In the leases of macOS' DHCP server, in a file that VMTEST_DHCPD_LEASES names instead of its own; then in all of those places
/// of this host, in that order.
[[nodiscard]] std::optional<std::string> find_address_of(std::string_view mac);

}  // namespace vmtest
