// The real supervisor program, with ordinary programs in place of hypervisors.

#include "vmtest/supervisor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/ledger.h"
#include "vmtest/host/socket.h"
#include "wait.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;
using testing::wait_until;
namespace fs = std::filesystem;

/// What the end of an owner may take until nothing of its VM is left.
constexpr std::chrono::seconds kCleanUpTime{2};

Deadline soon() { return Deadline::after(20s); }

/// Whether a process has ended, be it reaped or not.
bool is_gone(pid_t pid) {
  try {
    const std::string stat = read_file("/proc/" + std::to_string(pid) + "/stat");
    return stat.compare(stat.rfind(')') + 1, 2, " Z") == 0;
  } catch (const std::system_error&) {
    return true;
  }
}

/// The message of the error that `action` throws.
template <typename Action>
std::string message(Action action) {
  try {
    action();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

/// Processes whose command line names `text`.
std::vector<pid_t> processes_naming(const std::string& text) {
  std::vector<pid_t> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const int pid = std::atoi(entry.path().filename().c_str());
    if (pid <= 0 || pid == ::getpid()) continue;
    try {
      if (read_file(entry.path() / "cmdline").find(text) != std::string::npos) found.push_back(pid);
    } catch (const std::system_error&) {  // it has ended
    }
  }
  return found;
}

class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override { fs::create_directory(folder_.path() / "vms"); }
  void TearDown() override {
    if (owner_ > 0) kill_owner();
  }

  [[nodiscard]] fs::path work_dir() const { return folder_.path() / "vms" / "vm"; }
  [[nodiscard]] fs::path runtime_dir() const { return folder_.path() / "run"; }
  [[nodiscard]] fs::path evidence() const { return folder_.path() / "evidence" / "vm"; }
  [[nodiscard]] fs::path socket() const { return runtime_dir() / "supervisor.sock"; }
  [[nodiscard]] SupervisorOptions options() const { return {"vm", work_dir(), runtime_dir(), folder_.path() / "evidence"}; }
  [[nodiscard]] std::shared_ptr<SupervisorConnection> start() const { return SupervisorConnection::start(options()); }
  /// No folder and no process of the VM is left.
  [[nodiscard]] bool nothing_is_left() const {
    return !fs::exists(work_dir()) && !fs::exists(runtime_dir()) && processes_naming(folder_.path()).empty();
  }
  /// Waits for a file to have a first line, and gives it as a number.
  [[nodiscard]] static pid_t number_in(const fs::path& file) {
    (void)wait_until([&] { return read_file_tail(file, 100).find('\n') != std::string::npos; }, soon());
    return std::atoi(read_file_tail(file, 100).c_str());
  }
  /// Runs `body` in another process, which then waits to be killed. True when it came through.
  bool start_owner(const std::function<void()>& body) {
    Pipe ready = make_pipe();
    owner_ = ::fork();
    if (owner_ == 0) {
      try {
        body();
        write_all(ready.write_end.get(), "x");
      } catch (const std::exception& error) {
        std::fprintf(stderr, "the owner: %s\n", error.what());
        ::_exit(1);
      }
      for (;;) ::pause();
    }
    ready.write_end.reset();
    char c = 0;
    return wait_readable(ready.read_end.get(), soon()) && ::read(ready.read_end.get(), &c, 1) == 1;
  }
  void kill_owner() {
    ::kill(owner_, SIGKILL);
    ::waitpid(owner_, nullptr, 0);
    owner_ = -1;
  }

  TemporaryDirectory folder_;
  pid_t owner_ = -1;
};

/// A process that runs a script; a path named in it, be it in a comment, is found by processes_naming().
SupervisedProcess shell(const std::string& script, const std::string& name = "hypervisor") {
  return {name, {"/bin/sh", "-c", script}, name + ".log"};
}

/// Starts a daemon that tells its pid, and goes on when that has left the group, which ends with the script.
const std::string kStartDaemon =
    "setsid --fork sh -c 'echo $$ > daemon.txt; exec sleep 60'; until [ -s daemon.txt ]; do sleep 0.01; done";

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

TEST_F(SupervisorTest, ClosingTheConnectionWithoutAGoodbyeEndsTheVm) {
  auto vm = start();
  vm->spawn(shell("sleep 60 # " + folder_.path().string()));
  vm.reset();
  EXPECT_TRUE(wait_until([&] { return nothing_is_left(); }, Deadline::after(kCleanUpTime)));
  EXPECT_TRUE(fs::exists(evidence() / "end.txt"));
}

