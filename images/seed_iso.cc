#include <archive.h>
#include <archive_entry.h>

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/seed.h"

namespace vmtest {
namespace {

using Archive = std::unique_ptr<archive, decltype(&archive_write_free)>;
using Entry = std::unique_ptr<archive_entry, decltype(&archive_entry_free)>;

void check(archive* writer, int result, std::string_view what) {
  if (result < ARCHIVE_WARN) {
    const char* reason = archive_error_string(writer);
    throw Error("cannot make the seed's ISO image: " + std::string(what) + ": " + (reason != nullptr ? reason : "unknown error"));
  }
}

la_ssize_t append_output(archive* /*writer*/, void* output, const void* data, std::size_t size) {
  static_cast<std::string*>(output)->append(static_cast<const char*>(data), size);
  return static_cast<la_ssize_t>(size);
}

void add(archive* writer, const std::string& name, std::string_view content, unsigned permissions) {
  const Entry entry(archive_entry_new(), &archive_entry_free);
  archive_entry_set_pathname(entry.get(), name.c_str());
  archive_entry_set_filetype(entry.get(), AE_IFREG);
  archive_entry_set_perm(entry.get(), permissions);
  archive_entry_set_size(entry.get(), static_cast<la_int64_t>(content.size()));
  archive_entry_set_mtime(entry.get(), 0, 0);
  check(writer, archive_write_header(writer, entry.get()), name);
  if (archive_write_data(writer, content.data(), content.size()) != static_cast<la_ssize_t>(content.size())) {
    check(writer, ARCHIVE_FATAL, name);
  }
}

/// libarchive writes the label in capitals, as the primary volume descriptor's character set demands; NoCloud asks for
/// `cidata`, and every system reads small letters.
void use_lower_case_label(std::string& image) {
  constexpr std::size_t kPrimaryDescriptor = 16 * 2048;               // ECMA-119, 6.2.1
  constexpr std::size_t kVolumeIdentifier = kPrimaryDescriptor + 40;  // ECMA-119, 8.4
  constexpr std::string_view kLabel = "cidata";
  if (image.size() < kVolumeIdentifier + kLabel.size()) {
    throw Error("cannot make the seed's ISO image: libarchive wrote no volume descriptor");
  }
  image.replace(kVolumeIdentifier, kLabel.size(), kLabel);
}

void validate(const SeedPayload& payload) {
  const bool named_like_ours = payload.name == "user-data" || payload.name == "meta-data" || payload.name == "network-config";
  const bool plain =
      payload.name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == std::string::npos;
  if (payload.name.empty() || payload.name.size() > 64 || payload.name.front() == '.' || !plain || named_like_ours) {
    throw Error("seed: payload \"" + payload.name +
                "\": its name must be 1 to 64 letters, digits, '.', '_' and '-', and none of the seed's own");
  }
}

}  // namespace

void write_seed_iso(const SeedConfig& config, const std::filesystem::path& iso) { write_seed_iso(config, {}, iso); }

void write_seed_iso(const SeedConfig& config, const std::vector<SeedPayload>& payloads, const std::filesystem::path& iso) {
  for (const SeedPayload& payload : payloads) {
    validate(payload);
  }
  const std::string network = network_config(config);
  std::string image;
  const Archive writer(archive_write_new(), &archive_write_free);
  check(writer.get(), archive_write_set_format_iso9660(writer.get()), "format");
  // Rock Ridge and Joliet are on unless switched off; zisofs must stay off, cloud-init's kernel may not read it.
  check(writer.get(), archive_write_set_options(writer.get(), "volume-id=cidata,rockridge=useful,joliet,!zisofs,!pad"),
        "options");
  check(writer.get(), archive_write_set_bytes_in_last_block(writer.get(), 1), "block size");
  check(writer.get(), archive_write_open(writer.get(), &image, nullptr, append_output, nullptr), "output");
  constexpr unsigned kOwnerOnly = 0400;  // keys and secrets, also inside the guest
  add(writer.get(), "meta-data", meta_data(config), kOwnerOnly);
  add(writer.get(), "user-data", user_data(config), kOwnerOnly);
  if (!network.empty()) {
    add(writer.get(), "network-config", network, kOwnerOnly);
  }
  for (const SeedPayload& payload : payloads) {
    add(writer.get(), payload.name, payload.content, payload.permissions);
  }
  check(writer.get(), archive_write_close(writer.get()), "end");
  use_lower_case_label(image);
  write_file(iso, image, 0600);
}

}  // namespace vmtest
