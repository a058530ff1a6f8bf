#include "vmtest/types.h"

namespace vmtest {

std::string_view to_string(Architecture architecture) { return architecture == Architecture::X86_64 ? "x86_64" : "aarch64"; }

std::string_view to_string(DiskFormat format) { return format == DiskFormat::Raw ? "raw" : "qcow2"; }

std::string_view to_string(BootMode mode) {
  switch (mode) {
    case BootMode::Direct:
      return "direct";
    case BootMode::Bios:
      return "bios";
    case BootMode::Uefi:
      return "uefi";
  }
  return "unknown";
}

std::optional<Architecture> parse_architecture(std::string_view text) {
  if (text == "x86_64") return Architecture::X86_64;
  if (text == "aarch64") return Architecture::Aarch64;
  return std::nullopt;
}

std::optional<DiskFormat> parse_disk_format(std::string_view text) {
  if (text == "raw") return DiskFormat::Raw;
  if (text == "qcow2") return DiskFormat::Qcow2;
  return std::nullopt;
}

std::optional<BootMode> parse_boot_mode(std::string_view text) {
  if (text == "direct") return BootMode::Direct;
  if (text == "bios") return BootMode::Bios;
  if (text == "uefi") return BootMode::Uefi;
  return std::nullopt;
}

Architecture host_architecture() {
#if defined(__aarch64__) || defined(_M_ARM64)
  return Architecture::Aarch64;
#else
  return Architecture::X86_64;
#endif
}

}  // namespace vmtest
