#include "vmtest/clone.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest {
namespace {

Deadline soon() { return Deadline::after(std::chrono::seconds(30)); }

class CloneTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!find_program("qemu-img")) GTEST_SKIP() << "qemu-img is not installed (package qemu-utils)";
    run_tool({"qemu-img", "create", "-q", "-f", "raw", base_.string(), "8M"}, soon());
  }

  [[nodiscard]] CloneRequest request() const {
    return {.source = base_, .source_format = DiskFormat::Raw, .target = folder_.path() / "clone"};
  }
  static nlohmann::json info(const std::filesystem::path& disk) {
    return nlohmann::json::parse(run_tool({"qemu-img", "info", "--output=json", disk.string()}, soon()).out);
  }

  TemporaryDirectory folder_;
  std::filesystem::path base_ = folder_.path() / "base";
};

TEST_F(CloneTest, OverlayNamesItsBackingFileAndFormat) {
  EXPECT_EQ(clone_disk(request(), soon()), DiskFormat::Qcow2);
  const auto shown = info(folder_.path() / "clone");
  EXPECT_EQ(shown["backing-filename"], base_.string());
  EXPECT_EQ(shown["backing-filename-format"], "raw");
}

TEST_F(CloneTest, OverlayCanBeLarger) {
  CloneRequest larger = request();
  larger.size_mib = 64;
  clone_disk(larger, soon());
  EXPECT_EQ(info(folder_.path() / "clone")["virtual-size"], 64 * 1024 * 1024);
}

TEST_F(CloneTest, RawCopyIsWholeAndSparse) {
  const std::filesystem::path source = folder_.path() / "source.qcow2";
  run_tool({"qemu-img", "create", "-q", "-f", "qcow2", source.string(), "64M"}, soon());
  run_tool({"qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", source.string()}, soon());
  CloneRequest raw = request();
  raw.source = source;
  raw.source_format = DiskFormat::Qcow2;
  raw.method = CloneMethod::RawCopy;
  EXPECT_EQ(clone_disk(raw, soon()), DiskFormat::Raw);
  const auto shown = info(raw.target);
  EXPECT_EQ(shown["format"], "raw");
  EXPECT_FALSE(shown.contains("backing-filename"));
  EXPECT_EQ(shown["virtual-size"], 64 * 1024 * 1024);
  EXPECT_LT(shown["actual-size"], 1024 * 1024);
  EXPECT_EQ(read_file(raw.target).substr(1U << 20, 65536), std::string(65536, '\7'));
}

TEST_F(CloneTest, RawCopyCanBeLargerAndIsNotSmaller) {
  CloneRequest raw = request();
  raw.method = CloneMethod::RawCopy;
  raw.size_mib = 4;
  EXPECT_THROW(clone_disk(raw, soon()), Error);
  EXPECT_FALSE(std::filesystem::exists(raw.target));
  raw.size_mib = 16;
  clone_disk(raw, soon());
  EXPECT_EQ(std::filesystem::file_size(raw.target), 16U << 20);
}

TEST_F(CloneTest, NeverOverwrites) {
  write_file(folder_.path() / "clone", "precious");
  EXPECT_THROW(clone_disk(request(), soon()), Error);
  EXPECT_EQ(read_file(folder_.path() / "clone"), "precious");
}

TEST_F(CloneTest, NamesAMissingSource) {
  CloneRequest missing = request();
  missing.source = "/nonexistent/disk";
  try {
    clone_disk(missing, soon());
    FAIL() << "cloned nothing";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("/nonexistent/disk"), std::string::npos);
  }
}

/// A file system in a file, mounted for one test.
class MountedCloneTest : public CloneTest {
 protected:
  void SetUp() override {
    CloneTest::SetUp();
    if (::geteuid() != 0) GTEST_SKIP() << "mounting a file system needs root";
  }
  void TearDown() override {
    if (mounted_) ::umount2(mount_point().c_str(), MNT_DETACH);
  }
  [[nodiscard]] std::filesystem::path mount_point() const { return folder_.path() / "mnt"; }
  /// True when `type` could be mounted from a file of `size`; `options` are for mount.
  bool mount_file(const std::vector<std::string>& mkfs, const char* size, const char* type) {
    std::filesystem::create_directory(mount_point());
    const std::string file = (folder_.path() / "fs").string();
    run_tool({"qemu-img", "create", "-q", "-f", "raw", file, size}, soon());
    std::vector<std::string> make = mkfs;
    make.push_back(file);
    run_tool(make, soon());
    mounted_ = exec_tool({"mount", "-o", "loop", "-t", type, file, mount_point().string()}, soon()).status.ok();
    return mounted_;
  }
  /// True when a file system in memory could be mounted that has room for no more than `size`.
  bool mount_memory(const std::string& size) {
    std::filesystem::create_directory(mount_point());
    mounted_ = ::mount("tmpfs", mount_point().c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
    return mounted_;
  }

 private:
  bool mounted_ = false;
};

TEST_F(MountedCloneTest, ReflinkSharesBlocksOnBtrfs) {
  if (!find_program("mkfs.btrfs")) GTEST_SKIP() << "mkfs.btrfs is not installed (package btrfs-progs)";
  if (!mount_file({"mkfs.btrfs", "-q"}, "256M", "btrfs")) GTEST_SKIP() << "btrfs cannot be loop-mounted on this host";
  const auto source = mount_point() / "base";
  write_file(source, std::string(4 << 20, 'x'));
  EXPECT_TRUE(reflink_works(mount_point()));
  EXPECT_EQ(
      clone_disk(
          {.source = source, .source_format = DiskFormat::Raw, .target = mount_point() / "clone", .method = CloneMethod::Reflink},
          soon()),
      DiskFormat::Raw);
  EXPECT_EQ(read_file(mount_point() / "clone"), read_file(source));
}

TEST_F(MountedCloneTest, ReflinkIsUnsupportedOnExt4) {
  if (!mount_file({"mkfs.ext4", "-q", "-F"}, "16M", "ext4")) GTEST_SKIP() << "ext4 cannot be loop-mounted on this host";
  write_file(mount_point() / "base", "x");
  EXPECT_FALSE(reflink_works(mount_point()));
  EXPECT_THROW(
      clone_disk({.source = mount_point() / "base", .target = mount_point() / "clone", .method = CloneMethod::Reflink}, soon()),
      Unsupported);
  EXPECT_FALSE(std::filesystem::exists(mount_point() / "clone"));
}

TEST_F(MountedCloneTest, FullDiskIsAnErrorThatLeavesNothing) {
  if (!mount_memory("8k")) GTEST_SKIP() << "tmpfs cannot be mounted on this host";
  CloneRequest onto_full = request();
  onto_full.target = mount_point() / "clone";
  try {
    clone_disk(onto_full, soon());
    FAIL() << "cloned onto a full disk";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("No space left on device"), std::string::npos) << error.what();
  }
  EXPECT_FALSE(std::filesystem::exists(mount_point() / "clone"));
}

}  // namespace
}  // namespace vmtest
