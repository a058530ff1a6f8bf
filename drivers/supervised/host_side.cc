#include "supervised/host_side.h"

#include <utility>

#include "vmtest/error.h"
#include "vmtest/host/ledger.h"

namespace vmtest {
namespace {

void take_network(HostSide& side, TapNetwork network, bool first) {
  if (first) {
    side.static_address = network.subnet.guest + "/" + std::to_string(kTapPrefixLength);
    side.gateway = network.subnet.host;
  }
  side.network_claims.push_back(std::move(network.claim));
}

}  // namespace

HostSide take_ports_and_taps(const PrepareRequest& request) {
  HostSide side;
  Ledger ledger;
  for (std::size_t i = 0; i < request.nics.size(); ++i) {
    const NicConfig& nic = request.nics[i];
    if (nic.kind != NicKind::Tap) {
      if (!side.port) side.port = take_ssh_port(ledger, request.name, request.ssh_port);
    } else if (!nic.tap_name.empty()) {
      side.taps.push_back(open_tap(nic.tap_name));
    } else {
      TapDevice device = make_tap();
      TapNetwork network = take_tap_network();
      configure_interface(device.name, network.subnet.host, kTapPrefixLength);
      side.taps.push_back(std::move(device));
      take_network(side, std::move(network), i == 0);
    }
  }
  return side;
}

HostSide take_tap_networks(const PrepareRequest& request) {
  HostSide side;
  if (request.ssh_port) {
    throw Unsupported("no port of the host leads to a guest on a TAP, which has an address of its own; leave ssh_port out");
  }
  for (std::size_t i = 0; i < request.nics.size(); ++i) {
    const NicConfig& nic = request.nics[i];
    if (nic.kind != NicKind::Tap) {
      throw Unsupported("this hypervisor has no network of its own: a card is connected to a TAP (Network::Tap)");
    }
    if (!nic.tap_name.empty()) continue;
    if (i != 0) throw Unsupported("only the first card's TAP is made; a further card needs the name of one that is there");
    if (const Support support = tap_support(); !support.supported()) throw Unsupported(support.why);
    take_network(side, take_tap_network(), true);
  }
  return side;
}

PluggedNetwork take_plugged_network(const NicConfig& nic) {
  if (const Support support = tap_support(); !support.supported()) throw Unsupported(support.why);
  TapNetwork network = take_tap_network();
  PluggedNetwork plugged{{nic}, std::move(network.claim)};
  plugged.card.nic.tap_name = tap_name_of(network.subnet.host);
  plugged.card.nic.host_address = network.subnet.host;
  plugged.card.static_address = network.subnet.guest + "/" + std::to_string(kTapPrefixLength);
  plugged.card.gateway = network.subnet.host;
  return plugged;
}

std::string held_network(const NicConfig& nic) { return "network-" + nic.host_address; }
std::string held_tap(const NicConfig& nic) { return "tap-" + nic.tap_name; }

void hand_over(SupervisorConnection& supervisor, const HostSide& side, const std::vector<int>& leases) {
  for (std::size_t i = 0; i < leases.size(); ++i) supervisor.hold("lease" + std::to_string(i), leases[i]);
  if (side.port) supervisor.hold("port", side.port->lease.descriptor());
  for (std::size_t i = 0; i < side.taps.size(); ++i) supervisor.hold("tap" + std::to_string(i), side.taps[i].descriptor.get());
  for (std::size_t i = 0; i < side.network_claims.size(); ++i)
    supervisor.hold("network" + std::to_string(i), side.network_claims[i].get());
}

}  // namespace vmtest
