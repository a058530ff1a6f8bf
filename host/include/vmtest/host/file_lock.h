#pragma once

#include <filesystem>
#include <optional>

#include "vmtest/deadline.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {

/// An exclusive lock on a file, held until this goes out of scope or the process ends (flock(2)). The file is made when it
/// is not there, and stays; only who holds the lock may remove it.
class FileLock {
 public:
  /// Takes the lock unless somebody holds it.
  [[nodiscard]] static std::optional<FileLock> try_lock(const std::filesystem::path& path);
  /// Waits for it. Throws Timeout naming the path.
  [[nodiscard]] static FileLock lock(const std::filesystem::path& path, const Deadline& deadline);

 private:
  explicit FileLock(FileDescriptor fd) : fd_(std::move(fd)) {}

  FileDescriptor fd_;
};

}  // namespace vmtest
