// A VM's life by its supervisor: folders, processes, ends.

#include "supervisor_test_support.h"

namespace vmtest {
namespace {

TEST_F(SupervisorTest, StartMakesPrivateFolders) {
  const auto vm = start();
  struct stat work {};
  struct stat run {};
  ASSERT_EQ(::stat(work_dir().c_str(), &work), 0);
  ASSERT_EQ(::stat(runtime_dir().c_str(), &run), 0);
  EXPECT_EQ(work.st_mode & 07777U, 0700U);
  EXPECT_EQ(run.st_mode & 07777U, 0700U);
  EXPECT_TRUE(fs::is_socket(socket()));
}

TEST_F(SupervisorTest, StartTellsWhoTheSupervisorIs) {
  const auto vm = start();
  EXPECT_FALSE(is_gone(vm->pid()));
  EXPECT_EQ(vm->start_time(), process_start_time(vm->pid()));
  EXPECT_NE(::getsid(vm->pid()), ::getsid(0));
}

TEST_F(SupervisorTest, RelativeFoldersCountFromHere) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_.path());
  const auto vm = SupervisorConnection::start({"vm", "vms/vm", "run", "evidence"});
  fs::current_path(before);
  EXPECT_TRUE(fs::exists(work_dir()));
  EXPECT_TRUE(fs::exists(socket()));
}

TEST_F(SupervisorTest, SpawnedProcessRunsInTheWorkFolder) {
  const auto vm = start();
  const pid_t pid = vm->spawn(shell("pwd > here.txt; exec sleep 60"));
  EXPECT_TRUE(wait_until([&] { return read_file_tail(work_dir() / "here.txt", 1000) == work_dir().string() + "\n"; }, soon()));
  EXPECT_EQ(vm->status().processes, (std::map<std::string, pid_t>{{"hypervisor", pid}}));
  EXPECT_EQ(::getpgid(pid), pid);
}

TEST_F(SupervisorTest, ExitCodeArrivesWithLastWords) {
  const auto vm = start();
  vm->spawn(shell("echo to stdout; echo to stderr >&2; exit 3"));
  const auto exit = vm->wait_exit("hypervisor", 20s);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->name, "hypervisor");
  EXPECT_EQ(exit->status, (ExitStatus{3, 0}));
  EXPECT_EQ(exit->last_words, "to stdout\nto stderr");
}

TEST_F(SupervisorTest, ProcessTakesTheNameOfOneThatHasEnded) {
  const auto vm = start();
  vm->spawn(shell("exit 3"));
  SupervisedProcess next = shell("exec sleep 60");
  next.name = "next";
  const pid_t pid = vm->spawn(next);
  ASSERT_TRUE(vm->wait_exit("hypervisor", 20s));
  vm->rename("next", "hypervisor");
  EXPECT_EQ(vm->status().processes, (std::map<std::string, pid_t>{{"hypervisor", pid}}));
  EXPECT_EQ(vm->wait_exit("hypervisor", 0ms), std::nullopt) << "of the one that had the name before";
  vm->signal("hypervisor", SIGTERM);
  const auto exit = vm->wait_exit("hypervisor", 20s);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->name, "hypervisor");
}

TEST_F(SupervisorTest, NameOfARunningProcessIsNotTaken) {
  const auto vm = start();
  const pid_t first = vm->spawn(shell("exec sleep 60"));
  SupervisedProcess next = shell("exec sleep 60");
  next.name = "next";
  const pid_t second = vm->spawn(next);
  EXPECT_THROW(vm->rename("next", "hypervisor"), Error);
  EXPECT_THROW(vm->rename("nobody", "other"), Error);
  EXPECT_EQ(vm->status().processes, (std::map<std::string, pid_t>{{"hypervisor", first}, {"next", second}}));
}

