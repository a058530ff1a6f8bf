#include <fcntl.h>
#include <sys/mount.h>

#include "companions/companions.h"
#include "vmtest/error.h"

namespace vmtest {

FileDescriptor open_shared_folder(const std::filesystem::path& folder, bool read_only) {
  if (!read_only) return open_file(folder, O_PATH | O_DIRECTORY);
  // A copy of the mount that is in no tree, so it is seen by nobody else and goes with its last descriptor.
  FileDescriptor view(::open_tree(AT_FDCWD, folder.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
  if (!view) throw_errno("cannot make a read-only view of " + folder.string() + " (that needs root and Linux 5.12)");
  struct mount_attr attributes = {};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  if (::mount_setattr(view.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes) != 0)
    throw_errno("cannot make a view of " + folder.string() + " read-only (that needs Linux 5.12)");
  return view;
}

}  // namespace vmtest
