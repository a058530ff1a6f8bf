#pragma once

#include <string>
#include <string_view>

namespace vmtest {

/// Takes the kernel proper, an ELF file, out of an x86 bzImage (Documentation/arch/x86/boot.rst: payload_offset and
/// payload_length). QEMU and Cloud Hypervisor start it by its PVH entry, which spares an emulated guest the three seconds
/// that unpacking takes. The zeros of .bss are left out: the kernel clears it itself. Throws Error when `bz_image` is no
/// bzImage, or its kernel has no PVH entry.
[[nodiscard]] std::string extract_vmlinux(std::string_view bz_image);

}  // namespace vmtest
