// Every call on a VM goes to the driver that its handle is tagged with: two drivers have a VM each, and the handles differ in
// nothing but that tag.

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "failure.h"
#include "router/toy_driver.h"
#include "vmtest/error.h"
#include "vmtest/router_driver.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;
using testing::failure_of;
using testing::ToyDriver;
using Done = ToyDriver::Done;

Deadline soon() { return Deadline::after(20s); }

/// The VMs are Propolis', QEMU is the choice.
class RouterDispatchTest : public ::testing::Test {
 protected:
  explicit RouterDispatchTest(ToyDriver::Facets facets_of_other = ToyDriver::Facets::All) {
    auto chosen = std::make_unique<ToyDriver>(DriverKind::Qemu);
    auto other = std::make_unique<ToyDriver>(DriverKind::Propolis, facets_of_other);
    chosen_ = chosen.get();
    other_ = other.get();
    std::vector<std::unique_ptr<Driver>> drivers;
    drivers.push_back(std::move(chosen));
    drivers.push_back(std::move(other));
    router_ = std::make_unique<RouterDriver>(std::move(drivers), DriverKind::Qemu);
    vm_ = other_->handle();
  }

  /// What of the choice's VM must be as it was.
  [[nodiscard]] bool chosen_is_untouched() {
    return chosen_->done().empty() && chosen_->state(chosen_->handle()) == VmState::Prepared &&
           chosen_->resizing()->size(chosen_->handle(), soon()) == MachineSize{1, 64};
  }

  ToyDriver* chosen_ = nullptr;
  ToyDriver* other_ = nullptr;
  std::unique_ptr<RouterDriver> router_;
  VmHandle vm_;
};

TEST_F(RouterDispatchTest, Start) {
  EXPECT_EQ(router_->start(vm_, {.vcpus = 3}).gateway, "as propolis has it");
  EXPECT_EQ(other_->done(), Done{"start with 3 vCPUs"});
  EXPECT_EQ(router_->start_steps(vm_).at(0).what, "propolis");
  EXPECT_TRUE(chosen_is_untouched());
}

TEST_F(RouterDispatchTest, Stop) {
  EXPECT_EQ(router_->stop(vm_, 1500ms).gateway, "as propolis has it");
  EXPECT_EQ(other_->done(), Done{"stop within 1500 ms"});
  EXPECT_TRUE(chosen_is_untouched());
}

TEST_F(RouterDispatchTest, SuspendAndResume) {
  EXPECT_EQ(router_->suspend(vm_).gateway, "as propolis has it");
  EXPECT_EQ(router_->state(vm_), VmState::Suspended);
  EXPECT_EQ(router_->resume(vm_).gateway, "as propolis has it");
  EXPECT_EQ(router_->state(vm_), VmState::Running);
  EXPECT_EQ(router_->state(chosen_->handle()), VmState::Prepared);
  EXPECT_EQ(other_->done(), (Done{"suspend", "resume"}));
  EXPECT_TRUE(chosen_is_untouched());
}

TEST_F(RouterDispatchTest, Destroy) {
  router_->destroy(vm_);
  EXPECT_EQ(router_->state(vm_), VmState::Destroyed);
  EXPECT_EQ(other_->done(), Done{"destroy"});
  EXPECT_TRUE(chosen_is_untouched());
}

TEST_F(RouterDispatchTest, AddressAndConsole) {
  EXPECT_EQ(router_->guest_ip(vm_), "address of propolis");
  EXPECT_EQ(router_->guest_ip(chosen_->handle()), "address of qemu");
  EXPECT_EQ(router_->console_endpoint(vm_).address, "console of propolis");
  EXPECT_EQ(router_->console_endpoint(chosen_->handle()).address, "console of qemu");
}

TEST_F(RouterDispatchTest, WaitExit) {
  const auto exit = router_->wait_exit(vm_, 1500ms);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->how, "propolis was waited for, 1500 ms");
}

TEST_F(RouterDispatchTest, Templates) {
  TemplateFacet& templates = *router_->templates();
  EXPECT_EQ(templates.checkpoint(vm_, "/moment", {{"root", "/overlay"}}, soon()), 7us);
  EXPECT_FALSE(templates.connect_agent(vm_, soon()).valid());
  templates.save(vm_, "/state", soon());
  EXPECT_EQ(other_->done(), (Done{"checkpoint /moment root on /overlay", "connect_agent", "save /state"}));
  EXPECT_EQ(router_->state(vm_), VmState::Stopped);
  EXPECT_TRUE(chosen_is_untouched());
}

