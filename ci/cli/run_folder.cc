#include "run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <string>
#include <system_error>

#include "vmtest/error.h"

namespace vmtest::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "vmtest-run-";
/// A run locks its folder as soon as it has made it, and before anything is in it. An empty one is nobody's leftover while it is
/// younger than this.
constexpr std::chrono::seconds kYoung{10};

/// The folder itself is what is locked: there is no moment at which it has no lock file yet.
FileDescriptor open_folder(const fs::path& folder) {
  return FileDescriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

}  // namespace

RunFolder::RunFolder() : folder_(kPrefix), lock_(open_folder(folder_.path())) {
  // Whoever looks whether the run lives lets go of an empty folder at once.
  if (!lock_ || ::flock(lock_.get(), LOCK_EX) != 0) throw_errno("cannot lock " + folder_.path().string());
}

std::vector<DeadRunFolder> find_dead_run_folders() {
  std::vector<DeadRunFolder> dead;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(fs::temp_directory_path(error), error)) {
    if (entry.path().filename().string().rfind(kPrefix, 0) != 0) continue;
    FileDescriptor folder = open_folder(entry.path());
    struct stat info {};
    // The temporary folder is everybody's.
    if (!folder || ::fstat(folder.get(), &info) != 0 || info.st_uid != ::geteuid()) continue;
    if (::flock(folder.get(), LOCK_EX | LOCK_NB) != 0) continue;
    const auto age = std::chrono::system_clock::now() - std::chrono::system_clock::from_time_t(info.st_mtim.tv_sec);
    if (fs::is_empty(entry.path(), error) && age < kYoung) continue;
    dead.push_back({entry.path(), std::move(folder)});
  }
  return dead;
}

}  // namespace vmtest::cli