TEST_F(SupervisorTest, NothingOutlivesAKilledOwner) {
  ASSERT_TRUE(start_owner([&] {
    auto* vm = new auto(start());
    (*vm)->spawn(shell("sleep 60 # " + folder_.path().string()));
    (*vm)->spawn(shell(kStartDaemon, "companion"));
  }));
  const pid_t daemon = number_in(work_dir() / "daemon.txt");
  ASSERT_GT(daemon, 0);
  kill_owner();
  EXPECT_TRUE(wait_until([&] { return nothing_is_left() && is_gone(daemon); }, Deadline::after(kCleanUpTime)));
}

TEST_F(SupervisorTest, EvidenceOfAKilledOwnerIsSavedWithoutDisks) {
  ASSERT_TRUE(start_owner([&] {
    auto* vm = new auto(start());
    (*vm)->spawn(shell("echo last words; exec sleep 60"));
    write_file(work_dir() / "spec.json", "{}");
    write_file(work_dir() / "command_line.txt", "qemu");
    write_file(work_dir() / "disk.qcow2", "data");
    write_file(work_dir() / "client_key", "secret");
  }));
  ASSERT_TRUE(wait_until([&] { return read_file_tail(work_dir() / "hypervisor.log", 100) == "last words\n"; }, soon()));
  const std::string owner = std::to_string(owner_);
  kill_owner();
  ASSERT_TRUE(wait_until([&] { return nothing_is_left(); }, Deadline::after(kCleanUpTime)));
  EXPECT_EQ(read_file(evidence() / "hypervisor.log"), "last words\n");
  EXPECT_EQ(read_file(evidence() / "spec.json"), "{}");
  EXPECT_EQ(read_file(evidence() / "command_line.txt"), "qemu");
  EXPECT_FALSE(fs::exists(evidence() / "disk.qcow2"));
  EXPECT_FALSE(fs::exists(evidence() / "client_key"));
  EXPECT_NE(read_file(evidence() / "end.txt").find("its owner, process " + owner + ", ended without a goodbye"),
            std::string::npos);
}

TEST_F(SupervisorTest, WithoutAnEvidenceFolderItJustGoes) {
  auto vm = SupervisorConnection::start({"vm", work_dir(), runtime_dir()});
  vm.reset();
  EXPECT_TRUE(wait_until([&] { return nothing_is_left(); }, Deadline::after(kCleanUpTime)));
  EXPECT_FALSE(fs::exists(folder_.path() / "evidence"));
}

TEST_F(SupervisorTest, ForkedChildOfTheOwnerDoesNotKeepTheVmAlive) {
  Pipe pipe = make_pipe();
  ASSERT_TRUE(start_owner([&] {
    auto* vm = new auto(start());
    (void)*vm;
    const pid_t child = ::fork();
    if (child == 0) {
      for (;;) ::pause();
    }
    write_all(pipe.write_end.get(), std::to_string(child) + "\n");
  }));
  char text[32] = {};
  ASSERT_GT(::read(pipe.read_end.get(), text, sizeof text - 1), 0);
  kill_owner();
  EXPECT_TRUE(wait_until([&] { return nothing_is_left(); }, Deadline::after(kCleanUpTime)));
  EXPECT_FALSE(is_gone(std::atoi(text)));
  ::kill(std::atoi(text), SIGKILL);
}

TEST_F(SupervisorTest, OwnerKilledAtAnyMomentOfTheStartLeavesNothing) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::printf("delays drawn from seed %u\n", seed);
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> delay(0, 15000);
  for (int round = 0; round < 25 && !HasFailure(); ++round) {
    owner_ = ::fork();
    if (owner_ == 0) {
      try {
        const auto vm = start();
        vm->spawn(shell("sleep 60 # " + folder_.path().string()));
        for (;;) ::pause();
      } catch (const std::exception&) {
      }
      ::_exit(1);
    }
    ::usleep(static_cast<useconds_t>(delay(random)));  // the moment drawn, no wait for something
    kill_owner();
    EXPECT_TRUE(wait_until([&] { return nothing_is_left(); }, Deadline::after(kCleanUpTime))) << "round " << round;
  }
}

TEST_F(SupervisorTest, ProcessesDieWithAKilledSupervisor) {
  const auto vm = start();
  const pid_t pid = vm->spawn(shell("exec sleep 60"));
  ::kill(vm->pid(), SIGKILL);
  EXPECT_TRUE(wait_until([&] { return is_gone(pid); }, soon()));
}

