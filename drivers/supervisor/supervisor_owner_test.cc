// Who owns a VM, who watches it, and what is left when they die.

#include "supervisor_test_support.h"

namespace vmtest {
namespace {

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
  const pid_t child = std::stoi(text);
  EXPECT_FALSE(is_gone(child));
  ::kill(child, SIGKILL);
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

}  // namespace
}  // namespace vmtest
