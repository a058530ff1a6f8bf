#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "guest/seed.h"

namespace vmtest::guest {

/// Where a fork is in a network of its own that its template was not in: a TAP's small subnet.
struct AddressChange {
  /// IPv4 with the prefix length: "10.77.0.2/30".
  std::string old_address;
  std::string new_address;
  /// Empty: none.
  std::string old_gateway;
  std::string new_gateway;
};

/// Moves the interface that has the old address to the new one, default route included, now and in what later boots read: the
/// files of netplan, systemd-networkd and ifupdown, and for `tiny` a file of its own. Throws std::runtime_error when no interface
/// has it.
void readdress(const AddressChange& change);

/// What a seed says about the cards, with the change that was made to this guest since.
void apply_remembered_change(std::optional<std::vector<SeedCard>>& cards);

/// `text` with an IPv4 address replaced wherever it stands alone: "10.0.0.2" is no part of "110.0.0.21".
[[nodiscard]] std::string replace_address(std::string_view text, std::string_view old_address, std::string_view new_address);

}  // namespace vmtest::guest