TEST_F(SupervisorTest, EndBeforeARenameIsToldUnderTheNewName) {
  const auto vm = start();
  vm->spawn(shell("exit 3"));
  SupervisedProcess next = shell("exit 4");
  next.name = "next";
  vm->spawn(next);
  ASSERT_TRUE(vm->wait_exit("hypervisor", 20s));
  ASSERT_TRUE(vm->wait_exit("next", 20s));
  vm->rename("next", "hypervisor");
  const auto exit = vm->wait_exit("hypervisor", 20s);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->name, "hypervisor");
  EXPECT_EQ(exit->status, (ExitStatus{4, 0}));
}

TEST_F(SupervisorTest, ProcessGoesWithTheOneItNeeds) {
  const auto vm = start();
  vm->spawn(shell("exec sleep 60"));
  SupervisedProcess companion = shell("echo out of paper; exit 4", "companion");
  companion.needed_by = "hypervisor";
  vm->spawn(companion);
  const auto exit = vm->wait_exit("hypervisor", 20s);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->status.signal, SIGKILL);
  ASSERT_TRUE(exit->cause);
  EXPECT_EQ(exit->cause->name, "companion");
  EXPECT_EQ(exit->cause->status, (ExitStatus{4, 0}));
  EXPECT_EQ(exit->cause->last_words, "out of paper");
}

TEST_F(SupervisorTest, ProcessOutlivesOneItNeedsThatEndsWell) {
  const auto vm = start();
  const pid_t hypervisor = vm->spawn(shell("exec sleep 60"));
  SupervisedProcess companion = shell("exit 0", "companion");
  companion.needed_by = "hypervisor";
  vm->spawn(companion);
  ASSERT_TRUE(vm->wait_exit("companion", 20s));
  EXPECT_FALSE(vm->wait_exit("hypervisor", 100ms));
  EXPECT_FALSE(is_gone(hypervisor));
}

TEST_F(SupervisorTest, WhoIsNeededNoMoreIsToldToEnd) {
  const auto vm = start();
  SupervisedProcess companion = shell("exec sleep 60", "companion");
  companion.needed_by = "hypervisor";
  vm->spawn(companion);
  vm->spawn(shell("exit 0"));
  const auto exit = vm->wait_exit("companion", 20s);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->status.signal, SIGTERM);
  EXPECT_TRUE(exit->told);
  EXPECT_FALSE(vm->wait_exit("hypervisor", 20s)->cause);
}

TEST_F(SupervisorTest, EpilogueIsOverWhenTheEndIsTold) {
  const auto vm = start();
  SupervisedProcess process = shell("exit 3");
  process.epilogue = {"/bin/sh", "-c", "sleep 0.2; echo undone > undone.txt"};
  vm->spawn(process);
  const auto exit = vm->wait_exit("hypervisor", 20s);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->status, (ExitStatus{3, 0}));
  EXPECT_EQ(read_file(work_dir() / "undone.txt"), "undone\n");
}

TEST_F(SupervisorTest, EpilogueRunsWhenTheVmIsEnded) {
  const auto vm = start();
  SupervisedProcess process = shell("exec sleep 60");
  process.epilogue = {"/bin/sh", "-c", "[ -e handle.txt ] && echo undone > " + (folder_.path() / "undone").string()};
  vm->spawn(process);
  write_file(work_dir() / "handle.txt", "");
  vm->end();
  EXPECT_EQ(read_file(folder_.path() / "undone"), "undone\n") << "before the folders went";
  EXPECT_TRUE(nothing_is_left());
}

TEST_F(SupervisorTest, EpilogueRunsWhenTheOwnerIsKilled) {
  ASSERT_TRUE(start_owner([&] {
    static const auto vm = start();
    SupervisedProcess process = shell("exec sleep 60");
    process.epilogue = {"/bin/sh", "-c", "echo undone > " + (folder_.path() / "undone").string()};
    vm->spawn(process);
  }));
  kill_owner();
  EXPECT_TRUE(wait_until([&] { return nothing_is_left() && fs::exists(folder_.path() / "undone"); }, soon()));
}

