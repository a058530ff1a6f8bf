#pragma once

#include <cstddef>
#include <filesystem>

#include "build/recipe.h"
#include "vmtest/image_store.h"

namespace vmtest {

/// Makes an image by a recipe and puts it in the place `folder`, unless one that is no older is there. Others that build it at
/// the same time are waited for. What an earlier build that was killed left goes first. As ImageStore::build throws.
ImageDetails build_image(const std::filesystem::path& folder, const Recipe& recipe, const ImageStore::BuildOptions& options);

/// Removes what killed builds left in a store, and nothing of those under way. Returns how many folders that were; when it is to
/// `pretend`, how many there are.
std::size_t remove_unfinished_builds(const std::filesystem::path& store, bool pretend = false);

/// What folders begin with that are no image yet, or no longer.
inline constexpr const char* kStagingPrefix = ".staging-";

}  // namespace vmtest
