// Commands and processes, on OpenSSH and dropbear.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "testing/peer_test.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::ssh {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using Words = std::vector<std::string>;

class ExecTest : public EachServerTest {
 protected:
  /// Whether a process of the guest (this machine, where other tests run too) has the argument naptime_.
  [[nodiscard]] bool naps() { return session().exec("grep -l -z '^" + naptime_ + "$' /proc/[0-9]*/cmdline 2>/dev/null").ok(); }

  std::string naptime_ = "6543." + std::to_string(::getpid());
};
INSTANTIATE_TEST_SUITE_P(On, ExecTest, testing::Values(PeerKind::OpenSsh, PeerKind::Dropbear), peer_name);

TEST_P(ExecTest, KeepsStreamsAndExitCodeApart) {
  const CommandResult result = session().exec("echo to-out; echo to-err >&2; exit 3");
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.out, "to-out\n");
  EXPECT_EQ(result.err, "to-err\n");
}

TEST_P(ExecTest, NamesTheSignalThatEndedACommand) {
  const CommandResult result = session().exec("kill -TERM $$");
  EXPECT_EQ(result.signal, "TERM");
  EXPECT_FALSE(result.exit_code.has_value());
}

TEST_P(ExecTest, ArgumentsArriveUnchanged) {
  const std::string odd = "a 'b' \"c\" $d `e` \\f *\n!~ \t\xff";
  EXPECT_EQ(session().exec(Words{"printf", "%s|%s|", odd, ""}).out, odd + "||");
}

TEST_P(ExecTest, EnvironmentAndFolderArriveUnchanged) {
  peer().write_guest_file("here", "");
  GuestCommand command(Words{"sh", "-c", "ls -d here; printf %s \"$ODD\""});
  command.environment = {{"ODD", "it's $HOME;\n\"x\""}};
  command.working_directory = peer().guest_folder();
  EXPECT_EQ(session().exec(command).out, "here\nit's $HOME;\n\"x\"");
}

TEST_P(ExecTest, MissingFolderSaysSo) {
  GuestCommand command("true");
  command.working_directory = "/no/such/folder";
  const CommandResult result = session().exec(command);
  EXPECT_FALSE(result.ok());
  EXPECT_THAT(result.err, HasSubstr("/no/such/folder"));
}

TEST_P(ExecTest, MissingProgramIsAnExitCode) { EXPECT_EQ(session().exec(Words{"no-such-program", "x"}).exit_code, 127); }

