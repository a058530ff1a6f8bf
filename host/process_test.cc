#include "vmtest/host/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/program_files.h"
#include "vmtest/host/text.h"
#include "wait.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;
using testing::wait_until;
namespace fs = std::filesystem;

Deadline soon() { return Deadline::after(20s); }

/// What a shell script prints.
std::string output_of_shell(const std::string& script) { return exec_tool({"/bin/sh", "-c", script}, soon()).out; }

/// The message of the `Exception` that `action` throws.
template <typename Exception, typename Action>
std::string message(Action action) {
  try {
    action();
    return "";
  } catch (const Exception& error) {
    return error.what();
  }
}

/// Whether a process has ended, be it reaped or not.
bool is_gone(pid_t pid) {
  try {
    const std::string stat = read_file("/proc/" + std::to_string(pid) + "/stat");
    return stat.compare(stat.rfind(')') + 1, 2, " Z") == 0;
  } catch (const std::system_error&) {
    return true;
  }
}

/// Hides what the starter of this program left open from its children.
void make_inherited_close_on_exec() {
  for (int fd = 3; fd < 1024; ++fd) ::fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/// The number that a process writes on a pipe.
pid_t read_number(const Pipe& pipe) {
  std::string text;
  char c = 0;
  while (wait_readable(pipe.read_end.get(), soon()) && ::read(pipe.read_end.get(), &c, 1) == 1 && c != '\n') text += c;
  return std::atoi(text.c_str());
}

TEST(ExecToolTest, CapturesBothStreams) {
  const ToolResult result = exec_tool({"/bin/sh", "-c", "echo out; echo err >&2"}, soon());
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.out, "out\n");
  EXPECT_EQ(result.err, "err\n");
}

TEST(ExecToolTest, ReportsExitCodes) { EXPECT_EQ(exec_tool({"/bin/sh", "-c", "exit 7"}, soon()).status, (ExitStatus{7, 0})); }

TEST(ExecToolTest, ReportsSignals) {
  const ExitStatus status = exec_tool({"/bin/sh", "-c", "kill -TERM $$"}, soon()).status;
  EXPECT_EQ(status, (ExitStatus{-1, SIGTERM}));
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(to_string(status), "signal 15 (Terminated)");
}

TEST(ExecToolTest, ArgumentsReachTheProgramUnchanged) {
  const std::vector<std::string> words = {"two words", "'single' \"double\"", "line\nbreak", "$HOME `id` $(id)", "*", "", "\\",
                                          "\xff"};
  std::vector<std::string> argv = {"/usr/bin/printf", "%s\\0"};
  argv.insert(argv.end(), words.begin(), words.end());
  std::string expected;
  for (const std::string& word : words) expected += word + '\0';
  EXPECT_EQ(exec_tool(argv, soon()).out, expected);
}

TEST(ExecToolTest, KeepsLargeOutput) { EXPECT_EQ(output_of_shell("head -c 3000000 /dev/zero").size(), 3000000U); }

TEST(ExecToolTest, StandardInputIsEmpty) { EXPECT_EQ(output_of_shell("cat; echo end"), "end\n"); }

TEST(ExecToolTest, EnvironmentIsAddedAndReplaced) {
  ::setenv("VMTEST_PROCESS_TEST", "old", 1);
  const ToolResult result = exec_tool({"/bin/sh", "-c", "echo $VMTEST_PROCESS_TEST,$VMTEST_OTHER,$PATH"}, soon(),
                                      {{"VMTEST_PROCESS_TEST", "new"}, {"VMTEST_OTHER", "a b"}});
  ::unsetenv("VMTEST_PROCESS_TEST");
  EXPECT_EQ(result.out, std::string("new,a b,") + std::getenv("PATH") + "\n");
}

TEST(ExecToolTest, DeadlineKills) {
  const Deadline start = Deadline::after(0s);
  const std::string text = message<Timeout>([] {
    (void)exec_tool({"/bin/sh", "-c", "echo last words >&2; sleep 60"}, Deadline::after(100ms));
  });
  EXPECT_EQ(text, "gave up waiting for: /bin/sh -c 'echo last words >&2; sleep 60'\n  last words");
  EXPECT_LT(Deadline::Clock::now() - start.time_point(), 10s);
}

TEST(ExecToolTest, DeadlineKillsAProgramThatNeverStopsPrinting) {
  EXPECT_THROW((void)exec_tool({"yes"}, Deadline::after(100ms)), Timeout);
}

