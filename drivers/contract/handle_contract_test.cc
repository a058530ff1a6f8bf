// Names and handles, which other objects and processes take up.

#include <sys/wait.h>
#include <unistd.h>

#include "contract_fixture.h"

namespace vmtest::contract {

TEST_P(DriverContract, NameIsTakenWhileTheVmLives) {
  const VmHandle vm = prepare();
  EXPECT_NE(failure_of([&] { (void)driver_->prepare(request()); }).find("exists already"), std::string::npos);
  EXPECT_EQ(driver_->state(vm), VmState::Prepared);
  EXPECT_TRUE(fs::exists(vm.work_dir / "handle.json"));
  driver_->destroy(vm);
  EXPECT_EQ(driver_->state(prepare()), VmState::Prepared);
}

TEST_P(DriverContract, NamesThatLeaveTheFolderAreRefused) {
  for (const char* name : {"../x", "a/b", "", ".hidden", "-option"})
    EXPECT_THROW((void)driver_->prepare(request(name)), Error) << name;
  EXPECT_TRUE(!fs::exists(folder_.path() / "vms") || fs::is_empty(folder_.path() / "vms"));
}

TEST_P(DriverContract, HandleIsAsGoodAfterARoundTripThroughJson) {
  const VmHandle vm = parse_vm_handle(to_json(start()));
  EXPECT_EQ(vm, vms_.back());
  (void)driver_->stop(vm, 0ms);
  EXPECT_EQ(driver_->state(vms_.back()), VmState::Stopped);
}

TEST_P(DriverContract, AddressIsWhereTheHostReachesTheGuest) {
  const VmHandle vm = prepare();
  EXPECT_EQ(vm.mac_address, mac_address_);
  EXPECT_EQ(vm.ssh_port != 0, GetParam().nic != NicKind::Tap && GetParam().has_ssh_port);
  EXPECT_EQ(vm.static_address.empty(), GetParam().nic != NicKind::Tap);
  const std::string of_card =
      vm.static_address.empty() ? GetParam().address : vm.static_address.substr(0, vm.static_address.find('/'));
  const std::string address = vm.ssh_port != 0 ? "127.0.0.1" : of_card;
  const std::string said = failure_of([&] { throw Error("it is " + driver_->guest_ip(vm)); });
  if (address.empty()) {
    EXPECT_NE(said.find(mac_address_), std::string::npos) << said;
  } else {
    EXPECT_EQ(said, "it is " + address);
  }
}

TEST_P(DriverContract, HandleServesAnotherObject) {
  const VmHandle vm = start();
  const auto other = GetParam().make();
  EXPECT_EQ(other->state(vm), VmState::Running);
  if (pauses()) {
    (void)other->suspend(vm);
    EXPECT_EQ(driver_->state(vm), VmState::Suspended);
    (void)other->resume(vm);
  }
  (void)other->stop(vm, 0ms);
  EXPECT_EQ(driver_->state(vm), VmState::Stopped);
  other->destroy(vm);
  EXPECT_EQ(driver_->state(vm), VmState::Destroyed);
}

TEST_P(DriverContract, HandleServesAnotherProcess) {
  if (!GetParam().only_in_process.empty()) GTEST_SKIP() << GetParam().only_in_process;
  const std::string handle = to_json(start());
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    int code = 1;
    try {
      const VmHandle vm = parse_vm_handle(handle);
      const auto driver = GetParam().make();
      (void)driver->stop(vm, 0ms);
      code = driver->state(vm) == VmState::Stopped ? 0 : 2;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
    }
    ::_exit(code);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(driver_->state(vms_.back()), VmState::Stopped);
}

TEST_P(DriverContract, HandleOfAnotherDriverIsRefused) {
  VmHandle vm = start();
  const VmHandle own = vm;
  vm.driver = driver_->kind() == DriverKind::Vz ? DriverKind::Propolis : DriverKind::Vz;
  const std::string why = failure_of([&] { (void)driver_->state(vm); });
  EXPECT_NE(why.find("belongs to the driver " + std::string(to_string(vm.driver))), std::string::npos) << why;
  EXPECT_THROW((void)driver_->stop(vm, 0ms), Error);
  EXPECT_THROW(driver_->destroy(vm), Error);
  EXPECT_EQ(driver_->state(own), VmState::Running);
}

TEST_P(DriverContract, DamagedHandleRemovesNothing) {
  const fs::path precious = folder_.path() / "precious";
  fs::create_directory(precious);
  VmHandle vm;
  vm.id = std::string(to_string(driver_->kind())) + "-none";
  vm.driver = driver_->kind();
  vm.work_dir = precious;
  vm.runtime_dir = precious;
  driver_->destroy(vm);
  EXPECT_TRUE(fs::exists(precious));
  EXPECT_EQ(driver_->state(vm), VmState::Destroyed);
}

}  // namespace vmtest::contract
