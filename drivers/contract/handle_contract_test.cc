// Names and handles, which other objects and processes take up.

#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <map>

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
  const std::map<std::string, std::function<void()>> calls = {
      {"start", [&] { (void)driver_->start(vm, machine()); }},
      {"stop", [&] { (void)driver_->stop(vm, 0ms); }},
      {"suspend", [&] { (void)driver_->suspend(vm); }},
      {"resume", [&] { (void)driver_->resume(vm); }},
      {"destroy", [&] { driver_->destroy(vm); }},
      {"state", [&] { (void)driver_->state(vm); }},
      {"guest_ip", [&] { (void)driver_->guest_ip(vm); }},
      {"wait_exit", [&] { (void)driver_->wait_exit(vm, 0ms); }},
  };
  for (const auto& [name, call] : calls) {
    const std::string why = failure_of(call);
    EXPECT_NE(why.find("belongs to the driver " + std::string(to_string(vm.driver))), std::string::npos) << name << ": " << why;
  }
  EXPECT_EQ(driver_->state(own), VmState::Running);
}

TEST_P(DriverContract, HandleOfAnotherFormatIsRefusedAndItsVmRunsOn) {
  const VmHandle vm = start();
  const std::string handle = read_file(vm.work_dir / "handle.json");
  const std::string field = "\"format\": ";
  const std::size_t place = handle.find(field);
  ASSERT_NE(place, std::string::npos) << handle;
  for (const char* format : {"0", "999"}) {
    std::string other = handle;
    other.replace(place + field.size(), 1, format);
    const std::string why = failure_of([&] { (void)parse_vm_handle(other); });
    EXPECT_NE(why.find(std::string("the handle is of format ") + format + ", "), std::string::npos) << why;
    EXPECT_NE(why.find("use the version of vmtest that made it"), std::string::npos) << why;
  }
  EXPECT_EQ(driver_->state(parse_vm_handle(handle)), VmState::Running);
}

TEST_P(DriverContract, HandleForADriverThatNobodyKnowsIsRefused) {
  std::string handle = to_json(prepare());
  const std::string kind(to_string(driver_->kind()));
  const std::string field = "\"driver\": \"" + kind + "\"";
  const std::size_t place = handle.find(field);
  ASSERT_NE(place, std::string::npos) << handle;
  handle.replace(place, field.size(), "\"driver\": \"bochs\"");
  const std::string why = failure_of([&] { (void)parse_vm_handle(handle); });
  EXPECT_EQ(why, "the handle is for a driver this library does not know: \"bochs\"");
  EXPECT_EQ(driver_->state(vms_.back()), VmState::Prepared);
}

TEST_P(DriverContract, GuestThatTheHostCannotRunIsRefusedAndNothingRuns) {
  if (GetParam().foreign_refusal.empty()) GTEST_SKIP() << "it emulates other processors, or has none";
  MachineConfig foreign = machine();
  foreign.architecture = foreign.architecture == Architecture::X86_64 ? Architecture::Aarch64 : Architecture::X86_64;
  const VmHandle vm = prepare();
  const std::string why = failure_of([&] { (void)driver_->start(vm, foreign); });
  EXPECT_NE(why.find(GetParam().foreign_refusal), std::string::npos) << why;
  EXPECT_NE(why.find("not " + std::string(to_string(foreign.architecture))), std::string::npos) << why;
  EXPECT_EQ(driver_->state(vm), VmState::Prepared);
  (void)driver_->start(vm, machine());
  EXPECT_EQ(driver_->state(vm), VmState::Running);
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
