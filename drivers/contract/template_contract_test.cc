// VMs that are frozen, and others that go on from there.

#include "contract_fixture.h"
#include "vmtest/host/socket.h"

namespace vmtest::contract {

namespace {

std::string printed(const Driver& driver, const VmHandle& vm) { return read_file(driver.console_endpoint(vm).log); }

bool has_printed(const Driver& driver, const VmHandle& vm, const std::string& text) {
  return wait_until([&] { return printed(driver, vm).find(text) != std::string::npos; }, soon());
}

/// Types a text, and tells whether the guest repeats it.
bool repeats(const Driver& driver, const VmHandle& vm, const std::string& text) {
  const FileDescriptor line = connect_unix(driver.console_endpoint(vm).address);
  send_message(line.get(), text);
  return has_printed(driver, vm, text);
}

/// What is in the files of a frozen VM.
std::vector<std::string> contents(const fs::path& state_file, const std::optional<MemoryFile>& memory) {
  std::vector<std::string> all;
  for (const fs::path& file : files_of_state(state_file)) all.push_back(read_file(file));
  if (memory) all.push_back(read_file(memory->path));
  return all;
}

constexpr const char* kSilent = "its guest repeats nothing";

}  // namespace

TEST_P(DriverContract, FrozenVmIsStoppedAndAnotherGoesOn) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  const fs::path state = folder_.path() / "state";
  const VmHandle first = driver_->start(prepare("first"), freezable());
  driver_->templates()->save(first, state, soon());
  EXPECT_EQ(driver_->state(first), VmState::Stopped);
  const auto exit = driver_->wait_exit(first, 0ms);
  ASSERT_TRUE(exit);
  EXPECT_TRUE(exit->orderly) << exit->how;
  EXPECT_EQ(files_of_state(state).at(0), state);
  for (const fs::path& file : files_of_state(state))
    EXPECT_EQ(fs::status(file).permissions(), fs::perms::owner_read | fs::perms::owner_write) << file;
  const VmHandle second = driver_->start(prepare("second"), continued(state));
  EXPECT_EQ(driver_->state(second), VmState::Running);
  EXPECT_EQ(driver_->state(first), VmState::Stopped);
  driver_->destroy(first);
  EXPECT_EQ(driver_->state(second), VmState::Running);
}

TEST_P(DriverContract, FrozenGuestGoesOnWhereItWas) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  if (!GetParam().echoes) GTEST_SKIP() << kSilent;
  const fs::path state = folder_.path() / "state";
  const VmHandle first = driver_->start(prepare("first"), freezable());
  ASSERT_TRUE(has_printed(*driver_, first, GetParam().greeting)) << printed(*driver_, first);
  driver_->templates()->save(first, state, soon());
  const VmHandle second = driver_->start(prepare("second"), continued(state));
  EXPECT_TRUE(repeats(*driver_, second, "to the second\n")) << printed(*driver_, second);
  EXPECT_EQ(printed(*driver_, second).find(GetParam().greeting), std::string::npos) << "it has booted";
  EXPECT_EQ(printed(*driver_, first).find("to the second"), std::string::npos);
}

TEST_P(DriverContract, GuestsThatGoOnFromOneStateShareNothing) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  if (!GetParam().echoes) GTEST_SKIP() << kSilent;
  const fs::path state = folder_.path() / "state";
  const VmHandle first = driver_->start(prepare("first"), freezable());
  ASSERT_TRUE(has_printed(*driver_, first, GetParam().greeting)) << printed(*driver_, first);
  driver_->templates()->save(first, state, soon());
  const auto frozen = contents(state, freezable().memory_file);
  const VmHandle second = driver_->start(prepare("second"), continued(state));
  const VmHandle third = driver_->start(prepare("third"), continued(state));
  EXPECT_TRUE(repeats(*driver_, second, "to the second\n")) << printed(*driver_, second);
  EXPECT_TRUE(repeats(*driver_, third, "to the third\n")) << printed(*driver_, third);
  EXPECT_EQ(printed(*driver_, second).find("third"), std::string::npos);
  EXPECT_EQ(printed(*driver_, third).find("second"), std::string::npos);
  driver_->destroy(second);
  EXPECT_TRUE(repeats(*driver_, third, "are you there?\n")) << "it went with the other";
  driver_->destroy(third);
  EXPECT_TRUE(contents(state, freezable().memory_file) == frozen) << "they wrote to what others go on from";
}

TEST_P(DriverContract, SuspendedVmIsFrozenTooAndGoesOnRunning) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  const fs::path state = folder_.path() / "state";
  const VmHandle first = driver_->start(prepare("first"), freezable());
  (void)driver_->suspend(first);
  driver_->templates()->save(first, state, soon());
  EXPECT_EQ(driver_->state(first), VmState::Stopped);
  const VmHandle second = driver_->start(prepare("second"), continued(state));
  EXPECT_EQ(driver_->state(second), VmState::Running);
}