TEST_F(RouterDispatchTest, Hotplug) {
  HotplugFacet& hotplug = *router_->hotplug();
  const DiskConfig disk = {.path = "/disk", .id = "data0"};
  const NicConfig card = {.mac_address = "52:54:00:12:34:56"};
  hotplug.attach_disk(vm_, disk, soon());
  EXPECT_EQ(hotplug.attach_nic(vm_, card, soon()).gateway, "gateway of propolis");
  hotplug.detach_disk(vm_, disk, soon());
  hotplug.detach_nic(vm_, card, soon());
  EXPECT_EQ(other_->done(),
            (Done{"attach disk data0", "attach card 52:54:00:12:34:56", "detach disk data0", "detach card 52:54:00:12:34:56"}));
  EXPECT_FALSE(hotplug.shows_serial_numbers(vm_));
  EXPECT_TRUE(hotplug.shows_serial_numbers(chosen_->handle()));
  EXPECT_TRUE(chosen_is_untouched());
}

TEST_F(RouterDispatchTest, Migration) {
  EXPECT_EQ(router_->migration()->migrate(vm_, {.vcpus = 3}, soon()).total, 7ms);
  EXPECT_EQ(other_->done(), Done{"migrate with 3 vCPUs"});
  EXPECT_TRUE(chosen_is_untouched());
}

TEST_F(RouterDispatchTest, Resizing) {
  ResizeFacet& resizing = *router_->resizing();
  resizing.resize_vcpus(vm_, 3, soon());
  resizing.resize_memory(vm_, 512, soon());
  resizing.resize_disk(vm_, "root", 4096, soon());
  EXPECT_EQ(resizing.size(vm_, soon()), (MachineSize{3, 512}));
  EXPECT_EQ(other_->done(), Done{"resize disk root to 4096"});
  EXPECT_TRUE(chosen_is_untouched());
}

TEST_F(RouterDispatchTest, Inspection) {
  InspectionFacet& inspection = *router_->inspection();
  EXPECT_EQ(inspection.counters(vm_, soon()), (std::vector<Counter>{{"propolis", "read_bytes", 7}}));
  inspection.inject_nmi(vm_, soon());
  inspection.dump_memory(vm_, "/core", soon());
  EXPECT_EQ(other_->done(), (Done{"inject_nmi", "dump /core"}));
  EXPECT_TRUE(chosen_is_untouched());
}

TEST_F(RouterDispatchTest, Guests) {
  EXPECT_EQ(router_->guests()->connect_guest(vm_)->exec({"hostname"}).out, "propolis");
  EXPECT_EQ(router_->guests()->connect_guest(chosen_->handle())->exec({"hostname"}).out, "qemu");
}

TEST_F(RouterDispatchTest, NewVmsAreTheChoices) {
  EXPECT_EQ(router_->prepare({.name = "new"}).driver, DriverKind::Qemu);
  EXPECT_EQ(chosen_->done(), Done{"prepare new"});
  EXPECT_EQ(other_->done(), Done{});
  EXPECT_EQ(router_->kind(), DriverKind::Qemu);
  EXPECT_TRUE(router_->disk_needs().backing_files);
  EXPECT_TRUE(router_->has_own_firmware());
  EXPECT_EQ(router_->support(Capability::Boot).why, "qemu is a toy");
  EXPECT_TRUE(router_->templates()->shares_memory());
  EXPECT_EQ(router_->templates()->obstacle({}), "obstacle of qemu");
  // Tagged, since two drivers may describe a machine in the same words.
  EXPECT_EQ(router_->templates()->fingerprint({}), "qemu\nfingerprint of qemu");
}

/// The VM's own driver has no facets.
class RouterLackTest : public RouterDispatchTest {
 protected:
  RouterLackTest() : RouterDispatchTest(ToyDriver::Facets::None) {}
  static constexpr const char* kFreeze = "the driver propolis cannot freeze and fork VMs";
  static constexpr const char* kPlug = "the driver propolis cannot plug devices in";
  static constexpr const char* kResize = "the driver propolis cannot resize a VM while it runs";
  static constexpr const char* kInspect = "the driver propolis cannot look into a VM from outside";
};

