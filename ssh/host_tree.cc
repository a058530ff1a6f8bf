#include "host_tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <system_error>

#include "vmtest/error.h"
#include "vmtest/host/text.h"

namespace vmtest::ssh {
namespace {

// Deeper than any real tree, and few enough descriptors and stack.
constexpr std::size_t kMostLevels = 256;

std::string shown(std::string_view name) { return "\"" + sanitize_console(name) + "\""; }

std::string joined(const TreePath& place) {
  std::string text;
  for (const std::string& name : place) text += (text.empty() ? "" : "/") + name;
  return text;
}

}  // namespace

void require_plain_name(std::string_view name) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string_view::npos ||
      name.find('\0') != std::string_view::npos) {
    throw Error("the guest names an entry " + shown(name) + ", which could lead out of the target folder");
  }
}

TreePath split_guest_path(std::string_view path) {
  if (path.starts_with('/')) throw Error("the guest names an entry " + shown(path) + ", which leads out of the target folder");
  TreePath place;
  while (!path.empty()) {
    const std::size_t end = std::min(path.find('/'), path.size());
    const std::string_view name = path.substr(0, end);
    path.remove_prefix(std::min(end + 1, path.size()));
    if (name.empty() || name == ".") continue;
    require_plain_name(name);
    place.emplace_back(name);
  }
  return place;
}

void require_link_inside(const TreePath& place, std::string_view target) {
  const std::string what =
      "the guest's link " + shown(joined(place)) + " leads to " + shown(target) + ", outside the folder that is copied";
  if (target.empty() || target.front() == '/' || target.find('\0') != std::string_view::npos) throw Error(what);
  std::size_t up = 0;
  bool front = true;
  while (!target.empty()) {
    const std::size_t end = std::min(target.find('/'), target.size());
    const std::string_view name = target.substr(0, end);
    target.remove_prefix(std::min(end + 1, target.size()));
    if (name.empty() || name == ".") continue;
    if (name != "..") front = false;
    else if (!front || ++up >= place.size()) throw Error(what);
  }
}

HostTree::HostTree(const std::filesystem::path& target) : target_(std::filesystem::absolute(target).lexically_normal()) {
  if (!target_.has_filename()) target_ = target_.parent_path();
  if (!target_.has_filename()) throw Error("\"" + target.string() + "\" names no file or folder to copy to");
  outside_ = open_file(target_.parent_path(), O_PATH | O_DIRECTORY);
  temporary_name_ = "." + target_.filename().string().substr(0, 200) + ".vmtest-" + random_hex(8);
}

HostTree::~HostTree() {
  if (committed_) return;
  std::error_code ignored;
  std::filesystem::remove_all(target_.parent_path() / temporary_name_, ignored);
}

std::pair<FileDescriptor, std::string> HostTree::open_parent(const TreePath& place) const {
  if (place.size() > kMostLevels) throw Error("the guest's folder has more than " + std::to_string(kMostLevels) + " levels");
  FileDescriptor folder = outside_.duplicate();
  std::string name = temporary_name_;
  for (const std::string& next : place) {
    FileDescriptor inner(::openat(folder.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!inner) throw_errno("folder of the copied " + shown(joined(place)));
    folder = std::move(inner);
    name = next;
  }
  return {std::move(folder), std::move(name)};
}

void HostTree::add_folder(const TreePath& place, unsigned mode) {
  const auto [parent, name] = open_parent(place);
  if (::mkdirat(parent.get(), name.c_str(), 0700) != 0)
    throw_errno("cannot make the folder for the copied " + shown(joined(place)));
  folder_modes_.emplace_back(place, mode & 0777);
}

FileDescriptor HostTree::add_file(const TreePath& place) {
  const auto [parent, name] = open_parent(place);
  FileDescriptor file(::openat(parent.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) throw_errno("cannot make the file for the copied " + shown(joined(place)));
  return file;
}

void HostTree::finish_file(const FileDescriptor& file, unsigned mode) {
  if (::fchmod(file.get(), mode & 0777) != 0) throw_errno("cannot set the mode of a copied file");
}

void HostTree::add_link(const TreePath& place, const std::string& target) {
  require_link_inside(place, target);
  const auto [parent, name] = open_parent(place);
  if (::symlinkat(target.c_str(), parent.get(), name.c_str()) != 0)
    throw_errno("cannot make the copied link " + shown(joined(place)));
}

void HostTree::add_same_file(const TreePath& place, const TreePath& original) {
  const auto [from, from_name] = open_parent(original);
  const FileDescriptor source(::openat(from.get(), from_name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  struct stat status = {};
  if (!source || ::fstat(source.get(), &status) != 0) throw_errno("cannot open the copied " + shown(joined(original)));
  if (!S_ISREG(status.st_mode)) throw Error("the guest's " + shown(joined(place)) + " is the same as something that is no file");
  const FileDescriptor file = add_file(place);
  std::string buffer(256 * 1024, '\0');
  for (ssize_t size = 0; (size = ::read(source.get(), buffer.data(), buffer.size())) != 0;) {
    if (size < 0) throw_errno("cannot read the copied " + shown(joined(original)));
    write_all(file.get(), std::string_view(buffer).substr(0, static_cast<std::size_t>(size)));
  }
  finish_file(file, status.st_mode);
}

void HostTree::commit() {
  // Inner folders first: the mode of an outer one may close the way to them.
  for (auto entry = folder_modes_.rbegin(); entry != folder_modes_.rend(); ++entry) {
    const auto [parent, name] = open_parent(entry->first);
    if (::fchmodat(parent.get(), name.c_str(), entry->second, 0) != 0) throw_errno("cannot set the mode of a copied folder");
  }
  if (::renameat(outside_.get(), temporary_name_.c_str(), outside_.get(), target_.filename().c_str()) != 0) {
    throw_errno("cannot put the copy in its place, " + target_.string() +
                " (a folder there must be empty, and is not replaced by a file)");
  }
  committed_ = true;
}

}  // namespace vmtest::ssh