TEST_F(SupervisorTest, KilledSupervisorIsToldAtOnce) {
  const auto vm = start();
  // A daemon of the VM must not hold the connection open.
  vm->spawn(shell(kStartDaemon + "; exec sleep 60"));
  const pid_t daemon = number_in(work_dir() / "daemon.txt");
  ASSERT_GT(daemon, 0);
  std::thread killer([pid = vm->pid()] { ::kill(pid, SIGKILL); });
  const Deadline start = Deadline::after(0s);
  const std::string text = message([&] { (void)vm->wait_exit("hypervisor", 20s); });
  killer.join();
  ::kill(daemon, SIGKILL);
  EXPECT_EQ(text, "the supervisor (process " + std::to_string(vm->pid()) + ") is gone, and the VM with it");
  EXPECT_LT(Deadline::Clock::now() - start.time_point(), 5s);
  EXPECT_THROW((void)vm->status(), Error);
  vm->end();
}

TEST_F(SupervisorTest, TerminatedSupervisorEndsWithEvidence) {
  const auto vm = start();
  vm->spawn(shell("sleep 60 # " + folder_.path().string()));
  ::kill(vm->pid(), SIGTERM);
  EXPECT_TRUE(wait_until([&] { return nothing_is_left(); }, Deadline::after(kCleanUpTime)));
  EXPECT_TRUE(fs::exists(evidence() / "hypervisor.log"));
  EXPECT_NE(read_file(evidence() / "end.txt").find("was told to end by signal 15"), std::string::npos);
}

TEST_F(SupervisorTest, KeptVmLivesWithoutAnOwner) {
  ASSERT_TRUE(start_owner([&] {
    auto* vm = new auto(start());
    (*vm)->spawn(shell("exec sleep 60"));
    (*vm)->keep();
  }));
  kill_owner();
  const auto vm = SupervisorConnection::connect(socket());
  EXPECT_TRUE(wait_until([&] { return !vm->status().owned; }, soon()));
  EXPECT_TRUE(vm->status().kept);
  EXPECT_EQ(vm->status().processes.size(), 1U);
  vm->end();
  EXPECT_TRUE(nothing_is_left());
}

TEST_F(SupervisorTest, KeptVmCanBeOwnedAgain) {
  auto first = start();
  first->spawn(shell("sleep 60 # " + folder_.path().string()));
  first->keep();
  first.reset();
  auto second = SupervisorConnection::connect(socket());
  ASSERT_TRUE(wait_until([&] { return !second->status().owned; }, soon()));
  second->take_ownership();
  EXPECT_TRUE(second->status().owned);
  EXPECT_FALSE(second->status().kept);
  second.reset();
  EXPECT_TRUE(wait_until([&] { return nothing_is_left(); }, Deadline::after(kCleanUpTime)));
}

TEST_F(SupervisorTest, NewOwnerThatIsKilledTakesTheVmWithIt) {
  auto first = start();
  first->keep();
  first.reset();
  ASSERT_TRUE(start_owner([&] {
    auto* vm = new auto(SupervisorConnection::connect(socket()));
    (void)wait_until([&] { return !(*vm)->status().owned; }, soon());
    (*vm)->take_ownership();
  }));
  EXPECT_FALSE(nothing_is_left());
  kill_owner();
  EXPECT_TRUE(wait_until([&] { return nothing_is_left(); }, Deadline::after(kCleanUpTime)));
}

TEST_F(SupervisorTest, SecondOwnerIsRefused) {
  const auto owner = start();
  const auto other = SupervisorConnection::connect(socket());
  EXPECT_EQ(message([&] { other->take_ownership(); }), "the VM has an owner: process " + std::to_string(::getpid()));
  EXPECT_TRUE(owner->status().owned);
}

TEST_F(SupervisorTest, HeldLeaseIsFreeAfterTheEnd) {
  Ledger ledger(folder_.path() / "ledger", {1000, 8});
  const auto vm = start();
  {
    const auto leases = ledger.admit({{"vm", 1000, 8}}, soon());
    vm->hold("lease", leases[0].descriptor());
  }
  EXPECT_EQ(ledger.admitted().size(), 1U);
  vm->end();
  EXPECT_TRUE(ledger.admitted().empty());
}

TEST_F(SupervisorTest, HeldLeaseIsFreeAfterAKilledOwner) {
  const Ledger ledger(folder_.path() / "ledger", {1000, 8});
  ASSERT_TRUE(start_owner([&] {
    auto* vm = new auto(start());
    auto* leases = new auto(Ledger(folder_.path() / "ledger", {1000, 8}).admit({{"vm", 1000, 8}}, soon()));
    (*vm)->hold("lease", (*leases)[0].descriptor());
    (*vm)->spawn(shell("exec sleep 60"));
  }));
  EXPECT_EQ(ledger.admitted().size(), 1U);
  kill_owner();
  EXPECT_TRUE(wait_until([&] { return ledger.admitted().empty(); }, Deadline::after(kCleanUpTime)));
}

