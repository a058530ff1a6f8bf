#pragma once

#include <sys/types.h>

#include <filesystem>
#include <set>
#include <string>

#include "build/recipe.h"

namespace vmtest {

/// What an ext4 file system is made with. All of it is fixed by the caller, so that the same files give the same bytes.
struct Ext4Options {
  std::string label = {};
  std::string uuid = {};
  std::string hash_seed = {};
  /// In the words of mkfs.ext4: "2G".
  std::string size = "1G";
};

/// An ext4 file system in the making: folders, files and links in the order they are to be written, all owned by root and
/// with one fixed time. It is written by debugfs, so that no step needs root or depends on the order a folder is read in.
/// Paths are absolute and hold no blanks; parents are made.
class Ext4Script {
 public:
  void folder(const std::string& path, mode_t mode = 0755);
  void file(const std::string& path, const std::filesystem::path& source, mode_t mode);
  void link(const std::string& path, const std::string& target);

  /// Makes the file system in a new sparse file and checks it. Throws Error.
  void build(const BuildContext& context, const Ext4Options& options, const std::filesystem::path& image) const;

 private:
  void add(const std::string& line) { text_ += line + "\n"; }
  void set_inode(const std::string& path, mode_t mode);

  std::set<std::string> folders_;
  std::size_t entries_ = 0;
  std::string text_;
};

}  // namespace vmtest
