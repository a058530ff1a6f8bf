// What every driver promises, tried on each: life cycle, order, states, ends, handles, and that nothing is left.

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "failure.h"
#include "subject.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/ledger.h"
#include "vmtest/host/process.h"
#include "vmtest/host/socket.h"
#include "wait.h"

namespace vmtest::contract {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::failure_of;
using testing::wait_until;

/// What tests wait for is there at once, unless the host is busy.
Deadline soon() { return Deadline::after(20s); }

/// As long as it lives nobody else's cards are there.
struct OwnNetwork {
  ~OwnNetwork() { ::setns(before.get(), CLONE_NEWNET); }
  FileDescriptor before = open_file("/proc/thread-self/ns/net", O_RDONLY);
  bool made = ::unshare(CLONE_NEWNET) == 0;
};

class DriverContract : public ::testing::TestWithParam<Subject> {
 protected:
  void SetUp() override {
    driver_ = GetParam().make();
    if (const auto why = driver_->unavailable_reason()) GTEST_SKIP() << *why;
    const Support tap = driver_->support(Capability::Tap);
    if (GetParam().nic == NicKind::Tap && !tap.supported()) GTEST_SKIP() << tap.why;
  }
  void TearDown() override {
    for (const VmHandle& vm : vms_) driver_->destroy(vm);
  }

  [[nodiscard]] PrepareRequest request(const std::string& name = "probe") const {
    PrepareRequest request;
    request.name = name;
    request.vms_dir = folder_.path() / "vms";
    request.nics = {{.kind = GetParam().nic, .mac_address = "52:54:00:12:34:56"}};
    request.ssh_port = ssh_port_;
    return request;
  }
  [[nodiscard]] MachineConfig machine() const {
    MachineConfig machine = GetParam().machine;
    machine.nics = request().nics;
    return machine;
  }
  VmHandle prepare(const std::string& name = "probe") {
    vms_.push_back(driver_->prepare(request(name)));
    return vms_.back();
  }
  VmHandle start() { return driver_->start(prepare(), machine()); }
  VmHandle start_with_ports() {
    MachineConfig with_ports = machine();
    with_ports.hotplug_ports = 2;
    return driver_->start(prepare(), with_ports);
  }
  VmHandle start_with_room() {
    MachineConfig with_room = machine();
    with_room.max_vcpus = 3;
    with_room.max_memory_mib = with_room.memory_mib + 128;
    return driver_->start(prepare(), with_room);
  }
  /// An empty disk for the first port.
  [[nodiscard]] DiskConfig disk(const std::string& id) const {
    const fs::path file = folder_.path() / (id + ".raw");
    write_file(file, std::string(1 << 20, '\0'), 0600);
    return {.path = file, .format = DiskFormat::Raw, .id = id, .hotplug_port = 0};
  }
  /// A card for that port.
  [[nodiscard]] static NicConfig card(unsigned port) {
    return {.kind = NicKind::Tap, .mac_address = "52:54:00:12:34:6" + std::to_string(port), .hotplug_port = port};
  }
  [[nodiscard]] static std::set<std::string> network_cards() {
    std::set<std::string> names;
    struct if_nameindex* const all = ::if_nameindex();
    for (auto* one = all; one != nullptr && one->if_index != 0; ++one) names.insert(one->if_name);
    ::if_freenameindex(all);
    return names;
  }
  /// Whether a card of the host has that address.
  [[nodiscard]] static bool has_address(const std::string& address) {
    ifaddrs* all = nullptr;
    if (::getifaddrs(&all) != 0) return false;
    bool found = false;
    for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
      if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET) continue;
      char text[INET_ADDRSTRLEN] = {};
      ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr, text, sizeof text);
      found = found || address == text;
    }
    ::freeifaddrs(all);
    return found;
  }
  void crash(const VmHandle& vm) {
    GetParam().crash(*driver_, vm);
    ASSERT_TRUE(driver_->wait_exit(vm, 20s)) << "it goes on";
  }
  /// A VM in that state.
  VmHandle in(VmState state) {
    const VmHandle vm = prepare();
    if (state == VmState::Prepared) return vm;
    if (state == VmState::Destroyed) {
      driver_->destroy(vm);
      return vm;
    }
    (void)driver_->start(vm, machine());
    if (state == VmState::Suspended) (void)driver_->suspend(vm);
    if (state == VmState::Stopped) (void)driver_->stop(vm, 0ms);
    if (state == VmState::Failed) crash(vm);
    return vm;
  }

  [[nodiscard]] bool pauses() const { return driver_->support(Capability::PauseResume).supported(); }
  /// The states that VMs of this driver can rest in.
  [[nodiscard]] std::vector<VmState> resting_states() const {
    std::vector<VmState> states = {VmState::Prepared, VmState::Running, VmState::Stopped, VmState::Failed, VmState::Destroyed};
    if (pauses()) states.push_back(VmState::Suspended);
    return states;
  }

  TemporaryDirectory folder_;
  std::unique_ptr<Driver> driver_;
  std::vector<VmHandle> vms_;
  /// A port asked for instead of the driver's own choice.
  std::optional<std::uint16_t> ssh_port_;
};

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

