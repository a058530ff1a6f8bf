#include "command_line.h"

#include <algorithm>

#include "vmtest/error.h"
#include "vmtest/host/process.h"

namespace vmtest::ssh {
namespace {

void require_text(std::string_view text, std::string_view what) {
  if (text.find('\0') != std::string_view::npos)
    throw Error("a NUL byte in " + std::string(what) + " cannot be given to a guest command");
}

bool is_variable_name(std::string_view name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  return !name.empty() && letter(name.front()) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

void validate(const GuestCommand& command) {
  if (command.argv.empty() || command.argv.front().empty()) throw Error("a guest command needs a program or a shell line");
  for (const std::string& word : command.argv) require_text(word, "an argument");
  if (command.argv.size() > 1 && command.argv.front().front() == '-') {
    throw Error("the program \"" + command.argv.front() + "\" begins with '-'; write its path, as in \"./-x\"");
  }
  require_text(command.working_directory, "the working directory");
  for (const auto& [name, value] : command.environment) {
    if (!is_variable_name(name))
      throw Error("\"" + name + "\" is not a name of an environment variable: letters, digits and '_'");
    require_text(value, "the value of " + name);
  }
}

}  // namespace

std::string quote(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'') quoted += "'\\''";
    else quoted += c;
  }
  return quoted + "'";
}

std::string command_line(const GuestCommand& command, std::string_view marker) {
  validate(command);
  std::string line = "printf '%s %s\\n' " + quote(marker) + " $$ >&2\n";
  if (!command.working_directory.empty()) {
    // A relative folder must not be looked up in CDPATH, and none may be taken for an option.
    const std::string& folder = command.working_directory;
    line += "cd " + quote(folder.front() == '/' ? folder : "./" + folder) + " || exit 126\n";
  }
  for (const auto& [name, value] : command.environment) line += "export " + name + "=" + quote(value) + "\n";
  if (command.argv.size() == 1) return line + command.argv.front();
  line += "exec";
  for (const std::string& word : command.argv) line += " " + quote(word);
  return line;
}

std::string read_line_from_input(std::size_t size) {
  // One byte at a time: any reader with a buffer would take some of the command's own input too.
  return "eval \"$(dd bs=1 count=" + std::to_string(size) + " 2>/dev/null)\"";
}

std::string display(const GuestCommand& command) {
  constexpr std::size_t kLongest = 500;
  std::string text = command.argv.size() == 1 ? command.argv.front() : format_command(command.argv);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

}  // namespace vmtest::ssh
