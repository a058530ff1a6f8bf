#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vmtest/host/file_descriptor.h"
#include "vmtest/image.h"

namespace vmtest {

/// What `vmtest image info` shows beside the image itself.
struct ImageDetails {
  Image image;
  std::filesystem::path folder;
  /// Bytes on disk.
  std::uintmax_t size = 0;
  /// Version of the recipe that made it.
  int recipe_version = 0;
  /// UTC, ISO 8601.
  std::string built_at;
};

/// An image that can be built here.
struct ImageRecipe {
  std::string name;
  Architecture architecture;
  std::string description;
};

/// The images of this user: a link each, named `<name>-<architecture>`, to the folder of its newest build, with the files and a
/// manifest. (Earlier versions made the folder itself of that name.) An image is visible only when complete, and a later build of
/// it replaces it at once; earlier builds stay for the VMs that use them. May be used by several processes and threads.
class ImageStore {
 public:
  /// The store in `<data>/images`.
  ImageStore();
  explicit ImageStore(std::filesystem::path folder);

  /// All images, by name.
  [[nodiscard]] std::vector<ImageDetails> list() const;
  /// Throws Error when its manifest cannot be read.
  [[nodiscard]] std::optional<ImageDetails> find(std::string_view name, Architecture architecture) const;
  /// Throws Unsupported for an image that is not there: saying how to build it, or which names there are.
  [[nodiscard]] Image get(std::string_view name, Architecture architecture) const;

  struct BuildOptions {
    /// Build it although it is there.
    bool rebuild = false;
    /// Told what is done now.
    std::function<void(std::string_view)> progress = {};
    /// A descriptor that becomes readable when the build is to be called off, or -1. Borrowed. It then throws Error, and
    /// nothing of it is left.
    int interrupt = -1;
  };
  /// Builds an image from Debian's packages, unless it is there and of the current recipe. Another process that builds it
  /// at the same time is waited for. Throws Error for a name no recipe has, Unsupported when a tool is missing.
  ImageDetails build(std::string_view name, Architecture architecture, const BuildOptions& options) const;
  /// Whether an image was made by an older recipe than this version's.
  [[nodiscard]] static bool outdated(const ImageDetails& details);
  /// Removes an image. False when there is none. Its files stay until no living VM uses them. Throws Error when a living VM uses
  /// an image that an earlier version made.
  bool remove(std::string_view name, Architecture architecture) const;
  /// Removes what killed builds left, and nothing of those under way; and earlier builds that no living VM uses. Returns how many
  /// folders that were.
  std::size_t remove_leftovers() const;
  /// How many of them there are.
  [[nodiscard]] std::size_t count_leftovers() const;

  /// The images that can be built.
  [[nodiscard]] static std::vector<ImageRecipe> recipes();
  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }

 private:
  [[nodiscard]] std::filesystem::path image_folder(std::string_view name, Architecture architecture) const;

  std::filesystem::path folder_;
};

/// Keeps the files of an image in their place while the descriptor, or a copy of it in any process, is open: neither a later
/// build nor a removal takes them away. It is empty when they are gone already, and none (-1) for an image that is in no store,
/// whose files are the caller's.
[[nodiscard]] std::optional<FileDescriptor> hold_image(const Image& image);

/// Checks every file of an image against the digest in its manifest. Throws Error naming the first that differs.
void verify_image(const ImageDetails& details);

}  // namespace vmtest
