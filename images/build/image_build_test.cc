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
  EXPECT_EQ(build().image.disk, image_ / "disk.raw");
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

}  // namespace
}  // namespace vmtest
