#include "vmtest/host/file_descriptor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vmtest/error.h"
#include "vmtest/host/text.h"

namespace vmtest {

void FileDescriptor::reset(int fd) {
  const int old = std::exchange(fd_, fd);
  if (old >= 0) ::close(old);
}

FileDescriptor FileDescriptor::duplicate() const {
  FileDescriptor copy(::fcntl(fd_, F_DUPFD_CLOEXEC, 3));
  if (!copy) throw_errno("cannot duplicate descriptor " + std::to_string(fd_));
  return copy;
}

FileDescriptor open_file(const std::filesystem::path& path, int flags, unsigned mode) {
  FileDescriptor fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) throw_errno("cannot open " + path.string());
  return fd;
}

Pipe make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw_errno("cannot make a pipe");
  return {FileDescriptor(ends[0]), FileDescriptor(ends[1])};
}

namespace {

std::string read_from(int fd, const std::filesystem::path& path) {
  std::string content;
  char buffer[65536];
  for (;;) {
    const ssize_t count = ::read(fd, buffer, sizeof buffer);
    if (count == 0) return content;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_errno("cannot read " + path.string());
    content.append(buffer, static_cast<std::size_t>(count));
  }
}

}  // namespace

std::string read_file(const std::filesystem::path& path) {
  const FileDescriptor fd = open_file(path, O_RDONLY);
  return read_from(fd.get(), path);
}

std::string read_file_tail(const std::filesystem::path& path, std::size_t bytes) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (!fd || ::fstat(fd.get(), &info) != 0) return {};
  const auto size = static_cast<std::size_t>(info.st_size);
  const std::size_t wanted = std::min(size, bytes);
  std::string content(wanted, '\0');
  const ssize_t count = ::pread(fd.get(), content.data(), wanted, static_cast<off_t>(size - wanted));
  content.resize(count < 0 ? 0 : static_cast<std::size_t>(count));
  return content;
}

void write_file(const std::filesystem::path& path, std::string_view content, unsigned mode, Durability durability) {
  const std::filesystem::path temporary = path.string() + ".new-" + random_hex(8);
  try {
    const FileDescriptor fd = open_file(temporary, O_WRONLY | O_CREAT | O_EXCL, mode);
    write_all(fd.get(), content);
    if (durability == Durability::Sync && ::fsync(fd.get()) != 0) throw_errno("cannot sync " + path.string());
    if (::rename(temporary.c_str(), path.c_str()) != 0) throw_errno("cannot write " + path.string());
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void write_all(int fd, std::string_view data) {
  while (!data.empty()) {
    const ssize_t count = ::write(fd, data.data(), data.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_errno("cannot write");
    data.remove_prefix(static_cast<std::size_t>(count));
  }
}

bool wait_readable(int fd, const Deadline& deadline) {
  for (;;) {
    pollfd entry{fd, POLLIN, 0};
    const int count = ::poll(&entry, 1, deadline.poll_timeout());
    if (count > 0) return true;
    if (count < 0 && errno != EINTR) throw_errno("cannot wait for a descriptor");
    if (deadline.expired()) return false;
  }
}

void set_nonblocking(int fd, bool on) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) != 0) {
    throw_errno("cannot change the flags of a descriptor");
  }
}

}  // namespace vmtest
