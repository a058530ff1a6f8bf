#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "vmtest/deadline.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest {

/// What a supervisor is started for.
struct SupervisorOptions {
  std::string name;
  /// Made by the supervisor, removed when the VM ends.
  std::filesystem::path work_dir;
  /// Made by the supervisor (0700), holds its socket, removed when the VM ends.
  std::filesystem::path runtime_dir;
  /// When the owner dies without a goodbye, logs, JSON and text files of work_dir move to a folder in here. Empty: they go.
  std::filesystem::path evidence_dir = {};
};

/// A process the supervisor shall start as its child.
struct SupervisedProcess {
  /// Unique in the VM: "qemu", "virtiofsd".
  std::string name;
  std::vector<std::string> argv;
  /// File below work_dir that receives its standard output and error.
  std::string log_file;
  /// Its working directory, which must be there; empty: the VM's work_dir.
  std::filesystem::path directory = {};
  /// A Unix socket that it makes, where it offers the guest's serial port to one at a time; relative to its working directory.
  /// The supervisor connects to it as soon as it is there, appends what comes to console.log in work_dir and relays it to one
  /// person at a time who connects to console.sock in runtime_dir, as long as such a process runs. Empty: none.
  std::filesystem::path serial = {};
  /// Descriptors given before with hold(), and the number each has in the process (3 and up).
  std::vector<std::pair<std::string, int>> descriptors = {};
  /// Run when the process has ended, however it ended, before its end is told of or its VM's folders go: it undoes what the
  /// process did to the host. Must do nothing when there is nothing to undo, since it may run twice. Empty: nothing.
  std::vector<std::string> epilogue = {};
  /// Name of a process that cannot do without this one. It is killed when this one ends other than with exit code 0; this one is
  /// told to end (SIGTERM) when it has ended.
  std::string needed_by = {};
  /// Whether it is started anew, with the same descriptors, when it ends with exit code 0 while that process runs: it serves one
  /// connection, and the next one is coming. One that ends at once a few times over is not; the process that needs it is killed.
  bool restarts = false;
};

/// How a supervised process ended.
struct SupervisedExit {
  std::string name;
  ExitStatus status;
  /// The last lines of its log.
  std::string last_words;
  /// Whether it was told to end because the process that needed it had ended.
  bool told = false;
  /// Which process it could not do without, when it was killed because that one ended.
  struct Cause {
    std::string name;
    ExitStatus status;
    std::string last_words;
  };
  std::optional<Cause> cause = {};
};

/// What a supervisor says of itself.
struct SupervisorStatus {
  std::string name;
  pid_t pid = -1;
  bool owned = false;
  bool kept = false;
  /// Running processes: name to pid.
  std::map<std::string, pid_t> processes;
  /// Names of those to whose serial port it is connected.
  std::set<std::string> consoles = {};
};

/// A connection to the small process that stands between this process and a hypervisor (`vmtest-supervisor`), and cleans
/// up when either dies. While the owner's connection is open the VM lives; when it ends by any cause, SIGKILL included, all
/// processes end, the leases go, and both folders are removed. All calls may be made by several threads.
class SupervisorConnection {
 public:
  /// Starts a supervisor and owns it. Returns when both folders exist. Throws Error; nothing is left then.
  [[nodiscard]] static std::shared_ptr<SupervisorConnection> start(const SupervisorOptions& options);
  /// A supervisor answers in microseconds, but it is a process on a loaded host that may have to be paged in.
  static constexpr std::chrono::seconds kAnswerTime{20};
  /// Connects to a running supervisor without owning it: to look, signal or end it. Each of its answers may take `answer_time`.
  /// Throws Error when nobody listens or it is of another protocol, Timeout when it does not answer.
  [[nodiscard]] static std::shared_ptr<SupervisorConnection> connect(const std::filesystem::path& socket,
                                                                     std::chrono::milliseconds answer_time = kAnswerTime);

  ~SupervisorConnection();
  SupervisorConnection(const SupervisorConnection&) = delete;
  SupervisorConnection& operator=(const SupervisorConnection&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] unsigned long long start_time() const { return start_time_; }

  /// Gives the supervisor a copy of a descriptor under a name, kept until the VM ends: leases, TAPs.
  void hold(const std::string& name, int fd);
  /// Has it close its copy again; does nothing when it has none of that name.
  void release(const std::string& name);
  /// Starts a process and returns its pid. Throws Error when it cannot be executed.
  pid_t spawn(const SupervisedProcess& process);
  /// Gives a process the name of another one that has ended, whose end is forgotten. Throws Error when that one runs.
  void rename(const std::string& process, const std::string& name);
  /// Signals a process' group; does nothing when it has ended.
  void signal(const std::string& process, int number);
  /// Waits up to `timeout` for the end of a process and returns how it ended; empty while it runs or has not been started.
  /// Throws Error when the supervisor is gone.
  [[nodiscard]] std::optional<SupervisedExit> wait_exit(const std::string& process, std::chrono::milliseconds timeout);
  [[nodiscard]] SupervisorStatus status();
  /// From now on the VM lives on without an owner until somebody calls end().
  void keep();
  /// Becomes the owner of a VM that has none (a kept one). Throws Error when it has one.
  void take_ownership();
  /// Ends all processes, removes both folders and the supervisor. Returns when nothing is left. Never throws: a supervisor
  /// that is gone already has done its work. With `Evidence::Save` the evidence moves first, as after a bad death.
  enum class Evidence { Drop, Save };
  void end(Evidence evidence = Evidence::Drop) noexcept;

 private:
  struct Incoming;
  explicit SupervisorConnection(FileDescriptor socket);

  void greet(const std::string& hello_text);
  std::string request(const std::string& message, int fd = -1);
  bool read_messages(const Deadline& deadline);

  std::mutex mutex_;
  FileDescriptor socket_;
  pid_t pid_ = -1;
  unsigned long long start_time_ = 0;
  std::chrono::milliseconds answer_time_ = kAnswerTime;
  std::unique_ptr<Incoming> incoming_;
};

/// The supervisor's program: `VMTEST_SUPERVISOR`, else beside this program, else the build tree, else the installed
/// libexec folder. Throws Error naming the places looked at.
[[nodiscard]] std::filesystem::path find_supervisor();

}  // namespace vmtest
