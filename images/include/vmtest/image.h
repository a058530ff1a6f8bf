#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "vmtest/types.h"

namespace vmtest {

/// A base disk, and what is needed to boot it. Nothing ever writes to its files: VMs get copy-on-write clones. A value.
struct Image {
  /// Name in the store; empty for Image::file.
  std::string name = {};
  std::string description = {};
  Architecture architecture = Architecture::X86_64;
  std::filesystem::path disk = {};
  DiskFormat disk_format = DiskFormat::Qcow2;
  /// For a direct boot; empty when the image has none.
  std::filesystem::path kernel = {};
  std::filesystem::path initramfs = {};
  /// The same kernel as a bzImage with an EFI stub, where `kernel` is in another form; empty else.
  std::filesystem::path efi_kernel = {};
  /// Kernel command line of a direct boot.
  std::string command_line = {};
  /// The account that the seed gives the key to.
  std::string default_user = "root";
  /// Ways it boots, the preferred one first.
  std::vector<BootMode> boot_modes = {};
  /// What a test may count on: "cloud-init", "systemd", "sftp".
  std::vector<std::string> features = {};
  /// SHA-256 over all its files; empty for Image::file.
  std::string digest = {};

  /// Any disk file: cloud images, one's own builds. It boots from its own boot loader by BIOS, or UEFI when the spec says
  /// so. The format is the caller's word and never probed. Throws Error when there is no such file, when a qcow2 file is
  /// none, and when it has a backing or data file of its own (which could be any file of the host).
  [[nodiscard]] static Image file(const std::filesystem::path& disk, DiskFormat format);

  [[nodiscard]] bool has_feature(std::string_view feature) const;
  [[nodiscard]] bool boots_by(BootMode mode) const;
};

/// Throws Error unless `disk` is of the stated format and stands alone (no backing file, no external data file).
void check_disk(const std::filesystem::path& disk, DiskFormat format);

}  // namespace vmtest
