#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sstream>
#include <string>

#include "platform.h"
#include "vmtest/error.h"

namespace vmtest::supervisor {

void become_reaper() {
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) throw_errno("cannot become the reaper of descendants");
}

FileDescriptor open_signals(std::initializer_list<int> numbers) {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : numbers) sigaddset(&set, number);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  FileDescriptor fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) throw_errno("cannot watch signals");
  return fd;
}

std::vector<int> read_signals(int fd) {
  std::vector<int> numbers;
  signalfd_siginfo info{};
  while (::read(fd, &info, sizeof info) == sizeof info) numbers.push_back(static_cast<int>(info.ssi_signo));
  return numbers;
}

FileDescriptor try_open_pidfd(pid_t pid) { return FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

void reap_strays(const std::function<bool(pid_t)>& is_known) {
  for (;;) {
    siginfo_t info{};
    // Looked at first and reaped by pid after, so that no status of a child of ours is lost.
    if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0 || is_known(info.si_pid)) return;
    ::waitpid(info.si_pid, nullptr, WNOHANG);
  }
}

bool kill_and_reap_children() {
  const std::string self = std::to_string(::getpid());
  std::string children;
  try {
    children = read_file("/proc/" + self + "/task/" + self + "/children");
  } catch (const std::exception&) {  // a kernel without that file: the groups were killed, wait for those
  }
  std::istringstream pids(children);
  for (pid_t pid = 0; pids >> pid;) ::kill(pid, SIGKILL);
  for (;;) {
    const pid_t done = ::waitpid(-1, nullptr, WNOHANG);
    if (done < 0) return false;
    if (done == 0) return true;
  }
}

void close_from(int first) { ::syscall(SYS_close_range, static_cast<unsigned>(first), ~0U, 0U); }

}  // namespace vmtest::supervisor
