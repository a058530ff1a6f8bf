// What is the VZ driver's own, beside what drivers/contract tries on all.

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <fstream>

#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vz/vz_driver_fixture.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

TEST_F(VzDriverTest, NetworksItDoesNotHaveAreRefusedAndNothingIsLeft) {
  for (const NicKind kind : {NicKind::Tap, NicKind::Isolated}) {
    PrepareRequest other = request();
    other.nics.front().kind = kind;
    EXPECT_THROW((void)driver_.prepare(other), Unsupported);
  }
  PrepareRequest port = request();
  port.ssh_port = 10022;
  EXPECT_THROW((void)driver_.prepare(port), Unsupported);
  EXPECT_FALSE(fs::exists(folder_.path() / "vms"));
}

TEST_F(VzDriverTest, ForeignArchitectureIsRefused) {
  MachineConfig foreign = machine();
  foreign.architecture = host_architecture() == Architecture::X86_64 ? Architecture::Aarch64 : Architecture::X86_64;
  EXPECT_THROW((void)driver_.start(prepare(), foreign), Unsupported);
  EXPECT_EQ(driver_.state(*vm_), VmState::Prepared);
}

TEST_F(VzDriverTest, DiskOfAnotherFormatIsRefused) {
  MachineConfig other = machine();
  other.disks = {{.path = "/d.qcow2", .format = DiskFormat::Qcow2, .id = "root"}};
  EXPECT_THROW((void)driver_.start(prepare(), other), Unsupported);
  EXPECT_EQ(driver_.state(*vm_), VmState::Prepared);
}

TEST_F(VzDriverTest, DisksAreCachedAndWrittenByFsync) {
  const fs::path log = folder_.path() / "disks";
  const testing::Variable logged("VMTEST_SIM_VZ_DISK_LOG", log.string());
  MachineConfig full = machine();
  full.disks = {{.path = folder_.path() / "root.raw", .format = DiskFormat::Raw, .id = "root"},
                {.path = folder_.path() / "seed.iso", .format = DiskFormat::Raw, .read_only = true, .id = "seed"},
                {.path = folder_.path() / "plugged.raw", .format = DiskFormat::Raw, .id = "plugged0", .hotplug_port = 0}};
  full.hotplug_ports = 1;
  write_file(full.disks[0].path, std::string(1 << 20, '\0'));
  write_file(full.disks[1].path, std::string(1 << 20, '\0'));
  write_file(full.disks[2].path, std::string(1 << 20, '\0'));
  (void)driver_.start(prepare(), full);
  std::ifstream lines(log);
  const auto next = [&] {
    std::string line;
    std::getline(lines, line);
    return line;
  };
  // The framework's numbers: cached is 2, fsync is 2.
  const std::string block = "VZVirtioBlockDeviceConfiguration ";
  EXPECT_EQ(next(), block + full.disks[0].path.string() + " caching 2 synchronization 2");
  EXPECT_EQ(next(), block + full.disks[1].path.string() + " caching 2 synchronization 2 read-only");
  EXPECT_EQ(next(), "VZUSBMassStorageDeviceConfiguration " + full.disks[2].path.string() + " caching 2 synchronization 2");
  EXPECT_EQ(next(), "");
}

TEST_F(VzDriverTest, SystemThatIsTooOldIsNamed) {
  const OlderSystem older(*this, "13.1");
  EXPECT_EQ(driver_.support(Capability::Snapshot).why, "save-restore needs macOS 14.0; this is macOS 13.1");
  EXPECT_EQ(driver_.support(Capability::Snapshot).kind, Support::Kind::NeedsHost);
  EXPECT_EQ(driver_.templates(), nullptr);
  EXPECT_EQ(driver_.hotplug(), nullptr);
  (void)driver_.start(prepare(), machine());
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

TEST_F(VzDriverTest, BootsByTheFrameworksFirmware) {
  (void)driver_.start(prepare(), machine_of_firmware());
  EXPECT_TRUE(driver_.support(Capability::UefiBoot).supported());
  EXPECT_TRUE(driver_.has_own_firmware());
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
  EXPECT_TRUE(fs::exists(vm_->work_dir / "variable-store"));
}

TEST_F(VzDriverTest, SystemWithoutFirmwareBootsKernelsAlone) {
  const OlderSystem older(*this, "12.6");
  EXPECT_EQ(driver_.support(Capability::UefiBoot).kind, Support::Kind::NeedsHost);
  EXPECT_EQ(driver_.support(Capability::UefiBoot).why, "efi-boot needs macOS 13.0; this is macOS 12.6");
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), machine_of_firmware()); });
  EXPECT_NE(why.find("efi-boot needs macOS 13.0; this is macOS 12.6; boot a kernel directly"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Prepared);
  (void)driver_.start(*vm_, machine());
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

TEST_F(VzDriverTest, StateOfAVmOfFirmwareIsContinuedWithItsVariablesOnly) {
  const fs::path state = folder_.path() / "state";
  const fs::path variables = state.string() + ".variables";
  (void)driver_.start(prepare(), machine_of_firmware());
  driver_.templates()->save(*vm_, state, Deadline::after(60s));
  EXPECT_EQ(files_of_state(state), (std::vector<fs::path>{state, state.string() + ".machine", variables}));
  MachineConfig again = machine_of_firmware();
  again.restore_from = state;
  (void)driver_.start(*vm_, again);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
  (void)driver_.stop(*vm_, 0ms);
  fs::remove(variables);
  const std::string why = failure_of([&] { (void)driver_.start(*vm_, again); });
  EXPECT_NE(why.find("cannot continue from " + state.string()), std::string::npos) << why;
  EXPECT_NE(why.find(variables.string()), std::string::npos) << why;
}

TEST_F(VzDriverTest, SignalFromOutsideIsToldInItsWords) {
  (void)driver_.start(prepare(), machine());
  ::kill(helper(), SIGTERM);
  const auto exit = driver_.wait_exit(*vm_, 20s);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->how, "somebody ended the VZ helper: signal 15");
  EXPECT_TRUE(exit->orderly);
}