TEST_P(DriverContract, MigratedVmRunsOn) {
  MigrationFacet* migration = driver_->migration();
  if (migration == nullptr) GTEST_SKIP() << driver_->support(Capability::LiveMigration).why;
  const VmHandle vm = start();
  std::optional<VmExit> told;
  std::thread waiter([&] { told = driver_->wait_exit(vm, 20s); });
  for (int time = 0; time < 2; ++time) {
    (void)migration->migrate(vm, machine(), soon());
    EXPECT_EQ(driver_->state(vm), VmState::Running);
    EXPECT_EQ(driver_->wait_exit(vm, 0ms), std::nullopt);
  }
  crash(vm);
  waiter.join();
  ASSERT_TRUE(told) << "nobody was told of the end of the process that it runs in now";
  EXPECT_FALSE(told->orderly) << told->how;
}

TEST_P(DriverContract, OnlyARunningVmIsMigrated) {
  MigrationFacet* migration = driver_->migration();
  if (migration == nullptr) GTEST_SKIP() << driver_->support(Capability::LiveMigration).why;
  for (const VmState state : resting_states()) {
    if (state == VmState::Running) continue;
    const VmHandle vm = in(state);
    const std::string why = failure_of([&] { (void)migration->migrate(vm, machine(), soon()); });
    EXPECT_NE(why.find(to_string(state)), std::string::npos) << why;
    EXPECT_EQ(driver_->state(vm), state);
    driver_->destroy(vm);
  }
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
    driver_->destroy(vm);
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

TEST_P(DriverContract, CrashIsReportedAtOnceAndIsNotOrderly) {
  const VmHandle vm = start();
  crash(vm);
  const auto exit = driver_->wait_exit(vm, 0ms);
  ASSERT_TRUE(exit);
  EXPECT_FALSE(exit->orderly);
  EXPECT_NE(exit->how, "");
  EXPECT_EQ(driver_->state(vm), VmState::Failed);
  (void)driver_->stop(vm, 1s);
  EXPECT_EQ(driver_->state(vm), VmState::Stopped);
  (void)driver_->start(vm, machine());
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

TEST_P(DriverContract, StopKeepsItsTime) {
  for (const auto limit : {0ms, 500ms}) {
    const VmHandle vm = start();
    const auto begin = std::chrono::steady_clock::now();
    (void)driver_->stop(vm, limit);
    // Beyond it only the kernel's clean-up of a killed process.
    EXPECT_LT(std::chrono::steady_clock::now() - begin, limit + 1s);
    EXPECT_EQ(driver_->state(vm), VmState::Stopped);
    driver_->destroy(vm);
  }
}

TEST_P(DriverContract, SuspendedVmCanBeStopped) {
  if (!pauses()) GTEST_SKIP() << "it cannot pause";
  const VmHandle vm = in(VmState::Suspended);
  (void)driver_->stop(vm, 200ms);
  EXPECT_EQ(driver_->state(vm), VmState::Stopped);
}

TEST_P(DriverContract, WaitForARunningVmEndsInTime) {
  const VmHandle vm = start();
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(driver_->wait_exit(vm, 50ms), std::nullopt);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 50ms);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s);
}

