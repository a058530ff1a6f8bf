#include "guest/network.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>

#include "guest/console.h"
#include "guest/files.h"

namespace vmtest::guest {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Drivers are loaded when this runs; the card itself may still be on its way up.
constexpr milliseconds kCardWait = seconds(3);
constexpr milliseconds kCardPoll{20};
// A server on a busy emulating host can be slow; waiting longer than this only hides that there is none.
constexpr milliseconds kLeaseWait = seconds(30);
constexpr milliseconds kFirstRetry{250};
constexpr milliseconds kLongestRetry = seconds(4);
constexpr milliseconds kRenewalWait = seconds(2);
constexpr seconds kRenewalRetry{60};
constexpr std::string_view kNetworkFolder = "/sys/class/net/";

struct Card {
  std::string name;
  std::string mac;
};

std::vector<Card> ethernet_cards() {
  std::vector<Card> cards;
  for (const std::string& name : list_folder(std::string(kNetworkFolder))) {
    const std::string folder = std::string(kNetworkFolder) + name;
    if (access((folder + "/device").c_str(), F_OK) == 0 && trim(find_file(folder + "/type").value_or("")) == "1") {
      cards.push_back({name, std::string(trim(find_file(folder + "/address").value_or("")))});
    }
  }
  return cards;
}

std::optional<Card> find_card(const std::string& mac) {
  for (Card& card : ethernet_cards()) {
    if (mac.empty() || card.mac == mac) {
      return std::move(card);
    }
  }
  return std::nullopt;
}

void sleep_for(milliseconds time) { poll(nullptr, 0, static_cast<int>(time.count())); }

Card wait_for_card(const SeedCard& wanted) {
  const auto end = Network::Clock::now() + kCardWait;
  while (true) {
    if (std::optional<Card> card = find_card(wanted.mac)) {
      return std::move(*card);
    }
    if (Network::Clock::now() > end) {
      throw std::runtime_error("network " + wanted.label + ": no Ethernet card" +
                               (wanted.mac.empty() ? "" : " with MAC address " + wanted.mac));
    }
    sleep_for(kCardPoll);
  }
}

MacAddress parse_mac(const std::string& text) {
  MacAddress mac{};
  for (std::size_t i = 0; i < mac.size() && 3 * i < text.size(); ++i) {
    mac[i] = static_cast<std::uint8_t>(std::strtoul(text.substr(3 * i, 2).c_str(), nullptr, 16));
  }
  return mac;
}

}  // namespace

void Network::configure(const std::optional<std::vector<SeedCard>>& cards) {
  netlink_.link_up(if_nametoindex("lo"));
  std::vector<SeedCard> wanted;
  if (cards) {
    wanted = *cards;
  } else if (find_card("")) {
    wanted.push_back({.label = "first card", .mac = "", .dhcp4 = true, .addresses = {}, .routes = {}, .nameservers = {}});
  }
  for (const SeedCard& card : wanted) {
    set_up_card(card);
  }
  if (!dhcp_.empty()) {
    acquire_leases();
  }
  write_resolver();
}

void Network::set_up_card(const SeedCard& wanted) {
  const Card card = wait_for_card(wanted);
  try {
    Interface interface;
    interface.name = card.name;
    interface.index = if_nametoindex(card.name.c_str());
    interface.mac = parse_mac(card.mac);
    interface.label = wanted.label;
    netlink_.link_up(interface.index);
    for (const std::string& address : wanted.addresses) {
      netlink_.add_address(interface.index, address);
    }
    for (const SeedRoute& route : wanted.routes) {
      netlink_.replace_route(interface.index, route.to, route.via);
    }
    nameservers_.insert(nameservers_.end(), wanted.nameservers.begin(), wanted.nameservers.end());
    if (wanted.dhcp4) {
      dhcp_.push_back(std::move(interface));
    }
  } catch (const std::runtime_error& error) {
    throw std::runtime_error("network " + wanted.label + " (" + card.name + "): " + error.what());
  }
}

