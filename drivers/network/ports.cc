#include "network/ports.h"

#include <algorithm>
#include <string>

#include "vmtest/error.h"
#include "vmtest/host/socket.h"

namespace vmtest {
namespace {

/// The system hands out a port of tens of thousands; somebody else taking it at once, so often, does not happen.
constexpr int kEphemeralTries = 50;

/// FNV-1a: the same on every host and in every version, unlike std::hash.
std::uint64_t hash_name(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3U;
  }
  return hash;
}

}  // namespace

std::vector<std::uint16_t> ssh_port_candidates(std::string_view vm_name) {
  constexpr std::uint16_t kCount = kLastSshPort - kFirstSshPort + 1;
  std::vector<std::uint16_t> ports(kCount);
  for (std::uint16_t i = 0; i < kCount; ++i) ports[i] = static_cast<std::uint16_t>(kFirstSshPort + i);
  std::rotate(ports.begin(), ports.begin() + static_cast<std::ptrdiff_t>(hash_name(vm_name) % kCount), ports.end());
  return ports;
}

LeasedPort take_ssh_port(Ledger& ledger, std::string_view vm_name, std::optional<std::uint16_t> fixed) {
  if (fixed) {
    if (auto lease = ledger.try_port(*fixed)) return {*fixed, std::move(*lease)};
    throw Error("port " + std::to_string(*fixed) + " of 127.0.0.1, which the spec fixes for SSH, is taken by " +
                "another VM or program; free it, or leave the choice to vmtest");
  }
  for (const std::uint16_t port : ssh_port_candidates(vm_name)) {
    if (auto lease = ledger.try_port(port)) return {port, std::move(*lease)};
  }
  for (int i = 0; i < kEphemeralTries; ++i) {
    const std::uint16_t port = ephemeral_port();
    if (auto lease = ledger.try_port(port)) return {port, std::move(*lease)};
  }
  throw Error("no port of 127.0.0.1 is free for SSH to VM \"" + std::string(vm_name) + "\"");
}

}  // namespace vmtest
