#pragma once

#include <string>
#include <string_view>
#include <utility>

namespace vmtest::vz {

/// Owns a file descriptor and closes it. Everything that the functions below make is close-on-exec.
class Descriptor {
 public:
  Descriptor() = default;
  /// Takes ownership; -1 means none.
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

/// A pipe. Its reader sees the end when all writers have closed.
struct Pipe {
  Descriptor read_end;
  Descriptor write_end;
};

// All throw std::system_error.
[[nodiscard]] Descriptor open_file(const std::string& path, int flags, unsigned mode = 0600);
[[nodiscard]] Descriptor duplicate(int fd);
[[nodiscard]] Pipe make_pipe();
void set_nonblocking(int fd);
void write_all(int fd, std::string_view data);
[[nodiscard]] std::string read_file(const std::string& path);
/// Throws std::system_error with errno and `what`.
[[noreturn]] void throw_errno(const std::string& what);

}  // namespace vmtest::vz
