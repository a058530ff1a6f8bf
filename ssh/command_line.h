#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "vmtest/guest.h"

namespace vmtest::ssh {

/// `text` as one word of a POSIX shell, whatever it holds.
[[nodiscard]] std::string quote(std::string_view text);

/// The line for the login shell that runs `command`. It first prints `marker`, a blank, the shell's process id and a line
/// end to standard error: the command then runs in that very process, which is how it can be signalled. Throws Error for
/// what cannot be given to a command: NUL bytes, no program, names of variables that are none.
[[nodiscard]] std::string command_line(const GuestCommand& command, std::string_view marker);

/// The longest command that every server takes; dropbear's limit is 9000 bytes.
constexpr std::size_t kLongestCommandLine = 8000;

/// A short line that reads `size` bytes of its standard input and runs them as `line` would have been run, for lines beyond
/// that limit. The rest of the input is the command's.
[[nodiscard]] std::string read_line_from_input(std::size_t size);

/// The command as messages and the log show it, shortened; without values of variables and input.
[[nodiscard]] std::string display(const GuestCommand& command);

}  // namespace vmtest::ssh