TEST_F(SupervisorTest, EpilogueThatCannotRunHoldsUpNothing) {
  const auto vm = start();
  SupervisedProcess process = shell("exit 0");
  process.epilogue = {"/nonexistent/program"};
  vm->spawn(process);
  EXPECT_TRUE(vm->wait_exit("hypervisor", 20s));
  vm->end();
  EXPECT_TRUE(nothing_is_left());
}

TEST_F(SupervisorTest, SignalOfACrashArrives) {
  const auto vm = start();
  vm->spawn(shell("kill -SEGV $$"));
  const auto exit = vm->wait_exit("hypervisor", 20s);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->status, (ExitStatus{-1, SIGSEGV}));
}

TEST_F(SupervisorTest, LastWordsAreTheEndOfALongLog) {
  const auto vm = start();
  vm->spawn(shell("seq 100000"));
  const auto exit = vm->wait_exit("hypervisor", 20s);
  ASSERT_TRUE(exit);
  EXPECT_TRUE(exit->last_words.starts_with("99986\n"));
  EXPECT_TRUE(exit->last_words.ends_with("\n100000"));
}

TEST_F(SupervisorTest, LastWordsMayBeAnyBytes) {
  const auto vm = start();
  vm->spawn(shell("printf 'a\\377\\000b\\n'; exit 1"));
  const auto exit = vm->wait_exit("hypervisor", 20s);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->status, (ExitStatus{1, 0}));
}

TEST_F(SupervisorTest, WaitForARunningProcessEndsInTime) {
  const auto vm = start();
  vm->spawn(shell("exec sleep 60"));
  EXPECT_FALSE(vm->wait_exit("hypervisor", 30ms));
}

TEST_F(SupervisorTest, ProcessNeverStartedHasNotEnded) {
  const auto vm = start();
  EXPECT_FALSE(vm->wait_exit("nobody", 30ms));
}

TEST_F(SupervisorTest, MissingProgramIsAnErrorAndTheSupervisorGoesOn) {
  const auto vm = start();
  EXPECT_EQ(message([&] {
              vm->spawn({"hypervisor", {"/no/such/program"}, "log"});
            }),
            "cannot start /no/such/program: No such file or directory");
  vm->spawn(shell("exit 0"));
  EXPECT_TRUE(vm->wait_exit("hypervisor", 20s));
}

TEST_F(SupervisorTest, RunningNameIsTaken) {
  const auto vm = start();
  vm->spawn(shell("exec sleep 60"));
  EXPECT_EQ(message([&] { vm->spawn(shell("exit 0")); }), "process \"hypervisor\" is running already");
}

TEST_F(SupervisorTest, StartedAnewReportsItsOwnEnd) {
  const auto vm = start();
  const pid_t first = vm->spawn(shell("exit 1"));
  EXPECT_TRUE(wait_until([&] { return vm->status().processes.empty(); }, soon()));
  const pid_t second = vm->spawn(shell("exit 2"));
  EXPECT_NE(first, second);
  EXPECT_EQ(vm->wait_exit("hypervisor", 20s)->status.code, 2);
}

TEST_F(SupervisorTest, EndOfTheEarlierProcessIsNotTakenForTheNewOnes) {
  // Its report lies unread in the connection while the new one is started.
  const auto vm = start();
  const pid_t first = vm->spawn(shell("exit 1"));
  ASSERT_TRUE(wait_until([&] { return ::kill(first, 0) != 0; }, soon()));
  vm->spawn(shell("exec sleep 60"));
  EXPECT_FALSE(vm->wait_exit("hypervisor", 30ms));
}

TEST_F(SupervisorTest, SignalReachesTheGroup) {
  const auto vm = start();
  vm->spawn(shell("sleep 60 & echo $! > child.txt; wait"));
  const pid_t child = number_in(work_dir() / "child.txt");
  vm->signal("hypervisor", SIGTERM);
  EXPECT_EQ(vm->wait_exit("hypervisor", 20s)->status, (ExitStatus{-1, SIGTERM}));
  EXPECT_TRUE(wait_until([&] { return is_gone(child); }, soon()));
  vm->signal("hypervisor", SIGTERM);  // does nothing
}

