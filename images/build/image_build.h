#pragma once

#include <cstddef>
#include <filesystem>

#include "build/recipe.h"
#include "vmtest/image_store.h"

namespace vmtest {

/// Makes an image by a recipe and has the link `folder` lead to it, unless one that is no older is there. Others that build it at
/// the same time are waited for. What an earlier build that was killed left goes first. As ImageStore::build throws.
ImageDetails build_image(const std::filesystem::path& folder, const Recipe& recipe, const ImageStore::BuildOptions& options);

/// Takes the image `folder` out of its store. False when there is none. Its files go when no living VM uses them.
bool remove_image(const std::filesystem::path& folder);

/// Removes what killed builds left in a store, and nothing of those under way; then the builds that no image is any longer and no
/// living VM uses. Returns how many folders that were; when it is to `pretend`, how many there are.
std::size_t remove_unused_builds(const std::filesystem::path& store, bool pretend = false);

/// What folders begin with that are no image yet, or no longer.
inline constexpr const char* kStagingPrefix = ".staging-";
/// What folders begin with that hold a whole build. The newest one of an image is what the image's link leads to.
inline constexpr const char* kBuildPrefix = ".build-";

}  // namespace vmtest