TEST_F(SupervisorTest, ObserversSeeStatusAndExits) {
  const auto owner = start();
  const pid_t pid = owner->spawn(shell("until [ -e gate ]; do sleep 0.01; done; exit 5"));
  const auto observer = SupervisorConnection::connect(socket());
  const SupervisorStatus status = observer->status();
  EXPECT_EQ(status.name, "vm");
  EXPECT_EQ(status.pid, owner->pid());
  EXPECT_TRUE(status.owned);
  EXPECT_FALSE(status.kept);
  EXPECT_EQ(status.processes.at("hypervisor"), pid);
  write_file(work_dir() / "gate", "");
  EXPECT_EQ(observer->wait_exit("hypervisor", 20s)->status.code, 5);
  EXPECT_EQ(owner->wait_exit("hypervisor", 20s)->status.code, 5);
}

TEST_F(SupervisorTest, LateObserverSeesEarlierExits) {
  const auto owner = start();
  owner->spawn(shell("echo words; exit 5"));
  EXPECT_TRUE(owner->wait_exit("hypervisor", 20s));
  const auto exit = SupervisorConnection::connect(socket())->wait_exit("hypervisor", 0s);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->status.code, 5);
  EXPECT_EQ(exit->last_words, "words");
}

TEST_F(SupervisorTest, ObserverThatLeavesEndsNothing) {
  const auto owner = start();
  (void)SupervisorConnection::connect(socket());
  EXPECT_TRUE(owner->status().owned);
}

TEST_F(SupervisorTest, ObserverMayEndTheVm) {
  const auto owner = start();
  owner->spawn(shell("exec sleep 60"));
  SupervisorConnection::connect(socket())->end();
  EXPECT_TRUE(nothing_is_left());
  EXPECT_THROW((void)owner->status(), Error);
}

TEST_F(SupervisorTest, ConnectingToNobodySaysWhere) {
  EXPECT_NE(message([&] { (void)SupervisorConnection::connect(socket()); }).find("no VM answers at " + socket().string()),
            std::string::npos);
}

/// A connection that says what it likes.
class RawConnection {
 public:
  explicit RawConnection(const fs::path& socket) : fd_(connect_unix(socket)) {}
  void send(const std::string& text) {
    try {
      send_message(fd_.get(), text);
    } catch (const std::system_error&) {  // the other end has had enough
    }
  }
  /// Whether the supervisor closes the connection.
  bool is_closed() {
    set_nonblocking(fd_.get());
    return wait_until(
        [this] {
          std::string data;
          std::vector<FileDescriptor> fds;
          return !receive_some(fd_.get(), data, fds);
        },
        soon());
  }
  /// The next answer.
  std::string receive() {
    std::string data;
    std::vector<FileDescriptor> fds;
    while (data.find('\n') == std::string::npos && wait_readable(fd_.get(), soon()) && receive_some(fd_.get(), data, fds)) {
    }
    return data;
  }
  [[nodiscard]] int get() const { return fd_.get(); }

 private:
  FileDescriptor fd_;
};

TEST_F(SupervisorTest, GarbageEndsOnlyItsConnection) {
  const auto owner = start();
  RawConnection client(socket());
  client.send("\x01\x02 no JSON\n");
  EXPECT_TRUE(client.is_closed());
  EXPECT_TRUE(owner->status().owned);
}

TEST_F(SupervisorTest, OverlongLineEndsOnlyItsConnection) {
  const auto owner = start();
  RawConnection client(socket());
  client.send(std::string(3 << 20, 'x'));
  EXPECT_TRUE(client.is_closed());
  EXPECT_TRUE(owner->status().owned);
}

TEST_F(SupervisorTest, WrongRequestsGetAReason) {
  const auto owner = start();
  RawConnection client(socket());
  client.send("{\"op\":\"dance\"}\n");
  EXPECT_NE(client.receive().find("unknown request"), std::string::npos);
  client.send("[1, 2]\n");
  EXPECT_NE(client.receive().find("\"ok\":false"), std::string::npos);
  client.send("{\"op\":\"hold\",\"name\":\"x\"}\n");
  EXPECT_NE(client.receive().find("no descriptor came with the request"), std::string::npos);
  client.send("{\"op\":\"spawn\",\"name\":\"x\",\"argv\":7}\n");
  EXPECT_NE(client.receive().find("\"ok\":false"), std::string::npos);
}