TEST_F(SupervisorTest, SignalToNobodyIsAnError) {
  const auto vm = start();
  EXPECT_THROW(vm->signal("nobody", SIGTERM), Error);
}

TEST_F(SupervisorTest, ProcessesGetNoDescriptorsOfTheSupervisor) {
  const auto vm = start();
  const Pipe pipe = make_pipe();
  vm->hold("pipe", pipe.write_end.get());
  vm->spawn({"ls", {"ls", "/proc/self/fd"}, "ls.log"});
  EXPECT_EQ(vm->wait_exit("ls", 20s)->last_words, "0\n1\n2\n3");
}

TEST_F(SupervisorTest, ProcessesGetTheHeldDescriptorsTheyAskFor) {
  const auto vm = start();
  Pipe pipe = make_pipe();
  vm->hold("pipe", pipe.write_end.get());
  SupervisedProcess process = shell("echo through >&7");
  process.descriptors = {{"pipe", 7}};
  vm->spawn(process);
  EXPECT_EQ(vm->wait_exit("hypervisor", 20s)->status.code, 0);
  char buffer[16] = {};
  EXPECT_EQ(::read(pipe.read_end.get(), buffer, sizeof buffer), 8);
  EXPECT_STREQ(buffer, "through\n");
}

TEST_F(SupervisorTest, ReleasedDescriptorIsClosedAndItsNameFree) {
  const auto vm = start();
  Pipe pipe = make_pipe();
  vm->hold("pipe", pipe.write_end.get());
  pipe.write_end.reset();
  vm->release("pipe");
  char buffer[1] = {};
  EXPECT_TRUE(wait_readable(pipe.read_end.get(), soon()));
  EXPECT_EQ(::read(pipe.read_end.get(), buffer, sizeof buffer), 0) << "somebody has the other end open";
  EXPECT_NO_THROW(vm->release("pipe"));
}

TEST_F(SupervisorTest, UnknownHeldDescriptorIsAnError) {
  const auto vm = start();
  SupervisedProcess process = shell("exit 0");
  process.descriptors = {{"none", 7}};
  EXPECT_EQ(message([&] { vm->spawn(process); }), "no descriptor \"none\" is held");
}

TEST_F(SupervisorTest, LogStaysInTheWorkFolder) {
  const auto vm = start();
  SupervisedProcess process = shell("echo x");
  process.log_file = "../../outside.log";
  vm->spawn(process);
  EXPECT_TRUE(vm->wait_exit("hypervisor", 20s));
  EXPECT_TRUE(fs::exists(work_dir() / "outside.log"));
}

TEST_F(SupervisorTest, EndLeavesNothing) {
  const auto vm = start();
  const pid_t pid = vm->spawn(shell("trap '' TERM; sleep 60 # " + folder_.path().string()));
  write_file(work_dir() / "disk.qcow2", "data");
  vm->end();
  EXPECT_TRUE(nothing_is_left());
  EXPECT_TRUE(is_gone(pid));
  EXPECT_TRUE(is_gone(vm->pid()));
  EXPECT_FALSE(fs::exists(evidence()));
}

TEST_F(SupervisorTest, EndMaySaveEvidence) {
  const auto vm = start();
  write_file(work_dir() / "console.log", "words");
  vm->end(SupervisorConnection::Evidence::Save);
  EXPECT_TRUE(nothing_is_left());
  EXPECT_EQ(read_file(evidence() / "console.log"), "words");
}

TEST_F(SupervisorTest, EndTwiceIsHarmless) {
  const auto vm = start();
  vm->end();
  vm->end();
  EXPECT_TRUE(nothing_is_left());
}

