#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "process_platform.h"
#include "vmtest/error.h"
#include "vmtest/host/process.h"

namespace vmtest {

void die_with_parent(pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);  // it died before the request was in place
}

void adopt_orphans() { ::prctl(PR_SET_CHILD_SUBREAPER, 1); }

FileDescriptor open_pidfd(pid_t pid) {
  FileDescriptor fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!fd) throw_errno("cannot watch process " + std::to_string(pid));
  return fd;
}

std::filesystem::path own_program() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored);
}

std::optional<unsigned long long> process_start_time(pid_t pid) {
  std::string text;
  try {
    text = read_file("/proc/" + std::to_string(pid) + "/stat");
  } catch (const std::exception&) {
    return std::nullopt;
  }
  // The second field, the name, may hold anything; fields are counted from behind its closing parenthesis. proc(5): 22.
  std::size_t at = text.rfind(')');
  // One that has ended and waits for its parent to notice is as good as gone.
  if (at == std::string::npos || text.compare(at, 3, ") Z") == 0 || text.compare(at, 3, ") X") == 0) return std::nullopt;
  for (int field = 2; field < 22; ++field) {
    if (at == std::string::npos) return std::nullopt;
    at = text.find(' ', at + 1);
  }
  if (at == std::string::npos) return std::nullopt;
  return std::stoull(text.substr(at + 1));
}

}  // namespace vmtest
