#include "vmtest/clone.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
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

TEST_F(CloneTest, RawCopyOfAnOverlayStandsAlone) {
  clone_disk(request(), soon());
  CloneRequest raw = request();
  raw.source = request().target;
  raw.source_format = DiskFormat::Qcow2;
  raw.target = folder_.path() / "raw";
  raw.method = CloneMethod::RawCopy;
  raw.size_mib = 16;
  EXPECT_EQ(clone_disk(raw, soon()), DiskFormat::Raw);
  const auto shown = info(raw.target);
  EXPECT_EQ(shown["format"], "raw");
  EXPECT_EQ(shown["virtual-size"], 16 * 1024 * 1024);
  EXPECT_FALSE(shown.contains("backing-filename"));
  EXPECT_LT(shown["actual-size"], 1024 * 1024) << "it is not sparse";
}

TEST_F(CloneTest, RawCopyIsNeverSmaller) {
  CloneRequest raw = request();
  raw.method = CloneMethod::RawCopy;
  raw.size_mib = 4;
  EXPECT_THROW(clone_disk(raw, soon()), Error);
  EXPECT_FALSE(std::filesystem::exists(raw.target));
  raw.size_mib.reset();
  EXPECT_EQ(clone_disk(raw, soon()), DiskFormat::Raw);
  EXPECT_EQ(read_file(raw.target), read_file(base_));
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

TEST_F(MountedCloneTest, RawCopySharesBlocksOnBtrfs) {
  if (!find_program("mkfs.btrfs")) GTEST_SKIP() << "mkfs.btrfs is not installed (package btrfs-progs)";
  if (!mount_file({"mkfs.btrfs", "-q"}, "256M", "btrfs")) GTEST_SKIP() << "btrfs cannot be loop-mounted on this host";
  EXPECT_TRUE(reflink_works(mount_point()));
  CloneRequest raw = request();
  raw.source = mount_point() / "base";
  raw.target = mount_point() / "clone";
  raw.method = CloneMethod::RawCopy;
  raw.size_mib = 5;
  write_file(raw.source, std::string(4 << 20, 'x'));
  // Without qemu-img there is no other way to make it.
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", mount_point().c_str(), 1);
  EXPECT_NO_THROW(clone_disk(raw, soon()));
  ::setenv("PATH", path.c_str(), 1);
  const std::string clone = read_file(raw.target);
  EXPECT_EQ(clone.size(), 5U << 20);
  EXPECT_EQ(clone.substr(0, 4U << 20), read_file(raw.source));
}

TEST_F(MountedCloneTest, RawCopyIsOneWhereBlocksCannotBeShared) {
  if (!mount_file({"mkfs.ext4", "-q", "-F"}, "16M", "ext4")) GTEST_SKIP() << "ext4 cannot be loop-mounted on this host";
  EXPECT_FALSE(reflink_works(mount_point()));
  CloneRequest raw = request();
  raw.source = mount_point() / "base";
  raw.target = mount_point() / "clone";
  raw.method = CloneMethod::RawCopy;
  write_file(raw.source, std::string(4096, 'x'));
  EXPECT_EQ(clone_disk(raw, soon()), DiskFormat::Raw);
  EXPECT_EQ(read_file(raw.target), read_file(raw.source));
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
