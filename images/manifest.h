#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "vmtest/image_store.h"

namespace vmtest {

/// Name of the file in an image's folder.
inline constexpr const char* kManifestName = "manifest.json";

/// An image's manifest: its description and, for each file, the SHA-256.
struct Manifest {
  ImageDetails details;
  std::map<std::string, std::string> digests;
};

/// Throws Error for a manifest that cannot be read or is of a newer format.
[[nodiscard]] Manifest read_manifest(const std::filesystem::path& image_folder);
/// Writes the manifest; file names in it are relative to the folder.
void write_manifest(const std::filesystem::path& image_folder, const Manifest& manifest);

}  // namespace vmtest
