#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "vmtest/host/file_descriptor.h"

namespace vmtest::supervisor {

// The language between a supervisor and who talks to it: JSON objects, one a line. Requests have "op", replies "ok" (and
// "error" when it is false); a line with "event" comes unasked. A request may carry one descriptor (SCM_RIGHTS), sent with
// its first byte. A connection answers in order, so replies need no number.

/// Both sides must speak the same; told in "hello".
inline constexpr int kProtocolVersion = 2;
/// Where a process' serial port is relayed to: a log in the VM's work folder, a socket in its runtime folder.
inline constexpr const char* kConsoleLog = "console.log";
inline constexpr const char* kConsoleSocket = "console.sock";
/// Longer lines end the connection.
inline constexpr std::size_t kLongestLine = 1U << 20;
/// The descriptor by which the supervisor gets its first connection, the owner's.
inline constexpr int kOwnerDescriptor = 3;

/// Collects what arrives on a socket and hands out whole lines.
class LineBuffer {
 public:
  /// Reads what is there. False at the end of the connection or when a line is too long.
  bool receive(int socket);
  /// The next whole line, parsed; throws nlohmann's parse error when it is no JSON.
  [[nodiscard]] std::optional<nlohmann::json> next();
  /// The oldest passed descriptor, or none.
  [[nodiscard]] FileDescriptor take_descriptor();

 private:
  std::string buffer_;
  std::vector<FileDescriptor> descriptors_;
};

/// Sends a message, with a descriptor unless `fd` is -1. Throws std::system_error.
void send(int socket, const nlohmann::json& message, int fd = -1);

}  // namespace vmtest::supervisor
