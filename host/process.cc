#include "vmtest/host/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "process_platform.h"
#include "vmtest/error.h"
#include "vmtest/host/text.h"

extern char** environ;

namespace vmtest {
namespace {

/// Most of a tool's output that is kept; tools of ours print little.
constexpr std::size_t kToolOutputLimit = 16U << 20;
constexpr std::chrono::seconds kReapTime{10};

std::vector<std::string> merged_environment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> entries;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (added.count(std::string(text.substr(0, text.find('=')))) == 0) entries.emplace_back(text);
  }
  for (const auto& [name, value] : added) entries.push_back(name + "=" + value);
  return entries;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& text : strings) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

/// All that the child does between fork and exec, made before the fork: after it only async-signal-safe calls are allowed.
struct ChildPlan {
  const char* program;
  char* const* argv;
  char* const* environment;
  const char* directory;
  std::vector<std::pair<int, int>> descriptors;  // (ours, the child's)
  std::vector<int> moved;                        // room for the copies out of the way
  int report;
  pid_t parent;
  ParentDeath parent_death;
  bool adopts_orphans;
};

[[noreturn]] void fail_in_child(const ChildPlan& plan) {
  const int error = errno;
  [[maybe_unused]] const ssize_t count = ::write(plan.report, &error, sizeof error);
  ::_exit(127);
}

[[noreturn]] void run_in_child(ChildPlan& plan) {
  ::setpgid(0, 0);
  if (plan.parent_death == ParentDeath::Kill) die_with_parent(plan.parent);
  if (plan.adopts_orphans) adopt_orphans();
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
  // Copies above every wanted number first, so that no descriptor is overwritten before it is used.
  int above = plan.report;
  for (const auto& [ours, theirs] : plan.descriptors) above = std::max({above, ours, theirs});
  for (std::size_t i = 0; i < plan.descriptors.size(); ++i) {
    plan.moved[i] = ::fcntl(plan.descriptors[i].first, F_DUPFD_CLOEXEC, above + 1);
    if (plan.moved[i] < 0) fail_in_child(plan);
  }
  for (std::size_t i = 0; i < plan.descriptors.size(); ++i) {
    const int theirs = plan.descriptors[i].second;
    if (theirs == plan.report) {  // the report pipe stands where the child wants a descriptor
      plan.report = ::fcntl(plan.report, F_DUPFD_CLOEXEC, above + 1);
    }
    if (::dup2(plan.moved[i], theirs) < 0) fail_in_child(plan);
  }
  if (plan.directory != nullptr && ::chdir(plan.directory) != 0) fail_in_child(plan);
  ::execve(plan.program, plan.argv, plan.environment);
  fail_in_child(plan);
}

std::filesystem::path resolve_program(const std::vector<std::string>& argv) {
  if (argv.empty()) throw Error("no program to start");
  if (argv[0].find('/') != std::string::npos) return argv[0];
  if (auto found = find_program(argv[0])) return *found;
  throw_errno(ENOENT, "cannot start " + argv[0] + ": it is not in PATH");
}

}  // namespace

std::string to_string(const ExitStatus& status) {
  if (status.signal == 0) return "exit code " + std::to_string(status.code);
  return "signal " + std::to_string(status.signal) + " (" + ::strsignal(status.signal) + ")";
}

ChildProcess ChildProcess::start(const ProcessOptions& options) {
  const std::filesystem::path program = resolve_program(options.argv);
  std::vector<std::string> arguments = options.argv;
  std::vector<std::string> environment = merged_environment(options.environment);
  const std::vector<char*> argv = pointers(arguments);
  const std::vector<char*> envp = pointers(environment);
  const FileDescriptor null = open_file("/dev/null", O_RDWR);
  Pipe report = make_pipe();

  ChildPlan plan{program.c_str(),
                 argv.data(),
                 envp.data(),
                 options.working_directory.empty() ? nullptr : options.working_directory.c_str(),
                 options.pass_descriptors,
                 {},
                 report.write_end.get(),
                 ::getpid(),
                 options.parent_death,
                 options.adopts_orphans};
  const int standard[] = {options.standard_input, options.standard_output, options.standard_error};
  for (int number = 0; number < 3; ++number) {
    plan.descriptors.emplace_back(standard[number] >= 0 ? standard[number] : null.get(), number);
  }
  plan.moved.resize(plan.descriptors.size());

  // Signals stay blocked over the fork so that no handler of ours runs in the child.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = ::fork();
  if (pid == 0) run_in_child(plan);
  const int fork_error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) throw_errno(fork_error, "cannot fork to start " + program.string());

  ChildProcess child;
  child.pid_ = pid;
  child.pidfd_ = open_pidfd(pid);
  report.write_end.reset();
  int error = 0;
  ssize_t count = 0;
  do {
    count = ::read(report.read_end.get(), &error, sizeof error);
  } while (count < 0 && errno == EINTR);
  if (count == sizeof error) {
    child.kill_group();
    throw_errno(error, "cannot start " + program.string());
  }
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)), status_(other.status_) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(pidfd_, other.pidfd_);
  std::swap(status_, other.status_);
  return *this;
}

ChildProcess::~ChildProcess() { kill_group(); }

bool ChildProcess::running() { return pid_ > 0 && !poll(); }

