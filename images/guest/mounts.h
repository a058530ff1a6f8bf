#pragma once

#include <string>

namespace vmtest::guest {

/// Mounts /dev, /proc and /sys of the initramfs.
void mount_early();
/// Makes the file system mounted at `new_root` the root of this process and empties the initramfs, which gives its memory
/// back. The process goes on: no exec, and its own binary stays usable. Throws.
void switch_root(const std::string& new_root);
/// Mounts what a root file system needs besides: /dev/pts, /dev/shm, /run, /tmp, control groups.
void mount_rest();
/// Mounts what /etc/fstab names and is not mounted yet. What fails is reported.
void mount_table();
/// Mounts a file system; missing mount points are made. Throws std::runtime_error.
void mount_at(const std::string& source, const std::string& target, const std::string& type, unsigned long flags = 0,
              const std::string& options = {});
/// Makes every file system on a device read-only, or detaches it, so that nothing is lost when the machine goes.
void unmount_all();

}  // namespace vmtest::guest
