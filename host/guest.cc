#include "vmtest/guest.h"

#include <ostream>

#include "vmtest/host/text.h"

namespace vmtest {

std::string describe_ending(const CommandResult& result) {
  if (result.exit_code) return "exit code " + std::to_string(*result.exit_code);
  if (!result.signal.empty()) return "signal " + result.signal;
  return "no exit status";
}

std::ostream& operator<<(std::ostream& stream, const CommandResult& result) {
  constexpr std::size_t kLines = 20;
  stream << describe_ending(result) << (result.truncated ? " (output cut)" : "");
  if (!result.out.empty()) stream << "\n  stdout:\n" << indent(last_lines(sanitize_console(result.out), kLines), "    ");
  if (!result.err.empty()) stream << "\n  stderr:\n" << indent(last_lines(sanitize_console(result.err), kLines), "    ");
  return stream;
}

}  // namespace vmtest
