#include "vmtest/host/directories.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "vmtest/error.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// XDG folders must be absolute; others are ignored, as the specification says.
fs::path base_dir(const char* variable, const char* below_home, const char* below_vmtest_home) {
  if (const fs::path home = environment("VMTEST_HOME"); !home.empty()) return fs::absolute(home) / below_vmtest_home;
  if (const fs::path xdg = environment(variable); xdg.is_absolute()) return xdg / "vmtest";
  const fs::path home = environment("HOME");
  if (!home.is_absolute()) {
    throw Error("cannot tell where to keep files: neither HOME nor " + std::string(variable) +
                " nor VMTEST_HOME is set; set VMTEST_HOME to a folder of yours");
  }
  return home / below_home / "vmtest";
}

}  // namespace

fs::path data_dir() { return base_dir("XDG_DATA_HOME", ".local/share", "data"); }
fs::path cache_dir() { return base_dir("XDG_CACHE_HOME", ".cache", "cache"); }
fs::path state_dir() { return base_dir("XDG_STATE_HOME", ".local/state", "state"); }

fs::path ledger_dir() {
  const fs::path dir = "/tmp/vmtest-" + std::to_string(::getuid());
  ensure_private_dir(dir);
  return dir;
}

fs::path runtime_dir() {
  if (const std::string home = environment("VMTEST_HOME"); !home.empty()) {
    const fs::path dir = ledger_dir() / sha256(fs::absolute(home).lexically_normal().string()).substr(0, 8);
    ensure_private_dir(dir);
    return dir;
  }
  const fs::path xdg = environment("XDG_RUNTIME_DIR");
  if (!xdg.is_absolute() || ::access(xdg.c_str(), W_OK) != 0) return ledger_dir();
  ensure_private_dir(xdg / "vmtest");
  return xdg / "vmtest";
}

void ensure_private_dir(const fs::path& path) {
  std::error_code ignored;
  fs::create_directories(path.parent_path(), ignored);
  if (::mkdir(path.c_str(), 0700) == 0) return;
  if (errno != EEXIST) throw_errno("cannot make the folder " + path.string());
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) throw_errno("cannot look at " + path.string());
  const auto refuse = [&path](const char* why) {
    throw Error(path.string() + " " + why + "; remove it or set VMTEST_HOME and XDG_RUNTIME_DIR to folders of yours");
  };
  if (!S_ISDIR(info.st_mode)) refuse("is no folder");
  if (info.st_uid != ::geteuid()) refuse("belongs to another user");
  if ((info.st_mode & 0077) != 0) refuse("is open to other users (its mode must be 0700)");
}

TemporaryDirectory::TemporaryDirectory(const std::string& prefix, const fs::path& parent) {
  std::string pattern = ((parent.empty() ? fs::temp_directory_path() : parent) / (prefix + "XXXXXX")).string();
  if (::mkdtemp(pattern.data()) == nullptr) throw_errno("cannot make a temporary folder " + pattern);
  path_ = pattern;
}

TemporaryDirectory::TemporaryDirectory(TemporaryDirectory&& other) noexcept : path_(std::exchange(other.path_, {})) {}

TemporaryDirectory& TemporaryDirectory::operator=(TemporaryDirectory&& other) noexcept {
  std::swap(path_, other.path_);
  return *this;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

fs::path TemporaryDirectory::release() { return std::exchange(path_, {}); }

}  // namespace vmtest