void Network::acquire_leases() {
  std::vector<DhcpClient> clients;
  for (const Interface& interface : dhcp_) {
    clients.emplace_back(interface.name, interface.mac, hostname_, "");
  }
  const auto end = Clock::now() + kLeaseWait;
  const auto missing = [this] {
    return std::find_if(dhcp_.begin(), dhcp_.end(), [](const Interface& interface) { return !interface.lease; });
  };
  milliseconds retry = kFirstRetry;
  auto next_send = Clock::now();
  while (missing() != dhcp_.end()) {
    if (Clock::now() > end) {
      throw std::runtime_error("network " + missing()->label + " (" + missing()->name + "): no DHCP server answered within " +
                               std::to_string(kLeaseWait.count() / 1000) + " s");
    }
    if (Clock::now() >= next_send) {
      for (std::size_t index = 0; index < clients.size(); ++index) {
        if (!dhcp_[index].lease) {
          clients[index].send();
        }
      }
      next_send = Clock::now() + retry;
      retry = std::min(retry * 2, kLongestRetry);
    }
    std::vector<pollfd> waits;
    for (const DhcpClient& client : clients) {
      waits.push_back({client.descriptor(), POLLIN, 0});
    }
    const auto rest = std::chrono::duration_cast<milliseconds>(next_send - Clock::now());
    poll(waits.data(), waits.size(), static_cast<int>(std::max<long>(rest.count(), 1)));
    for (std::size_t index = 0; index < clients.size(); ++index) {
      if (const std::optional<DhcpLease> lease = clients[index].receive(); lease && !dhcp_[index].lease) {
        apply_lease(dhcp_[index], *lease);
      }
    }
  }
}

void Network::apply_lease(Interface& interface, const DhcpLease& lease) {
  const auto prefixed = [](const DhcpLease& of) { return of.address + "/" + std::to_string(of.prefix_length); };
  if (interface.lease && prefixed(*interface.lease) != prefixed(lease)) {
    netlink_.remove_address(interface.index, prefixed(*interface.lease));
  }
  netlink_.add_address(interface.index, prefixed(lease), lease.lease_seconds);
  if (!lease.routers.empty()) {
    netlink_.replace_route(interface.index, "0.0.0.0/0", lease.routers.front());
  }
  interface.lease = lease;
  interface.renewal = Clock::now() + seconds(lease.renew_seconds);
  interface.expiry = Clock::now() + seconds(lease.lease_seconds);
}

std::optional<Network::Clock::time_point> Network::next_renewal() const {
  std::optional<Clock::time_point> next;
  for (const Interface& interface : dhcp_) {
    if (interface.lease && (!next || interface.renewal < *next)) {
      next = interface.renewal;
    }
  }
  return next;
}

void Network::renew() {
  for (Interface& interface : dhcp_) {
    if (!interface.lease || interface.renewal > Clock::now()) {
      continue;
    }
    try {
      const bool held = interface.expiry > Clock::now();
      DhcpClient client(interface.name, interface.mac, hostname_, held ? interface.lease->address : "");
      const auto end = Clock::now() + kRenewalWait;
      std::optional<DhcpLease> lease;
      client.send();
      while (!(lease = client.receive()) && Clock::now() < end) {
        pollfd wait{client.descriptor(), POLLIN, 0};
        poll(&wait, 1, static_cast<int>(kFirstRetry.count()));
      }
      if (!lease) {
        throw std::runtime_error("no DHCP server answered");
      }
      apply_lease(interface, *lease);
      write_resolver();
    } catch (const std::runtime_error& error) {
      report_error("lease of " + interface.name, error.what());
      interface.renewal = Clock::now() + kRenewalRetry;
    }
  }
}

void Network::write_resolver() const {
  std::vector<std::string> servers = nameservers_;
  for (const Interface& interface : dhcp_) {
    if (interface.lease) {
      servers.insert(servers.end(), interface.lease->nameservers.begin(), interface.lease->nameservers.end());
    }
  }
  std::string text;
  for (const std::string& server : servers) {
    text += "nameserver " + server + "\n";
  }
  if (find_file("/etc/resolv.conf") != text) {
    write_file("/etc/resolv.conf", text, 0644);
  }
}

std::string announced_address() {
  std::string global_ipv6;
  std::string out;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) == 0) {
    for (const ifaddrs* entry = list; entry != nullptr && out.empty(); entry = entry->ifa_next) {
      if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_LOOPBACK) != 0) {
        continue;
      }
      char text[INET6_ADDRSTRLEN] = "";
      if (entry->ifa_addr->sa_family == AF_INET) {
        inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr, text, sizeof text);
        out = text;
      } else if (entry->ifa_addr->sa_family == AF_INET6 && global_ipv6.empty()) {
        const in6_addr& address = reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr)->sin6_addr;
        if (!IN6_IS_ADDR_LINKLOCAL(&address)) {
          inet_ntop(AF_INET6, &address, text, sizeof text);
          global_ipv6 = text;
        }
      }
    }
    freeifaddrs(list);
  }
  return !out.empty() ? out : !global_ipv6.empty() ? global_ipv6 : "127.0.0.1";
}

}  // namespace vmtest::guest
