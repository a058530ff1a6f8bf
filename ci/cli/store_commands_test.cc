// image and template, on stores that hold files in place of images and guests.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "cli_test.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/text.h"
#include "vmtest/template_store.h"
#include "wait.h"

namespace vmtest::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace std::chrono_literals;

class ImageCommandTest : public CliTest {
 protected:
  /// Puts an image into the store, as a build leaves it.
  void SetUp() override {
    fs::create_directories(image_);
    const std::string disk(4096, 'd');
    write_file(image_ / "disk.raw", disk, 0444);
    const json manifest = {{"format", 1},          {"name", "mine"},         {"architecture", "x86_64"},
                           {"disk", "disk.raw"},   {"disk_format", "raw"},   {"boot_modes", {"bios"}},
                           {"features", {"sftp"}}, {"digest", sha256(disk)}, {"files", {{"disk.raw", sha256(disk)}}}};
    write_file(image_ / "manifest.json", manifest.dump());
  }
  void damage_disk() {
    std::string disk = read_file(image_ / "disk.raw");
    disk[2000] = 'x';
    write_file(image_ / "disk.raw", disk);
  }

  fs::path image_ = home_ / "data" / "images" / "mine-x86_64";
};

TEST_F(ImageCommandTest, InfoIsJson) {
  const ToolResult result = vmtest({"image", "info", "mine", "--arch", "x86_64", "--json"});
  EXPECT_EQ(result.status.code, 0);
  const json info = json::parse(result.out);
  EXPECT_EQ(info["name"], "mine");
  EXPECT_EQ(info["disk"], (fs::canonical(image_) / "disk.raw").string());
  EXPECT_EQ(info["boot_modes"], json::array({"bios"}));
  EXPECT_EQ(info["features"], json::array({"sftp"}));
  EXPECT_FALSE(info.contains("verified"));
}

TEST_F(ImageCommandTest, VerifyTakesWhatWasBuilt) {
  const ToolResult result = vmtest({"image", "info", "mine", "--arch", "x86_64", "--verify", "--json"});
  EXPECT_EQ(result.status.code, 0);
  EXPECT_EQ(json::parse(result.out)["verified"], true);
}

TEST_F(ImageCommandTest, VerifyNamesTheFileWithAChangedByte) {
  damage_disk();
  const ToolResult result = vmtest({"image", "info", "mine", "--arch", "x86_64", "--verify", "--json"});
  EXPECT_EQ(result.status.code, 1);
  EXPECT_EQ(json::parse(result.out)["verified"], false);
  EXPECT_TRUE(contains(result.err, "disk.raw is not what was built")) << result.err;
}

TEST_F(ImageCommandTest, RemovedImageIsGone) {
  EXPECT_EQ(vmtest({"image", "rm", "mine", "--arch", "x86_64"}).status.code, 0);
  EXPECT_FALSE(fs::exists(image_));
  EXPECT_EQ(json::parse(vmtest({"image", "ls", "--json"}).out), json::array());
}

TEST_F(ImageCommandTest, RemovingAnUnknownImageIsAnError) {
  const ToolResult result = vmtest({"image", "rm", "yours"});
  EXPECT_EQ(result.status.code, 3);
  EXPECT_TRUE(contains(result.err, "there is no image \"yours\"")) << result.err;
}

TEST_F(ImageCommandTest, UnreadableImageIsAnErrorThatSaysWhich) {
  write_file(image_ / "manifest.json", "{");
  const ToolResult result = vmtest({"image", "ls"});
  EXPECT_EQ(result.status.code, 3);
  EXPECT_TRUE(contains(result.err, "mine-x86_64")) << result.err;
}

TEST_F(ImageCommandTest, TerminatedBuildLeavesNothing) {
  if (!find_program("apt-get") || !find_program("dpkg-deb")) GTEST_SKIP() << "images are built where there are apt and dpkg";
  const fs::path images = home_ / "data" / "images";
  const auto staging = [&] {
    std::string names;
    for (const auto& entry : fs::directory_iterator(images)) {
      if (entry.path().filename().string().starts_with(".staging-")) names += entry.path().filename().string() + "\n";
    }
    return names;
  };
  ChildProcess build = ChildProcess::start(
      {.argv = {VMTEST_CLI, "image", "build", "tiny", "--arch", "x86_64"}, .environment = {{"VMTEST_HOME", home_.string()}}});
  ASSERT_TRUE(testing::wait_until([&] { return !staging().empty() || !build.running(); }, Deadline::after(20s)));
  build.signal(SIGTERM);
  const auto ended = build.wait(Deadline::after(20s));
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->code, 128 + SIGTERM) << to_string(*ended);
  EXPECT_EQ(staging(), "");
  EXPECT_FALSE(fs::exists(images / "tiny-x86_64"));
}