TEST_F(VzDriverTest, FrozenVmContinues) {
  const fs::path state = folder_.path() / "state";
  (void)driver_.start(prepare(), machine());
  const std::string identifier = read_file(vm_->work_dir / "machine-identifier");
  driver_.templates()->save(*vm_, state, Deadline::after(60s));
  EXPECT_EQ(driver_.state(*vm_), VmState::Stopped);
  EXPECT_EQ(files_of_state(state), (std::vector<fs::path>{state, state.string() + ".machine"}));
  EXPECT_EQ(read_file(state.string() + ".machine"), identifier);
  EXPECT_EQ(fs::status(state).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  fs::remove(vm_->work_dir / "machine-identifier");
  MachineConfig again = machine();
  again.restore_from = state;
  (void)driver_.start(*vm_, again);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
  EXPECT_EQ(read_file(vm_->work_dir / "machine-identifier"), identifier);
}

TEST_F(VzDriverTest, CheckpointLeavesTheVmAsItWas) {
  const fs::path state = folder_.path() / "state";
  (void)driver_.start(prepare(), machine());
  EXPECT_GT(driver_.templates()->checkpoint(*vm_, state, {}, Deadline::after(60s)).count(), 0);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
  (void)driver_.suspend(*vm_);
  EXPECT_GT(driver_.templates()->checkpoint(*vm_, state, {}, Deadline::after(60s)).count(), 0);
  EXPECT_EQ(driver_.state(*vm_), VmState::Suspended);
  EXPECT_THROW((void)driver_.templates()->checkpoint(*vm_, state, {{"root", "/overlay"}}, Deadline::after(60s)), Unsupported);
  EXPECT_EQ(driver_.state(*vm_), VmState::Suspended);
}

TEST_F(VzDriverTest, StateThatIsNotThereIsAnErrorAndNothingRuns) {
  MachineConfig again = machine();
  again.restore_from = folder_.path() / "gone";
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), again); });
  EXPECT_NE(why.find("cannot continue from " + again.restore_from.string()), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Prepared);
}

