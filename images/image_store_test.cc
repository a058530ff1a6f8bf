#include "vmtest/image_store.h"

#include <gtest/gtest.h>

#include "manifest.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

class ImageStoreTest : public ::testing::Test {
 protected:
  /// Puts an image of one file into the store, as a build would.
  void add(const std::string& name, const std::string& content = std::string(512, 'd')) {
    const auto folder = folder_.path() / (name + "-x86_64");
    std::filesystem::create_directory(folder);
    write_file(folder / "disk.raw", content);
    Manifest manifest;
    manifest.details.image.name = name;
    manifest.details.image.disk = folder / "disk.raw";
    manifest.details.image.disk_format = DiskFormat::Raw;
    manifest.details.image.boot_modes = {BootMode::Bios};
    manifest.details.image.digest = sha256(content);
    manifest.digests["disk.raw"] = sha256(content);
    write_manifest(folder, manifest);
  }
  /// The message of the error that `action` throws.
  template <typename Action>
  static std::string message(Action action) {
    try {
      action();
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }

  TemporaryDirectory folder_;
  ImageStore store_{folder_.path()};
};

TEST_F(ImageStoreTest, IsEmptyWhenItsFolderIsMissing) { EXPECT_TRUE(ImageStore(folder_.path() / "none").list().empty()); }

TEST_F(ImageStoreTest, FindsWhatIsThere) {
  add("one");
  const auto found = store_.find("one", Architecture::X86_64);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->image.disk, std::filesystem::canonical(folder_.path()) / "one-x86_64" / "disk.raw");
  EXPECT_EQ(found->image.disk_format, DiskFormat::Raw);
}

TEST_F(ImageStoreTest, FindsTheSameFilesWhicheverWayLeadsToThem) {
  add("one");
  const TemporaryDirectory other;
  std::filesystem::create_directory_symlink(folder_.path(), other.path() / "images");
  const auto found = ImageStore(other.path() / "images").find("one", Architecture::X86_64);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->image.disk, store_.find("one", Architecture::X86_64)->image.disk);
}

TEST_F(ImageStoreTest, KeepsArchitecturesApart) {
  add("one");
  EXPECT_FALSE(store_.find("one", Architecture::Aarch64));
}

TEST_F(ImageStoreTest, ListsByName) {
  add("two");
  add("one");
  ASSERT_EQ(store_.list().size(), 2U);
  EXPECT_EQ(store_.list()[0].image.name, "one");
}

TEST_F(ImageStoreTest, UnknownImageSaysWhatThereIs) {
  const std::string text = message([&] { (void)store_.get("no-such-image", Architecture::X86_64); });
  EXPECT_NE(text.find("\"no-such-image\" (x86_64) is unknown"), std::string::npos);
  EXPECT_NE(text.find("tiny"), std::string::npos);
}

TEST_F(ImageStoreTest, UnbuiltImageSaysHowToBuildIt) {
  EXPECT_NE(message([&] { (void)store_.get("tiny", Architecture::X86_64); }).find("vmtest image build tiny"), std::string::npos);
}

TEST_F(ImageStoreTest, RefusesNamesThatLeaveTheStore) {
  EXPECT_NE(message([&] { (void)store_.get("../one", Architecture::X86_64); }).find("cannot name an image"), std::string::npos);
}

TEST_F(ImageStoreTest, BrokenManifestIsAnErrorThatNamesTheFolder) {
  add("one");
  write_file(folder_.path() / "one-x86_64" / "manifest.json", "{\"format\": 1");
  EXPECT_NE(message([&] { (void)store_.get("one", Architecture::X86_64); }).find("one-x86_64"), std::string::npos);
}

TEST_F(ImageStoreTest, ManifestCannotNameFilesOutside) {
  add("one");
  const auto manifest = folder_.path() / "one-x86_64" / "manifest.json";
  std::string text = read_file(manifest);
  text.replace(text.find("\"disk.raw\""), 10, "\"../../etc/passwd\"");
  write_file(manifest, text);
  EXPECT_NE(message([&] { (void)store_.get("one", Architecture::X86_64); }).find("leaves the image's folder"), std::string::npos);
}

TEST_F(ImageStoreTest, VerifyNamesTheChangedFile) {
  add("one");
  write_file(folder_.path() / "one-x86_64" / "disk.raw", "changed");
  EXPECT_NE(message([&] { verify_image(*store_.find("one", Architecture::X86_64)); }).find("disk.raw is not what was built"),
            std::string::npos);
}

TEST_F(ImageStoreTest, VerifyTakesWhatWasBuilt) {
  add("one");
  EXPECT_EQ(message([&] { verify_image(*store_.find("one", Architecture::X86_64)); }), "");
}

TEST_F(ImageStoreTest, RemoveTakesTheFolderAway) {
  add("one");
  EXPECT_TRUE(store_.remove("one", Architecture::X86_64));
  EXPECT_FALSE(store_.remove("one", Architecture::X86_64));
  EXPECT_TRUE(store_.list().empty());
}

TEST_F(ImageStoreTest, LeftoversOfCrashedBuildsGo) {
  std::filesystem::create_directory(folder_.path() / ".staging-abc");
  EXPECT_EQ(store_.remove_leftovers(), 1U);
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / ".staging-abc"));
}

TEST_F(ImageStoreTest, NoRecipeSaysWhichThereAre) {
  EXPECT_NE(message([&] { (void)store_.build("plan9", Architecture::X86_64, {}); }).find("tiny (x86_64)"), std::string::npos);
}

}  // namespace
}  // namespace vmtest
