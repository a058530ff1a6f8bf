#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>

#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::testing {

/// Where kernels are loaded.
constexpr std::uint32_t kKernelAddress = 0x100000;

/// A 32-bit program in an ELF file with the note that a direct boot by PVH looks for. `code` is run from kKernelAddress on, in
/// flat segments, with interrupts off.
inline std::filesystem::path make_kernel(const std::string& name, const std::string& code) {
  static const TemporaryDirectory folder;
  const std::filesystem::path file = folder.path() / name;
  if (std::filesystem::exists(file)) return file;
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
  const auto size = static_cast<std::uint32_t>(code.size());
  put16({2, 3});  // executable, i386
  put32({1, kKernelAddress, 52, 0, 0});
  put16({52, 32, 2, 40, 0, 0});
  put32({1, kOffset, kKernelAddress, kKernelAddress, size, size, 5, 0x1000});  // loaded
  put32({4, 52 + 2 * 32, 0, 0, 20, 20, 4, 4});                                 // notes
  put32({4, 4, 18});                                                           // XEN_ELFNOTE_PHYS32_ENTRY
  elf += std::string("Xen\0", 4);
  put32({kKernelAddress});
  elf.resize(kOffset);
  write_file(file, elf + code, 0600);
  return file;
}

/// Halts.
inline std::filesystem::path halting_kernel() { return make_kernel("halt.elf", "\xfa\xf4\xeb\xfd"); }

constexpr const char* kEchoingKernelsGreeting = "say something\n";

/// Prints its greeting on the first serial port (0x3f8), and from then on each byte that comes there.
inline std::filesystem::path echoing_kernel() {
  std::string code(
      "\xfc"                  // cld
      "\xbe\x23\x00\x10\x00"  // mov esi, text
      "\x66\xba\xf8\x03"      // mov dx, 0x3f8
      "\xac"                  // next: lodsb
      "\x84\xc0"              // test al, al
      "\x74\x03"              // jz wait
      "\xee"                  // out dx, al
      "\xeb\xf8"              // jmp next
      "\x66\xba\xfd\x03"      // wait: mov dx, 0x3fd
      "\xec"                  // in al, dx
      "\xa8\x01"              // test al, 1: has a byte come?
      "\x74\xf7"              // jz wait
      "\x66\xba\xf8\x03"      // mov dx, 0x3f8
      "\xec"                  // in al, dx
      "\xee"                  // out dx, al
      "\xeb\xef",             // jmp wait
      35);
  code += kEchoingKernelsGreeting;
  return make_kernel("echo.elf", code + '\0');
}

}  // namespace vmtest::testing
