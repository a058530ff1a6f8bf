#include "vmtest/host/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "vmtest/error.h"

namespace vmtest {

std::optional<FileLock> FileLock::try_lock(const std::filesystem::path& path) {
  for (;;) {
    FileDescriptor fd = open_file(path, O_RDWR | O_CREAT, 0600);
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return std::nullopt;
      throw_errno("cannot lock " + path.string());
    }
    // Whoever held it may have removed the file, and others lock the new one.
    struct stat ours {};
    struct stat there {};
    if (::fstat(fd.get(), &ours) == 0 && ::stat(path.c_str(), &there) == 0 && ours.st_ino == there.st_ino)
      return FileLock(std::move(fd));
  }
}

FileLock FileLock::lock(const std::filesystem::path& path, const Deadline& deadline) {
  // flock has no deadline of its own; who holds these locks works for seconds or minutes.
  constexpr std::chrono::milliseconds kPoll{50};
  for (;;) {
    if (auto lock = try_lock(path)) return std::move(*lock);
    if (deadline.expired()) throw Timeout("waited in vain for another process that holds " + path.string());
    std::this_thread::sleep_for(std::min(kPoll, deadline.remaining()));
  }
}

}  // namespace vmtest