TEST(ExecToolTest, DeadlineKillsAProgramThatClosedItsStreams) {
  EXPECT_THROW((void)exec_tool({"/bin/sh", "-c", "exec >&- 2>&-; sleep 60"}, Deadline::after(100ms)), Timeout);
}

TEST(ExecToolTest, DoesNotWaitForADaemonThatHoldsTheStreams) {
  // With --fork the daemon is in its own session, away from the group that ends with the tool, by the time it prints.
  const ToolResult result =
      exec_tool({"/bin/sh", "-c", "setsid --fork sh -c 'echo $$; exec sleep 60' | { read pid; echo $pid; }"}, soon());
  const pid_t daemon = std::atoi(result.out.c_str());
  ASSERT_GT(daemon, 0) << result.out << result.err;
  EXPECT_FALSE(is_gone(daemon));
  ::kill(daemon, SIGKILL);
}

TEST(ExecToolTest, MissingProgramIsNamed) {
  EXPECT_EQ(message<std::system_error>([] { (void)exec_tool({"/no/such/program"}, soon()); }),
            "cannot start /no/such/program: No such file or directory");
  EXPECT_EQ(message<std::system_error>([] { (void)exec_tool({"no-such-program"}, soon()); }),
            "cannot start no-such-program: it is not in PATH: No such file or directory");
}

TEST(ExecToolTest, FileThatIsNoProgramIsNamed) {
  const TemporaryDirectory folder;
  write_file(folder.path() / "text", "no program", 0755);
  EXPECT_NE(
      message<std::system_error>([&] { (void)exec_tool({folder.path() / "text"}, soon()); }).find("text: Exec format error"),
      std::string::npos);
  EXPECT_NE(message<std::system_error>([] { (void)exec_tool({"/etc/passwd"}, soon()); }).find("/etc/passwd: Permission denied"),
            std::string::npos);
}

TEST(ExecToolTest, NoProgramAtAllIsAnError) { EXPECT_THROW((void)exec_tool({}, soon()), Error); }

TEST(RunToolTest, FailureShowsCommandStatusAndStderr) {
  EXPECT_EQ(message<Error>([] {
              run_tool({"/bin/sh", "-c", "echo why >&2; exit 3"}, soon());
            }),
            "command failed with exit code 3: /bin/sh -c 'echo why >&2; exit 3'\n  why");
}

TEST(RunToolTest, FailureWithoutStderrShowsStdout) {
  EXPECT_NE(message<Error>([] { run_tool({"/bin/sh", "-c", "echo why; exit 3"}, soon()); }).find("\n  why"), std::string::npos);
}

TEST(ChildProcessTest, HasAProcessGroupOfItsOwn) {
  const ChildProcess child = ChildProcess::start({.argv = {"sleep", "60"}});
  EXPECT_EQ(::getpgid(child.pid()), child.pid());
}

TEST(ChildProcessTest, InheritsNoDescriptorButThoseGiven) {
  // Whatever this layer opens is close-on-exec, so a child sees its three streams, and what `ls` opens to look.
  make_inherited_close_on_exec();
  const TemporaryDirectory folder;
  const FileDescriptor file = open_file(folder.path() / "file", O_RDWR | O_CREAT);
  const Pipe pipe = make_pipe();
  const FileDescriptor copy = file.duplicate();
  const ChildProcess other = ChildProcess::start({.argv = {"sleep", "60"}});
  EXPECT_EQ(exec_tool({"ls", "/proc/self/fd"}, soon()).out, "0\n1\n2\n3\n");
}

TEST(ChildProcessTest, PassesDescriptorsToGivenNumbers) {
  Pipe out = make_pipe();
  Pipe first = make_pipe();
  ChildProcess child =
      ChildProcess::start({.argv = {"/bin/sh", "-c", "echo to five >&5"}, .pass_descriptors = {{first.write_end.get(), 5}}});
  first.write_end.reset();
  EXPECT_EQ(child.wait(soon()), (ExitStatus{0, 0}));
  EXPECT_EQ(read_file("/dev/fd/" + std::to_string(first.read_end.get())), "to five\n");
}

