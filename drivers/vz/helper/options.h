#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "api_server.h"

namespace vmtest::vz {

inline constexpr const char* kUsage =
    "usage: vmtest-vz-helper --api-socket PATH [--event-file PATH] [--owner-fd N] [--stay]\n"
    "       vmtest-vz-helper --capabilities\n"
    "  --api-socket PATH   where the API is served: HTTP/1.1 over a Unix socket made there\n"
    "  --event-file PATH   appends a JSON line for each event\n"
    "  --owner-fd N        ends when this inherited descriptor, a pipe or socket, reaches its end\n"
    "  --stay              goes on when the guest has stopped by itself\n"
    "  --capabilities      prints what host.capabilities answers, and ends\n";

struct Options {
  std::string api_socket;
  std::string event_file = {};
  int owner_fd = -1;
  AfterGuest after_guest = AfterGuest::Exit;
  bool capabilities = false;
  bool help = false;
};

class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws UsageError.
[[nodiscard]] Options parse_options(const std::vector<std::string>& arguments);

}  // namespace vmtest::vz
