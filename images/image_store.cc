#include "vmtest/image_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <tuple>

#include "build/image_build.h"
#include "build/recipe.h"
#include "manifest.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

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
    images.push_back(read_manifest(fs::canonical(entry.path())).details);
  }
  std::sort(images.begin(), images.end(), [](const auto& a, const auto& b) {
    return std::tie(a.image.name, a.image.architecture) < std::tie(b.image.name, b.image.architecture);
  });
  return images;
}

std::optional<ImageDetails> ImageStore::find(std::string_view name, Architecture architecture) const {
  const fs::path folder = image_folder(name, architecture);
  if (!fs::exists(folder / kManifestName)) return std::nullopt;
  // A template knows its image by its files' paths, among other things: they are the same whichever way leads to them. And a VM
  // is to have its disk's base under the path of this build, not under one that leads to the next.
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
  return build_image(folder, *recipe, options);
}

bool ImageStore::outdated(const ImageDetails& details) {
  const Recipe* recipe = find_recipe(details.image.name, details.image.architecture);
  return recipe != nullptr && details.recipe_version < recipe->version;
}

bool ImageStore::remove(std::string_view name, Architecture architecture) const {
  return remove_image(image_folder(name, architecture));
}

std::size_t ImageStore::remove_leftovers() const { return remove_unused_builds(folder_); }

std::size_t ImageStore::count_leftovers() const { return remove_unused_builds(folder_, true); }

std::vector<ImageRecipe> ImageStore::recipes() {
  std::vector<ImageRecipe> result;
  for (const Recipe& recipe : vmtest::recipes()) {
    result.push_back({std::string(recipe.name), recipe.architecture, std::string(recipe.description)});
  }
  return result;
}

std::optional<FileDescriptor> hold_image(const Image& image) {
  const fs::path& file = image.disk.empty() ? image.kernel : image.disk;
  const fs::path manifest = file.parent_path() / kManifestName;
  FileDescriptor fd(::open(manifest.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fs::exists(file) ? std::optional(FileDescriptor()) : std::nullopt;
  if (::flock(fd.get(), LOCK_SH | LOCK_NB) != 0) return std::nullopt;  // who removes it has it
  struct stat now {};                                                  // it may have been removed between our look and our lock
  if (::stat(manifest.c_str(), &now) != 0) return std::nullopt;
  return fd;
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