TEST(ChildProcessTest, PassesDescriptorsThatOverlap) {
  // Each wants the number that the other has here.
  Pipe one = make_pipe();
  Pipe two = make_pipe();
  ChildProcess child = ChildProcess::start(
      {.argv = {"/bin/sh", "-c", "eval \"echo one >&$0; echo two >&$1\"", std::to_string(two.write_end.get()),
                std::to_string(one.write_end.get())},
       .pass_descriptors = {{one.write_end.get(), two.write_end.get()}, {two.write_end.get(), one.write_end.get()}}});
  one.write_end.reset();
  two.write_end.reset();
  EXPECT_EQ(child.wait(soon()), (ExitStatus{0, 0}));
  EXPECT_EQ(read_file("/dev/fd/" + std::to_string(one.read_end.get())), "one\n");
  EXPECT_EQ(read_file("/dev/fd/" + std::to_string(two.read_end.get())), "two\n");
}

TEST(ChildProcessTest, PassesDescriptorsOverThePipeThatReportsFailures) {
  // That pipe has one of the first free numbers; a range of wanted ones covers it.
  const FileDescriptor file = open_file("/dev/null", O_RDWR);
  std::vector<std::pair<int, int>> all;
  for (int number = 3; number < 20; ++number) all.emplace_back(file.get(), number);
  ChildProcess child = ChildProcess::start({.argv = {"true"}, .pass_descriptors = all});
  EXPECT_EQ(child.wait(soon()), (ExitStatus{0, 0}));
  EXPECT_THROW((void)ChildProcess::start({.argv = {"/no/such/program"}, .pass_descriptors = all}), std::system_error);
}

TEST(ChildProcessTest, StandardStreamsMayBeAnyDescriptor) {
  Pipe pipe = make_pipe();
  ChildProcess child = ChildProcess::start({.argv = {"/bin/sh", "-c", "echo out; echo err >&2"},
                                            .standard_output = pipe.write_end.get(),
                                            .standard_error = pipe.write_end.get()});
  pipe.write_end.reset();
  EXPECT_EQ(child.wait(soon()), (ExitStatus{0, 0}));
  EXPECT_EQ(read_file("/dev/fd/" + std::to_string(pipe.read_end.get())), "out\nerr\n");
}

TEST(ChildProcessTest, RunsInTheGivenFolder) {
  const TemporaryDirectory folder;
  ChildProcess child = ChildProcess::start({.argv = {"touch", "here"}, .working_directory = folder.path()});
  EXPECT_EQ(child.wait(soon()), (ExitStatus{0, 0}));
  EXPECT_TRUE(fs::exists(folder.path() / "here"));
}

TEST(ChildProcessTest, MissingFolderIsAnError) {
  EXPECT_THROW((void)ChildProcess::start({.argv = {"true"}, .working_directory = "/no/such/folder"}), std::system_error);
}