TEST_F(SupervisorTest, EndOfAStoppedProcessWorks) {
  const auto vm = start();
  const pid_t pid = vm->spawn(shell("exec sleep 60"));
  vm->signal("hypervisor", SIGSTOP);
  vm->end();
  EXPECT_TRUE(is_gone(pid));
}

TEST_F(SupervisorTest, RequestAfterTheEndSaysSo) {
  const auto vm = start();
  vm->end();
  EXPECT_NE(message([&] { (void)vm->status(); }).find("is gone"), std::string::npos);
  EXPECT_NE(message([&] { vm->spawn(shell("exit 0")); }).find("is gone"), std::string::npos);
}

TEST_F(SupervisorTest, DaemonsAreKilledWithTheVm) {
  const auto vm = start();
  vm->spawn(shell(kStartDaemon));
  EXPECT_TRUE(vm->wait_exit("hypervisor", 20s));
  const pid_t daemon = number_in(work_dir() / "daemon.txt");
  ASSERT_GT(daemon, 0);
  EXPECT_FALSE(is_gone(daemon));
  vm->end();
  EXPECT_TRUE(is_gone(daemon));
}

TEST_F(SupervisorTest, WhatAProcessLeavesInItsGroupEndsWithIt) {
  const auto vm = start();
  vm->spawn(shell("sleep 60 & echo $! > child.txt"));
  const pid_t child = number_in(work_dir() / "child.txt");
  EXPECT_TRUE(vm->wait_exit("hypervisor", 20s));
  EXPECT_TRUE(wait_until([&] { return is_gone(child); }, soon()));
}

TEST_F(SupervisorTest, ExistingWorkFolderIsRefusedAndLeftAlone) {
  fs::create_directory(work_dir());
  write_file(work_dir() / "precious", "data");
  const std::string text = message([&] { (void)start(); });
  EXPECT_NE(text.find("a VM named \"vm\" exists already in " + work_dir().string()), std::string::npos);
  EXPECT_NE(text.find("vmtest stop vm, or, if a crash left it, by: vmtest gc"), std::string::npos) << text;
  EXPECT_EQ(read_file(work_dir() / "precious"), "data");
  EXPECT_FALSE(fs::exists(runtime_dir()));
}

TEST_F(SupervisorTest, FileInPlaceOfTheWorkFolderIsLeftAlone) {
  write_file(work_dir(), "data");
  EXPECT_NE(message([&] { (void)start(); }).find("exists already"), std::string::npos);
  EXPECT_EQ(read_file(work_dir()), "data");
}

TEST_F(SupervisorTest, RunFolderOfAnotherVmIsLeftAlone) {
  const auto first = start();
  EXPECT_NE(message([&] {
              (void)SupervisorConnection::start({"other", folder_.path() / "vms" / "other", runtime_dir()});
            }).find("exists already: " + runtime_dir().string()),
            std::string::npos);
  EXPECT_TRUE(fs::exists(socket()));
  EXPECT_FALSE(fs::exists(folder_.path() / "vms" / "other"));
}

TEST_F(SupervisorTest, FolderThatCannotBeMadeIsAnErrorAndNothingIsLeft) {
  // A file in the way stops root as well.
  write_file(folder_.path() / "file", "");
  EXPECT_NE(message([&] {
              (void)SupervisorConnection::start({"vm", folder_.path() / "file" / "vm", runtime_dir()});
            }).find((folder_.path() / "file").string()),
            std::string::npos);
  EXPECT_NE(message([&] {
              (void)SupervisorConnection::start({"vm", work_dir(), folder_.path() / "file" / "run"});
            }).find((folder_.path() / "file").string()),
            std::string::npos);
  EXPECT_TRUE(wait_until([&] { return nothing_is_left(); }, soon()));
}