class TemplateCommandTest : public CliTest {
 protected:
  void SetUp() override {
    const fs::path staging = store_.make_staging("abcdef");
    write_file(staging / "memory", std::string(300000, 'm'), 0600);
    store_.publish(staging, {.key = "abcdef", .image = "tiny", .spec_json = "{}"});
  }

  TemplateStore store_{home_ / "cache" / "templates"};
};

TEST_F(TemplateCommandTest, KeyMayBeCutShort) {
  const ToolResult result = vmtest({"template", "info", "abc", "--verify", "--json"});
  EXPECT_EQ(result.status.code, 0) << result.err;
  EXPECT_EQ(json::parse(result.out)["key"], "abcdef");
  EXPECT_EQ(json::parse(result.out)["verified"], true);
}

TEST_F(TemplateCommandTest, VerifyNamesTheFileWithAChangedByte) {
  const fs::path memory = store_.folder() / "abcdef" / "memory";
  const FileDescriptor file = open_file(memory, O_WRONLY);
  write_all(file.get(), "x");
  const ToolResult result = vmtest({"template", "info", "abcdef", "--verify", "--json"});
  EXPECT_EQ(result.status.code, 1) << result.err;
  EXPECT_EQ(json::parse(result.out)["verified"], false);
  EXPECT_TRUE(contains(result.err, "memory")) << result.err;
}

TEST_F(TemplateCommandTest, UsedTemplateStaysAndUnusedOnesGo) {
  {
    const auto held = store_.find("abcdef");
    const ToolResult refused = vmtest({"template", "rm", "abcdef"});
    EXPECT_EQ(refused.status.code, 1);
    EXPECT_TRUE(contains(refused.err, "a running VM uses it")) << refused.err;
  }
  EXPECT_EQ(vmtest({"template", "rm", "--all"}).status.code, 0);
  EXPECT_TRUE(store_.list().empty());
}

TEST_F(TemplateCommandTest, UnknownTemplateIsAnError) { EXPECT_EQ(vmtest({"template", "rm", "x"}).status.code, 3); }

TEST_F(TemplateCommandTest, UnusableOnesAreListedAndRemoved) {
  write_file(store_.folder() / "abcdef" / "manifest.json", "{");
  const json listed = json::parse(vmtest({"template", "ls", "--json"}).out);
  ASSERT_EQ(listed.size(), 1U);
  EXPECT_EQ(listed[0]["key"], "abcdef");
  EXPECT_TRUE(listed[0].contains("unusable"));
  EXPECT_TRUE(contains(vmtest({"template", "ls"}).out, "abcdef       unusable: "));
  const ToolResult info = vmtest({"template", "info", "abc"});
  EXPECT_EQ(info.status.code, 3);
  EXPECT_TRUE(contains(info.err, "is unusable: ")) << info.err;
  EXPECT_EQ(vmtest({"template", "rm", "--all"}).status.code, 0);
  EXPECT_FALSE(fs::exists(store_.folder() / "abcdef"));
}

TEST_F(TemplateCommandTest, RemovingNothingAndEverythingAreUsageErrors) {
  EXPECT_EQ(vmtest({"template", "rm"}).status.code, 2);
  EXPECT_EQ(vmtest({"template", "rm", "abcdef", "--all"}).status.code, 2);
  EXPECT_EQ(store_.list().size(), 1U);
}

TEST_F(TemplateCommandTest, CollectorNeedsLimitsThatAreNumbers) {
  EXPECT_EQ(vmtest({"template", "gc"}).status.code, 0);
  EXPECT_EQ(vmtest({"template", "gc"}, {{"VMTEST_TEMPLATES_MAX_MIB", "much"}}).status.code, 3);
  EXPECT_EQ(vmtest({"template", "gc"}, {{"VMTEST_TEMPLATES_MAX_MIB", "0"}}).status.code, 0);
  EXPECT_TRUE(store_.list().empty());
}

}  // namespace
}  // namespace vmtest::cli
