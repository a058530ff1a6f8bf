#include "vmtest/vm_handle.h"

#include <gtest/gtest.h>

#include "vmtest/capability.h"
#include "vmtest/error.h"
#include "vmtest/machine_config.h"

namespace vmtest {
namespace {

VmHandle full_handle() {
  VmHandle vm;
  vm.id = "qemu-12345678-1234-4123-8123-123456789abc";
  vm.name = "web";
  vm.driver = DriverKind::Qemu;
  vm.work_dir = "/home/me/.local/share/vmtest/vms/web";
  vm.runtime_dir = "/run/user/1000/vmtest/0123456789";
  vm.supervisor_pid = 4711;
  vm.supervisor_start_time = 9876543210ULL;
  vm.ssh_port = 10022;
  vm.mac_address = "52:54:00:12:34:56";
  vm.static_address = "198.18.0.2/30";
  vm.gateway = "198.18.0.1";
  return vm;
}

TEST(VmHandleTest, SurvivesJson) { EXPECT_EQ(parse_vm_handle(to_json(full_handle())), full_handle()); }

TEST(VmHandleTest, KeepsPathsWithQuotesAndBlanks) {
  VmHandle vm = full_handle();
  vm.work_dir = "/tmp/a \"strange\" folder\\x";
  EXPECT_EQ(parse_vm_handle(to_json(vm)), vm);
}

TEST(VmHandleTest, SocketLiesInTheRuntimeFolder) {
  EXPECT_EQ(full_handle().supervisor_socket(), "/run/user/1000/vmtest/0123456789/supervisor.sock");
}

TEST(VmHandleTest, IgnoresUnknownFields) {
  EXPECT_EQ(parse_vm_handle(R"({"format": 1, "name": "a", "driver": "qemu", "from_the_future": [1, 2]})").name, "a");
}

TEST(VmHandleTest, MissingFieldsTakeTheirDefault) {
  const VmHandle vm = parse_vm_handle(R"({"format": 1, "id": "noop-1", "driver": "noop"})");
  EXPECT_EQ(vm.ssh_port, 0);
  EXPECT_EQ(vm.supervisor_pid, -1);
  EXPECT_TRUE(vm.gateway.empty());
}

TEST(VmHandleTest, RefusesNewerFormat) {
  try {
    (void)parse_vm_handle(R"({"format": 999, "id": "x"})");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("format 999"), std::string::npos) << error.what();
  }
}

TEST(VmHandleTest, RefusesOlderFormat) {
  try {
    (void)parse_vm_handle(R"({"format": 0, "id": "x"})");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "the handle is of format 0, older than this library knows (1); use the version of vmtest that made it");
  }
}

TEST(VmHandleTest, RefusesWhatIsNoHandle) {
  EXPECT_THROW((void)parse_vm_handle(""), Error);
  EXPECT_THROW((void)parse_vm_handle("{"), Error);
  EXPECT_THROW((void)parse_vm_handle("[1]"), Error);
  EXPECT_THROW((void)parse_vm_handle(R"({"name": "a"})"), Error);
}

TEST(VmHandleTest, RefusesWrongTypes) {
  EXPECT_THROW((void)parse_vm_handle(R"({"format": "1"})"), Error);
  EXPECT_THROW((void)parse_vm_handle(R"({"format": 1, "name": 7})"), Error);
  EXPECT_THROW((void)parse_vm_handle(R"({"format": 1, "ssh_port": 70000})"), Error);
}

TEST(VmHandleTest, RefusesUnknownDriver) { EXPECT_THROW((void)parse_vm_handle(R"({"format": 1, "driver": "bochs"})"), Error); }

TEST(DriverKindTest, NamesReadBack) {
  EXPECT_EQ(parse_driver_kind(to_string(DriverKind::Noop)), DriverKind::Noop);
  EXPECT_EQ(parse_driver_kind(to_string(DriverKind::Qemu)), DriverKind::Qemu);
  EXPECT_EQ(parse_driver_kind(to_string(DriverKind::CloudHypervisor)), DriverKind::CloudHypervisor);
  EXPECT_EQ(parse_driver_kind(to_string(DriverKind::Vz)), DriverKind::Vz);
  EXPECT_EQ(parse_driver_kind(to_string(DriverKind::Propolis)), DriverKind::Propolis);
  EXPECT_EQ(parse_driver_kind("vbox"), std::nullopt);
}

TEST(AcceleratorNameTest, NamesReadBack) {
  EXPECT_EQ(parse_accelerator("auto"), Accelerator::Auto);
  EXPECT_EQ(parse_accelerator("kvm"), Accelerator::Kvm);
  EXPECT_EQ(parse_accelerator("tcg"), Accelerator::Tcg);
  EXPECT_EQ(parse_accelerator("KVM"), std::nullopt);
}

TEST(VmStateTest, LifeGoesForward) {
  EXPECT_TRUE(may_change(VmState::Preparing, VmState::Prepared));
  EXPECT_TRUE(may_change(VmState::Prepared, VmState::Starting));
  EXPECT_TRUE(may_change(VmState::Starting, VmState::Running));
  EXPECT_TRUE(may_change(VmState::Running, VmState::Ready));
  EXPECT_TRUE(may_change(VmState::Ready, VmState::Stopped));
  EXPECT_TRUE(may_change(VmState::Stopped, VmState::Starting));
}

TEST(VmStateTest, SuspendedGoesOn) {
  EXPECT_TRUE(may_change(VmState::Ready, VmState::Suspended));
  EXPECT_TRUE(may_change(VmState::Suspended, VmState::Running));
  EXPECT_FALSE(may_change(VmState::Stopped, VmState::Suspended));
}

TEST(VmStateTest, RebootTakesReadinessBack) { EXPECT_TRUE(may_change(VmState::Ready, VmState::Running)); }

TEST(VmStateTest, NothingComesAfterDestroyed) {
  EXPECT_FALSE(may_change(VmState::Destroyed, VmState::Preparing));
  EXPECT_FALSE(may_change(VmState::Destroyed, VmState::Failed));
  EXPECT_FALSE(may_change(VmState::Destroyed, VmState::Destroyed));
}

TEST(VmStateTest, FailedVmIsOnlyStoppedOrDestroyed) {
  EXPECT_TRUE(may_change(VmState::Failed, VmState::Stopped));
  EXPECT_TRUE(may_change(VmState::Failed, VmState::Destroyed));
  EXPECT_FALSE(may_change(VmState::Failed, VmState::Starting));
  EXPECT_FALSE(may_change(VmState::Failed, VmState::Running));
}

TEST(VmStateTest, PreparedVmDoesNotJumpToRunning) { EXPECT_FALSE(may_change(VmState::Prepared, VmState::Running)); }

TEST(CapabilityTest, ListsTheWholeMatrixInItsOrder) {
  EXPECT_EQ(all_capabilities().size(), 51U);
  EXPECT_EQ(to_string(all_capabilities().front()), "Boot VM");
  EXPECT_EQ(to_string(all_capabilities().back()), "Audio");
  EXPECT_EQ(to_string(Capability::CpuHotplug), "CPU hotplug");
}

}  // namespace
}  // namespace vmtest