TEST_F(RouterLackTest, CallOnAVmWhoseDriverCannotIsRefusedInItsName) {
  EXPECT_EQ(failure_of([&] { router_->templates()->save(vm_, "/state", soon()); }), kFreeze);
  EXPECT_EQ(failure_of([&] { (void)router_->templates()->checkpoint(vm_, "/state", {}, soon()); }), kFreeze);
  EXPECT_EQ(failure_of([&] { (void)router_->templates()->connect_agent(vm_, soon()); }), kFreeze);
  EXPECT_EQ(failure_of([&] { router_->hotplug()->attach_disk(vm_, {.id = "data0"}, soon()); }), kPlug);
  EXPECT_EQ(failure_of([&] { (void)router_->hotplug()->attach_nic(vm_, {}, soon()); }), kPlug);
  EXPECT_EQ(failure_of([&] { router_->hotplug()->detach_disk(vm_, {.id = "data0"}, soon()); }), kPlug);
  EXPECT_EQ(failure_of([&] { router_->hotplug()->detach_nic(vm_, {}, soon()); }), kPlug);
  EXPECT_EQ(failure_of([&] { (void)router_->hotplug()->shows_serial_numbers(vm_); }), kPlug);
  EXPECT_EQ(failure_of([&] { router_->migration()->migrate(vm_, {}, soon()); }), "the driver propolis cannot migrate VMs");
  EXPECT_EQ(failure_of([&] { router_->resizing()->resize_vcpus(vm_, 3, soon()); }), kResize);
  EXPECT_EQ(failure_of([&] { router_->resizing()->resize_memory(vm_, 3, soon()); }), kResize);
  EXPECT_EQ(failure_of([&] { router_->resizing()->resize_disk(vm_, "root", 3, soon()); }), kResize);
  EXPECT_EQ(failure_of([&] { (void)router_->resizing()->size(vm_, soon()); }), kResize);
  EXPECT_EQ(failure_of([&] { (void)router_->inspection()->counters(vm_, soon()); }), kInspect);
  EXPECT_EQ(failure_of([&] { router_->inspection()->inject_nmi(vm_, soon()); }), kInspect);
  EXPECT_EQ(failure_of([&] { router_->inspection()->dump_memory(vm_, "/core", soon()); }), kInspect);
  EXPECT_EQ(router_->guests()->connect_guest(vm_), nullptr) << "SSH is the way then";
  EXPECT_THROW(router_->resizing()->resize_vcpus(vm_, 3, soon()), Unsupported);
  EXPECT_TRUE(chosen_is_untouched());
}

TEST_F(RouterDispatchTest, VmOfADriverThatIsNotThereIsRefusedByEveryCall) {
  const std::string why = "VM \"web\" belongs to the driver vz; this platform has qemu, propolis";
  VmHandle vm = vm_;
  vm.driver = DriverKind::Vz;
  EXPECT_EQ(failure_of([&] { (void)router_->start(vm, {}); }), why);
  EXPECT_EQ(failure_of([&] { (void)router_->start_steps(vm); }), why);
  EXPECT_EQ(failure_of([&] { (void)router_->stop(vm, 0ms); }), why);
  EXPECT_EQ(failure_of([&] { (void)router_->suspend(vm); }), why);
  EXPECT_EQ(failure_of([&] { (void)router_->resume(vm); }), why);
  EXPECT_EQ(failure_of([&] { router_->destroy(vm); }), why);
  EXPECT_EQ(failure_of([&] { (void)router_->state(vm); }), why);
  EXPECT_EQ(failure_of([&] { (void)router_->guest_ip(vm); }), why);
  EXPECT_EQ(failure_of([&] { (void)router_->console_endpoint(vm); }), why);
  EXPECT_EQ(failure_of([&] { (void)router_->wait_exit(vm, 0ms); }), why);
  EXPECT_EQ(failure_of([&] { router_->templates()->save(vm, "/state", soon()); }), why);
  EXPECT_EQ(failure_of([&] { router_->hotplug()->attach_disk(vm, {.id = "data0"}, soon()); }), why);
  EXPECT_EQ(failure_of([&] { router_->migration()->migrate(vm, {}, soon()); }), why);
  EXPECT_EQ(failure_of([&] { (void)router_->resizing()->size(vm, soon()); }), why);
  EXPECT_EQ(failure_of([&] { (void)router_->inspection()->counters(vm, soon()); }), why);
  EXPECT_EQ(failure_of([&] { (void)router_->guests()->connect_guest(vm); }), why);
  EXPECT_TRUE(chosen_is_untouched());
  EXPECT_EQ(other_->done(), Done{});
}

}  // namespace
}  // namespace vmtest