TEST(ChildProcessTest, StartsWithoutBlockedOrIgnoredSignals) {
  ::signal(SIGUSR1, SIG_IGN);
  sigset_t set;
  sigset_t before;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  ::pthread_sigmask(SIG_BLOCK, &set, &before);
  const std::string seen = exec_tool({"grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"}, soon()).out;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::signal(SIGUSR1, SIG_DFL);
  EXPECT_EQ(seen, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

TEST(ChildProcessTest, WaitEndsAtItsDeadline) {
  ChildProcess child = ChildProcess::start({.argv = {"sleep", "60"}});
  EXPECT_FALSE(child.wait(Deadline::after(20ms)));
  EXPECT_TRUE(child.running());
}

TEST(ChildProcessTest, SignalReachesTheChild) {
  ChildProcess child = ChildProcess::start({.argv = {"sleep", "60"}});
  child.signal(SIGTERM);
  EXPECT_EQ(child.wait(soon()), (ExitStatus{-1, SIGTERM}));
  EXPECT_FALSE(child.running());
  child.signal(SIGTERM);  // does nothing
}

TEST(ChildProcessTest, StatusStays) {
  ChildProcess child = ChildProcess::start({.argv = {"false"}});
  EXPECT_EQ(child.wait(soon()), (ExitStatus{1, 0}));
  EXPECT_EQ(child.poll(), (ExitStatus{1, 0}));
  child.kill_group();
  EXPECT_EQ(child.poll(), (ExitStatus{1, 0}));
}

TEST(ChildProcessTest, PidfdTellsTheEnd) {
  const ChildProcess child = ChildProcess::start({.argv = {"true"}});
  EXPECT_TRUE(wait_readable(child.pidfd(), soon()));
}

TEST(ChildProcessTest, DestructionKillsTheGroupAndReaps) {
  Pipe pipe = make_pipe();
  pid_t grandchild = -1;
  pid_t pid = -1;
  {
    const ChildProcess child =
        ChildProcess::start({.argv = {"/bin/sh", "-c", "sleep 60 & echo $!; wait"}, .standard_output = pipe.write_end.get()});
    pid = child.pid();
    grandchild = read_number(pipe);
    ASSERT_GT(grandchild, 0);
  }
  EXPECT_EQ(::kill(pid, 0), -1) << "it is not reaped";
  EXPECT_TRUE(wait_until([&] { return is_gone(grandchild); }, soon()));
}

TEST(ChildProcessTest, GroupEndsWithItsLeader) {
  Pipe pipe = make_pipe();
  ChildProcess child =
      ChildProcess::start({.argv = {"/bin/sh", "-c", "sleep 60 & echo $!"}, .standard_output = pipe.write_end.get()});
  const pid_t grandchild = read_number(pipe);
  ASSERT_GT(grandchild, 0);
  EXPECT_EQ(child.wait(soon()), (ExitStatus{0, 0}));
  EXPECT_TRUE(wait_until([&] { return is_gone(grandchild); }, soon()));
}

TEST(ChildProcessTest, MoveAssignmentKeepsBothAlive) {
  ChildProcess first = ChildProcess::start({.argv = {"sleep", "60"}});
  const pid_t pid = first.pid();
  ChildProcess second;
  second = std::move(first);
  EXPECT_EQ(second.pid(), pid);
  EXPECT_TRUE(second.running());
}

TEST(ChildProcessTest, KillingAChildThatSomebodyElseReapedDoesNothing) {
  ChildProcess child = ChildProcess::start({.argv = {"true"}});
  ASSERT_EQ(::waitpid(child.pid(), nullptr, 0), child.pid());
  EXPECT_EQ(child.poll(), (ExitStatus{-1, 0}));
}

TEST(ChildProcessTest, AdoptsOrphansWhenAskedTo) {
  // Prints the parent of a process whose own has ended, and itself.
  const std::string script =
      "orphan=$(sh -c 'sleep 60 > /dev/null & echo $!'); cut -d ' ' -f 4 /proc/$orphan/stat; echo $$; kill $orphan";
  for (const bool adopts : {true, false}) {
    const Pipe pipe = make_pipe();
    ChildProcess child =
        ChildProcess::start({.argv = {"sh", "-c", script}, .standard_output = pipe.write_end.get(), .adopts_orphans = adopts});
    const pid_t parent = read_number(pipe);
    const pid_t shell = read_number(pipe);
    EXPECT_GT(parent, 0);
    EXPECT_EQ(parent == shell, adopts);
    EXPECT_EQ(shell, child.pid());
    ASSERT_TRUE(child.wait(soon()));
  }
}

/// A process in which to start children, so that it can be killed. Tells their pid on a pipe.
class ParentDeathTest : public ::testing::Test {
 protected:
  /// Starts `sleep` as a grandchild and returns its pid.
  pid_t start_grandchild(ParentDeath parent_death) {
    const Pipe pipe = make_pipe();
    parent_ = ::fork();
    if (parent_ == 0) {
      const ChildProcess child = ChildProcess::start({.argv = {"sleep", "60"}, .parent_death = parent_death});
      write_all(pipe.write_end.get(), std::to_string(child.pid()) + "\n");
      for (;;) ::pause();
    }
    return read_number(pipe);
  }
  void kill_parent() {
    ::kill(parent_, SIGKILL);
    ::waitpid(parent_, nullptr, 0);
  }

  pid_t parent_ = -1;
};

TEST_F(ParentDeathTest, ChildDiesWithItsKilledParent) {
  const pid_t child = start_grandchild(ParentDeath::Kill);
  ASSERT_GT(child, 0);
  EXPECT_FALSE(is_gone(child));
  kill_parent();
  EXPECT_TRUE(wait_until([&] { return is_gone(child); }, soon()));
}

TEST_F(ParentDeathTest, ChildLivesOnWhenAskedTo) {
  const pid_t child = start_grandchild(ParentDeath::Ignore);
  ASSERT_GT(child, 0);
  kill_parent();
  EXPECT_FALSE(wait_until([&] { return is_gone(child); }, Deadline::after(100ms)));
  ::kill(child, SIGKILL);
}

TEST(ProcessTest, FindsProgramsInPath) {
  EXPECT_TRUE(find_program("sh"));
  EXPECT_TRUE(find_program("sh")->is_absolute());
  EXPECT_FALSE(find_program("no-such-program"));
}

TEST(ProcessTest, FindsToolsOfAdministrators) {
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", "/nowhere", 1);
  const auto found = find_program("ldconfig");
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_TRUE(found);
}

TEST(ProcessTest, StartTimeNamesAProcess) {
  const auto first = process_start_time(::getpid());
  ASSERT_TRUE(first);
  EXPECT_EQ(process_start_time(::getpid()), first);
  EXPECT_EQ(process_start_time(0), std::nullopt);
}

TEST(ProcessTest, ProcessWhoseFirstThreadEndedRunsOn) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::thread([] { ::pause(); }).detach();
    ::syscall(SYS_exit, 0);  // this thread alone
  }
  const auto state = [child] {
    const std::string stat = read_file("/proc/" + std::to_string(child) + "/stat");
    return stat.at(stat.rfind(')') + 2);
  };
  EXPECT_TRUE(wait_until([&] { return state() == 'Z'; }, Deadline::after(10s)));
  EXPECT_TRUE(process_start_time(child)) << "its files are open";
  ::kill(child, SIGKILL);
  EXPECT_TRUE(wait_until([&] { return !process_start_time(child); }, Deadline::after(10s)));
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
}

