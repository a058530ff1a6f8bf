// The command as its users see it: exit codes, what it prints, what it leaves. No test here boots a VM.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli_test.h"
#include "vmtest/deadline.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "wait.h"

namespace vmtest::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace std::chrono_literals;

using CliUsageTest = CliTest;

TEST_F(CliUsageTest, NoSubcommandIsAUsageError) { EXPECT_EQ(vmtest({}).status.code, 2); }

TEST_F(CliUsageTest, UnknownSubcommandIsAUsageError) {
  const ToolResult result = vmtest({"fly"});
  EXPECT_EQ(result.status.code, 2);
  EXPECT_TRUE(contains(result.err, "fly")) << result.err;
}

TEST_F(CliUsageTest, UnknownOptionIsAUsageError) { EXPECT_EQ(vmtest({"ps", "--no-such-option"}).status.code, 2); }

TEST_F(CliUsageTest, ZeroJobsAreAUsageError) { EXPECT_EQ(vmtest({"run", "--jobs", "0", VMTEST_CLI_SAMPLE}).status.code, 2); }

TEST_F(CliUsageTest, HelpNamesEverySubcommandAndItsExitCodes) {
  const ToolResult result = vmtest({"--help"});
  EXPECT_EQ(result.status.code, 0);
  for (const char* name : {"run", "exec", "image", "template", "ps", "ssh", "console", "stop", "gc", "doctor"}) {
    EXPECT_TRUE(contains(result.out, std::string("\n  ") + name)) << name;
    const ToolResult help = vmtest({name, "--help"});
    EXPECT_EQ(help.status.code, 0) << name;
    const std::size_t codes = help.out.find("Exit codes");
    ASSERT_NE(codes, std::string::npos) << help.out;
    EXPECT_TRUE(contains(help.out.substr(codes), " 2 ")) << help.out;
  }
}

TEST_F(CliUsageTest, ExecWithoutACommandIsAUsageError) { EXPECT_EQ(vmtest({"exec", "--image", "tiny"}).status.code, 2); }

TEST_F(CliUsageTest, ExecReportsItsOwnFailuresByACodeOfTheirOwn) {
  const ToolResult result = vmtest({"exec", "--image", "no-such-image", "--", "true"});
  EXPECT_EQ(result.status.code, 125);
  EXPECT_TRUE(contains(result.err, "no-such-image")) << result.err;
}

TEST_F(CliUsageTest, ExecRefusesAPushWithoutAGuestPath) {
  const ToolResult result = vmtest({"exec", "--push", "/etc/hostname", "--", "true"});
  EXPECT_EQ(result.status.code, 2);
  EXPECT_TRUE(contains(result.err, "/etc/hostname must be HOST_PATH:/GUEST/PATH")) << result.err;
}

TEST_F(CliUsageTest, ImageNamesAreChecked) {
  const ToolResult result = vmtest({"image", "info", "../x"});
  EXPECT_EQ(result.status.code, 3);
  EXPECT_TRUE(contains(result.err, "cannot name an image")) << result.err;
}

TEST_F(CliUsageTest, UnknownRecipeNamesTheKnownOnes) {
  const ToolResult result = vmtest({"image", "build", "windows"});
  EXPECT_EQ(result.status.code, 3);
  EXPECT_TRUE(contains(result.err, "tiny")) << result.err;
}

TEST_F(CliUsageTest, EmptyHomeHasNoImagesAndNoVms) {
  EXPECT_EQ(json::parse(vmtest({"image", "ls", "--json"}).out), json::array());
  EXPECT_EQ(json::parse(vmtest({"ps", "--json"}).out), json::array());
}

TEST_F(CliUsageTest, SshConsoleAndStopNameAVmThatIsNotThere) {
  for (const char* subcommand : {"ssh", "console", "stop"}) {
    const ToolResult result = vmtest({subcommand, "nobody"});
    EXPECT_EQ(result.status.code, 3);
    EXPECT_TRUE(contains(result.err, "no running VM is named \"nobody\"")) << result.err;
  }
}

class CliRunTest : public CliTest {
 protected:
  /// Runs tests of the sample program and returns the JSON report.
  json run_sample(const std::string& filter, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"run", "--json", "-", "--filter", filter, VMTEST_CLI_SAMPLE};
    arguments.insert(arguments.end(), more.begin(), more.end());
    result_ = vmtest(arguments);
    return json::parse(result_.out);
  }

  ToolResult result_;
};

