// How images are built and published, with a recipe that takes no time, or as long as a test wants.

#include "build/image_build.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "wait.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

/// Adds a byte to the store's file "builds"; while the file "hold" is there, runs a program that notes its pid and does not end.
void build_small(const BuildContext& context) {
  const fs::path store = context.staging.parent_path();
  write_file(context.staging / "disk.raw", std::string(512, 'd'));
  const FileDescriptor builds = open_file(store / "builds", O_WRONLY | O_CREAT | O_APPEND);
  write_all(builds.get(), "x");
  context.run({"sh", "-c", "echo $$ > ../pid.new; mv ../pid.new ../pid; while [ -e ../hold ]; do sleep 0.02; done"});
  context.image->disk = "disk.raw";
  context.image->disk_format = DiskFormat::Raw;
  context.image->boot_modes = {BootMode::Bios};
}

constexpr Recipe kSmall{"small", Architecture::X86_64, "a disk and nothing on it", 1, build_small};

class ImageBuildTest : public ::testing::Test {
 protected:
  void SetUp() override { ::setenv("VMTEST_GUEST_INIT", "/bin/sh", 1); }  // the recipe needs none, and it may not be built
  void TearDown() override {
    ::unsetenv("VMTEST_GUEST_INIT");
    release();
  }
  void hold() { write_file(folder_.path() / "hold", ""); }
  void release() { fs::remove(folder_.path() / "hold"); }
  ImageDetails build(const ImageStore::BuildOptions& options = {}) { return build_image(image_, kSmall, options); }
  /// Builds in another process, which exits with 0 when that went well.
  pid_t build_elsewhere(const ImageStore::BuildOptions& options = {}) {
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    try {
      (void)build(options);
      ::_exit(0);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      ::_exit(1);
    }
  }
  static int exit_code(pid_t pid) {
    int status = 0;
    return ::waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  [[nodiscard]] std::string content(const char* file) const { return read_file_tail(folder_.path() / file, 1000); }
  [[nodiscard]] std::ptrdiff_t staging_folders() const {
    return std::count_if(fs::directory_iterator(folder_.path()), fs::directory_iterator(),
                         [](const auto& entry) { return entry.path().filename().string().starts_with(kStagingPrefix); });
  }
  /// Starts a build that hangs, in another process, and kills that when the recipe's program runs.
  void kill_a_build() {
    hold();
    const pid_t builder = build_elsewhere();
    ASSERT_TRUE(testing::wait_until([&] { return !content("pid").empty(); }, Deadline::after(20s)));
    ::kill(builder, SIGKILL);
    EXPECT_EQ(exit_code(builder), -1);
    ASSERT_EQ(staging_folders(), 2);
  }

  TemporaryDirectory folder_;
  ImageStore store_{folder_.path()};
  fs::path image_ = folder_.path() / "small-x86_64";
};

TEST_F(ImageBuildTest, ImageIsWhatTheRecipeMade) {
  const Image built = build().image;
  EXPECT_EQ(built.disk, fs::canonical(image_) / "disk.raw");
  const auto found = store_.find("small", Architecture::X86_64);
  ASSERT_TRUE(found);
  EXPECT_EQ(read_file(found->image.disk), std::string(512, 'd'));
  EXPECT_EQ(staging_folders(), 0);
}

TEST_F(ImageBuildTest, BuiltImageIsBuiltAgainOnlyWhenAsked) {
  (void)build();
  (void)build();
  EXPECT_EQ(content("builds"), "x");
  (void)build({.rebuild = true});
  EXPECT_EQ(content("builds"), "xx");
  EXPECT_EQ(staging_folders(), 0);
}

TEST_F(ImageBuildTest, SecondOfTwoProcessesWaitsAndFindsItBuilt) {
  hold();
  const pid_t first = build_elsewhere();
  ASSERT_TRUE(testing::wait_until([&] { return !content("pid").empty(); }, Deadline::after(20s)));
  const pid_t second = build_elsewhere({.progress = [&](std::string_view what) { write_file(folder_.path() / "said", what); }});
  EXPECT_TRUE(testing::wait_until([&] { return content("said").find("waiting for another") == 0; }, Deadline::after(20s)));
  EXPECT_TRUE(store_.list().empty()) << "seen before it was whole";
  release();
  EXPECT_EQ(exit_code(first), 0);
  EXPECT_EQ(exit_code(second), 0);
  EXPECT_EQ(content("builds"), "x");
  EXPECT_EQ(store_.list().size(), 1U);
}

TEST_F(ImageBuildTest, KilledBuildIsNoImageAndGoesWithTheNext) {
  kill_a_build();
  EXPECT_TRUE(store_.list().empty());
  EXPECT_FALSE(store_.find("small", Architecture::X86_64));
  const pid_t program = std::stoi(content("pid"));
  EXPECT_TRUE(testing::wait_until([&] { return !process_start_time(program); }, Deadline::after(20s))) << "its program goes on";
  release();
  (void)build();
  EXPECT_EQ(staging_folders(), 0);
  EXPECT_EQ(store_.list().size(), 1U);
}

TEST_F(ImageBuildTest, LeftoversOfAKilledBuildGoButNotABuildUnderWay) {
  kill_a_build();
  EXPECT_EQ(store_.remove_leftovers(), 2U);
  EXPECT_EQ(staging_folders(), 0);
  fs::remove(folder_.path() / "pid");
  const pid_t builder = build_elsewhere();
  ASSERT_TRUE(testing::wait_until([&] { return !content("pid").empty(); }, Deadline::after(20s)));
  EXPECT_EQ(store_.remove_leftovers(), 0U);
  release();
  EXPECT_EQ(exit_code(builder), 0);
}

TEST_F(ImageBuildTest, BuildThatIsCalledOffLeavesNothing) {
  hold();
  Pipe interrupt = make_pipe();
  const auto call_off = [&](std::string_view) { write_all(interrupt.write_end.get(), "x"); };
  Recipe recipe = kSmall;
  recipe.build = [](const BuildContext& context) {
    context.step("one");  // has it called off
    build_small(context);
  };
  try {
    (void)build_image(image_, recipe, {.progress = call_off, .interrupt = interrupt.read_end.get()});
    FAIL() << "it was built";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("called off"), std::string::npos) << error.what();
  }
  EXPECT_EQ(staging_folders(), 0);
  EXPECT_TRUE(store_.list().empty());
}

