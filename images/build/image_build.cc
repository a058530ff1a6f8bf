#include "build/image_build.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <ctime>
#include <optional>
#include <string>
#include <vector>

#include "guest_programs.h"
#include "manifest.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/file_lock.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

/// Longest wait for another process that builds the same image.
constexpr std::chrono::minutes kBuildTime{45};
/// How many characters TemporaryDirectory puts behind a folder's name.
constexpr std::size_t kRandomDigits = 6;

std::uintmax_t size_on_disk(const fs::path& folder) {
  std::uintmax_t size = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    struct stat info {};
    if (::stat(entry.path().c_str(), &info) == 0) size += static_cast<std::uintmax_t>(info.st_blocks) * 512;
  }
  return size;
}

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  char text[32] = {};
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  return text;
}

/// Turns a recipe's words into the manifest, with the digests of the files it made.
Manifest describe(const BuiltImage& built, const Recipe& recipe, const fs::path& folder) {
  Manifest manifest;
  Image& image = manifest.details.image;
  image.name = recipe.name;
  image.description = built.description.empty() ? std::string(recipe.description) : built.description;
  image.architecture = built.architecture;
  image.disk_format = built.disk_format;
  image.command_line = built.command_line;
  image.default_user = built.default_user;
  image.boot_modes = built.boot_modes;
  image.features = built.features;
  std::string all = image.command_line + "\n" + std::string(to_string(image.disk_format)) + "\n";
  const auto add = [&](const std::string& name) -> fs::path {
    if (name.empty()) return {};
    const std::string digest = sha256_file(folder / name);
    manifest.digests[name] = digest;
    all += name + " " + digest + "\n";
    return folder / name;
  };
  image.disk = add(built.disk);
  image.kernel = add(built.kernel);
  image.initramfs = add(built.initramfs);
  image.efi_kernel = add(built.efi_kernel);
  image.digest = sha256(all);
  if (!image.disk.empty()) check_disk(image.disk, image.disk_format);
  manifest.details.size = size_on_disk(folder);
  manifest.details.recipe_version = recipe.version;
  manifest.details.built_at = now_utc();
  return manifest;
}

fs::path lock_of(const fs::path& store, const std::string& image) { return store / ("." + image + ".lock"); }

std::string staging_prefix(const std::string& image) { return kStagingPrefix + image + "-"; }

/// The image that a staging folder, or one of a build, belongs to; empty for one that an image was moved to on its way out.
std::string image_of(const std::string& folder, std::string_view prefix) {
  const std::size_t start = prefix.size();
  const std::size_t dash = folder.rfind('-');
  return dash > start && dash + 1 + kRandomDigits == folder.size() ? folder.substr(start, dash - start) : std::string();
}

/// What is in a store that begins with `prefix`.
std::vector<fs::path> folders_of(const fs::path& store, std::string_view prefix) {
  std::vector<fs::path> folders;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(store, none)) {
    if (entry.path().filename().string().starts_with(prefix)) folders.push_back(entry.path());
  }
  return folders;
}

/// The lock that hold_image() takes in common, for who takes a build away. Empty while a living VM uses it.
FileDescriptor lock_unused(const fs::path& folder) {
  FileDescriptor fd = open_file(folder / kManifestName, O_RDONLY);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) fd.reset();
  return fd;
}

/// Removes the builds of an image but the one that it is, as far as no living VM uses them. The image's lock is the caller's.
std::size_t remove_old_builds(const fs::path& store, const std::string& image, bool pretend = false) {
  std::size_t removed = 0;
  std::error_code none;
  const fs::path current = fs::read_symlink(store / image, none);
  for (const fs::path& folder : folders_of(store, kBuildPrefix)) {
    if (image_of(folder.filename().string(), kBuildPrefix) != image || folder.filename() == current) continue;
    FileDescriptor alone;
    if (fs::exists(folder / kManifestName) && !(alone = lock_unused(folder))) continue;
    std::error_code gone_meanwhile;
    removed += pretend || fs::remove_all(folder, gone_meanwhile) > 0 ? 1 : 0;
  }
  return removed;
}

/// Moves an image out of the way that is a folder itself, as earlier versions made them: it cannot be replaced by rename. Its VMs
/// know their disks by this path, and would find another image there.
void move_plain_folder_away(const fs::path& folder, const TemporaryDirectory& to) {
  if (!lock_unused(folder)) {
    throw Error("image " + folder.string() +
                " was built by an earlier version, and a running VM uses it: end its VMs first (vmtest ps)");
  }
  fs::rename(folder, to.path() / "old");
}

bool is_plain_folder(const fs::path& folder) { return fs::is_directory(fs::symlink_status(folder)); }