std::optional<ExitStatus> ChildProcess::poll() {
  if (status_ || pid_ <= 0) return status_;
  siginfo_t info{};
  if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0) {
    // Somebody else reaped it (SIGCHLD ignored): its end is all that is known.
    if (errno == ECHILD) status_ = ExitStatus{-1, 0};
    return status_;
  }
  if (info.si_pid == 0) return std::nullopt;
  kill_group();
  return status_;
}

std::optional<ExitStatus> ChildProcess::wait(const Deadline& deadline) {
  while (!poll()) {
    if (pid_ <= 0) return std::nullopt;
    if (!wait_readable(pidfd_.get(), deadline)) return poll();
  }
  return status_;
}

void ChildProcess::signal(int number) {
  if (running()) ::kill(pid_, number);
}

void ChildProcess::kill_group() {
  if (pid_ <= 0 || status_) return;
  // The group may outlive its leader; until the leader is reaped its number cannot be used again.
  ::kill(-pid_, SIGKILL);
  ::kill(pid_, SIGKILL);
  if (pidfd_ && !wait_readable(pidfd_.get(), Deadline::after(kReapTime))) {
    status_ = ExitStatus{-1, SIGKILL};
    return;
  }
  int raw = 0;
  pid_t done = 0;
  do {
    done = ::waitpid(pid_, &raw, 0);
  } while (done < 0 && errno == EINTR);
  if (done < 0) {
    status_ = ExitStatus{-1, 0};
  } else {
    status_ = WIFSIGNALED(raw) ? ExitStatus{-1, WTERMSIG(raw)} : ExitStatus{WEXITSTATUS(raw), 0};
  }
}

ToolResult exec_tool(const std::vector<std::string>& argv, const Deadline& deadline,
                     const std::map<std::string, std::string>& environment) {
  Pipe out = make_pipe();
  Pipe err = make_pipe();
  ProcessOptions options;
  options.argv = argv;
  options.environment = environment;
  options.standard_output = out.write_end.get();
  options.standard_error = err.write_end.get();
  ChildProcess child = ChildProcess::start(options);
  out.write_end.reset();
  err.write_end.reset();

  ToolResult result;
  const auto drain = [](pollfd& entry, std::string& text) {
    char buffer[65536];
    const ssize_t count = ::read(entry.fd, buffer, sizeof buffer);
    if (count > 0 && text.size() < kToolOutputLimit) text.append(buffer, static_cast<std::size_t>(count));
    if (count == 0 || (count < 0 && errno != EINTR)) entry.fd = -1;
  };
  pollfd entries[3] = {{out.read_end.get(), POLLIN, 0}, {err.read_end.get(), POLLIN, 0}, {child.pidfd(), POLLIN, 0}};
  // Ends with the program, not with its streams: a daemon it left behind may hold those open for ever.
  while (entries[0].fd >= 0 || entries[1].fd >= 0) {
    const int ready = ::poll(entries, 3, deadline.poll_timeout());
    if (ready < 0 && errno != EINTR) throw_errno("cannot wait for " + argv[0]);
    if (deadline.expired()) {
      child.kill_group();
      throw Timeout("gave up waiting for: " + format_command(argv) + "\n" + indent(last_lines(result.err, 10), "  "));
    }
    if (ready <= 0) continue;
    const bool streams = ((entries[0].revents | entries[1].revents) != 0);
    if (entries[0].revents != 0) drain(entries[0], result.out);
    if (entries[1].revents != 0) drain(entries[1], result.err);
    if (!streams && entries[2].revents != 0) break;
  }
  const auto status = child.wait(deadline);
  if (!status) {
    child.kill_group();
    throw Timeout("gave up waiting for: " + format_command(argv));
  }
  result.status = *status;
  return result;
}

ToolResult run_tool(const std::vector<std::string>& argv, const Deadline& deadline,
                    const std::map<std::string, std::string>& environment) {
  ToolResult result = exec_tool(argv, deadline, environment);
  if (!result.status.ok()) {
    const std::string said = last_lines(result.err.empty() ? result.out : result.err, 10);
    throw Error("command failed with " + to_string(result.status) + ": " + format_command(argv) +
                (said.empty() ? "" : "\n" + indent(said, "  ")));
  }
  return result;
}

std::optional<std::filesystem::path> find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path == nullptr ? "/usr/local/bin:/usr/bin:/bin" : path;
  // Tools that administrators use live where an ordinary user's PATH does not look.
  const std::string all = std::string(rest) + ":/usr/sbin:/sbin";
  rest = all;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    const std::filesystem::path candidate = std::filesystem::path(rest.substr(0, end)) / name;
    std::error_code ignored;
    if (end > 0 && std::filesystem::is_regular_file(candidate, ignored) && ::access(candidate.c_str(), X_OK) == 0) {
      return candidate;
    }
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return std::nullopt;
}

std::string format_command(const std::vector<std::string>& argv) {
  std::string line;
  for (const std::string& word : argv) {
    if (!line.empty()) line += ' ';
    const bool plain = !word.empty() && word.find_first_of(" \t\n\"'\\$`;&|<>()*?[]#~!{}") == std::string::npos;
    if (plain) {
      line += word;
      continue;
    }
    line += '\'';
    for (const char c : word) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += '\'';
  }
  return line;
}

}  // namespace vmtest
