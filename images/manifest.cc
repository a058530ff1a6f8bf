#include "manifest.h"

#include <nlohmann/json.hpp>

#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {
namespace {

using nlohmann::json;

constexpr int kManifestFormat = 1;

/// Value of a field by one of the parse functions of types.h.
template <typename Parse>
auto parse_word(const json& value, Parse parse) {
  const auto word = value.get<std::string>();
  const auto parsed = parse(word);
  if (!parsed) throw Error("unknown value \"" + word + "\"");
  return *parsed;
}

/// A file of the image: a bare name below its folder.
std::filesystem::path file_of(const std::filesystem::path& folder, const json& manifest, const char* key) {
  const auto name = manifest.value(key, std::string());
  if (name.empty()) return {};
  if (std::filesystem::path(name).filename() != name) throw Error("file name \"" + name + "\" leaves the image's folder");
  return folder / name;
}

}  // namespace

Manifest read_manifest(const std::filesystem::path& folder) {
  return with_context("cannot use the image in " + folder.string() + " (vmtest image build makes it anew)", [&] {
    const json text = json::parse(read_file(folder / kManifestName));
    if (text.at("format") != kManifestFormat)
      throw Error("its manifest is of format " + text.at("format").dump() + ", this version reads 1");
    Manifest manifest;
    ImageDetails& details = manifest.details;
    Image& image = details.image;
    details.folder = folder;
    details.size = text.value("size", std::uintmax_t(0));
    details.recipe_version = text.value("recipe_version", 0);
    details.built_at = text.value("built_at", "");
    image.name = text.at("name");
    image.description = text.value("description", "");
    image.architecture = parse_word(text.at("architecture"), parse_architecture);
    image.disk = file_of(folder, text, "disk");
    image.disk_format = parse_word(text.at("disk_format"), parse_disk_format);
    image.kernel = file_of(folder, text, "kernel");
    image.initramfs = file_of(folder, text, "initramfs");
    image.efi_kernel = file_of(folder, text, "efi_kernel");
    image.command_line = text.value("command_line", "");
    image.default_user = text.value("default_user", "root");
    for (const json& mode : text.at("boot_modes")) image.boot_modes.push_back(parse_word(mode, parse_boot_mode));
    image.features = text.value("features", std::vector<std::string>());
    image.digest = text.at("digest");
    manifest.digests = text.at("files").get<std::map<std::string, std::string>>();
    return manifest;
  });
}

void write_manifest(const std::filesystem::path& folder, const Manifest& manifest) {
  const ImageDetails& details = manifest.details;
  const Image& image = details.image;
  json modes = json::array();
  for (const BootMode mode : image.boot_modes) modes.push_back(to_string(mode));
  const json text = {{"format", kManifestFormat},
                     {"name", image.name},
                     {"description", image.description},
                     {"architecture", to_string(image.architecture)},
                     {"disk", image.disk.filename().string()},
                     {"disk_format", to_string(image.disk_format)},
                     {"kernel", image.kernel.filename().string()},
                     {"initramfs", image.initramfs.filename().string()},
                     {"efi_kernel", image.efi_kernel.filename().string()},
                     {"command_line", image.command_line},
                     {"default_user", image.default_user},
                     {"boot_modes", modes},
                     {"features", image.features},
                     {"digest", image.digest},
                     {"files", manifest.digests},
                     {"size", details.size},
                     {"recipe_version", details.recipe_version},
                     {"built_at", details.built_at}};
  write_file(folder / kManifestName, text.dump(2) + "\n", 0644, Durability::Sync);
}

}  // namespace vmtest
