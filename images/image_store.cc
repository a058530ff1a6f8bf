#include "vmtest/image_store.h"

#include <sys/stat.h>

#include <algorithm>
#include <ctime>

#include "build/recipe.h"
#include "guest_programs.h"
#include "manifest.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_lock.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

/// Longest wait for another process that builds the same image.
constexpr std::chrono::minutes kBuildTime{45};
constexpr const char* kStagingPrefix = ".staging-";

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

std::string known_names() {
  std::string names;
  for (const Recipe& recipe : recipes()) {
    names += (names.empty() ? "" : ", ") + std::string(recipe.name) + " (" + std::string(to_string(recipe.architecture)) + ")";
  }
  return names;
}

}  // namespace

ImageStore::ImageStore() : ImageStore(data_dir() / "images") {}

ImageStore::ImageStore(fs::path folder) : folder_(std::move(folder)) {}

fs::path ImageStore::image_folder(std::string_view name, Architecture architecture) const {
  require_name(name, "an image");
  return folder_ / (std::string(name) + "-" + std::string(to_string(architecture)));
}

std::vector<ImageDetails> ImageStore::list() const {
  std::vector<ImageDetails> images;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder_, none)) {
    if (entry.path().filename().string().front() == '.' || !fs::exists(entry.path() / kManifestName)) continue;
    images.push_back(read_manifest(entry.path()).details);
  }
  std::sort(images.begin(), images.end(), [](const auto& a, const auto& b) { return a.folder < b.folder; });
  return images;
}

std::optional<ImageDetails> ImageStore::find(std::string_view name, Architecture architecture) const {
  const fs::path folder = image_folder(name, architecture);
  if (!fs::exists(folder / kManifestName)) return std::nullopt;
  // A template knows its image by its files' paths, among other things: they are the same whichever way leads to them.
  return read_manifest(fs::canonical(folder)).details;
}

Image ImageStore::get(std::string_view name, Architecture architecture) const {
  if (auto found = find(name, architecture)) return found->image;
  const std::string label = "image \"" + std::string(name) + "\" (" + std::string(to_string(architecture)) + ")";
  if (find_recipe(name, architecture) != nullptr) {
    throw Unsupported(label + " is not built yet; build it with: vmtest image build " + std::string(name));
  }
  throw Unsupported(label + " is unknown: it is not in " + folder_.string() + ", and what can be built is " + known_names());
}

ImageDetails ImageStore::build(std::string_view name, Architecture architecture, const BuildOptions& options) const {
  const fs::path folder = image_folder(name, architecture);
  const Recipe* recipe = find_recipe(name, architecture);
  if (recipe == nullptr) {
    throw Error("no recipe for image \"" + std::string(name) + "\" (" + std::string(to_string(architecture)) + "); there are " +
                known_names());
  }
  fs::create_directories(folder_);
  const FileLock lock = FileLock::lock(folder_ / ("." + folder.filename().string() + ".lock"), Deadline::after(kBuildTime));
  if (const auto there = find(name, architecture); there && !options.rebuild && !outdated(*there)) return *there;

  TemporaryDirectory staging(kStagingPrefix, folder_);
  TemporaryDirectory scratch(kStagingPrefix, folder_);
  BuiltImage built;
  built.architecture = architecture;
  BuildContext context;
  context.staging = staging.path();
  context.scratch = scratch.path();
  context.log = folder_ / ("." + folder.filename().string() + ".log");
  context.guest_programs = find_guest_programs();
  context.progress = options.progress;
  context.image = &built;
  fs::remove(context.log);
  with_context("cannot build image \"" + std::string(name) + "\"", [&] {
    recipe->build(context);
    context.step("computing digests");
    write_manifest(staging.path(), describe(built, *recipe, staging.path()));
  });
  for (const auto& entry : fs::directory_iterator(staging.path())) ::chmod(entry.path().c_str(), 0444);
  ::chmod(staging.path().c_str(), 0755);

  // A folder cannot be replaced by rename while it has content, so the old one steps aside first.
  if (fs::exists(folder)) {
    const TemporaryDirectory old(kStagingPrefix, folder_);
    fs::rename(folder, old.path() / "old");
    fs::rename(staging.path(), folder);
  } else {
    fs::rename(staging.path(), folder);
  }
  (void)staging.release();
  return read_manifest(folder).details;
}

bool ImageStore::outdated(const ImageDetails& details) {
  const Recipe* recipe = find_recipe(details.image.name, details.image.architecture);
  return recipe != nullptr && details.recipe_version < recipe->version;
}

bool ImageStore::remove(std::string_view name, Architecture architecture) const {
  const fs::path folder = image_folder(name, architecture);
  if (!fs::exists(folder)) return false;
  const TemporaryDirectory old(kStagingPrefix, folder_);
  fs::rename(folder, old.path() / "old");
  return true;
}

std::size_t ImageStore::remove_leftovers() const {
  std::size_t removed = 0;
  std::error_code none;
  for (const Recipe& recipe : vmtest::recipes()) {
    const std::string lock = "." + image_folder(recipe.name, recipe.architecture).filename().string() + ".lock";
    if (fs::exists(folder_ / lock) && !FileLock::try_lock(folder_ / lock)) return 0;  // a build is under way
  }
  for (const auto& entry : fs::directory_iterator(folder_, none)) {
    if (entry.path().filename().string().starts_with(kStagingPrefix)) removed += fs::remove_all(entry.path(), none) > 0 ? 1 : 0;
  }
  return removed;
}

std::vector<ImageRecipe> ImageStore::recipes() {
  std::vector<ImageRecipe> result;
  for (const Recipe& recipe : vmtest::recipes()) {
    result.push_back({std::string(recipe.name), recipe.architecture, std::string(recipe.description)});
  }
  return result;
}

void verify_image(const ImageDetails& details) {
  for (const auto& [name, digest] : read_manifest(details.folder).digests) {
    if (sha256_file(details.folder / name) != digest) {
      throw Error((details.folder / name).string() +
                  " is not what was built: its digest differs; build it anew with: vmtest image build --rebuild " +
                  details.image.name);
    }
  }
}

}  // namespace vmtest