TEST_F(ImageBuildTest, WaitForAnotherBuildIsCalledOffToo) {
  hold();
  const pid_t first = build_elsewhere();
  ASSERT_TRUE(testing::wait_until([&] { return !content("pid").empty(); }, Deadline::after(20s)));
  Pipe interrupt = make_pipe();
  write_all(interrupt.write_end.get(), "x");
  EXPECT_THROW((void)build({.interrupt = interrupt.read_end.get()}), Error);
  release();
  EXPECT_EQ(exit_code(first), 0);
}

TEST_F(ImageBuildTest, LivingVmKeepsItsBuild) {
  const Image before = build().image;
  std::optional<FileDescriptor> vm = hold_image(before);
  ASSERT_TRUE(vm);
  const Image after = build({.rebuild = true}).image;
  EXPECT_NE(after.disk, before.disk);
  EXPECT_EQ(store_.find("small", Architecture::X86_64)->image.disk, after.disk);
  EXPECT_TRUE(store_.remove("small", Architecture::X86_64));
  EXPECT_FALSE(store_.find("small", Architecture::X86_64));
  EXPECT_EQ(store_.remove_leftovers(), 0U);
  EXPECT_EQ(read_file(before.disk), std::string(512, 'd'));
  EXPECT_FALSE(fs::exists(after.disk)) << "nobody uses that";
  vm.reset();
  EXPECT_EQ(store_.remove_leftovers(), 1U);
  EXPECT_FALSE(fs::exists(before.disk));
  EXPECT_FALSE(hold_image(before));
}

TEST_F(ImageBuildTest, OldBuildGoesWithTheNextWhenNobodyUsesIt) {
  const Image before = build().image;
  (void)build({.rebuild = true});
  EXPECT_FALSE(fs::exists(before.disk));
}

TEST_F(ImageBuildTest, ImageIsThereAtEveryMomentOfARebuild) {
  (void)build();
  const pid_t builder = ::fork();
  if (builder == 0) {
    for (int i = 0; i < 50; ++i) (void)build({.rebuild = true});
    ::_exit(0);
  }
  int missed = 0;
  int status = 0;
  while (::waitpid(builder, &status, WNOHANG) == 0) {
    for (int i = 0; i < 1000; ++i) missed += fs::exists(image_) ? 0 : 1;
  }
  EXPECT_EQ(missed, 0);
  EXPECT_EQ(content("builds").size(), 51U);
}

class PlainFolderImageTest : public ImageBuildTest {
 protected:
  /// As earlier versions built it: the image is the folder itself.
  void SetUp() override {
    ImageBuildTest::SetUp();
    const fs::path built = fs::canonical(build().folder);
    fs::remove(image_);
    fs::rename(built, image_);
  }
};

TEST_F(PlainFolderImageTest, IsFoundAndReplaced) {
  const auto found = store_.find("small", Architecture::X86_64);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->image.disk, fs::canonical(folder_.path()) / "small-x86_64/disk.raw");
  (void)build({.rebuild = true});
  EXPECT_TRUE(fs::is_symlink(image_));
  EXPECT_EQ(store_.list().size(), 1U);
  EXPECT_EQ(staging_folders(), 0);
}

TEST_F(PlainFolderImageTest, IsNotTakenFromALivingVm) {
  const Image image = store_.find("small", Architecture::X86_64)->image;
  const std::optional<FileDescriptor> vm = hold_image(image);
  EXPECT_THROW((void)build({.rebuild = true}), Error);
  EXPECT_THROW((void)store_.remove("small", Architecture::X86_64), Error);
  EXPECT_TRUE(fs::exists(image.disk));
  EXPECT_EQ(staging_folders(), 0);
}

}  // namespace
}  // namespace vmtest
