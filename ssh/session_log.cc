#include "session_log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>
#include <string>

namespace vmtest::ssh {
namespace {

constexpr std::size_t kLongestLine = 2000;

std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text.substr(0, kLongestLine)) {
    if (c == '\n') line += "\\n";
    else line += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  }
  return text.size() > kLongestLine ? line + "..." : line;
}

}  // namespace

SessionLog::SessionLog(const std::filesystem::path& file) {
  if (!file.empty()) file_ = open_file(file, O_WRONLY | O_CREAT | O_APPEND, 0600);
}

void SessionLog::line(std::string_view text) noexcept {
  if (!file_) return;
  try {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const std::time_t seconds = std::chrono::duration_cast<std::chrono::seconds>(now).count();
    const auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(now).count() % 1000;
    // One write: lines of several threads do not mix.
    write_all(file_.get(), fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z {}\n", fmt::gmtime(seconds), millis, one_line(text)));
  } catch (const std::exception&) {
    // A full disk must not fail what the log only watches.
  }
}

void SessionLog::line(std::string_view text, std::chrono::steady_clock::time_point since) noexcept {
  if (!file_) return;
  try {
    line(std::string(text) + " after " + format_seconds(std::chrono::steady_clock::now() - since));
  } catch (const std::exception&) {
  }
}

std::string format_seconds(std::chrono::nanoseconds duration) {
  return fmt::format("{:.3f} s", std::chrono::duration<double>(duration).count());
}

}  // namespace vmtest::ssh