TEST_F(SupervisorTest, RequestsMayArriveInPieces) {
  const auto owner = start();
  RawConnection client(socket());
  client.send("{\"op\":");
  EXPECT_TRUE(owner->status().owned);
  client.send("\"status\"}\n{\"op\":\"status\"}\n");
  EXPECT_NE(client.receive().find("\"ok\":true"), std::string::npos);
}

TEST_F(SupervisorTest, ClientThatDoesNotReadHoldsUpNobody) {
  const auto owner = start();
  RawConnection client(socket());
  set_nonblocking(client.get());
  std::string requests;
  for (int i = 0; i < 2000; ++i) requests += "{\"op\":\"status\"}\n";
  for (int i = 0; i < 20; ++i) client.send(requests);
  EXPECT_TRUE(owner->status().owned);
  owner->end();
  EXPECT_TRUE(nothing_is_left());
}

TEST_F(SupervisorTest, ExistingWorkFolderIsRefusedAndLeftAlone) {
  fs::create_directory(work_dir());
  write_file(work_dir() / "precious", "data");
  const std::string text = message([&] { (void)start(); });
  EXPECT_NE(text.find("a VM named \"vm\" exists already in " + work_dir().string()), std::string::npos);
  EXPECT_NE(text.find("vmtest gc"), std::string::npos);
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

/// A supervisor that answers what the test wants.
class OtherSupervisorTest : public SupervisorTest {
 protected:
  void SetUp() override {
    SupervisorTest::SetUp();
    if (const char* value = std::getenv("VMTEST_SUPERVISOR")) before_ = value;
  }
  void TearDown() override {
    if (before_.empty()) ::unsetenv("VMTEST_SUPERVISOR");
    else ::setenv("VMTEST_SUPERVISOR", before_.c_str(), 1);
    SupervisorTest::TearDown();
  }
  void use(const std::string& script) {
    write_file(folder_.path() / "supervisor", "#!/bin/sh\n" + script + "\n", 0755);
    ::setenv("VMTEST_SUPERVISOR", (folder_.path() / "supervisor").c_str(), 1);
  }

  std::string before_;
};

TEST_F(OtherSupervisorTest, OfAnotherVersionIsRefused) {
  use(R"(echo '{"ok":true,"protocol":1,"version":"99.1","pid":1,"start_time":0,"ended":[]}' >&3)");
  EXPECT_NE(message([&] { (void)start(); }).find("it is of version 99.1, this library of " VMTEST_VERSION), std::string::npos);
}

TEST_F(OtherSupervisorTest, OfAnotherProtocolIsRefused) {
  use(R"(echo '{"ok":true,"protocol":99,"version":"99.1"}' >&3)");
  EXPECT_NE(message([&] { (void)start(); }).find("it is of version 99.1 and speaks another protocol"), std::string::npos);
}

TEST_F(OtherSupervisorTest, ThatTalksNonsenseIsAnError) {
  use("echo hello >&3");
  EXPECT_NE(message([&] { (void)start(); }).find("cannot make a VM with the supervisor " + folder_.path().string()),
            std::string::npos);
}

TEST_F(OtherSupervisorTest, ThatSaysNothingIsAnError) {
  use("exit 0");
  EXPECT_NE(message([&] { (void)start(); }).find("the supervisor is gone"), std::string::npos);
}

TEST_F(OtherSupervisorTest, ThatFailsIsAnError) {
  use("exit 4");
  EXPECT_NE(message([&] { (void)start(); }).find("the supervisor did not start: exit code 4"), std::string::npos);
}

TEST_F(OtherSupervisorTest, ThatIsNoProgramIsAnError) {
  write_file(folder_.path() / "supervisor", "no program", 0755);
  ::setenv("VMTEST_SUPERVISOR", (folder_.path() / "supervisor").c_str(), 1);
  EXPECT_NE(message([&] { (void)start(); }).find("cannot start the supervisor\n"), std::string::npos);
}

TEST(SupervisorProgramTest, SaysItsVersion) {
  EXPECT_EQ(exec_tool({find_supervisor(), "--version"}, soon()).out, "vmtest-supervisor " VMTEST_VERSION " protocol 1\n");
}

TEST(SupervisorProgramTest, StartedByAPersonSaysWhatItIs) {
  const ToolResult result = exec_tool({find_supervisor()}, soon());
  EXPECT_EQ(result.status.code, 2);
  EXPECT_NE(result.err.find("started by vmtest itself"), std::string::npos);
}

}  // namespace
}  // namespace vmtest