TEST_F(CliRunTest, PassingTestsGiveZero) {
  const json report = run_sample("Good.*:All/*");
  EXPECT_EQ(result_.status.code, 0) << result_.err;
  EXPECT_EQ(report["passed"], 5);
  EXPECT_EQ(report["skipped"], 1);
  EXPECT_EQ(report["disabled"], 1);
  EXPECT_TRUE(contains(result_.err, "no flux capacitor")) << result_.err;
}

TEST_F(CliRunTest, ShowsBootPhases) {
  const json report = run_sample("Good.ReportsABoot");
  EXPECT_TRUE(contains(result_.err, "good-1: clone 0.25 s, ssh 0.50 s, total 1.50 s")) << result_.err;
  EXPECT_EQ(report["tests"][0]["vms"][0]["phases"]["clone"], 0.25);
}

TEST_F(CliRunTest, ShowsTheEvidenceOfATestKilledInTheMiddleOfABoot) {
  const json report = run_sample("Bad.DiesInTheMiddleOfABoot");
  EXPECT_EQ(result_.status.code, 1) << result_.err;
  EXPECT_TRUE(contains(result_.err, "evidence: ")) << result_.err;
  EXPECT_EQ(report["tests"][0]["evidence"].size(), 1U);
  EXPECT_EQ(report["tests"][0]["vms"], json::array());
}

TEST_F(CliRunTest, EachTestHasAProcessButSharedSuitesOne) {
  const json report = run_sample("Shared.*:Alone.*", {"--jobs", "3"});
  EXPECT_EQ(result_.status.code, 0) << result_.err;
  EXPECT_EQ(report["passed"], 4);
}

TEST_F(CliRunTest, NextTestIsReadyWhileOneRunsAndBeginsAfterIt) {
  const auto notes = folder_.path() / "notes";
  ::setenv("SAMPLE_NOTES", notes.c_str(), 1);
  const json report = run_sample("Gated.*");
  ::unsetenv("SAMPLE_NOTES");
  EXPECT_EQ(result_.status.code, 0) << result_.err;
  EXPECT_EQ(report["passed"], 3);
  // B sees to it that C is ready while it runs; C begins when B has ended.
  const std::string text = read_file(notes);
  EXPECT_LT(text.find("C ready"), text.find("B end")) << text;
  EXPECT_LT(text.find("B end"), text.find("C begin")) << text;
  // The first one's time has begun already, that of one made ready ahead begins now.
  EXPECT_TRUE(contains(text, "A begin c\n")) << text;
  EXPECT_TRUE(contains(text, "C begin b\n")) << text;
}

TEST_F(CliRunTest, NothingIsStartedAheadWhenThatIsNotWanted) {
  const auto notes = folder_.path() / "notes";
  ::setenv("SAMPLE_NOTES", notes.c_str(), 1);
  const json report = run_sample("Gated.A:Gated.C", {"--ahead", "0"});
  ::unsetenv("SAMPLE_NOTES");
  EXPECT_EQ(result_.status.code, 0) << result_.err;
  EXPECT_EQ(read_file(notes), "A ready\nA begin c\nA end\nC ready\nC begin c\nC end\n");
}

TEST_F(CliRunTest, FailureIsShownHarmless) {
  const json report = run_sample("Bad.Fails");
  EXPECT_EQ(result_.status.code, 1);
  EXPECT_EQ(report["tests"][0]["result"], "failed");
  EXPECT_TRUE(contains(result_.err, "1 + 1")) << result_.err;
  EXPECT_FALSE(contains(result_.err, "\x1b"));
  EXPECT_FALSE(contains(result_.err, "\n::error"));
}

TEST_F(CliRunTest, CrashIsNamed) {
  const json report = run_sample("Bad.Aborts");
  EXPECT_EQ(result_.status.code, 1);
  EXPECT_EQ(report["tests"][0]["result"], "crashed");
  EXPECT_TRUE(contains(report["tests"][0]["reason"], "signal 6")) << report;
}

TEST_F(CliRunTest, ExitInTheMiddleOfATestIsNoSuccess) {
  const json report = run_sample("Bad.ExitsInTheMiddle");
  EXPECT_EQ(result_.status.code, 1);
  EXPECT_EQ(report["tests"][0]["result"], "crashed");
}

