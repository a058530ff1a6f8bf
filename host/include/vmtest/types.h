#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace vmtest {

/// Instruction set of an image and of the guest that boots it.
enum class Architecture { X86_64, Aarch64 };

/// Format of a disk file. Always stated by who names the file, never probed: probing lets a guest that can write its
/// raw disk choose the format of its own file.
enum class DiskFormat { Raw, Qcow2 };

/// How a guest is started: the hypervisor loads kernel and initramfs itself, or firmware starts the disk's boot loader.
enum class BootMode { Direct, Bios, Uefi };

/// "x86_64", "aarch64".
[[nodiscard]] std::string_view to_string(Architecture architecture);
/// "raw", "qcow2".
[[nodiscard]] std::string_view to_string(DiskFormat format);
/// "direct", "bios", "uefi".
[[nodiscard]] std::string_view to_string(BootMode mode);

/// The inverse of to_string; empty when `text` names none.
[[nodiscard]] std::optional<Architecture> parse_architecture(std::string_view text);
[[nodiscard]] std::optional<DiskFormat> parse_disk_format(std::string_view text);
[[nodiscard]] std::optional<BootMode> parse_boot_mode(std::string_view text);

/// The architecture this process runs on.
[[nodiscard]] Architecture host_architecture();

}  // namespace vmtest
