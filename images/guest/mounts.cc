#include "guest/mounts.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <vector>

#include "guest/console.h"
#include "guest/files.h"
#include "guest/services.h"

namespace vmtest::guest {
namespace {

constexpr std::array kMoved{"/dev", "/proc", "/sys"};

/// Removes everything below a folder, but nothing on other file systems.
void empty_folder(const std::string& folder, dev_t device) {
  for (const std::string& name : list_folder(folder)) {
    const std::string path = folder + "/" + name;
    struct stat status {};
    if (lstat(path.c_str(), &status) != 0 || status.st_dev != device) {
      continue;
    }
    if (S_ISDIR(status.st_mode)) {
      empty_folder(path, device);
      rmdir(path.c_str());
    } else {
      unlink(path.c_str());
    }
  }
}

void try_mount(const char* source, const char* target, const char* type, unsigned long flags, const char* options) {
  try {
    mount_at(source, target, type, flags, options);
  } catch (const std::exception& error) {
    report_error("mount", error.what());
  }
}

}  // namespace

void mount_at(const std::string& source, const std::string& target, const std::string& type, unsigned long flags,
              const std::string& options) {
  make_folders(target);
  if (mount(source.c_str(), target.c_str(), type.c_str(), flags, options.c_str()) != 0) {
    fail_errno("cannot mount " + source + " on " + target);
  }
}

void mount_early() {
  try_mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
  try_mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "");
  try_mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "");
}

void switch_root(const std::string& new_root) {
  struct stat old_root {};
  if (stat("/", &old_root) != 0) {
    fail_errno("cannot look at the root");
  }
  for (const char* folder : kMoved) {
    const std::string target = new_root + folder;
    make_folders(target);
    if (mount(folder, target.c_str(), nullptr, MS_MOVE, nullptr) != 0) {
      fail_errno(std::string("cannot move ") + folder);
    }
  }
  empty_folder("", old_root.st_dev);
  if (chdir(new_root.c_str()) != 0 || mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || chroot(".") != 0 || chdir("/") != 0) {
    fail_errno("cannot switch to the root file system");
  }
}

void mount_rest() {
  try_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666");
  try_mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
  try_mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
  try_mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
  try_mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate");
  (void)symlink("/proc/self/fd", "/dev/fd");
  (void)symlink("/proc/self/fd/0", "/dev/stdin");
  (void)symlink("/proc/self/fd/1", "/dev/stdout");
  (void)symlink("/proc/self/fd/2", "/dev/stderr");
}

void mount_table() {
  constexpr const char* kLog = "/var/log/mount.log";
  const int status = run_program({"mount", "-a"}, kLog);
  if (status != 0) {
    report_error("fstab", "mount -a: " + describe_status(status) + ": " + last_line(kLog));
  }
}

void unmount_all() {
  const std::string mounts = find_file("/proc/self/mounts").value_or("");
  std::vector<std::string_view> lines = split(mounts, "\n");
  std::reverse(lines.begin(), lines.end());
  for (const std::string_view line : lines) {
    const std::vector<std::string_view> words = split(line, " ");
    if (words.size() < 3 || words[0].substr(0, 1) != "/") {
      continue;
    }
    const std::string target(words[1]);
    if (target == "/" || umount2(target.c_str(), 0) != 0) {
      mount(nullptr, target.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr);
    }
  }
}

}  // namespace vmtest::guest
