#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vmtest/host/file_descriptor.h"

namespace vmtest::ssh {

/// A place below a copy's top, one name per level; empty for the top itself. Made by the functions below only.
using TreePath = std::vector<std::string>;

/// Throws Error unless `name`, which a guest gave, is a plain name: no slash, not "..", not empty.
void require_plain_name(std::string_view name);
/// A path that a guest gave, "./a/b", as plain names. Throws Error when it is absolute or has "..".
[[nodiscard]] TreePath split_guest_path(std::string_view path);
/// Throws Error unless a link at `place` that leads to `target` stays inside the copy: relative, and with no more ".." in
/// front than there are levels, and none behind (where another link may stand).
void require_link_inside(const TreePath& place, std::string_view target);

/// A copy from the guest as it grows on the host, beside its final place, which it takes when it is complete. Nothing in it
/// is ever reached through a link, so that no sequence of entries leads out of it. Functions throw Error and
/// std::system_error; the guest's names are checked by the functions above before.
class HostTree {
 public:
  /// `target` is where the copy shall be; the folder that holds it must exist.
  explicit HostTree(const std::filesystem::path& target);
  HostTree(const HostTree&) = delete;
  HostTree& operator=(const HostTree&) = delete;
  /// Removes what is there of an incomplete copy.
  ~HostTree();

  /// The mode is set in the end, so that a read-only folder can be filled.
  void add_folder(const TreePath& place, unsigned mode);
  /// A new file, open for writing. Its mode is that of finish_file().
  [[nodiscard]] FileDescriptor add_file(const TreePath& place);
  /// Permission bits without set-user-ID, set-group-ID and sticky.
  static void finish_file(const FileDescriptor& file, unsigned mode);
  void add_link(const TreePath& place, const std::string& target);
  /// A copy of a file that was added before.
  void add_same_file(const TreePath& place, const TreePath& original);
  /// Puts the copy in its place: replaces a file by a file and an empty folder by a folder, nothing else.
  void commit();

 private:
  /// The open folder that holds `place`, and the name in it.
  [[nodiscard]] std::pair<FileDescriptor, std::string> open_parent(const TreePath& place) const;

  std::filesystem::path target_;
  std::string temporary_name_;
  FileDescriptor outside_;  // the folder that will hold the copy
  std::vector<std::pair<TreePath, unsigned>> folder_modes_;
  bool committed_ = false;
};

}  // namespace vmtest::ssh
