// Devices that come and go.

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>

#include <set>

#include "contract_fixture.h"
#include "host_cards.h"

namespace vmtest::contract {

namespace {

/// As long as it lives nobody else's cards are there.
struct OwnNetwork {
  ~OwnNetwork() { ::setns(before.get(), CLONE_NEWNET); }
  FileDescriptor before = open_file("/proc/thread-self/ns/net", O_RDONLY);
  bool made = ::unshare(CLONE_NEWNET) == 0;
};

std::set<std::string> network_cards() {
  std::set<std::string> names;
  struct if_nameindex* const all = ::if_nameindex();
  for (auto* one = all; one != nullptr && one->if_index != 0; ++one) names.insert(one->if_name);
  ::if_freenameindex(all);
  return names;
}

}  // namespace

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
  EXPECT_NE(card_with(first.gateway), 0U) << first.gateway;
  EXPECT_NE(card_with(second.gateway), 0U) << second.gateway;
  (void)driver_->stop(vm, 0ms);
  MachineConfig again = machine();
  again.hotplug_ports = 2;
  again.nics.insert(again.nics.end(), {first.nic, second.nic});
  (void)driver_->start(vm, again);
  EXPECT_EQ(driver_->state(vm), VmState::Running);
  const unsigned first_tap = card_with(first.gateway);
  const unsigned second_tap = card_with(second.gateway);
  EXPECT_TRUE(first_tap != 0 && second_tap != 0) << first.gateway << ", " << second.gateway;
  driver_->destroy(vm);
  EXPECT_TRUE(wait_until([&] { return !is_card(first_tap) && !is_card(second_tap); }, soon()));
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

}  // namespace vmtest::contract
