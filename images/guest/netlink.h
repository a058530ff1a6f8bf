#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "guest/files.h"

namespace vmtest::guest {

/// Sets up interfaces through the kernel's route netlink (RFC 3549). Every call waits for the kernel's answer and throws
/// std::runtime_error with its reason.
class Netlink {
 public:
  Netlink();

  void link_up(unsigned interface);
  /// `address` with its prefix length, IPv4 or IPv6. An address that is there already is fine; `lifetime_seconds` 0 means for
  /// ever.
  void add_address(unsigned interface, const std::string& address, std::uint32_t lifetime_seconds = 0);
  void remove_address(unsigned interface, const std::string& address);
  /// Route to a network ("0.0.0.0/0" is the default route) by a gateway, which may be outside the interface's own network.
  void replace_route(unsigned interface, const std::string& to, const std::string& via);

 private:
  /// Sends a message with its header still to fill in and waits for the answer.
  void request(std::uint16_t type, std::uint16_t flags, const std::string& body, const std::string& what);

  Descriptor socket_;
  std::uint32_t sequence_ = 0;
};

}  // namespace vmtest::guest
