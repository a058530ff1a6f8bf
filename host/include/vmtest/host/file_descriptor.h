#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "vmtest/deadline.h"

namespace vmtest {

/// Owns a file descriptor and closes it. Everything made by this layer is close-on-exec.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  /// Takes ownership of `fd`; -1 means none.
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  explicit operator bool() const { return valid(); }
  /// Gives up ownership.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  /// Closes what is owned and owns `fd` instead.
  void reset(int fd = -1);
  /// A second descriptor of the same open file. Throws std::system_error.
  [[nodiscard]] FileDescriptor duplicate() const;

 private:
  int fd_ = -1;
};

/// open(2) with O_CLOEXEC. Throws std::system_error naming the path.
[[nodiscard]] FileDescriptor open_file(const std::filesystem::path& path, int flags, unsigned mode = 0600);

/// A pipe; both ends close-on-exec.
struct Pipe {
  FileDescriptor read_end;
  FileDescriptor write_end;
};
[[nodiscard]] Pipe make_pipe();

/// The whole file. Throws std::system_error naming the path.
[[nodiscard]] std::string read_file(const std::filesystem::path& path);
/// At most the last `bytes` of the file; empty when it cannot be read.
[[nodiscard]] std::string read_file_tail(const std::filesystem::path& path, std::size_t bytes);
/// Writes the file whole or not at all: a temporary beside it, synced when `durable`, then renamed over it.
enum class Durability { None, Sync };
void write_file(const std::filesystem::path& path, std::string_view content, unsigned mode = 0644,
                Durability durability = Durability::None);
/// Writes all of `data`, going on after short writes and interruptions. Throws std::system_error.
void write_all(int fd, std::string_view data);
/// Waits until `fd` can be read (or is at its end). False when the deadline passed first.
[[nodiscard]] bool wait_readable(int fd, const Deadline& deadline);
/// Sets or clears O_NONBLOCK.
void set_nonblocking(int fd, bool on = true);

}  // namespace vmtest