TEST_P(ExecTest, CommandLinesBeyondTheServersLimitArrive) {
  const std::string large(100'000, 'y');
  GuestCommand command(Words{"sh", "-c", "printf %s \"$1\" | wc -c; cat", "sh", large});
  command.standard_input = "own input";
  const CommandResult result = session().exec(command);
  EXPECT_EQ(result.out, "100000\nown input") << result;
}

TEST_P(ExecTest, StandardInputArrivesAndEnds) {
  GuestCommand command("wc -c");
  command.standard_input = std::string(3'000'000, 'x');
  EXPECT_EQ(session().exec(command).out, "3000000\n");
}

TEST_P(ExecTest, InputThatNobodyReadsDoesNotHoldTheResultUp) {
  GuestCommand command("exit 4");
  command.standard_input = std::string(5'000'000, 'x');
  EXPECT_EQ(session().exec(command).exit_code, 4);
}

TEST_P(ExecTest, HundredMegabytesArriveWhole) {
  const CommandResult result = session().exec("dd if=/dev/zero bs=1000000 count=100 2>/dev/null | tr '\\0' z; echo end");
  EXPECT_EQ(result.out.size(), 100'000'004U);
  EXPECT_TRUE(result.out.ends_with("zend\n"));
  EXPECT_FALSE(result.truncated);
}

TEST_P(ExecTest, OutputBeyondTheLimitIsDroppedButSeen) {
  std::atomic<std::size_t> seen = 0;
  GuestCommand command("dd if=/dev/zero bs=1000000 count=20 2>/dev/null");
  command.output_limit = 1000;
  command.on_stdout = [&](std::string_view data) { seen += data.size(); };
  const CommandResult result = session().exec(command);
  EXPECT_EQ(result.out.size(), 1000U);
  EXPECT_TRUE(result.truncated);
  EXPECT_EQ(seen, 20'000'000U);
}

TEST_P(ExecTest, BackgroundChildDoesNotHoldTheResultUp) {
  GuestCommand command("sleep 55 & echo started");
  command.timeout = 40s;
  EXPECT_EQ(session().exec(command).out, "started\n");
}

TEST_P(ExecTest, LastOutputIsNotLostWhenAChildKeepsItOpen) {
  EXPECT_EQ(session().exec("sleep 55 & dd if=/dev/zero bs=1000000 count=3 2>/dev/null").out.size(), 3'000'000U);
}

TEST_P(ExecTest, CommandThatNeverEndsIsKilledAndQuoted) {
  GuestCommand command("echo last words; sleep " + naptime_ + "; true");
  command.timeout = 300ms;
  const std::string message = thrown<Timeout>([&] { (void)session().exec(command); });
  EXPECT_THAT(message, HasSubstr("0.300 s"));
  EXPECT_THAT(message, HasSubstr("sleep " + naptime_));
  EXPECT_THAT(message, HasSubstr("last words"));
  EXPECT_FALSE(naps());
}

TEST_P(ExecTest, OutputStreamsWhileTheProcessRuns) {
  std::atomic<bool> saw_first = false;
  GuestCommand command("echo first; read line; echo $line; echo done >&2");
  command.on_stdout = [&](std::string_view text) { saw_first = saw_first || text == "first\n"; };
  const auto process = session().spawn(command);
  EXPECT_TRUE(eventually([&] { return saw_first.load(); }));
  EXPECT_EQ(process->stdout_so_far(), "first\n");
  EXPECT_FALSE(process->poll().has_value());
  process->write("second\n", 5s);
  process->close_input();
  const CommandResult result = process->wait(20s);
  EXPECT_EQ(result.out, "first\nsecond\n");
  EXPECT_EQ(result.err, "done\n");
}

TEST_P(ExecTest, ProcessTakesSignals) {
  const auto process = session().spawn("trap 'echo got it; exit 9' USR1; echo ready; while :; do sleep 0.05; done");
  EXPECT_TRUE(eventually([&] { return process->stdout_so_far() == "ready\n"; }));
  process->signal("USR1");
  const CommandResult result = process->wait(20s);
  EXPECT_EQ(result.exit_code, 9);
  EXPECT_EQ(result.out, "ready\ngot it\n");
}

TEST_P(ExecTest, ProgramGetsTheSignalItself) {
  const auto process = session().spawn(Words{"sleep", "6544"});
  process->signal("HUP");
  EXPECT_EQ(process->wait(20s).signal, "HUP");
}

TEST_P(ExecTest, RefusesSignalsThatAreNone) {
  const auto process = session().spawn(Words{"sleep", "6545"});
  EXPECT_THROW(process->signal("TERM; reboot"), Error);
  EXPECT_THROW(process->signal("NONSENSE"), Error);
}

TEST_P(ExecTest, DroppedProcessIsKilledWithItsChildren) {
  {
    const auto process = session().spawn("sleep " + naptime_ + " & sleep " + naptime_ + "; true");
    EXPECT_TRUE(eventually([&] { return naps(); }));
  }
  EXPECT_FALSE(naps());
}

TEST_P(ExecTest, WaitingInVainLeavesTheProcessAlone) {
  const auto process = session().spawn("read line; echo $line");
  EXPECT_THROW((void)process->wait(50ms), Timeout);
  process->write("still here\n", 5s);
  EXPECT_EQ(process->wait(20s).out, "still here\n");
}

TEST_P(ExecTest, WritingToAProcessThatDoesNotReadTimesOut) {
  const auto process = session().spawn(Words{"sleep", "6547"});
  EXPECT_THROW(process->write(std::string(20'000'000, 'x'), 300ms), Timeout);
}

TEST_P(ExecTest, WritingToAnEndedProcessThrows) {
  const auto process = session().spawn("true");
  (void)process->wait(20s);
  EXPECT_THROW(process->write("x", 5s), Error);
}

TEST_P(ExecTest, ThreadsRunSideBySide) {
  std::vector<std::string> outputs(8);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    threads.emplace_back([&, i] { outputs[i] = session().exec("sleep 0.3; echo " + std::to_string(i)).out; });
  }
  const auto started = std::chrono::steady_clock::now();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(outputs, (Words{"0\n", "1\n", "2\n", "3\n", "4\n", "5\n", "6\n", "7\n"}));
  EXPECT_LT(std::chrono::steady_clock::now() - started, 2s);
}

}  // namespace
}  // namespace vmtest::ssh
