#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>

#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::testing {

/// A 32-bit program in an ELF file with the note that a direct boot by PVH looks for: the processor halts, with interrupts off.
inline std::filesystem::path halting_kernel() {
  static const TemporaryDirectory folder;
  const std::filesystem::path file = folder.path() / "halt.elf";
  if (std::filesystem::exists(file)) return file;
  constexpr std::uint32_t kLoad = 0x100000;
  constexpr std::uint32_t kOffset = 0x1000;
  std::string elf(
      "\x7f"
      "ELF\1\1\1",
      7);
  elf.resize(16);
  const auto put16 = [&](std::initializer_list<std::uint16_t> values) {
    for (const std::uint16_t value : values) elf += {static_cast<char>(value & 0xFF), static_cast<char>(value >> 8)};
  };
  const auto put32 = [&](std::initializer_list<std::uint32_t> values) {
    for (const std::uint32_t value : values)
      put16({static_cast<std::uint16_t>(value & 0xFFFF), static_cast<std::uint16_t>(value >> 16)});
  };
  const std::string halt("\xfa\xf4\xeb\xfd");
  const auto size = static_cast<std::uint32_t>(halt.size());
  put16({2, 3});  // executable, i386
  put32({1, kLoad, 52, 0, 0});
  put16({52, 32, 2, 40, 0, 0});
  put32({1, kOffset, kLoad, kLoad, size, size, 5, 0x1000});  // loaded
  put32({4, 52 + 2 * 32, 0, 0, 20, 20, 4, 4});               // notes
  put32({4, 4, 18});                                         // XEN_ELFNOTE_PHYS32_ENTRY
  elf += std::string("Xen\0", 4);
  put32({kLoad});
  elf.resize(kOffset);
  write_file(file, elf + halt, 0600);
  return file;
}

}  // namespace vmtest::testing
