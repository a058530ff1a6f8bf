#include "vmtest/image.h"

#include <gtest/gtest.h>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest {
namespace {

class ImageFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!find_program("qemu-img")) GTEST_SKIP() << "qemu-img is not installed (package qemu-utils)";
  }

  /// Runs qemu-img create with these arguments.
  void create(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"qemu-img", "create", "-q"});
    run_tool(arguments, Deadline::after(std::chrono::seconds(20)));
  }
  /// The message that a disk is refused with; empty when it is taken.
  static std::string refusal(const std::filesystem::path& disk, DiskFormat format) {
    try {
      (void)Image::file(disk, format);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
  [[nodiscard]] std::string path(const char* name) const { return (folder_.path() / name).string(); }

  TemporaryDirectory folder_;
};

TEST_F(ImageFileTest, TakesQcow2) {
  create({"-f", "qcow2", path("disk"), "8M"});
  EXPECT_EQ(refusal(path("disk"), DiskFormat::Qcow2), "");
}

TEST_F(ImageFileTest, TakesRaw) {
  create({"-f", "raw", path("disk"), "8M"});
  EXPECT_EQ(refusal(path("disk"), DiskFormat::Raw), "");
}

TEST_F(ImageFileTest, BootsFromItsOwnDisk) {
  create({"-f", "qcow2", path("disk"), "8M"});
  const Image image = Image::file(path("disk"), DiskFormat::Qcow2);
  EXPECT_TRUE(image.boots_by(BootMode::Bios));
  EXPECT_FALSE(image.boots_by(BootMode::Direct));
}

TEST_F(ImageFileTest, RefusesMissingFile) {
  EXPECT_NE(refusal(path("nothing"), DiskFormat::Raw).find("no disk image at"), std::string::npos);
}

TEST_F(ImageFileTest, RefusesFolder) {
  EXPECT_NE(refusal(folder_.path(), DiskFormat::Raw).find("no regular file"), std::string::npos);
}

TEST_F(ImageFileTest, RefusesTextAsQcow2) {
  write_file(path("disk"), "#!/bin/sh\necho hello\n");
  EXPECT_NE(refusal(path("disk"), DiskFormat::Qcow2).find("is no qcow2 image"), std::string::npos);
}

TEST_F(ImageFileTest, RefusesTextAsRaw) {
  write_file(path("disk"), "hello");
  EXPECT_NE(refusal(path("disk"), DiskFormat::Raw).find("no number of 512-byte sectors"), std::string::npos);
}

TEST_F(ImageFileTest, RefusesQcow2SaidToBeRaw) {
  create({"-f", "qcow2", path("disk"), "8M"});
  EXPECT_NE(refusal(path("disk"), DiskFormat::Raw).find("holds a qcow2 image"), std::string::npos);
}

TEST_F(ImageFileTest, RefusesBackingFile) {
  create({"-f", "raw", path("base"), "8M"});
  create({"-f", "qcow2", "-b", path("base"), "-F", "raw", path("disk")});
  EXPECT_NE(refusal(path("disk"), DiskFormat::Qcow2).find("has a backing file"), std::string::npos);
}

TEST_F(ImageFileTest, RefusesExternalDataFile) {
  create({"-f", "qcow2", "-o", "data_file=" + path("data") + ",data_file_raw=on", path("disk"), "8M"});
  EXPECT_NE(refusal(path("disk"), DiskFormat::Qcow2).find("keeps its data in another file"), std::string::npos);
}

}  // namespace
}  // namespace vmtest
