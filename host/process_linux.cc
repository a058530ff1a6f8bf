#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <iterator>
#include <sstream>
#include <string>
#include <vector>

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
  // The second field, the name, may hold anything; fields are counted from behind its closing parenthesis. proc(5).
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream rest(text.substr(name_end + 1));
  const std::vector<std::string> fields{std::istream_iterator<std::string>(rest), {}};
  const auto field = [&fields](std::size_t number) { return fields.at(number - 3); };
  if (fields.size() < 22 - 2) return std::nullopt;
  const std::string state = field(3);
  // One that has ended and waits for its parent to notice is as good as gone; not so one whose first thread alone has ended.
  const bool is_over = state == "X" || (state == "Z" && field(20) == "1");
  if (is_over) return std::nullopt;
  return std::stoull(field(22));
}

}  // namespace vmtest
