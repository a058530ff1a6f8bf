#pragma once

// The real supervisor program, with ordinary programs in place of hypervisors: what its tests share.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/ledger.h"
#include "vmtest/host/socket.h"
#include "vmtest/supervisor.h"
#include "wait.h"

namespace vmtest {

using namespace std::chrono_literals;  // NOLINT(google-global-names-in-headers)
using testing::wait_until;
namespace fs = std::filesystem;

/// What the end of an owner may take until nothing of its VM is left.
inline constexpr std::chrono::seconds kCleanUpTime{2};

inline Deadline soon() { return Deadline::after(20s); }

/// Whether a process has ended, be it reaped or not.
inline bool is_gone(pid_t pid) {
  try {
    const std::string stat = read_file("/proc/" + std::to_string(pid) + "/stat");
    return stat.compare(stat.rfind(')') + 1, 2, " Z") == 0;
  } catch (const std::system_error&) {
    return true;
  }
}

/// The message of the error that `action` throws.
template <typename Action>
std::string message(Action action) {
  try {
    action();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

/// Processes whose command line names `text`.
inline std::vector<pid_t> processes_naming(const std::string& text) {
  std::vector<pid_t> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const pid_t pid = std::stoi(name);
    if (pid == ::getpid()) continue;
    try {
      if (read_file(entry.path() / "cmdline").find(text) != std::string::npos) found.push_back(pid);
    } catch (const std::system_error&) {  // it has ended
    }
  }
  return found;
}

class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override { fs::create_directory(folder_.path() / "vms"); }
  void TearDown() override {
    if (owner_ > 0) kill_owner();
  }

  [[nodiscard]] fs::path work_dir() const { return folder_.path() / "vms" / "vm"; }
  [[nodiscard]] fs::path runtime_dir() const { return folder_.path() / "run"; }
  [[nodiscard]] fs::path evidence() const { return folder_.path() / "evidence" / "vm"; }
  [[nodiscard]] fs::path socket() const { return runtime_dir() / "supervisor.sock"; }
  [[nodiscard]] SupervisorOptions options() const { return {"vm", work_dir(), runtime_dir(), folder_.path() / "evidence"}; }
  [[nodiscard]] std::shared_ptr<SupervisorConnection> start() const { return SupervisorConnection::start(options()); }
  /// No folder and no process of the VM is left.
  [[nodiscard]] bool nothing_is_left() const {
    return !fs::exists(work_dir()) && !fs::exists(runtime_dir()) && processes_naming(folder_.path()).empty();
  }
  /// Waits for a file to have a first line, and gives it as a number.
  [[nodiscard]] static pid_t number_in(const fs::path& file) {
    (void)wait_until([&] { return read_file_tail(file, 100).find('\n') != std::string::npos; }, soon());
    return std::stoi(read_file_tail(file, 100));
  }
  /// Runs `body` in another process, which then waits to be killed. True when it came through.
  bool start_owner(const std::function<void()>& body) {
    Pipe ready = make_pipe();
    owner_ = ::fork();
    if (owner_ == 0) {
      try {
        body();
        write_all(ready.write_end.get(), "x");
      } catch (const std::exception& error) {
        std::fprintf(stderr, "the owner: %s\n", error.what());
        ::_exit(1);
      }
      for (;;) ::pause();
    }
    ready.write_end.reset();
    char c = 0;
    return wait_readable(ready.read_end.get(), soon()) && ::read(ready.read_end.get(), &c, 1) == 1;
  }
  void kill_owner() {
    ::kill(owner_, SIGKILL);
    ::waitpid(owner_, nullptr, 0);
    owner_ = -1;
  }

  TemporaryDirectory folder_;
  pid_t owner_ = -1;
};

/// A process that runs a script; a path named in it, be it in a comment, is found by processes_naming().
inline SupervisedProcess shell(const std::string& script, const std::string& name = "hypervisor") {
  return {name, {"/bin/sh", "-c", script}, name + ".log"};
}

/// Starts a daemon that tells its pid, and goes on when that has left the group, which ends with the script.
inline const std::string kStartDaemon =
    "setsid --fork sh -c 'echo $$ > daemon.txt; exec sleep 60'; until [ -s daemon.txt ]; do sleep 0.01; done";

}  // namespace vmtest