TEST_P(DriverContract, VmWithoutALivingGuestIsNotFrozen) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  const fs::path file = folder_.path() / "state";
  for (const VmState state : resting_states()) {
    if (state == VmState::Running || state == VmState::Suspended) continue;
    const VmHandle vm = in(state);
    const std::string frozen = failure_of([&] { driver_->templates()->save(vm, file, soon()); });
    EXPECT_NE(frozen.find(to_string(state)), std::string::npos) << frozen;
    const std::string written = failure_of([&] { (void)driver_->templates()->checkpoint(vm, file, {}, soon()); });
    EXPECT_NE(written.find(to_string(state)), std::string::npos) << written;
    EXPECT_EQ(driver_->state(vm), state);
    EXPECT_TRUE(files_of_state(file).empty()) << to_string(state);
    driver_->destroy(vm);
  }
}

TEST_P(DriverContract, StateThatIsMissingIsNamedAndNothingRuns) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  MachineConfig lost = continued(folder_.path() / "gone");
  lost.memory_file.reset();
  const VmHandle vm = prepare();
  const std::string why = failure_of([&] { (void)driver_->start(vm, lost); });
  EXPECT_NE(why.find("cannot start VM \"probe\""), std::string::npos) << why;
  EXPECT_NE(why.find("cannot continue from " + lost.restore_from.string()), std::string::npos) << why;
  EXPECT_EQ(GetParam().processes(vm), std::vector<pid_t>{vm.supervisor_pid}) << "something runs on";
  driver_->destroy(vm);
  EXPECT_FALSE(fs::exists(vm.work_dir));
  EXPECT_FALSE(fs::exists(vm.runtime_dir));
}

TEST_P(DriverContract, StateThatIsCutShortIsAnErrorAndNothingRuns) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  const fs::path state = folder_.path() / "state";
  const VmHandle first = driver_->start(prepare("first"), freezable());
  driver_->templates()->save(first, state, soon());
  fs::resize_file(state, fs::file_size(state) / 2);
  const VmHandle second = prepare("second");
  const std::string why = failure_of([&] { (void)driver_->start(second, continued(state)); });
  EXPECT_NE(why.find("cannot start VM \"second\""), std::string::npos) << why;
  EXPECT_EQ(driver_->state(second), VmState::Failed);
  EXPECT_EQ(GetParam().processes(second), std::vector<pid_t>{second.supervisor_pid}) << "something runs on";
  // It is the state's fault, not the VM's.
  (void)driver_->stop(second, 0ms);
  (void)driver_->start(second, machine());
  EXPECT_EQ(driver_->state(second), VmState::Running);
}

TEST_P(DriverContract, CheckpointLeavesTheVmAsItIs) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  const fs::path running = folder_.path() / "running";
  const fs::path suspended = folder_.path() / "suspended";
  const VmHandle vm = driver_->start(prepare(), freezable());
  EXPECT_GT(driver_->templates()->checkpoint(vm, running, {}, soon()).count(), 0);
  EXPECT_EQ(driver_->state(vm), VmState::Running);
  EXPECT_EQ(driver_->wait_exit(vm, 0ms), std::nullopt);
  (void)driver_->suspend(vm);
  EXPECT_GT(driver_->templates()->checkpoint(vm, suspended, {}, soon()).count(), 0);
  EXPECT_EQ(driver_->state(vm), VmState::Suspended);
  for (const fs::path& state : {running, suspended})
    EXPECT_EQ(fs::status(state).permissions(), fs::perms::owner_read | fs::perms::owner_write) << state;
  (void)driver_->resume(vm);
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

TEST_P(DriverContract, CheckpointIsGoneOnFromBesideItsVm) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  if (!GetParam().echoes) GTEST_SKIP() << kSilent;
  const fs::path state = folder_.path() / "state";
  const VmHandle parent = driver_->start(prepare("parent"), freezable());
  ASSERT_TRUE(has_printed(*driver_, parent, GetParam().greeting)) << printed(*driver_, parent);
  (void)driver_->templates()->checkpoint(parent, state, {}, soon());
  MachineConfig of_its_own = continued(state);
  of_its_own.memory_file.reset();  // all of it is in the state
  const VmHandle child = driver_->start(prepare("child"), of_its_own);
  EXPECT_TRUE(repeats(*driver_, parent, "to the parent\n")) << printed(*driver_, parent);
  EXPECT_TRUE(repeats(*driver_, child, "to the child\n")) << printed(*driver_, child);
  EXPECT_EQ(printed(*driver_, parent).find("child"), std::string::npos);
  EXPECT_EQ(printed(*driver_, child).find("parent"), std::string::npos);
  EXPECT_EQ(printed(*driver_, child).find(GetParam().greeting), std::string::npos) << "it has booted";
}

