#pragma once

#include <filesystem>
#include <string>

#include "vmtest/deadline.h"

namespace vmtest::propolis {

/// What stands in for a direct boot, which Propolis has not: a small disk with a kernel, its initramfs and a script that the
/// firmware's shell finds and runs.
struct EfiDisk {
  /// With an EFI stub, as distributions' kernels have.
  std::filesystem::path kernel;
  std::filesystem::path initramfs;
  std::string command_line;
};

/// The script. It looks for its own disk, since others may have file systems that the firmware reads, too.
[[nodiscard]] std::string startup_script(const EfiDisk& disk);
/// Whether the firmware can run it: a bzImage with an EFI stub.
[[nodiscard]] bool has_efi_stub(const std::filesystem::path& kernel);
/// Makes the disk as a raw file, by mtools. Throws Unsupported for a kernel without an EFI stub and without mtools, else Error.
void make_efi_disk(const EfiDisk& disk, const std::filesystem::path& target, const Deadline& deadline);

}  // namespace vmtest::propolis
