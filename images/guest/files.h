#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vmtest::guest {

/// Throws std::runtime_error "what: reason of errno".
[[noreturn]] void fail_errno(const std::string& what);

/// A descriptor with an owner; closed when it goes.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor();

  [[nodiscard]] int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// The whole file, or empty when it cannot be opened or read.
[[nodiscard]] std::optional<std::string> find_file(const std::string& path);
/// The whole file. Throws when it cannot be read.
[[nodiscard]] std::string read_file(const std::string& path);

/// How write_file treats what is there.
enum class WriteMode { Replace, Append };
/// Writes a file with exactly these permission bits; missing parent folders are made (0755). Throws.
void write_file(const std::string& path, std::string_view content, mode_t permissions, WriteMode mode = WriteMode::Replace);
/// The same, in place when there is a regular file: a fraction of the work of making its content anew, but not all at once.
void overwrite_file(const std::string& path, std::string_view content, mode_t permissions);
/// Writes to a file that exists already, /proc and /sys knobs for instance. False when that fails.
bool poke(const std::string& path, std::string_view content);
/// Makes a folder and its parents (0755). Throws.
void make_folders(const std::string& path);
/// Names in a folder without "." and "..", sorted; empty when it cannot be read.
[[nodiscard]] std::vector<std::string> list_folder(const std::string& path);

/// What a file ends with; empty when there is no file.
[[nodiscard]] std::string last_line(const std::string& path);

/// The parts between separators, empty ones left out.
[[nodiscard]] std::vector<std::string_view> split(std::string_view text, std::string_view separators);
/// `text` without blanks and line ends at both ends.
[[nodiscard]] std::string_view trim(std::string_view text);
/// RFC 4648 Base64; line ends are skipped. Empty when anything else is wrong with it.
[[nodiscard]] std::optional<std::string> decode_base64(std::string_view text);

}  // namespace vmtest::guest
