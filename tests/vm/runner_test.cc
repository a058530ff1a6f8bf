// The runner and VMs that are made ahead of their tests' turns.

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "image.h"
#include "own_ledger.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/ledger.h"
#include "vmtest/host/process.h"
#include "vmtest/vm_test.h"
#include "wait.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class RunnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::require_image("tiny");
    if (IsSkipped()) return;
    // A home of its own, so that what is left can be told from other tests'. The images are the user's.
    fs::create_directories(home_ / "data");
    fs::create_directory_symlink(data_dir() / "images", home_ / "data" / "images");
  }

  /// Starts the runner on the samples that tell what they are at, one at a time and by default the first three and one ahead.
  ChildProcess start(std::map<std::string, std::string> environment = {}, const std::string& filter = "InTurn.*-*.D",
                     const std::string& ahead = "1") {
    environment.insert({{"VMTEST_HOME", home_.string()},
                        {"VMTEST_FORK", "require"},
                        {"SAMPLE_NOTES", notes_file_.string()},
                        {"SAMPLE_GO", go_file_.string()}});
    ProcessOptions options;
    options.argv = {VMTEST_CLI, "run", "--ahead", ahead, "--filter", filter, VMTEST_SAMPLE};
    options.environment = environment;
    return ChildProcess::start(options);
  }
  [[nodiscard]] std::string notes() const { return fs::exists(notes_file_) ? read_file(notes_file_) : ""; }
  [[nodiscard]] bool says(const std::string& note) const { return notes().find(note) != std::string::npos; }
  [[nodiscard]] std::size_t vms() const {
    std::error_code ignored;
    std::size_t count = 0;
    for (const auto& entry : fs::directory_iterator(home_ / "data" / "vms", ignored)) count += entry.is_directory() ? 1 : 0;
    return count;
  }
  /// Waits until the second test is in its body and the third one's VM is ready.
  void wait_for_one_ahead() {
    ASSERT_TRUE(testing::wait_until([&] { return says("BWaits begins") && says("C ready"); }, Deadline::after(150s))) << notes();
    EXPECT_FALSE(says("C begins")) << notes();
    EXPECT_EQ(vms(), 2U);
  }

  TemporaryDirectory folder_;
  fs::path home_ = folder_.path() / "home";
  fs::path notes_file_ = folder_.path() / "notes";
  fs::path go_file_ = folder_.path() / "go";
};

TEST_F(RunnerTest, NextVmIsReadyBeforeItsTurn) {
  ChildProcess runner = start();
  wait_for_one_ahead();
  write_file(go_file_, "");
  const auto ended = runner.wait(Deadline::after(60s));
  ASSERT_TRUE(ended);
  EXPECT_TRUE(ended->ok()) << to_string(*ended);
  EXPECT_TRUE(says("C begins"));
  EXPECT_EQ(vms(), 0U);
}

TEST_F(RunnerTest, KilledRunnerLeavesNothing) {
  ChildProcess runner = start();
  wait_for_one_ahead();
  std::vector<pid_t> processes;
  std::istringstream lines(notes());
  std::string test;
  std::string what;
  for (pid_t pid = 0; lines >> test >> what >> pid;) processes.push_back(pid);
  ::kill(runner.pid(), SIGKILL);
  (void)runner.wait(Deadline::after(5s));
  const auto nothing_is_left = [&] {
    for (const pid_t pid : processes) {
      if (process_start_time(pid)) return false;
    }
    return vms() == 0;
  };
  EXPECT_TRUE(testing::wait_until(nothing_is_left, Deadline::after(2s))) << vms() << " VMs left";
}

TEST_F(RunnerTest, VmThatWaitsForItsTurnMakesWay) {
  // Limits of this test's own need a ledger that no test beside it takes anything from.
  if (!testing::take_own_ledger()) GTEST_SKIP() << "a ledger of its own needs root";
  ChildProcess runner = start({{"VMTEST_MAX_VCPUS", "2"}, {"SAMPLE_SECOND_VM", "1"}});
  wait_for_one_ahead();
  write_file(go_file_, "");
  const auto ended = runner.wait(Deadline::after(120s));
  ASSERT_TRUE(ended);
  EXPECT_TRUE(ended->ok()) << to_string(*ended) << "\n" << notes();
  // The third one's VM had to go for the second test's other one, and was made anew.
  const std::string said = notes();
  const std::size_t first = said.find("C ready");
  EXPECT_LT(first, said.find("BWaits had")) << said;
  EXPECT_NE(said.find("C ready", first + 1), std::string::npos) << said;
  EXPECT_EQ(vms(), 0U);
}

TEST_F(RunnerTest, AllThatAreAheadMakeWayForASecondVm) {
  if (!testing::take_own_ledger()) GTEST_SKIP() << "a ledger of its own needs root";
  ChildProcess runner = start({{"VMTEST_MAX_VCPUS", "2"}, {"SAMPLE_SECOND_VM", "1"}}, "InTurn.*", "2");
  wait_for_one_ahead();
  // The fourth one's VM is in the queue, and does not come to the gate before the third one's goes.
  ASSERT_TRUE(testing::wait_until([] { return Ledger().somebody_waits(); }, Deadline::after(30s)));
  write_file(go_file_, "");
  const auto ended = runner.wait(Deadline::after(120s));
  ASSERT_TRUE(ended);
  EXPECT_TRUE(ended->ok()) << to_string(*ended) << "\n" << notes();
  EXPECT_LT(notes().find("BWaits had"), notes().find("D ready")) << notes();
  EXPECT_EQ(vms(), 0U);
}

}  // namespace
}  // namespace vmtest
