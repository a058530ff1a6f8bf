#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "vmtest/host/ledger.h"

namespace vmtest {

/// The ports that SSH of a VM is forwarded from, if they are free: 10022 to 10122.
inline constexpr std::uint16_t kFirstSshPort = 10022;
inline constexpr std::uint16_t kLastSshPort = 10122;

/// A port nobody else gets while the lease lives.
struct LeasedPort {
  std::uint16_t port = 0;
  Lease lease;
};

/// Those ports in the order they are tried for a VM: the one its name hashes to first, so that a VM tends to keep its port
/// from run to run, then the following ones, round the end.
[[nodiscard]] std::vector<std::uint16_t> ssh_port_candidates(std::string_view vm_name);

/// Leases the first candidate that neither another VM nor a listener has, else a port the system chooses. With `fixed`, that
/// port; throws Error when it is taken.
[[nodiscard]] LeasedPort take_ssh_port(Ledger& ledger, std::string_view vm_name, std::optional<std::uint16_t> fixed);

}  // namespace vmtest