TEST_P(DriverContract, WaiterIsToldOfAStopByAnotherThread) {
  const VmHandle vm = start();
  std::optional<VmExit> exit;
  std::thread waiter([&] { exit = driver_->wait_exit(vm, 20s); });
  (void)driver_->stop(vm, 0ms);
  waiter.join();
  ASSERT_TRUE(exit);
  EXPECT_TRUE(exit->orderly) << exit->how;
}

TEST_P(DriverContract, RefusedMachineShowsTheHypervisorsWords) {
  if (GetParam().refusal.empty()) GTEST_SKIP() << "there is no machine that it refuses";
  const VmHandle vm = prepare();
  const std::string why = failure_of([&] { (void)driver_->start(vm, GetParam().bad_machine); });
  EXPECT_NE(why.find(GetParam().refusal), std::string::npos) << why;
  EXPECT_EQ(driver_->state(vm), VmState::Failed);
  (void)driver_->stop(vm, 0ms);
  (void)driver_->start(vm, machine());
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

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
  // Or the same reason why it is not known yet.
  const auto address = [&](const VmHandle& of) { return failure_of([&] { throw Error(driver_->guest_ip(of)); }); };
  EXPECT_EQ(address(vm), address(vms_.back()));
  (void)driver_->stop(vm, 0ms);
  EXPECT_EQ(driver_->state(vms_.back()), VmState::Stopped);
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

TEST_P(DriverContract, VmGoesWithTheObjectThatOwnsIt) {
  auto owner = GetParam().make();
  const VmHandle vm = owner->start(owner->prepare(request("short")), machine());
  const std::vector<pid_t> processes = GetParam().processes(vm);
  owner.reset();
  EXPECT_TRUE(wait_until([&] { return !fs::exists(vm.work_dir) && !fs::exists(vm.runtime_dir); }, soon()));
  for (const pid_t pid : processes) EXPECT_TRUE(wait_until([&] { return !process_start_time(pid); }, soon()));
}

TEST_P(DriverContract, ConsoleLogIsThereWhileItRuns) {
  const VmHandle vm = start();
  const ConsoleEndpoint console = driver_->console_endpoint(vm);
  EXPECT_TRUE(fs::exists(console.log)) << console.log;
  if (console.kind == ConsoleEndpoint::Kind::UnixSocket) {
    EXPECT_TRUE(connect_unix(console.address));
  }
}

TEST_P(DriverContract, DiskIsPluggedInOrLeavesThePortFree) {
  if (driver_->hotplug() == nullptr) GTEST_SKIP() << "it plugs nothing in";
  const VmHandle vm = start_with_ports();
  HotplugFacet& hotplug = *driver_->hotplug();
  DiskConfig gone = disk("extra");
  gone.path = "/nonexistent/gone.raw";
  const std::string why = failure_of([&] { hotplug.attach_disk(vm, gone, soon()); });
  EXPECT_NE(why.find("cannot plug disk \"extra\" into VM \"probe\""), std::string::npos) << why;
  hotplug.attach_disk(vm, disk("extra"), soon());
  EXPECT_THROW(hotplug.attach_disk(vm, disk("extra"), soon()), Error) << "it was there already";
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

TEST_P(DriverContract, DiskIsPluggedInWhileTheVmRunsOnly) {
  if (driver_->hotplug() == nullptr) GTEST_SKIP() << "it plugs nothing in";
  for (const VmState state : resting_states()) {
    if (state == VmState::Running) continue;
    const VmHandle vm = in(state);
    EXPECT_THROW(driver_->hotplug()->attach_disk(vm, disk("extra"), soon()), Error) << to_string(state);
    EXPECT_EQ(driver_->state(vm), state);
    driver_->destroy(vm);
  }
}

TEST_P(DriverContract, GuestThatKeepsADiskIsATimeout) {
  if (driver_->hotplug() == nullptr || GetParam().lets_go) GTEST_SKIP() << "no guest is asked";
  const VmHandle vm = start_with_ports();
  driver_->hotplug()->attach_disk(vm, disk("extra"), soon());
  EXPECT_THROW(driver_->hotplug()->detach_disk(vm, disk("extra"), Deadline::after(500ms)), Timeout);
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

TEST_P(DriverContract, CardOnATapIsPluggedInWithANetworkOfItsOwn) {
  if (!driver_->support(Capability::NetworkHotplug).supported()) GTEST_SKIP() << "it plugs no cards in";
  if (const Support tap = driver_->support(Capability::Tap); !tap.supported()) GTEST_SKIP() << tap.why;
  const VmHandle vm = start_with_ports();
  HotplugFacet& hotplug = *driver_->hotplug();
  const PluggedNic first = hotplug.attach_nic(vm, card(0), soon());
  const PluggedNic second = hotplug.attach_nic(vm, card(1), soon());
  EXPECT_NE(first.static_address, second.static_address);
  EXPECT_NE(first.static_address, vm.static_address);
  EXPECT_EQ(first.nic.host_address, first.gateway);
  EXPECT_TRUE(has_address(first.gateway)) << first.gateway;
  EXPECT_TRUE(has_address(second.gateway)) << second.gateway;
  (void)driver_->stop(vm, 0ms);
  MachineConfig again = machine();
  again.hotplug_ports = 2;
  again.nics.insert(again.nics.end(), {first.nic, second.nic});
  (void)driver_->start(vm, again);
  EXPECT_EQ(driver_->state(vm), VmState::Running);
  EXPECT_TRUE(has_address(first.gateway)) << first.gateway;
  driver_->destroy(vm);
  EXPECT_TRUE(wait_until([&] { return !has_address(first.gateway) && !has_address(second.gateway); }, soon()));
}

TEST_P(DriverContract, CardThatIsRefusedLeavesNoTap) {
  if (!driver_->support(Capability::NetworkHotplug).supported()) GTEST_SKIP() << "it plugs no cards in";
  if (const Support tap = driver_->support(Capability::Tap); !tap.supported()) GTEST_SKIP() << tap.why;
  const OwnNetwork network;
  if (!network.made) GTEST_SKIP() << "a network namespace needs root";
  const VmHandle vm = start_with_ports();
  HotplugFacet& hotplug = *driver_->hotplug();
  (void)hotplug.attach_nic(vm, card(0), soon());
  const auto taps = network_cards();
  EXPECT_THROW((void)hotplug.attach_nic(vm, card(0), soon()), Error) << "the port is taken";
  NicConfig odd = card(1);
  odd.mac_address = "no address";
  EXPECT_THROW((void)hotplug.attach_nic(vm, odd, soon()), Error);
  NicConfig nowhere = card(1);
  nowhere.hotplug_port.reset();
  EXPECT_THROW((void)hotplug.attach_nic(vm, nowhere, soon()), Error);
  EXPECT_TRUE(wait_until([&] { return network_cards() == taps; }, soon())) << "a TAP is left";
  EXPECT_EQ(driver_->state(vm), VmState::Running);
  EXPECT_NO_THROW((void)hotplug.attach_nic(vm, card(1), soon()));
}

TEST_P(DriverContract, VcpusComeWithinTheMachinesRoom) {
  if (!driver_->support(Capability::CpuHotplug).supported()) GTEST_SKIP() << "it plugs no vCPUs in";
  const VmHandle vm = start_with_room();
  ResizeFacet& resizing = *driver_->resizing();
  EXPECT_EQ(resizing.size(vm, soon()).vcpus, 1U);
  resizing.resize_vcpus(vm, 3, soon());
  EXPECT_EQ(resizing.size(vm, soon()).vcpus, 3U);
  resizing.resize_vcpus(vm, 3, soon());
  const std::string why = failure_of([&] { resizing.resize_vcpus(vm, 4, soon()); });
  EXPECT_NE(why.find("cannot give VM \"probe\" 4 vCPUs"), std::string::npos) << why;
  EXPECT_NE(why.find("MachineConfig::max_vcpus"), std::string::npos) << why;
  EXPECT_THROW(resizing.resize_vcpus(vm, 0, soon()), Error);
  EXPECT_EQ(resizing.size(vm, soon()).vcpus, 3U);
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

TEST_P(DriverContract, MemoryStaysWithinTheMachinesRoom) {
  if (driver_->resizing() == nullptr) GTEST_SKIP() << "its VMs keep their size";
  const VmHandle vm = start_with_room();
  ResizeFacet& resizing = *driver_->resizing();
  const unsigned memory_mib = machine().memory_mib;
  EXPECT_EQ(resizing.size(vm, soon()).memory_mib, memory_mib);
  // Whether anything of it is taken is the guest's business, and here is none.
  EXPECT_NO_THROW(resizing.resize_memory(vm, memory_mib + 128, soon()));
  const std::string more = failure_of([&] { resizing.resize_memory(vm, memory_mib + 256, soon()); });
  EXPECT_NE(more.find("MachineConfig::max_memory_mib"), std::string::npos) << more;
  const std::string less = failure_of([&] { resizing.resize_memory(vm, memory_mib - 2, soon()); });
  EXPECT_NE(less.find("memory_balloon"), std::string::npos) << less;
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

TEST_P(DriverContract, MachineWithoutRoomKeepsItsSize) {
  if (driver_->resizing() == nullptr) GTEST_SKIP() << "its VMs keep their size";
  const VmHandle vm = start();
  ResizeFacet& resizing = *driver_->resizing();
  EXPECT_THROW(resizing.resize_vcpus(vm, 2, soon()), Error);
  EXPECT_THROW(resizing.resize_memory(vm, machine().memory_mib + 128, soon()), Error);
  EXPECT_EQ(resizing.size(vm, soon()), (MachineSize{1, machine().memory_mib}));
}

TEST_P(DriverContract, DiskGrows) {
  if (!driver_->support(Capability::DiskResize).supported()) GTEST_SKIP() << "its disks keep their size";
  MachineConfig with_disk = machine();
  with_disk.disks = {disk("data0")};
  with_disk.disks.front().hotplug_port.reset();
  const VmHandle vm = driver_->start(prepare(), with_disk);
  ResizeFacet& resizing = *driver_->resizing();
  resizing.resize_disk(vm, "data0", 3, soon());
  EXPECT_EQ(fs::file_size(with_disk.disks.front().path), 3U << 20);
  const std::string smaller = failure_of([&] { resizing.resize_disk(vm, "data0", 3, soon()); });
  EXPECT_NE(smaller.find("it has 3 MiB, and disks only grow"), std::string::npos) << smaller;
  const std::string unknown = failure_of([&] { resizing.resize_disk(vm, "data1", 4, soon()); });
  EXPECT_NE(unknown.find("has no disk \"data1\""), std::string::npos) << unknown;
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

TEST_P(DriverContract, SizeChangesWhileTheVmRunsOnly) {
  if (driver_->resizing() == nullptr) GTEST_SKIP() << "its VMs keep their size";
  for (const VmState state : resting_states()) {
    if (state == VmState::Running) continue;
    const VmHandle vm = in(state);
    EXPECT_THROW(driver_->resizing()->resize_vcpus(vm, 1, soon()), Error) << to_string(state);
    EXPECT_THROW(driver_->resizing()->resize_memory(vm, machine().memory_mib, soon()), Error) << to_string(state);
    EXPECT_THROW(driver_->resizing()->resize_disk(vm, "root", 1, soon()), Error) << to_string(state);
    EXPECT_THROW((void)driver_->resizing()->size(vm, soon()), Error) << to_string(state);
    EXPECT_EQ(driver_->state(vm), state);
    driver_->destroy(vm);
  }
}

TEST_P(DriverContract, DisksAndCardsAreCounted) {
  if (driver_->inspection() == nullptr) GTEST_SKIP() << "it counts nothing";
  if (driver_->disk_needs().formats.empty()) GTEST_SKIP() << "its counters are a script's";
  MachineConfig counted = machine();
  counted.disks = {disk("data0")};
  counted.disks.front().hotplug_port.reset();
  const VmHandle vm = driver_->start(prepare(), counted);
  std::set<std::pair<std::string, std::string>> names;
  const auto look = [&] {
    names.clear();
    for (const Counter& one : driver_->inspection()->counters(vm, soon())) names.emplace(one.device, one.name);
  };
  look();
  for (const char* name : {"read_bytes", "write_bytes", "read_ops", "write_ops"})
    EXPECT_EQ(names.count({"data0", name}), 1U) << name;
  for (const char* name : {"rx_bytes", "tx_bytes", "rx_frames", "tx_frames"})
    EXPECT_EQ(names.count({"net0", name}), GetParam().nic == NicKind::Tap ? 1U : 0U) << name;
  if (!driver_->support(Capability::NetworkHotplug).supported() || !driver_->support(Capability::Tap).supported()) return;
  (void)driver_->stop(vm, 0ms);
  counted.hotplug_ports = 2;
  (void)driver_->start(vm, counted);
  (void)driver_->inspection()->counters(vm, soon());
  (void)driver_->hotplug()->attach_nic(vm, card(1), soon());
  look();
  EXPECT_EQ(names.count({"net-port1", "rx_bytes"}), 1U);
}

TEST_P(DriverContract, RunningVmIsInterruptedOthersNot) {
  if (driver_->inspection() == nullptr) GTEST_SKIP() << "it cannot interrupt";
  for (const VmState state : resting_states()) {
    const VmHandle vm = in(state);
    if (state == VmState::Running) {
      EXPECT_NO_THROW(driver_->inspection()->inject_nmi(vm, soon()));
    } else {
      EXPECT_THROW(driver_->inspection()->inject_nmi(vm, soon()), Error) << to_string(state);
    }
    if (state != VmState::Running && state != VmState::Suspended) {
      EXPECT_THROW((void)driver_->inspection()->counters(vm, soon()), Error) << to_string(state);
    }
    EXPECT_EQ(driver_->state(vm), state);
    driver_->destroy(vm);
  }
}

TEST_P(DriverContract, MemoryIsDumpedAndTheVmStaysAsItIs) {
  if (driver_->inspection() == nullptr) GTEST_SKIP() << "it dumps no memory";
  if (driver_->disk_needs().formats.empty()) GTEST_SKIP() << "there is no memory";
  ::setenv("VMTEST_SIM_CH_GUEST_DEBUG", "1", 1);
  const fs::path core = folder_.path() / "core";
  const VmHandle vm = start();
  driver_->inspection()->dump_memory(vm, core, soon());
  EXPECT_EQ(driver_->state(vm), VmState::Running);
  EXPECT_EQ(fs::status(core).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_GE(fs::file_size(core), std::uintmax_t{machine().memory_mib} << 20);
  const FileDescriptor file = open_file(core, O_RDONLY);
  char head[18] = {};
  ASSERT_EQ(::read(file.get(), head, sizeof head), static_cast<ssize_t>(sizeof head));
  EXPECT_EQ(std::string(head, 4),
            "\x7f"
            "ELF");
  EXPECT_EQ(head[16], 4) << "it is no core";
  EXPECT_THROW(driver_->inspection()->dump_memory(vm, core, soon()), Error) << "it was there";
  EXPECT_TRUE(fs::exists(core));
  EXPECT_THROW(driver_->inspection()->dump_memory(vm, folder_.path() / "none" / "core", soon()), Error);
  (void)driver_->suspend(vm);
  driver_->inspection()->dump_memory(vm, folder_.path() / "core2", soon());
  EXPECT_EQ(driver_->state(vm), VmState::Suspended);
}

TEST_P(DriverContract, SeveralVmsLiveSideBySide) {
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

}  // namespace
}  // namespace vmtest::contract
