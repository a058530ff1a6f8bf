// The life cycle: states, order, ends, and that nothing is left.

#include <algorithm>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "contract_fixture.h"
#include "host_cards.h"
#include "vmtest/host/ledger.h"
#include "vmtest/host/socket.h"

namespace vmtest::contract {

TEST_P(DriverContract, EveryCapabilityHasAnAnswerWithAReason) {
  for (const Capability capability : all_capabilities()) {
    const Support support = driver_->support(capability);
    EXPECT_EQ(support.supported(), support.why.empty()) << to_string(capability);
  }
}

TEST_P(DriverContract, FacetsAreThereWhereTheyAreClaimed) {
  EXPECT_EQ(driver_->templates() != nullptr, driver_->support(Capability::Snapshot).supported());
  EXPECT_EQ(driver_->hotplug() != nullptr, driver_->support(Capability::DiskHotplug).supported());
  EXPECT_EQ(driver_->migration() != nullptr, driver_->support(Capability::LiveMigration).supported());
  EXPECT_EQ(driver_->resizing() != nullptr, driver_->support(Capability::MemoryHotplug).supported());
  EXPECT_EQ(driver_->inspection() != nullptr, driver_->support(Capability::Counters).supported());
}

TEST_P(DriverContract, PreparedVmHasItsFoldersAndNothingRuns) {
  const VmHandle vm = prepare();
  EXPECT_EQ(driver_->state(vm), VmState::Prepared);
  EXPECT_EQ(vm.driver, driver_->kind());
  EXPECT_EQ(vm.name, "probe");
  EXPECT_EQ(vm.id.rfind(std::string(to_string(vm.driver)) + "-", 0), 0U) << vm.id;
  EXPECT_EQ(vm.work_dir, folder_.path() / "vms" / "probe");
  EXPECT_EQ(fs::status(vm.work_dir).permissions(), fs::perms::owner_all);
  EXPECT_EQ(fs::status(vm.runtime_dir).permissions(), fs::perms::owner_all);
  EXPECT_EQ(parse_vm_handle(read_file(vm.work_dir / "handle.json")), vm);
  EXPECT_EQ(driver_->wait_exit(vm, 0ms), std::nullopt);
}

TEST_P(DriverContract, GoesThroughItsLife) {
  const VmHandle vm = start();
  EXPECT_EQ(driver_->state(vm), VmState::Running);
  if (pauses()) {
    (void)driver_->suspend(vm);
    EXPECT_EQ(driver_->state(vm), VmState::Suspended);
    (void)driver_->resume(vm);
    EXPECT_EQ(driver_->state(vm), VmState::Running);
  }
  (void)driver_->stop(vm, 500ms);
  EXPECT_EQ(driver_->state(vm), VmState::Stopped);
  const auto exit = driver_->wait_exit(vm, 0ms);
  ASSERT_TRUE(exit);
  EXPECT_TRUE(exit->orderly) << exit->how;
}

TEST_P(DriverContract, PausesOrSaysThatItCannot) {
  const VmHandle vm = start();
  if (pauses()) {
    (void)driver_->suspend(vm);
    EXPECT_EQ(driver_->state(vm), VmState::Suspended);
    (void)driver_->resume(vm);
  } else {
    EXPECT_THROW((void)driver_->suspend(vm), Unsupported);
  }
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

TEST_P(DriverContract, StartsAgain) {
  const VmHandle vm = start();
  (void)driver_->stop(vm, 0ms);
  (void)driver_->start(vm, machine());
  EXPECT_EQ(driver_->state(vm), VmState::Running);
  EXPECT_EQ(driver_->wait_exit(vm, 0ms), std::nullopt);
}

TEST_P(DriverContract, CallsOutOfOrderAreErrorsAndChangeNothing) {
  const std::map<std::string, std::pair<std::vector<VmState>, std::function<void(const VmHandle&)>>> calls = {
      {"start", {{VmState::Prepared, VmState::Stopped}, [&](const VmHandle& vm) { (void)driver_->start(vm, machine()); }}},
      {"stop",
       {{VmState::Running, VmState::Suspended, VmState::Failed}, [&](const VmHandle& vm) { (void)driver_->stop(vm, 0ms); }}},
      {"suspend", {{VmState::Running}, [&](const VmHandle& vm) { (void)driver_->suspend(vm); }}},
      {"resume", {{VmState::Suspended}, [&](const VmHandle& vm) { (void)driver_->resume(vm); }}},
  };
  for (const VmState state : resting_states()) {
    const VmHandle vm = in(state);
    for (const auto& [name, call] : calls) {
      const auto& [allowed, make] = call;
      if (std::find(allowed.begin(), allowed.end(), state) != allowed.end()) continue;
      const std::string why = failure_of([&, &attempt = make] { attempt(vm); });
      EXPECT_NE(why.find(to_string(state)), std::string::npos) << name << " in state " << to_string(state) << ": " << why;
      EXPECT_EQ(driver_->state(vm), state) << name;
    }
    driver_->destroy(vm);
  }
}

TEST_P(DriverContract, DestroyedInAnyStateNothingIsLeft) {
  for (const VmState state : resting_states()) {
    // One that no other VM of this host chooses: those of tests that run beside would take the usual one as soon as it is free.
    if (GetParam().nic != NicKind::Tap && GetParam().has_ssh_port) ssh_port_ = ephemeral_port();
    const VmHandle vm = in(state);
    std::vector<pid_t> processes;
    if (state != VmState::Destroyed) processes = GetParam().processes(vm);
    const unsigned tap = vm.gateway.empty() ? 0 : card_with(vm.gateway);
    EXPECT_TRUE(state != VmState::Running || (tap != 0) == (GetParam().nic == NicKind::Tap)) << vm.gateway;
    driver_->destroy(vm);
    EXPECT_TRUE(tap == 0 || wait_until([&] { return !is_card(tap); }, soon())) << vm.gateway << " from " << to_string(state);
    EXPECT_EQ(driver_->state(vm), VmState::Destroyed);
    EXPECT_FALSE(fs::exists(vm.work_dir)) << to_string(state);
    EXPECT_FALSE(fs::exists(vm.runtime_dir)) << to_string(state);
    for (const pid_t pid : processes)
      EXPECT_TRUE(wait_until([&] { return !process_start_time(pid); }, soon())) << pid << " runs on from " << to_string(state);
    if (vm.ssh_port != 0) {
      EXPECT_TRUE(port_is_free(vm.ssh_port));
      const auto held = Ledger().ports();
      EXPECT_EQ(std::count(held.begin(), held.end(), vm.ssh_port), 0);
    }
    EXPECT_NO_THROW(driver_->destroy(vm)) << "the second time";
    EXPECT_TRUE(driver_->wait_exit(vm, 0ms)) << "nothing to wait for";
  }
}

TEST_P(DriverContract, ConsoleIsKeptAndTalkedTo) {
  MachineConfig printing = GetParam().greeting.empty() ? machine() : GetParam().printing;
  printing.nics = machine().nics;
  const VmHandle vm = driver_->start(prepare(), printing);
  const ConsoleEndpoint console = driver_->console_endpoint(vm);
  const auto log_has = [&](const std::string& text) { return read_file(console.log).find(text) != std::string::npos; };
  EXPECT_TRUE(wait_until([&] { return log_has(GetParam().greeting); }, soon())) << read_file(console.log);
  if (console.kind != ConsoleEndpoint::Kind::UnixSocket) return;
  const FileDescriptor line = connect_unix(console.address);
  if (!GetParam().echoes) return;
  send_message(line.get(), "typed\n");
  std::string heard;
  std::vector<FileDescriptor> none;
  while (heard.find("typed") == std::string::npos && wait_readable(line.get(), soon()) && receive_some(line.get(), heard, none)) {
  }
  EXPECT_NE(heard.find("typed"), std::string::npos) << heard;
  EXPECT_TRUE(wait_until([&] { return log_has("typed"); }, soon())) << read_file(console.log);
}

TEST_P(DriverContract, RefusedMachineShowsTheHypervisorsWords) {
  if (GetParam().refusal.empty()) GTEST_SKIP() << "there is no machine that it refuses, or it does not say why";
  const VmHandle vm = prepare();
  const std::string why = failure_of([&] { (void)driver_->start(vm, GetParam().bad_machine); });
  EXPECT_NE(why.find(GetParam().refusal), std::string::npos) << why;
  EXPECT_EQ(driver_->state(vm), VmState::Failed);
  (void)driver_->stop(vm, 0ms);
  (void)driver_->start(vm, machine());
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

TEST_P(DriverContract, SeveralVmsLiveSideBySide) {
  if (!GetParam().one_at_a_time.empty()) GTEST_SKIP() << GetParam().one_at_a_time;
  std::vector<std::thread> threads;
  std::vector<VmHandle> vms;
  for (int i = 0; i < 4; ++i) vms.push_back(prepare("side-" + std::to_string(i)));
  for (const VmHandle& vm : vms) {
    threads.emplace_back([&, vm] {
      (void)driver_->start(vm, machine());
      if (pauses()) {
        (void)driver_->suspend(vm);
        (void)driver_->resume(vm);
      }
      (void)driver_->stop(vm, 0ms);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const VmHandle& vm : vms) EXPECT_EQ(driver_->state(vm), VmState::Stopped);
}

INSTANTIATE_TEST_SUITE_P(Of, DriverContract, ::testing::ValuesIn(subjects()),
                         [](const ::testing::TestParamInfo<Subject>& subject) { return subject.param.name; });

}  // namespace vmtest::contract
