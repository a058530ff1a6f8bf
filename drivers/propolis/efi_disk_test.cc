#include "efi_disk.h"

#include <gtest/gtest.h>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest::propolis {
namespace {

using namespace std::chrono_literals;

class EfiDiskTest : public ::testing::Test {
 protected:
  /// The least that looks like a kernel with an EFI stub.
  [[nodiscard]] std::filesystem::path kernel() const {
    std::string content(2048, '\0');
    content.replace(0, 2, "MZ");
    content.replace(0x202, 4, "HdrS");
    write_file(folder_.path() / "kernel", content);
    return folder_.path() / "kernel";
  }
  [[nodiscard]] std::string file_on_disk(const std::string& name) const {
    return run_tool({"mtype", "-i", (folder_.path() / "disk").string(), "::" + name}, Deadline::after(20s)).out;
  }

  TemporaryDirectory folder_;
};

TEST_F(EfiDiskTest, HoldsKernelInitramfsAndScript) {
  if (!find_program("mtype")) GTEST_SKIP() << "no mtools";
  write_file(folder_.path() / "initrd", "the initramfs");
  const EfiDisk disk{kernel(), folder_.path() / "initrd", "console=ttyS0 quiet"};
  make_efi_disk(disk, folder_.path() / "disk", Deadline::after(20s));
  EXPECT_EQ(file_on_disk("vmtest/linux.efi"), read_file(kernel()));
  EXPECT_EQ(file_on_disk("vmtest/initrd"), "the initramfs");
  EXPECT_EQ(file_on_disk("startup.nsh"), startup_script(disk));
  EXPECT_EQ(std::filesystem::file_size(folder_.path() / "disk") % 512, 0U);
}

TEST_F(EfiDiskTest, ScriptStartsTheKernelOfItsOwnDisk) {
  const std::string script = startup_script({"/k", "/i", "console=ttyS0 root=/dev/vda1"});
  EXPECT_NE(script.find("\\vmtest\\linux.efi initrd=\\vmtest\\initrd console=ttyS0 root=/dev/vda1\r\n"), std::string::npos)
      << script;
  EXPECT_EQ(startup_script({"/k", "", "x"}).find("initrd="), std::string::npos);
}

TEST_F(EfiDiskTest, KernelWithoutAnEfiStubIsUnsupported) {
  write_file(folder_.path() / "vmlinux", "\177ELF");
  EXPECT_THROW(make_efi_disk({folder_.path() / "vmlinux", "", ""}, folder_.path() / "disk", Deadline::after(20s)), Unsupported);
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "disk"));
}

TEST_F(EfiDiskTest, KernelThatIsNotThereIsNamed) {
  try {
    make_efi_disk({"/nonexistent/kernel", "", ""}, folder_.path() / "disk", Deadline::after(20s));
    FAIL() << "it did not throw";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("/nonexistent/kernel"), std::string::npos);
  }
}

}  // namespace
}  // namespace vmtest::propolis
