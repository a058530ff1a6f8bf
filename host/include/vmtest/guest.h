#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vmtest {

/// Called with each piece of output as it arrives, from the connection's I/O thread: be quick, do not call back into
/// the guest from it. Exceptions it throws end the program.
using OutputCallback = std::function<void(std::string_view)>;

/// One word of a command. Exists so that a list of two words cannot be taken for the two ends of a string.
struct CommandWord {
  std::string text;
  CommandWord(const char* word) : text(word) {}             // NOLINT(google-explicit-constructor)
  CommandWord(std::string word) : text(std::move(word)) {}  // NOLINT(google-explicit-constructor)
  CommandWord(std::string_view word) : text(word) {}        // NOLINT(google-explicit-constructor)
};

/// What to run in the guest, and how: `run("ls /tmp | wc -l")` is a line for the shell, `run({"ls", "-l", folder})` a program.
struct GuestCommand {
  /// One element: a line for the user's login shell ("ls /tmp | wc -l"). Several: a program and its arguments, which
  /// reach it unchanged whatever characters they hold.
  std::vector<std::string> argv;
  /// Added to the login environment. Values may hold any character but NUL.
  std::map<std::string, std::string> environment = {};
  /// Folder to run in; the user's home when empty.
  std::string working_directory = {};
  /// Given to the command's standard input, which is then closed. Ignored by spawn(), whose process has write().
  std::string standard_input = {};
  /// The command is killed and Timeout thrown when it takes longer. Scaled for emulation by who builds the session.
  std::chrono::milliseconds timeout = std::chrono::seconds(60);
  /// Output beyond this many bytes per stream is read and dropped, and `truncated` says so. Callbacks see all of it.
  std::size_t output_limit = 256 * 1024 * 1024;
  OutputCallback on_stdout = {};
  OutputCallback on_stderr = {};

  /// A shell line.
  GuestCommand(const char* line) : argv{line} {}             // NOLINT(google-explicit-constructor)
  GuestCommand(std::string line) : argv{std::move(line)} {}  // NOLINT(google-explicit-constructor)
  /// Program and arguments.
  GuestCommand(std::initializer_list<CommandWord> words) {
    for (const CommandWord& word : words) argv.push_back(word.text);
  }
  GuestCommand(std::vector<std::string> words) : argv(std::move(words)) {}  // NOLINT(google-explicit-constructor)
};

/// How a guest command ended, and what it said.
struct CommandResult {
  /// Exit status, when it exited.
  std::optional<int> exit_code = {};
  /// Signal name without "SIG" ("KILL"), when a signal ended it.
  std::string signal = {};
  std::string out = {};
  std::string err = {};
  /// Output went beyond the limit, and `out` or `err` lacks its end.
  bool truncated = false;

  /// Exited with status 0.
  [[nodiscard]] bool ok() const { return exit_code == 0; }
};

/// Shows a result as a failed assertion should: how it ended and the last lines of both streams.
std::ostream& operator<<(std::ostream& stream, const CommandResult& result);
/// One line: "exit code 3", "signal KILL".
[[nodiscard]] std::string describe_ending(const CommandResult& result);

/// A process running in the guest's background. Destroying it kills the process (best effort, bounded, never throws).
/// One thread at a time may use it.
class GuestProcess {
 public:
  virtual ~GuestProcess() = default;
  GuestProcess() = default;
  GuestProcess(const GuestProcess&) = delete;
  GuestProcess& operator=(const GuestProcess&) = delete;

  /// Writes all of `data` to its standard input. Throws Error when it has ended, Timeout when it does not read.
  virtual void write(std::string_view data, std::chrono::milliseconds timeout) = 0;
  /// Closes its standard input.
  virtual void close_input() = 0;
  /// Waits for its end and returns all it printed. Throws Timeout; the process goes on then.
  [[nodiscard]] virtual CommandResult wait(std::chrono::milliseconds timeout) = 0;
  /// The result if it has ended.
  [[nodiscard]] virtual std::optional<CommandResult> poll() = 0;
  /// Sends a signal by its name without "SIG" ("TERM").
  virtual void signal(std::string_view name) = 0;
  /// What it printed so far.
  [[nodiscard]] virtual std::string stdout_so_far() = 0;
  [[nodiscard]] virtual std::string stderr_so_far() = 0;
};

/// A port of the host's loopback that leads into the guest for as long as this lives.
class PortForward {
 public:
  virtual ~PortForward() = default;
  PortForward() = default;
  PortForward(const PortForward&) = delete;
  PortForward& operator=(const PortForward&) = delete;

  /// The port on 127.0.0.1.
  [[nodiscard]] virtual std::uint16_t host_port() const = 0;
};

/// The way into a running guest: SSH, or the scripted guest of the Noop driver. All calls may be made by several threads
/// at once. Every call throws Error when the connection is lost, and the next call tries to connect anew.
class Guest {
 public:
  virtual ~Guest() = default;
  Guest() = default;
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  /// Runs a command to its end, whatever its exit code. Throws Timeout when it takes longer than command.timeout.
  [[nodiscard]] virtual CommandResult exec(const GuestCommand& command) = 0;
  /// Starts a command in the background.
  [[nodiscard]] virtual std::unique_ptr<GuestProcess> spawn(const GuestCommand& command) = 0;
  /// Copies a host file or folder (recursively) to `guest_path`, which names the copy itself. Permission bits are kept.
  virtual void push(const std::filesystem::path& host_path, const std::string& guest_path) = 0;
  /// Copies a guest file or folder (recursively) to `host_path`, which names the copy itself. What the guest names can
  /// not leave that folder: such an entry throws Error. Symbolic links in the guest are not followed below the top.
  virtual void pull(const std::string& guest_path, const std::filesystem::path& host_path) = 0;
  /// Leads a free port of the host's 127.0.0.1 to `guest_port` of the guest's `guest_host`.
  [[nodiscard]] virtual std::unique_ptr<PortForward> forward(std::uint16_t guest_port,
                                                             const std::string& guest_host = "127.0.0.1") = 0;
};

}  // namespace vmtest