TEST_F(CliRunTest, HangingTestIsEnded) {
  const json report = run_sample("Bad.Hangs", {"--timeout", "2"});
  EXPECT_EQ(result_.status.code, 1);
  EXPECT_EQ(report["tests"][0]["result"], "timed out");
  EXPECT_LT(report["tests"][0]["seconds"], 10);
}

TEST_F(CliRunTest, TestThatIgnoresSigtermIsKilled) {
  const json report = run_sample("Bad.HangsAndIgnoresSigterm", {"--timeout", "2"});
  EXPECT_EQ(report["tests"][0]["result"], "timed out");
}

TEST_F(CliRunTest, ProcessLeftBehindFailsTheTest) {
  const json report = run_sample("Bad.LeavesAProcess");
  EXPECT_EQ(result_.status.code, 1);
  EXPECT_TRUE(contains(report["tests"][0]["reason"], "left processes behind")) << report;
}

TEST_F(CliRunTest, FilterThatMatchesNothingIsAnError) {
  EXPECT_EQ(vmtest({"run", "--filter", "Nothing.*", VMTEST_CLI_SAMPLE}).status.code, 2);
}

TEST_F(CliRunTest, MissingProgramIsAnError) { EXPECT_EQ(vmtest({"run", "/no/such/program"}).status.code, 2); }

TEST_F(CliRunTest, ProgramWithoutTestsIsAnError) {
  const ToolResult result = vmtest({"run", "/bin/false"});
  EXPECT_EQ(result.status.code, 3);
  EXPECT_TRUE(contains(result.err, "/bin/false")) << result.err;
}

TEST_F(CliRunTest, InterruptEndsTheTestsToo) {
  const auto output = folder_.path() / "output";
  const FileDescriptor file = open_file(output, O_WRONLY | O_CREAT);
  ChildProcess run = ChildProcess::start({.argv = {VMTEST_CLI, "run", "--jobs", "2", "--filter", "Bad.Hangs*", VMTEST_CLI_SAMPLE},
                                          .environment = environment_,
                                          .standard_output = file.get(),
                                          .standard_error = file.get()});
  // The tests are running once their processes are there.
  const Deadline deadline = Deadline::after(30s);
  const auto children = "/proc/" + std::to_string(run.pid()) + "/task/" + std::to_string(run.pid()) + "/children";
  pid_t first = 0;
  pid_t second = 0;
  while (second == 0 && !deadline.expired()) std::ifstream(children) >> first >> second;
  ASSERT_NE(second, 0);
  run.signal(SIGINT);
  const auto status = run.wait(Deadline::after(30s));
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(status->code, 130);
  EXPECT_FALSE(process_start_time(second).has_value());
}

class CliRunFolderTest : public CliTest {
 protected:
  /// Starts a run whose test never ends, and returns when that runs.
  ChildProcess start_run() {
    ChildProcess run = ChildProcess::start(
        {.argv = {VMTEST_CLI, "run", "--filter", "Bad.Hangs", VMTEST_CLI_SAMPLE}, .environment = environment_});
    const bool runs = testing::wait_until(
        [&] { return !folders().empty() && fs::exists(fs::path(folders().front()) / "0" / "output"); }, Deadline::after(60s));
    EXPECT_TRUE(runs) << "the run does not begin";
    return run;
  }
  /// What is in the temporary folder.
  [[nodiscard]] std::vector<std::string> folders() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(temporary_)) found.push_back(entry.path().string());
    return found;
  }
};

TEST_F(CliRunFolderTest, GcRemovesThatOfAKilledRunAndLeavesALivingOnes) {
  ChildProcess run = start_run();
  const std::vector<std::string> in_use = folders();
  ASSERT_EQ(in_use.size(), 1U);
  EXPECT_EQ(vmtest({"gc"}).out, "");
  EXPECT_EQ(folders(), in_use);
  run.kill_group();
  EXPECT_EQ(vmtest({"gc", "--dry-run"}).out, "would remove " + in_use.front() + "\n");
  EXPECT_EQ(vmtest({"gc"}).out, "removed " + in_use.front() + "\n");
  EXPECT_TRUE(folders().empty());
}

TEST_F(CliRunFolderTest, NextRunRemovesThatOfAKilledOne) {
  ChildProcess run = start_run();
  run.kill_group();
  ASSERT_EQ(folders().size(), 1U);
  EXPECT_EQ(vmtest({"run", "--filter", "Good.Passes", VMTEST_CLI_SAMPLE}).status.code, 0);
  EXPECT_TRUE(folders().empty());
}

}  // namespace
}  // namespace vmtest::cli
