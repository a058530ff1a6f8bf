#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "guest/dhcp.h"
#include "guest/netlink.h"
#include "guest/seed.h"

namespace vmtest::guest {

/// The guest's network cards and what keeps them working.
class Network {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Network(std::string hostname) : hostname_(std::move(hostname)) {}

  /// Brings up loopback and the cards, waits for DHCP where it is asked for, writes /etc/resolv.conf. Without `cards` the
  /// first card is set up by DHCP, if there is one. Throws std::runtime_error that names the card.
  void configure(const std::optional<std::vector<SeedCard>>& cards);

  /// When the next lease wants to be renewed, or empty.
  [[nodiscard]] std::optional<Clock::time_point> next_renewal() const;
  /// Renews the leases whose time has come. Takes two seconds at most for each; a failure is reported and tried again later.
  void renew();

 private:
  struct Interface {
    std::string name;
    unsigned index = 0;
    MacAddress mac{};
    std::string label;
    std::optional<DhcpLease> lease;
    Clock::time_point renewal{};
    Clock::time_point expiry{};
  };

  void set_up_card(const SeedCard& card);
  void acquire_leases();
  void apply_lease(Interface& interface, const DhcpLease& lease);
  void write_resolver() const;

  std::string hostname_;
  Netlink netlink_;
  std::vector<Interface> dhcp_;
  std::vector<std::string> nameservers_;
};

/// The address a marker announces: the first IPv4 address that is not loopback, else the first global IPv6 one, else
/// "127.0.0.1".
[[nodiscard]] std::string announced_address();

}  // namespace vmtest::guest