TEST_F(SupervisorTest, TooLongSocketPathIsAnErrorAndNothingIsLeft) {
  const fs::path run = folder_.path() / std::string(100, 'r');
  EXPECT_NE(message([&] {
              (void)SupervisorConnection::start({"vm", work_dir(), run});
            }).find("socket path is too long"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(run));
  EXPECT_TRUE(wait_until([&] { return nothing_is_left(); }, soon()));
}

TEST_F(SupervisorTest, HoldsNoStreamsOfItsOwnerOpen) {
  // Who reads this test's output must see its end even while the VM is kept.
  Pipe pipe = make_pipe();
  ASSERT_TRUE(start_owner([&] {
    ::dup2(pipe.write_end.get(), STDOUT_FILENO);
    ::dup2(pipe.write_end.get(), STDERR_FILENO);
    ::dup2(pipe.write_end.get(), 20);
    auto* vm = new auto(start());
    (*vm)->spawn(shell("exec sleep 60"));
    (*vm)->keep();
  }));
  pipe.write_end.reset();
  kill_owner();
  char c = 0;
  EXPECT_TRUE(wait_readable(pipe.read_end.get(), Deadline::after(5s)));
  EXPECT_EQ(::read(pipe.read_end.get(), &c, 1), 0);
  SupervisorConnection::connect(socket())->end();
}

TEST_F(SupervisorTest, ServesSeveralThreads) {
  const auto vm = start();
  vm->spawn(shell("exec sleep 60"));
  std::thread waiter([&] { EXPECT_EQ(vm->wait_exit("hypervisor", 20s)->status.signal, SIGTERM); });
  std::vector<std::thread> askers;
  for (int i = 0; i < 4; ++i) {
    askers.emplace_back([&] {
      for (int j = 0; j < 20; ++j) EXPECT_EQ(vm->status().name, "vm");
    });
  }
  for (std::thread& asker : askers) asker.join();
  vm->signal("hypervisor", SIGTERM);
  waiter.join();
}

/// A companion that counts its starts in a file and ends with 0, until it was started that often; then it serves.
SupervisedProcess server(int serves_at, const std::string& descriptor = "") {
  SupervisedProcess process = shell("echo start >> starts.txt; if [ $(wc -l < starts.txt) -ge " + std::to_string(serves_at) +
                                        " ]; then : > serving.txt; exec sleep 60; fi; exit 0",
                                    "server");
  process.needed_by = "hypervisor";
  process.restarts = true;
  if (!descriptor.empty()) process.descriptors = {{descriptor, 3}};
  return process;
}

TEST_F(SupervisorTest, WhatServesOneConnectionIsStartedAnewWithItsDescriptors) {
  const auto vm = start();
  (void)vm->spawn(shell("exec sleep 60"));
  const fs::path path = folder_.path() / "server.sock";
  {
    const FileDescriptor listener = listen_unix(path);
    vm->hold("socket", listener.get());
  }
  const pid_t first = vm->spawn(server(3, "socket"));
  vm->release("socket");
  ASSERT_TRUE(wait_until([&] { return fs::exists(work_dir() / "serving.txt"); }, soon()));
  EXPECT_EQ(read_file(work_dir() / "starts.txt"), "start\nstart\nstart\n");
  EXPECT_NE(vm->status().processes.at("server"), first);
  EXPECT_TRUE(connect_unix(path)) << "it did not get the socket again";
  // Its end is told as that of any other, and nobody keeps its socket then.
  vm->signal("hypervisor", SIGKILL);
  const auto exit = vm->wait_exit("server", 20s);
  ASSERT_TRUE(exit);
  EXPECT_TRUE(exit->told);
  EXPECT_THROW((void)connect_unix(path), std::system_error);
}

TEST_F(SupervisorTest, WhatEndsAtOnceAgainAndAgainTakesWhoNeedsItAlong) {
  const auto vm = start();
  (void)vm->spawn(shell("exec sleep 60"));
  (void)vm->spawn(server(1000));
  const auto exit = vm->wait_exit("hypervisor", 20s);
  ASSERT_TRUE(exit && exit->cause);
  EXPECT_EQ(exit->cause->name, "server");
  EXPECT_TRUE(exit->cause->status.ok());
}

}  // namespace
}  // namespace vmtest