TEST_F(VzDriverTest, DamagedStateIsAnErrorInTheFrameworksWords) {
  const fs::path state = folder_.path() / "state";
  (void)driver_.start(prepare(), machine());
  driver_.templates()->save(*vm_, state, Deadline::after(60s));
  write_file(state, "no state", 0600);
  MachineConfig again = machine();
  again.restore_from = state;
  const std::string why = failure_of([&] { (void)driver_.start(*vm_, again); });
  EXPECT_NE(why.find("VZErrorDomain 12"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(VzDriverTest, ForkOnTheSharedNetworkHasAnObstacle) {
  const auto why = driver_.templates()->obstacle(machine());
  ASSERT_TRUE(why);
  EXPECT_NE(why->find("one network for all VMs"), std::string::npos) << *why;
  MachineConfig alone = machine();
  alone.nics.clear();
  EXPECT_EQ(driver_.templates()->obstacle(alone), std::nullopt);
}

TEST_F(VzDriverTest, FingerprintIsTheMachinesAndNotTheVms) {
  TemplateFacet& facet = *driver_.templates();
  MachineConfig other = machine();
  other.nics.front().mac_address = "52:54:00:65:43:21";
  EXPECT_EQ(facet.fingerprint(machine()), facet.fingerprint(other));
  other.memory_mib = 128;
  EXPECT_NE(facet.fingerprint(machine()), facet.fingerprint(other));
}

TEST_F(VzDriverTest, UsbDiskComesAndGoes) {
  MachineConfig pluggable = machine();
  pluggable.hotplug_ports = 1;
  (void)driver_.start(prepare(), pluggable);
  const DiskConfig disk = {.path = folder_.path() / "disk.raw", .format = DiskFormat::Raw, .id = "plugged0", .hotplug_port = 0};
  write_file(disk.path, std::string(1 << 20, '\0'));
  HotplugFacet& facet = *driver_.hotplug();
  facet.attach_disk(*vm_, disk, Deadline::after(20s));
  const std::string twice = failure_of([&] { facet.attach_disk(*vm_, disk, Deadline::after(20s)); });
  EXPECT_NE(twice.find("attached already"), std::string::npos) << twice;
  facet.detach_disk(*vm_, disk, Deadline::after(20s));
  EXPECT_NE(failure_of([&] { facet.detach_disk(*vm_, disk, Deadline::after(20s)); }).find("no disk 'plugged0'"),
            std::string::npos);
  EXPECT_THROW((void)facet.attach_nic(*vm_, {}, Deadline::after(20s)), Unsupported);
  DiskConfig with_serial = disk;
  with_serial.serial = "precious";
  EXPECT_THROW(facet.attach_disk(*vm_, with_serial, Deadline::after(20s)), Unsupported);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

TEST_F(VzDriverTest, UsbDiskIsThereAgainAfterARestartAndCanBeTakenOut) {
  MachineConfig pluggable = machine();
  pluggable.hotplug_ports = 1;
  pluggable.disks = {{.path = folder_.path() / "disk.raw", .format = DiskFormat::Raw, .id = "plugged0", .hotplug_port = 0}};
  write_file(pluggable.disks.front().path, std::string(1 << 20, '\0'));
  (void)driver_.start(prepare(), pluggable);
  driver_.hotplug()->detach_disk(*vm_, pluggable.disks.front(), Deadline::after(20s));
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

TEST_F(VzDriverTest, StateOfAVmWithUsbDisksIsNotContinued) {
  MachineConfig again = machine();
  again.restore_from = folder_.path() / "state";
  again.disks = {{.path = "/d.raw", .format = DiskFormat::Raw, .id = "plugged0", .hotplug_port = 0}};
  EXPECT_THROW((void)driver_.start(prepare(), again), Unsupported);
  EXPECT_EQ(driver_.state(*vm_), VmState::Prepared);
}

TEST_F(VzDriverTest, MachineWithoutPortsTakesNoUsbDisk) {
  (void)driver_.start(prepare(), machine());
  const DiskConfig disk = {.path = "/d.raw", .format = DiskFormat::Raw, .id = "plugged0", .hotplug_port = 0};
  const std::string why = failure_of([&] { driver_.hotplug()->attach_disk(*vm_, disk, Deadline::after(20s)); });
  EXPECT_NE(why.find("has no USB controller"), std::string::npos) << why;
}

TEST_F(VzDriverTest, AgentIsReachedByVsockWhereTheMachineHasIt) {
  MachineConfig agent = machine();
  agent.agent_channel = true;
  (void)driver_.start(prepare(), agent);
  EXPECT_TRUE(driver_.templates()->connect_agent(*vm_, Deadline::after(20s)).valid());
  (void)driver_.stop(*vm_, 0ms);
  (void)driver_.start(*vm_, machine());
  const std::string why = failure_of([&] { (void)driver_.templates()->connect_agent(*vm_, Deadline::after(20s)); });
  EXPECT_NE(why.find("the guest agent of VM \"probe\" cannot be reached"), std::string::npos) << why;
}

TEST_F(VzDriverTest, AddressIsThatOfTheLastingLease) {
  const fs::path leases = folder_.path() / "leases";
  write_file(leases, "{\n\tip_address=192.168.64.7\n\thw_address=1,52:54:0:12:34:57\n\tlease=0x7fffffff\n}\n");
  ::setenv("VMTEST_DHCPD_LEASES", leases.c_str(), 1);
  EXPECT_EQ(driver_.guest_ip(prepare()), "192.168.64.7");
  ::unsetenv("VMTEST_DHCPD_LEASES");
}

TEST_F(VzDriverTest, AddressThatNobodyHandedOutIsNotKnown) {
  const std::string why = failure_of([&] { (void)driver_.guest_ip(prepare()); });
  EXPECT_NE(why.find("no lease of this host has MAC 52:54:00:12:34:57"), std::string::npos) << why;
}

}  // namespace
}  // namespace vmtest
