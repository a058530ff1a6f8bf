#include "efi_disk.h"

#include <fcntl.h>
#include <unistd.h>

#include <string_view>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest::propolis {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kMib = 1U << 20;
/// FAT32 has a least size.
constexpr std::uintmax_t kLeastMib = 34;
/// Of the boot protocol's header, which says that it is one.
constexpr std::size_t kHeaderAt = 0x202;
constexpr std::string_view kHeaderMagic = "HdrS";

std::string head_of(const fs::path& file, std::size_t bytes) {
  const FileDescriptor fd = open_file(file, O_RDONLY);
  std::string text(bytes, '\0');
  const ssize_t count = ::pread(fd.get(), text.data(), bytes, 0);
  text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  return text;
}

}  // namespace

std::string startup_script(const EfiDisk& disk) {
  const std::string initrd = disk.initramfs.empty() ? "" : "initrd=\\vmtest\\initrd ";
  return "@echo -off\r\n"
         "for %d in 0 1 2 3 4 5 6 7 8 9 a b c d e f\r\n"
         "  if exist fs%d:\\vmtest\\linux.efi then\r\n"
         "    fs%d:\r\n"
         "    \\vmtest\\linux.efi " +
         initrd + disk.command_line +
         "\r\n"
         "  endif\r\n"
         "endfor\r\n";
}

bool has_efi_stub(const fs::path& kernel) {
  const std::string head = head_of(kernel, kHeaderAt + kHeaderMagic.size());
  return head.size() == kHeaderAt + kHeaderMagic.size() && head.compare(0, 2, "MZ") == 0 &&
         head.compare(kHeaderAt, kHeaderMagic.size(), kHeaderMagic) == 0;
}

void make_efi_disk(const EfiDisk& disk, const fs::path& target, const Deadline& deadline) {
  with_context("cannot make a disk that the firmware boots " + disk.kernel.string() + " from", [&] {
    if (!has_efi_stub(disk.kernel)) {
      throw Unsupported(
          "Propolis boots by UEFI alone, and this kernel has no EFI stub; give it as the bzImage that distributions "
          "have, or build the image anew (vmtest image build)");
    }
    for (const char* program : {"mformat", "mcopy", "mmd"}) {
      if (!find_program(program))
        throw Unsupported(std::string(program) + " is not installed; get it with: apt-get install mtools");
    }
    std::uintmax_t size = fs::file_size(disk.kernel);
    if (!disk.initramfs.empty()) size += fs::file_size(disk.initramfs);
    const TemporaryDirectory folder;
    write_file(folder.path() / "startup.nsh", startup_script(disk), 0600);
    { const FileDescriptor made = open_file(target, O_WRONLY | O_CREAT | O_EXCL); }
    fs::resize_file(target, (size / kMib + kLeastMib) * kMib);
    const std::string image = target.string();
    run_tool({"mformat", "-F", "-i", image, "::"}, deadline);
    run_tool({"mmd", "-i", image, "::vmtest"}, deadline);
    run_tool({"mcopy", "-i", image, disk.kernel.string(), "::vmtest/linux.efi"}, deadline);
    if (!disk.initramfs.empty()) run_tool({"mcopy", "-i", image, disk.initramfs.string(), "::vmtest/initrd"}, deadline);
    run_tool({"mcopy", "-i", image, (folder.path() / "startup.nsh").string(), "::startup.nsh"}, deadline);
  });
}

}  // namespace vmtest::propolis