TEST_P(DriverContract, CheckpointThatCannotBeWrittenLeavesTheVmRunning) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  const fs::path nowhere = folder_.path() / "no-such-folder" / "state";
  const VmHandle vm = driver_->start(prepare(), freezable());
  const std::string why = failure_of([&] { (void)driver_->templates()->checkpoint(vm, nowhere, {}, soon()); });
  EXPECT_NE(why.find("cannot checkpoint VM \"probe\""), std::string::npos) << why;
  EXPECT_NE(why.find("no-such-folder"), std::string::npos) << why;
  EXPECT_EQ(driver_->state(vm), VmState::Running);
  EXPECT_EQ(driver_->wait_exit(vm, 0ms), std::nullopt);
  EXPECT_NO_THROW((void)driver_->templates()->checkpoint(vm, folder_.path() / "state", {}, soon()));
}

TEST_P(DriverContract, VmThatGoesOnLeavesNothingButTheState) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  const fs::path state = folder_.path() / "state";
  const VmHandle first = driver_->start(prepare("first"), freezable());
  driver_->templates()->save(first, state, soon());
  driver_->destroy(first);
  const VmHandle second = driver_->start(prepare("second"), continued(state));
  const std::vector<pid_t> processes = GetParam().processes(second);
  EXPECT_GT(processes.size(), 1U);
  driver_->destroy(second);
  for (const pid_t pid : processes) EXPECT_TRUE(wait_until([&] { return !process_start_time(pid); }, soon())) << pid;
  EXPECT_TRUE(fs::is_empty(folder_.path() / "vms"));
  EXPECT_FALSE(fs::exists(second.runtime_dir));
  // Who saved it removes it.
  const VmHandle third = driver_->start(prepare("third"), continued(state));
  EXPECT_EQ(driver_->state(third), VmState::Running);
}

TEST_P(DriverContract, FingerprintIsOfTheMachineAndNotOfTheVm) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  const TemplateFacet& templates = *driver_->templates();
  const DiskConfig root = {.path = "/one/root.raw", .format = DiskFormat::Raw, .id = "root"};
  MachineConfig machine = freezable();
  machine.disks = {root};
  MachineConfig another = continued("/state");
  another.disks = {root};
  another.disks.front().path = "/another/root.raw";
  for (NicConfig& nic : another.nics) nic.mac_address = "52:54:00:65:43:21";
  MachineConfig faster = machine;
  ++faster.vcpus;
  MachineConfig larger = machine;
  larger.memory_mib *= 2;
  MachineConfig fuller = machine;
  fuller.disks.push_back({.path = "/one/data0.raw", .format = DiskFormat::Raw, .id = "data0"});
  const std::string fingerprint = templates.fingerprint(machine);
  EXPECT_EQ(templates.fingerprint(machine), fingerprint);
  EXPECT_EQ(templates.fingerprint(another), fingerprint);
  EXPECT_NE(templates.fingerprint(faster), fingerprint);
  EXPECT_NE(templates.fingerprint(larger), fingerprint);
  EXPECT_NE(templates.fingerprint(fuller), fingerprint);
}

TEST_P(DriverContract, MachineThatCannotBeFrozenHasAnObstacleInOneLine) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  MachineConfig on_somebodys_tap = freezable();
  on_somebodys_tap.nics = {{.kind = NicKind::Tap, .mac_address = mac_address_, .tap_name = "tap7"}};
  const auto obstacle = driver_->templates()->obstacle(on_somebodys_tap);
  ASSERT_TRUE(obstacle);
  EXPECT_NE(obstacle->find("MAC address"), std::string::npos) << *obstacle;
  EXPECT_EQ(obstacle->find('\n'), std::string::npos) << *obstacle;
  EXPECT_EQ(driver_->templates()->obstacle(freezable()), std::nullopt);
}

TEST_P(DriverContract, AgentThatTheMachineDoesNotHaveIsAnError) {
  if (driver_->templates() == nullptr) GTEST_SKIP() << driver_->support(Capability::Snapshot).why;
  const VmHandle vm = driver_->start(prepare(), freezable());
  const std::string why = failure_of([&] { (void)driver_->templates()->connect_agent(vm, soon()); });
  EXPECT_NE(why.find("the guest agent of VM \"probe\" cannot be reached"), std::string::npos) << why;
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

}  // namespace vmtest::contract
