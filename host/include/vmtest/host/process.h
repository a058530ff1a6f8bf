#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "vmtest/deadline.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {

/// How a process ended.
struct ExitStatus {
  /// Exit code, or -1 when a signal ended it.
  int code = -1;
  /// Signal number, or 0 when it exited.
  int signal = 0;

  [[nodiscard]] bool ok() const { return code == 0; }
  bool operator==(const ExitStatus&) const = default;
};
/// "exit code 1", "signal 9 (Killed)".
[[nodiscard]] std::string to_string(const ExitStatus& status);

/// Whether a child outlives the thread that started it.
enum class ParentDeath {
  /// The kernel kills the child when the *thread* that started it ends: for children that are waited for on the spot, and
  /// for single-threaded parents.
  Kill,
  /// The child is on its own when its parent dies.
  Ignore,
};

/// What to start. No shell is involved: `argv` reaches the program as it is.
struct ProcessOptions {
  /// argv[0] is looked up in PATH unless it holds a slash.
  std::vector<std::string> argv;
  /// Added to (or replacing entries of) this process's environment.
  std::map<std::string, std::string> environment = {};
  std::filesystem::path working_directory = {};
  /// Descriptors for the child's 0, 1 and 2; -1 means /dev/null. Borrowed for the call.
  int standard_input = -1;
  int standard_output = -1;
  int standard_error = -1;
  /// Further descriptors the child gets: (ours, its number). Its numbers are 3 and up. Borrowed for the call.
  std::vector<std::pair<int, int>> pass_descriptors = {};
  ParentDeath parent_death = ParentDeath::Kill;
  /// Whether what its descendants leave running becomes the child's own, which must reap it (a shell does), instead of process
  /// 1's. For programs that wait until a daemon of theirs is gone: process 1 of a container often reaps nothing.
  bool adopts_orphans = false;
};

/// A child process in a process group of its own. The group ends with it: when the child has ended, what it left in its
/// group is killed as it is reaped. Destroying it kills the group and reaps the child.
/// One thread at a time may use it.
class ChildProcess {
 public:
  /// Starts a child. Throws std::system_error when the program cannot be executed: execve's own error, not an exit code.
  [[nodiscard]] static ChildProcess start(const ProcessOptions& options);

  ChildProcess() = default;
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  [[nodiscard]] pid_t pid() const { return pid_; }
  /// Readable when the child has ended.
  [[nodiscard]] int pidfd() const { return pidfd_.get(); }
  [[nodiscard]] bool running();
  /// The status if it has ended; kills the rest of its group and reaps it.
  [[nodiscard]] std::optional<ExitStatus> poll();
  /// Waits for its end. Empty when the deadline passed first.
  [[nodiscard]] std::optional<ExitStatus> wait(const Deadline& deadline);
  /// Signals the child alone; nothing happens when it has been reaped.
  void signal(int number);
  /// SIGKILL to its whole group, then reaps the child. One that the kernel does not let go of within ten seconds (it is stuck in
  /// a system call, as on a dead disk) is left to the kernel, and counts as ended by SIGKILL.
  void kill_group();

 private:
  pid_t pid_ = -1;
  FileDescriptor pidfd_;
  std::optional<ExitStatus> status_;
};

/// What a tool printed and how it ended.
struct ToolResult {
  ExitStatus status;
  std::string out;
  std::string err;
};

/// Runs a program to its end with captured output; it dies with this process. Throws std::system_error when it cannot
/// be started and Timeout when the deadline passes (the program is killed then). The exit status is the caller's to judge.
[[nodiscard]] ToolResult exec_tool(const std::vector<std::string>& argv, const Deadline& deadline,
                                   const std::map<std::string, std::string>& environment = {});
/// The same for programs that must succeed: a failure throws Error with the command, its status and the end of its stderr.
ToolResult run_tool(const std::vector<std::string>& argv, const Deadline& deadline,
                    const std::map<std::string, std::string>& environment = {});

/// The path of a program in PATH, or empty.
[[nodiscard]] std::optional<std::filesystem::path> find_program(const std::string& name);

/// Start time of a process in clock ticks since boot, which with its pid names it for good. Empty when there is none,
/// or all its threads have ended (a zombie).
[[nodiscard]] std::optional<unsigned long long> process_start_time(pid_t pid);

/// One line for messages: arguments with blanks or quotes are quoted.
[[nodiscard]] std::string format_command(const std::vector<std::string>& argv);

}  // namespace vmtest
