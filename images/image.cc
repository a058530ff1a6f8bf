#include "vmtest/image.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {
namespace {

/// The parts of a qcow2 header that say where its data lies (QEMU's docs/interop/qcow2.txt). Numbers are big-endian.
class Qcow2Header {
 public:
  explicit Qcow2Header(const std::filesystem::path& path) {
    const FileDescriptor fd = open_file(path, O_RDONLY);
    const ssize_t count = ::pread(fd.get(), bytes_.data(), bytes_.size(), 0);
    size_ = count < 0 ? 0 : static_cast<std::size_t>(count);
  }
  [[nodiscard]] bool is_qcow2() const { return size_ >= kSmallest && number(0, 4) == kMagic; }
  [[nodiscard]] std::uint64_t version() const { return number(4, 4); }
  [[nodiscard]] bool has_backing_file() const { return number(8, 8) != 0; }
  [[nodiscard]] bool has_data_file() const { return version() >= 3 && (number(72, 8) & kExternalDataFile) != 0; }

 private:
  static constexpr std::uint64_t kMagic = 0x514649fb;
  static constexpr std::size_t kSmallest = 72;
  static constexpr std::uint64_t kExternalDataFile = 1U << 2;

  [[nodiscard]] std::uint64_t number(std::size_t at, std::size_t width) const {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < width; ++i) value = value << 8 | bytes_[at + i];
    return value;
  }

  std::array<unsigned char, 104> bytes_{};
  std::size_t size_ = 0;
};

}  // namespace

void check_disk(const std::filesystem::path& disk, DiskFormat format) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(disk, error)) {
    throw Error("no disk image at " + disk.string() + (error ? ": " + error.message() : ": it is no regular file"));
  }
  const Qcow2Header header(disk);
  if (format == DiskFormat::Raw) {
    if (header.is_qcow2()) throw Error(disk.string() + " holds a qcow2 image, but raw was said; use DiskFormat::Qcow2");
    const auto size = std::filesystem::file_size(disk);
    if (size == 0 || size % 512 != 0) {
      throw Error(disk.string() + " is no raw disk image: its size, " + std::to_string(size) +
                  " bytes, is no number of 512-byte sectors");
    }
    return;
  }
  if (!header.is_qcow2()) throw Error(disk.string() + " is no qcow2 image");
  if (header.version() != 2 && header.version() != 3) {
    throw Error(disk.string() + " is a qcow2 image of unknown version " + std::to_string(header.version()));
  }
  if (header.has_backing_file()) {
    throw Error(disk.string() + " has a backing file, which could be any file of this host; make it stand alone by: " +
                "qemu-img convert -O qcow2 OLD NEW");
  }
  if (header.has_data_file()) {
    throw Error(disk.string() +
                " keeps its data in another file, which could be any file of this host; make it stand alone by: " +
                "qemu-img convert -O qcow2 OLD NEW");
  }
}

Image Image::file(const std::filesystem::path& disk, DiskFormat format) {
  check_disk(disk, format);
  Image image;
  image.description = disk.filename().string();
  image.disk = std::filesystem::absolute(disk);
  image.disk_format = format;
  image.boot_modes = {BootMode::Bios, BootMode::Uefi};
  return image;
}

bool Image::has_feature(std::string_view feature) const {
  return std::find(features.begin(), features.end(), feature) != features.end();
}

bool Image::boots_by(BootMode mode) const { return std::find(boot_modes.begin(), boot_modes.end(), mode) != boot_modes.end(); }

}  // namespace vmtest
