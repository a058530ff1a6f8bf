#pragma once

#include <filesystem>
#include <vector>

#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::cli {

/// A new folder in the system's temporary folder for one `vmtest run`: what its tests print, and their gates. It is locked for as
/// long as the run lives, so that what a killed one leaves can be told from one in use.
class RunFolder {
 public:
  /// Throws std::system_error when it cannot be made.
  RunFolder();
  [[nodiscard]] const std::filesystem::path& path() const { return folder_.path(); }

 private:
  TemporaryDirectory folder_;
  FileDescriptor lock_;
};

/// A folder of a run that was killed, locked so that nobody else removes it.
struct DeadRunFolder {
  std::filesystem::path path;
  FileDescriptor lock;
};
/// Folders in the system's temporary folder that runs of this user left which do not live any more.
[[nodiscard]] std::vector<DeadRunFolder> find_dead_run_folders();

}  // namespace vmtest::cli
