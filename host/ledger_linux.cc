#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "ledger_platform.h"

#include <cstdlib>
#include <string>
#include <string_view>

#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {
namespace {

struct flock byte_range(short type, off_t at, off_t size) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = size;
  return lock;
}

}  // namespace

bool try_lock_byte(int fd, off_t at) {
  struct flock lock = byte_range(F_WRLCK, at, 1);
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return true;
  if (errno == EAGAIN || errno == EACCES) return false;
  throw_errno("cannot lock the ledger");
}

void unlock_byte(int fd, off_t at) {
  struct flock lock = byte_range(F_UNLCK, at, 1);
  ::fcntl(fd, F_OFD_SETLK, &lock);
}

bool range_is_locked(int fd, off_t at, off_t size) { return any_lock(fd, at, size).has_value(); }

std::optional<off_t> any_lock(int fd, off_t at, off_t size) {
  struct flock lock = byte_range(F_WRLCK, at, size);
  if (::fcntl(fd, F_OFD_GETLK, &lock) != 0) throw_errno("cannot ask the ledger");
  if (lock.l_type == F_UNLCK) return std::nullopt;
  return lock.l_start;
}

unsigned long available_memory_mib() {
  constexpr std::string_view kField = "MemAvailable:";
  const std::string text = read_file("/proc/meminfo");
  const std::size_t at = text.find(kField);
  if (at == std::string::npos) throw Error("/proc/meminfo has no MemAvailable");
  return std::strtoul(text.c_str() + at + kField.size(), nullptr, 10) / 1024;
}

}  // namespace vmtest
