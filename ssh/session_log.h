#pragma once

#include <chrono>
#include <filesystem>
#include <string_view>

#include "vmtest/host/file_descriptor.h"

namespace vmtest::ssh {

/// The session's log: one line per connection, command and copy. Several threads may use it.
class SessionLog {
 public:
  /// Appends to `file`; no log when it is empty. Throws std::system_error.
  explicit SessionLog(const std::filesystem::path& file);

  /// Writes a line with the time in front. Line ends and control characters in it are made harmless; never throws.
  void line(std::string_view text) noexcept;
  /// The same with how long it took behind.
  void line(std::string_view text, std::chrono::steady_clock::time_point since) noexcept;

 private:
  FileDescriptor file_;
};

/// "1.234 s".
[[nodiscard]] std::string format_seconds(std::chrono::nanoseconds duration);

}  // namespace vmtest::ssh