TEST(ProcessTest, StartTimeIsReadBehindAnyName) {
  const TemporaryDirectory folder;
  fs::copy_file("/bin/sleep", folder.path() / "a) b (c");
  const ChildProcess child = ChildProcess::start({.argv = {folder.path() / "a) b (c", "60"}});
  const auto start = process_start_time(child.pid());
  ASSERT_TRUE(start);
  EXPECT_GE(*start, process_start_time(::getpid()));
}

TEST(ProcessTest, FormatCommandQuotesWhereNeeded) {
  EXPECT_EQ(format_command({"ls", "-l", "two words", "it's", "", "a\"b", "$x"}), "ls -l 'two words' 'it'\\''s' '' 'a\"b' '$x'");
}

TEST(ProcessTest, FormatCommandIsUnderstoodByAShell) {
  const std::vector<std::string> argv = {"printf", "%s|", "a b", "it's", "", "$HOME", "x\ny", "a\tb", "~", "a&b"};
  EXPECT_EQ(output_of_shell(format_command(argv)), "a b|it's||$HOME|x\ny|a\tb|~|a&b|");
}

class OwnProgramTest : public ::testing::Test {
 protected:
  void SetUp() override { write_file(folder_.path() / "own-tool", "#!/bin/sh\n", 0755); }
  void TearDown() override { ::unsetenv("VMTEST_OWN_TOOL"); }

  TemporaryDirectory folder_;
};

TEST_F(OwnProgramTest, IsWhereTheVariableSays) {
  ::setenv("VMTEST_OWN_TOOL", (folder_.path() / "own-tool").c_str(), 1);
  EXPECT_EQ(find_own_program("own-tool", "VMTEST_OWN_TOOL", {"/elsewhere"}), folder_.path() / "own-tool");
}

TEST_F(OwnProgramTest, IsInOneOfTheGivenPlaces) {
  EXPECT_EQ(find_own_program("own-tool", "VMTEST_OWN_TOOL", {"/elsewhere", folder_.path()}), folder_.path() / "own-tool");
}

TEST_F(OwnProgramTest, WrongVariableIsAnErrorNotASearch) {
  ::setenv("VMTEST_OWN_TOOL", "/no/such/tool", 1);
  EXPECT_NE(message<Error>([&] {
              (void)find_own_program("own-tool", "VMTEST_OWN_TOOL", {folder_.path()});
            }).find("VMTEST_OWN_TOOL names /no/such/tool, which cannot be executed"),
            std::string::npos);
}

TEST_F(OwnProgramTest, MissingOneNamesAllPlaces) {
  const std::string text = message<Error>([] { (void)find_own_program("no-tool", "VMTEST_OWN_TOOL", {"/elsewhere"}); });
  EXPECT_NE(text.find("set VMTEST_OWN_TOOL to it"), std::string::npos);
  EXPECT_NE(text.find("/elsewhere/no-tool"), std::string::npos);
}

}  // namespace
}  // namespace vmtest
