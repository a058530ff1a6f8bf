#pragma once

#include <filesystem>
#include <string>

namespace vmtest {

/// Where vmtest keeps its things: `$XDG_DATA_HOME/vmtest`, or `$VMTEST_HOME/data`. Not made by the call.
[[nodiscard]] std::filesystem::path data_dir();
/// `$XDG_CACHE_HOME/vmtest`, or `$VMTEST_HOME/cache`.
[[nodiscard]] std::filesystem::path cache_dir();
/// `$XDG_STATE_HOME/vmtest`, or `$VMTEST_HOME/state`.
[[nodiscard]] std::filesystem::path state_dir();
/// Folder of this user for sockets: `$XDG_RUNTIME_DIR/vmtest` or `/tmp/vmtest-<uid>`, or below the latter a folder of its
/// own per VMTEST_HOME. Short, since socket paths end at 108 bytes. Made with mode 0700; throws Error when something
/// else is in its place.
[[nodiscard]] std::filesystem::path runtime_dir();
/// `/tmp/vmtest-<uid>`: the one place per host and user that no setting moves, for the ledger. Made and checked as above.
[[nodiscard]] std::filesystem::path ledger_dir();

/// Makes `path` (its parents too) with mode 0700, or checks that it is a folder, not a link, owned by this user and closed
/// to others. Throws Error with the mend otherwise.
void ensure_private_dir(const std::filesystem::path& path);

/// A new folder that is removed with everything in it when this goes out of scope.
class TemporaryDirectory {
 public:
  /// Makes `<parent>/<prefix>XXXXXX` with mode 0700; the parent is the system's temporary folder by default.
  explicit TemporaryDirectory(const std::string& prefix = "vmtest-", const std::filesystem::path& parent = {});
  TemporaryDirectory(TemporaryDirectory&& other) noexcept;
  TemporaryDirectory& operator=(TemporaryDirectory&& other) noexcept;
  ~TemporaryDirectory();

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// Leaves the folder in place.
  std::filesystem::path release();

 private:
  std::filesystem::path path_;
};

}  // namespace vmtest
