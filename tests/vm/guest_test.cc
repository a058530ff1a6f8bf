// What a test can do with its guest, on `tiny` (dropbear). One VM serves all tests: none of them harms it.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <thread>
#include <vector>

#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/vm_test.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

class TinyGuestTest : public SharedVmTest<TinyGuestTest> {
 protected:
  TemporaryDirectory folder_;
};

TEST_F(TinyGuestTest, RunsCommands) { EXPECT_EQ(vm().run("echo $((6 * 7))").out, "42\n"); }

TEST_F(TinyGuestTest, KeepsStreamsAndExitCodeApart) {
  const auto result = vm().exec("echo to-out; echo to-err >&2; exit 3");
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.out, "to-out\n");
  EXPECT_EQ(result.err, "to-err\n");
}

TEST_F(TinyGuestTest, NamesTheSignalThatEndedACommand) { EXPECT_EQ(vm().exec("kill -TERM $$").signal, "TERM"); }

TEST_F(TinyGuestTest, RunThrowsWithTheCommandsOwnWords) {
  try {
    vm().run("echo the reason >&2; exit 5");
    FAIL() << "it did not throw";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("exit code 5"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("the reason"), std::string::npos);
  }
}

TEST_F(TinyGuestTest, ArgumentsArriveUnchanged) {
  const std::string odd = "a 'b' \"c\" $d `e` \\f *\n!";
  EXPECT_EQ(vm().run({"printf", "%s", odd}).out, odd);
}

TEST_F(TinyGuestTest, EnvironmentAndFolderArriveUnchanged) {
  GuestCommand command{"sh", "-c", "pwd; printf %s \"$ODD\""};
  command.environment = {{"ODD", "it's $HOME; \"x\""}};
  command.working_directory = "/tmp";
  EXPECT_EQ(vm().run(command).out, "/tmp\nit's $HOME; \"x\"");
}

TEST_F(TinyGuestTest, StandardInputArrives) {
  GuestCommand command{"wc -c"};
  command.standard_input = std::string(100000, 'x');
  EXPECT_EQ(std::stoi(vm().run(command).out), 100000);
}

TEST_F(TinyGuestTest, CommandThatNeverEndsTimesOut) {
  GuestCommand command{"echo started; sleep 1000"};
  command.timeout = 2s;
  EXPECT_THROW((void)vm().exec(command), Timeout);
  EXPECT_EQ(vm().run("echo still here").out, "still here\n");
}

TEST_F(TinyGuestTest, LargeOutputArrivesWhole) {
  const auto result = vm().run("dd if=/dev/zero bs=1M count=8 2>/dev/null");
  EXPECT_EQ(result.out.size(), 8U << 20);
}

TEST_F(TinyGuestTest, OutputStreamsWhileTheCommandRuns) {
  std::atomic<bool> saw_first = false;
  GuestCommand command{"echo first; read line; echo $line"};
  command.on_stdout = [&](std::string_view text) { saw_first = saw_first || text.find("first") != std::string_view::npos; };
  auto process = vm().spawn(command);
  vm().wait_until([&] { return saw_first.load(); }, 20s, "the first line");
  process->write("second\n", 5s);
  process->close_input();
  EXPECT_EQ(process->wait(20s).out, "first\nsecond\n");
}

TEST_F(TinyGuestTest, BackgroundProcessTakesSignals) {
  auto process = vm().spawn("trap 'echo got it; exit 9' USR1; echo ready; while :; do sleep 0.1; done");
  vm().wait_until([&] { return process->stdout_so_far() == "ready\n"; }, 20s, "the process to start");
  process->signal("USR1");
  const auto result = process->wait(20s);
  EXPECT_EQ(result.exit_code, 9);
  EXPECT_EQ(result.out, "ready\ngot it\n");
}

TEST_F(TinyGuestTest, DroppedBackgroundProcessIsKilled) {
  const auto runs = [&] { return vm().exec("ps | grep -v grep | grep -q 'sleep 7654'").ok(); };
  auto process = vm().spawn({"sleep", "7654"});
  vm().wait_until(runs, 20s, "the process to run");
  process.reset();
  vm().wait_until([&] { return !runs(); }, 20s, "the process to be gone");
}

TEST_F(TinyGuestTest, FilesGoBothWays) {
  std::string content(1 << 20, '\0');
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 7 + (i >> 8));
  write_file(folder_.path() / "there", content);
  vm().push(folder_.path() / "there", "/tmp/there");
  vm().pull("/tmp/there", folder_.path() / "back");
  EXPECT_EQ(read_file(folder_.path() / "back"), content);
}

TEST_F(TinyGuestTest, FoldersGoBothWaysWithTheirModes) {
  std::filesystem::create_directories(folder_.path() / "tree" / "deep");
  write_file(folder_.path() / "tree" / "run.sh", "#!/bin/sh\necho ran\n", 0755);
  write_file(folder_.path() / "tree" / "deep" / "a b", "text");
  vm().push(folder_.path() / "tree", "/tmp/tree");
  EXPECT_EQ(vm().run({"/tmp/tree/run.sh"}).out, "ran\n");
  vm().pull("/tmp/tree", folder_.path() / "again");
  EXPECT_EQ(read_file(folder_.path() / "again" / "deep" / "a b"), "text");
  EXPECT_NE(std::filesystem::status(folder_.path() / "again" / "run.sh").permissions() & std::filesystem::perms::owner_exec,
            std::filesystem::perms::none);
}

TEST_F(TinyGuestTest, PullOfNothingSaysSo) {
  EXPECT_THROW(vm().pull("/no/such/file", folder_.path() / "x"), Error);
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "x"));
}

TEST_F(TinyGuestTest, ManyThreadsShareTheSession) {
  std::vector<std::string> outputs(6);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    threads.emplace_back([this, i, &outputs] { outputs[i] = vm().run("sleep 0.2; echo " + std::to_string(i)).out; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(outputs, (std::vector<std::string>{"0\n", "1\n", "2\n", "3\n", "4\n", "5\n"}));
}

TEST_F(TinyGuestTest, WaitForPortSeesAListener) {
  auto server = vm().spawn({"nc", "-l", "-p", "4567", "-e", "echo", "hello"});
  EXPECT_NO_THROW(vm().wait_for_port(4567, 20s));
}

TEST_F(TinyGuestTest, WaitForPortNamesThePortItMissed) {
  try {
    vm().wait_for_port(4999, 100ms);
    FAIL() << "nothing listens there";
  } catch (const Timeout& error) {
    EXPECT_NE(std::string(error.what()).find("port 4999"), std::string::npos);
  }
}

TEST_F(TinyGuestTest, ReachesTheHostThroughItsGateway) {
  std::string gateway = vm().handle().gateway;
  // QEMU's own network has its gateway there; on another it is an address of the host's.
  if (gateway.empty() && vm().handle().driver == DriverKind::Qemu) gateway = "10.0.2.2";
  const std::string routes = vm().run("ip route").out;
  EXPECT_NE(routes.find("default via " + gateway), std::string::npos) << routes;
  EXPECT_TRUE(vm().exec("ping -c 1 -w 20 $(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p')").ok());
}

}  // namespace
}  // namespace vmtest