/// Waits for who builds it now. Throws Timeout, and Error when the build is called off.
FileLock lock_image(const fs::path& path, const BuildContext& context) {
  const Deadline deadline = Deadline::after(kBuildTime);
  constexpr std::chrono::milliseconds kPoll{50};
  for (bool told = false;; told = true) {
    if (auto lock = FileLock::try_lock(path)) return std::move(*lock);
    if (!told && context.progress) context.progress("waiting for another process that builds it");
    if (deadline.expired()) throw Timeout("waited in vain for another process that holds " + path.string());
    pollfd entry{context.interrupt, POLLIN, 0};  // a descriptor of -1 is none
    ::poll(&entry, 1, deadline.poll_timeout(kPoll));
    context.check_interrupt();
  }
}

}  // namespace

ImageDetails build_image(const fs::path& folder, const Recipe& recipe, const ImageStore::BuildOptions& options) {
  const fs::path store = folder.parent_path();
  const std::string image = folder.filename().string();
  BuildContext context;
  context.progress = options.progress;
  context.interrupt = options.interrupt;
  fs::create_directories(store);
  const FileLock lock = lock_image(lock_of(store, image), context);
  if (fs::exists(folder / kManifestName) && !options.rebuild) {
    ImageDetails there = read_manifest(fs::canonical(folder)).details;
    if (there.recipe_version >= recipe.version) return there;
  }
  // Whoever made these held the lock.
  for (const fs::path& left : folders_of(store, kStagingPrefix)) {
    if (image_of(left.filename().string(), kStagingPrefix) == image) fs::remove_all(left);
  }

  TemporaryDirectory staging(staging_prefix(image), store);
  const TemporaryDirectory scratch(staging_prefix(image), store);
  BuiltImage built;
  built.architecture = recipe.architecture;
  context.staging = staging.path();
  context.scratch = scratch.path();
  context.log = store / ("." + image + ".log");
  context.guest_programs = find_guest_programs();
  context.image = &built;
  fs::remove(context.log);
  with_context("cannot build image \"" + std::string(recipe.name) + "\"", [&] {
    recipe.build(context);
    context.step("computing digests");
    write_manifest(staging.path(), describe(built, recipe, staging.path()));
    context.check_interrupt();
  });
  for (const auto& entry : fs::directory_iterator(staging.path())) ::chmod(entry.path().c_str(), 0444);
  ::chmod(staging.path().c_str(), 0755);

  // The old build stays where it is for VMs that continue to use it, and the image is there at every moment.
  const std::string suffix = staging.path().filename().string().substr(staging_prefix(image).size());
  const fs::path build = store / (kBuildPrefix + image + "-" + suffix);
  fs::rename(staging.path(), build);
  (void)staging.release();
  const fs::path link = scratch.path() / "link";
  fs::create_directory_symlink(build.filename(), link);
  std::optional<TemporaryDirectory> old;
  if (is_plain_folder(folder)) move_plain_folder_away(folder, old.emplace(staging_prefix(image), store));
  fs::rename(link, folder);
  (void)remove_old_builds(store, image);
  return read_manifest(fs::canonical(folder)).details;
}

bool remove_image(const fs::path& folder) {
  const fs::path store = folder.parent_path();
  const std::string image = folder.filename().string();
  if (!fs::exists(fs::symlink_status(folder))) return false;
  if (is_plain_folder(folder)) {
    const TemporaryDirectory old(kStagingPrefix, store);
    move_plain_folder_away(folder, old);
    return true;
  }
  fs::remove(folder);
  // One who builds it does that itself.
  if (const auto lock = FileLock::try_lock(lock_of(store, image))) (void)remove_old_builds(store, image);
  return true;
}

std::size_t remove_unused_builds(const fs::path& store, bool pretend) {
  std::size_t removed = 0;
  for (const fs::path& folder : folders_of(store, kStagingPrefix)) {
    const std::string image = image_of(folder.filename().string(), kStagingPrefix);
    std::optional<FileLock> lock;
    if (!image.empty()) {
      lock = FileLock::try_lock(lock_of(store, image));
      if (!lock) continue;  // its build is under way
    }
    std::error_code gone_meanwhile;
    removed += pretend || fs::remove_all(folder, gone_meanwhile) > 0 ? 1 : 0;
  }
  for (const fs::path& folder : folders_of(store, kBuildPrefix)) {
    const std::string image = image_of(folder.filename().string(), kBuildPrefix);
    if (image.empty()) continue;
    if (const auto lock = FileLock::try_lock(lock_of(store, image))) removed += remove_old_builds(store, image, pretend);
  }
  return removed;
}

}  // namespace vmtest
