#include "guest/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace vmtest::guest {
namespace {

bool write_all(int fd, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written = write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written <= 0) {
      return false;
    }
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

void fail_errno(const std::string& what) { throw std::runtime_error(what + ": " + std::strerror(errno)); }

Descriptor::~Descriptor() {
  if (fd_ >= 0) {
    close(fd_);
  }
}

std::optional<std::string> find_file(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) {
    return std::nullopt;
  }
  struct stat status {};
  std::string content;
  // Sizes of /proc and /sys files are no promise, so they only set the size of the first read.
  fstat(file.get(), &status);
  const std::size_t step = std::max<std::size_t>(static_cast<std::size_t>(status.st_size) + 1, 4096);
  while (true) {
    const std::size_t old_size = content.size();
    content.resize(old_size + step);
    const ssize_t count = read(file.get(), content.data() + old_size, step);
    if (count < 0 && errno == EINTR) {
      content.resize(old_size);
      continue;
    }
    content.resize(old_size + static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    if (count < 0) {
      return std::nullopt;
    }
    if (count == 0) {
      return content;
    }
  }
}

std::string read_file(const std::string& path) {
  std::optional<std::string> content = find_file(path);
  if (!content) {
    fail_errno("cannot read " + path);
  }
  return std::move(*content);
}

void write_file(const std::string& path, std::string_view content, mode_t permissions, WriteMode mode) {
  if (const std::size_t slash = path.rfind('/'); slash != std::string::npos && slash > 0) {
    make_folders(path.substr(0, slash));
  }
  const int how = mode == WriteMode::Append ? O_APPEND : O_TRUNC;
  const Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | how, permissions));
  if (!file) {
    fail_errno("cannot write " + path);
  }
  if (!write_all(file.get(), content) || fchmod(file.get(), permissions) != 0) {
    fail_errno("cannot write " + path);
  }
}

void overwrite_file(const std::string& path, std::string_view content, mode_t permissions) {
  const Descriptor file(open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat info {};
  if (!file || fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    unlink(path.c_str());
    write_file(path, content, permissions);
    return;
  }
  const bool longer = info.st_size > static_cast<off_t>(content.size());
  const bool other_mode = (info.st_mode & 07777U) != permissions;
  if (!write_all(file.get(), content) || (longer && ftruncate(file.get(), static_cast<off_t>(content.size())) != 0) ||
      (other_mode && fchmod(file.get(), permissions) != 0)) {
    fail_errno("cannot write " + path);
  }
}

bool poke(const std::string& path, std::string_view content) {
  const Descriptor file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return file && write_all(file.get(), content);
}

void make_folders(const std::string& path) {
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (mkdir(part.c_str(), 0755) != 0 && errno != EEXIST) {
      fail_errno("cannot make folder " + part);
    }
    if (end == std::string::npos) {
      return;
    }
  }
}

std::vector<std::string> list_folder(const std::string& path) {
  std::vector<std::string> names;
  if (DIR* folder = opendir(path.c_str())) {
    while (const dirent* entry = readdir(folder)) {
      if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0) {
        names.emplace_back(entry->d_name);
      }
    }
    closedir(folder);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string last_line(const std::string& path) {
  const std::string text = find_file(path).value_or("");
  const std::vector<std::string_view> lines = split(text, "\n");
  return lines.empty() ? std::string() : std::string(lines.back());
}

std::vector<std::string_view> split(std::string_view text, std::string_view separators) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t start = text.find_first_not_of(separators);
    if (start == std::string_view::npos) {
      return parts;
    }
    text.remove_prefix(start);
    const std::size_t end = std::min(text.find_first_of(separators), text.size());
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

std::string_view trim(std::string_view text) {
  static constexpr std::string_view kBlanks = " \t\r\n";
  const std::size_t start = text.find_first_not_of(kBlanks);
  return start == std::string_view::npos ? std::string_view() : text.substr(start, text.find_last_not_of(kBlanks) - start + 1);
}

std::optional<std::string> decode_base64(std::string_view text) {
  static constexpr auto kValues = [] {
    std::array<signed char, 256> values{};
    values.fill(-1);
    constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (std::size_t index = 0; index < kAlphabet.size(); ++index) {
      values[static_cast<unsigned char>(kAlphabet[index])] = static_cast<signed char>(index);
    }
    return values;
  }();
  std::string out;
  out.reserve(text.size() / 4 * 3);
  unsigned bits = 0;
  unsigned digits = 0;
  unsigned padding = 0;
  for (const char c : text) {
    if (c == '\n' || c == '\r') {
      continue;
    }
    if (c == '=') {
      ++padding;
      continue;
    }
    const int value = kValues[static_cast<unsigned char>(c)];
    if (value < 0 || padding > 0) {
      return std::nullopt;
    }
    bits = bits << 6 | static_cast<unsigned>(value);
    if (++digits % 4 != 1) {
      out += static_cast<char>(bits >> (6 - 2 * ((digits - 1) % 4)));
    }
  }
  const bool complete = digits % 4 == 0 ? padding == 0 : digits % 4 != 1 && padding == 4 - digits % 4;
  return complete ? std::optional(std::move(out)) : std::nullopt;
}

}  // namespace vmtest::guest
