#include "build/kernel_image.h"

#include <archive.h>
#include <archive_entry.h>
#include <elf.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "vmtest/error.h"

namespace vmtest {
namespace {

constexpr std::size_t kSector = 512;
constexpr std::size_t kSetupSectors = 0x1F1;
constexpr std::size_t kHeaderMagic = 0x202;
constexpr std::size_t kPayloadOffset = 0x248;
constexpr std::size_t kPayloadLength = 0x24C;
// The payload ends in its size after unpacking.
constexpr std::size_t kSizeField = 4;
// XEN_ELFNOTE_PHYS32_ENTRY of xen/include/public/elfnote.h.
constexpr std::uint32_t kPvhEntryNote = 18;

template <typename Value>
Value value_at(std::string_view data, std::size_t offset) {
  Value value{};
  if (offset > data.size() || data.size() - offset < sizeof value) {
    throw Error("the kernel image is cut short");
  }
  std::memcpy(&value, data.data() + offset, sizeof value);
  return value;
}

std::string unpack(std::string_view payload) {
  const std::unique_ptr<archive, decltype(&archive_read_free)> reader(archive_read_new(), archive_read_free);
  archive_read_support_filter_gzip(reader.get());
  archive_read_support_filter_xz(reader.get());
  archive_read_support_filter_zstd(reader.get());
  archive_read_support_filter_lz4(reader.get());
  archive_read_support_format_raw(reader.get());
  archive_entry* entry = nullptr;
  const std::size_t size = value_at<std::uint32_t>(payload, payload.size() - kSizeField);
  std::string out(size, '\0');
  std::size_t done = 0;
  if (archive_read_open_memory(reader.get(), payload.data(), payload.size() - kSizeField) == ARCHIVE_OK &&
      archive_read_next_header(reader.get(), &entry) == ARCHIVE_OK) {
    la_ssize_t count = 0;
    while (done < size && (count = archive_read_data(reader.get(), out.data() + done, size - done)) > 0) {
      done += static_cast<std::size_t>(count);
    }
  }
  if (done != size) {
    const char* why = archive_error_string(reader.get());
    throw Error(std::string("cannot unpack the kernel image: ") + (why == nullptr ? "it is shorter than it says" : why));
  }
  return out;
}

bool has_pvh_entry(std::string_view notes) {
  const auto aligned = [](std::size_t size) { return (size + 3) / 4 * 4; };
  for (std::size_t offset = 0; offset + sizeof(Elf64_Nhdr) <= notes.size();) {
    const auto note = value_at<Elf64_Nhdr>(notes, offset);
    if (note.n_type == kPvhEntryNote && notes.substr(offset + sizeof note, 3) == "Xen") {
      return true;
    }
    offset += sizeof note + aligned(note.n_namesz) + aligned(note.n_descsz);
  }
  return false;
}

/// Address of the .bss section, or 0 when the file names none.
std::uint64_t bss_address(std::string_view elf, const Elf64_Ehdr& file) {
  const auto section = [&](unsigned index) {
    return value_at<Elf64_Shdr>(elf, file.e_shoff + std::size_t{index} * sizeof(Elf64_Shdr));
  };
  if (file.e_shnum == 0) {
    return 0;
  }
  const std::size_t names = section(file.e_shstrndx).sh_offset;
  for (unsigned index = 0; index < file.e_shnum; ++index) {
    const Elf64_Shdr header = section(index);
    if (names + header.sh_name < elf.size() && std::string_view(elf.data() + names + header.sh_name) == ".bss") {
      return header.sh_addr;
    }
  }
  return 0;
}

/// Cuts what the kernel clears itself, so that loaders neither read nor copy it. Everything before .bss stays: a reboot finds old
/// memory there. Moves no byte: only a size in the program headers and the file's end change.
void cut_bss(std::string& elf) {
  auto file = value_at<Elf64_Ehdr>(elf, 0);
  if (std::memcmp(file.e_ident, ELFMAG, SELFMAG) != 0 || file.e_ident[EI_CLASS] != ELFCLASS64) {
    throw Error("the unpacked kernel is no 64-bit ELF file");
  }
  const std::uint64_t bss = bss_address(elf, file);
  bool pvh = false;
  std::size_t end = file.e_phoff + std::size_t{file.e_phnum} * sizeof(Elf64_Phdr);
  for (unsigned index = 0; index < file.e_phnum; ++index) {
    const std::size_t where = file.e_phoff + std::size_t{index} * sizeof(Elf64_Phdr);
    auto segment = value_at<Elf64_Phdr>(elf, where);
    if (segment.p_offset > elf.size() || segment.p_filesz > elf.size() - segment.p_offset) {
      throw Error("the unpacked kernel is cut short");
    }
    const std::string_view content = std::string_view(elf).substr(segment.p_offset, segment.p_filesz);
    if (segment.p_type == PT_NOTE) {
      pvh = pvh || has_pvh_entry(content);
    } else if (segment.p_type == PT_LOAD && bss > segment.p_vaddr && bss - segment.p_vaddr < segment.p_filesz &&
               content.find_first_not_of('\0', bss - segment.p_vaddr) == std::string_view::npos) {
      segment.p_filesz = bss - segment.p_vaddr;
      std::memcpy(elf.data() + where, &segment, sizeof segment);
    }
    end = std::max(end, segment.p_offset + segment.p_filesz);
  }
  if (!pvh) {
    throw Error("the kernel has no PVH entry point");
  }
  // Section headers lie behind the segments; loaders need none.
  elf.resize(end);
  file.e_shoff = 0;
  file.e_shnum = 0;
  file.e_shstrndx = 0;
  std::memcpy(elf.data(), &file, sizeof file);
}

}  // namespace

std::string extract_vmlinux(std::string_view bz_image) {
  if (bz_image.size() < kPayloadLength + kSizeField || bz_image.substr(kHeaderMagic, 4) != "HdrS") {
    throw Error("the kernel image is no bzImage");
  }
  const auto sectors = static_cast<unsigned char>(bz_image[kSetupSectors]);
  const std::size_t start = ((sectors == 0 ? 4 : sectors) + 1) * kSector + value_at<std::uint32_t>(bz_image, kPayloadOffset);
  const std::size_t length = value_at<std::uint32_t>(bz_image, kPayloadLength);
  if (start > bz_image.size() || length > bz_image.size() - start || length <= kSizeField) {
    throw Error("the kernel image is cut short");
  }
  std::string elf = unpack(bz_image.substr(start, length));
  cut_bss(elf);
  return elf;
}

}  // namespace vmtest
