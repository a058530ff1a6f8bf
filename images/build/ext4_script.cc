#include "build/ext4_script.h"

#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <fstream>

#include "vmtest/error.h"

namespace vmtest {
namespace {

// 2023-11-14 22:13:20 UTC, in the words of the two tools.
constexpr const char* kFakeTime = "E2FSPROGS_FAKE_TIME=1700000000";
constexpr const char* kDebugfsTime = "20231114221320";
// Inodes 1 to 10 are the file system's own, 11 is lost+found.
constexpr std::size_t kOwnInodes = 11;

std::string set_times(const std::string& path) {
  std::string text;
  for (const char* field : {"atime", "ctime", "mtime", "crtime"}) {
    text += "sif " + path + " " + field + " " + kDebugfsTime + "\n";
  }
  return text;
}

/// A number that dumpe2fs prints after a label.
std::size_t number_after(const std::string& text, const std::string& label) {
  const std::size_t start = text.find(label);
  if (start == std::string::npos) {
    throw Error("dumpe2fs prints no \"" + label + "\"");
  }
  return std::stoul(text.substr(start + label.size()));
}

}  // namespace

void Ext4Script::folder(const std::string& path, mode_t mode) {
  if (path.empty() || !folders_.insert(path).second) {
    return;
  }
  folder(path.substr(0, path.rfind('/')));
  add("mkdir " + path);
  set_inode(path, S_IFDIR | mode);
}

void Ext4Script::file(const std::string& path, const std::filesystem::path& source, mode_t mode) {
  folder(path.substr(0, path.rfind('/')));
  add("write \"" + source.string() + "\" " + path);
  set_inode(path, S_IFREG | mode);
}

void Ext4Script::link(const std::string& path, const std::string& target) {
  folder(path.substr(0, path.rfind('/')));
  add("symlink " + path + " " + target);
  set_inode(path, S_IFLNK | 0777);
}

void Ext4Script::set_inode(const std::string& path, mode_t mode) {
  std::array<char, 16> octal{};
  std::snprintf(octal.data(), octal.size(), "0%o", static_cast<unsigned>(mode));
  add("sif " + path + " mode " + octal.data());
  add("sif " + path + " uid 0");
  add("sif " + path + " gid 0");
  text_ += set_times(path);
  ++entries_;
}

void Ext4Script::build(const BuildContext& context, const Ext4Options& options, const std::filesystem::path& image) const {
  std::string script = text_;
  // Folders changed when things were put into them.
  for (const std::string& path : folders_) {
    script += set_times(path);
  }
  script += set_times("/") + set_times("/lost+found");
  for (const char* field : {"mkfs_time", "mtime", "wtime", "lastcheck"}) {
    script += std::string("ssv ") + field + " " + kDebugfsTime + "\n";
  }
  const std::string script_file = image.string() + ".debugfs";
  std::ofstream(script_file) << script;
  context.run({"env", kFakeTime, "mkfs.ext4", "-q", "-F", "-L", options.label, "-U", options.uuid, "-m", "0", "-J", "size=16",
               "-E", "hash_seed=" + options.hash_seed + ",root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0", image.string(),
               options.size});
  context.run({"env", kFakeTime, "debugfs", "-w", "-f", script_file, image.string()});
  // debugfs ends well whatever its commands did: count what is there.
  const std::string header = context.run({"dumpe2fs", "-h", image.string()});
  const std::size_t used = number_after(header, "Inode count:") - number_after(header, "Free inodes:");
  if (used != entries_ + kOwnInodes) {
    throw Error("debugfs wrote " + std::to_string(used - kOwnInodes) + " of " + std::to_string(entries_) + " files" +
                (context.log.empty() ? "" : "; see " + context.log.string()));
  }
  context.run({"e2fsck", "-f", "-n", image.string()});
}

}  // namespace vmtest
