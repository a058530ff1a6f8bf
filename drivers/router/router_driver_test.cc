#include "vmtest/router_driver.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "failure.h"
#include "variable.h"
#include "vmtest/cloud_hypervisor_driver.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/noop_driver.h"
#include "vmtest/propolis_driver.h"
#include "vmtest/qemu_driver.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;
using testing::failure_of;

/// No program is there.
constexpr const char* kNone = "/nonexistent/program";

Deadline soon() { return Deadline::after(20s); }

class RouterDriverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const char* value = std::getenv("VMTEST_DRIVER")) before_ = value;
  }
  void TearDown() override {
    if (before_) ::setenv("VMTEST_DRIVER", before_->c_str(), 1);
    else ::unsetenv("VMTEST_DRIVER");
  }

  std::optional<std::string> before_;
  TemporaryDirectory folder_;
};

TEST_F(RouterDriverTest, TakesTheDriverOfTheEnvironment) {
  ::setenv("VMTEST_DRIVER", "noop", 1);
  RouterDriver router;
  EXPECT_EQ(router.kind(), DriverKind::Noop);
  const VmHandle vm = router.prepare({.name = "web", .vms_dir = folder_.path()});
  EXPECT_EQ(vm.driver, DriverKind::Noop);
  EXPECT_EQ(router.state(vm), VmState::Prepared);
}

TEST_F(RouterDriverTest, NeverTakesNoopUnasked) {
  ::unsetenv("VMTEST_DRIVER");
  EXPECT_NE(RouterDriver().kind(), DriverKind::Noop);
}

TEST_F(RouterDriverTest, NamesWhatThereIsWhenTheWishIsNoDriver) {
  ::setenv("VMTEST_DRIVER", "bochs", 1);
  try {
    const RouterDriver router;
    FAIL() << "it has taken " << to_string(router.kind());
  } catch (const Error& error) {
    EXPECT_STREQ(
        error.what(),
        "VMTEST_DRIVER=bochs is no driver; this platform has qemu, cloud-hypervisor, cloud-hypervisor-cli, propolis, vz, noop");
  }
}

TEST_F(RouterDriverTest, NamesWhatThereIsWhenTheWishIsNotHere) {
  std::vector<std::unique_ptr<Driver>> drivers;
  drivers.push_back(std::make_unique<QemuDriver>());
  drivers.push_back(std::make_unique<NoopDriver>());
  try {
    const RouterDriver router(std::move(drivers), DriverKind::Vz);
    FAIL() << "it has taken " << to_string(router.kind());
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "there is no driver vz on this platform, which has qemu, noop");
  }
}

TEST_F(RouterDriverTest, NoopOnlyKnowsNothingElse) {
  ::setenv("VMTEST_DRIVER", "qemu", 1);
  const auto router = RouterDriver::noop_only();
  EXPECT_EQ(router->kind(), DriverKind::Noop);
  VmHandle vm = router->prepare({.name = "web", .vms_dir = folder_.path()});
  vm.driver = DriverKind::Qemu;
  EXPECT_THROW((void)router->state(vm), Error);
}

TEST_F(RouterDriverTest, EveryDriverCanBeWishedFor) {
  for (const DriverKind kind : {DriverKind::Noop, DriverKind::Qemu, DriverKind::CloudHypervisor, DriverKind::CloudHypervisorCli,
                                DriverKind::Vz, DriverKind::Propolis}) {
    ::setenv("VMTEST_DRIVER", std::string(to_string(kind)).c_str(), 1);
    EXPECT_EQ(RouterDriver().kind(), kind);
  }
}

TEST_F(RouterDriverTest, EmptyWishIsNone) {
  ::setenv("VMTEST_DRIVER", "", 1);
  const DriverKind empty = RouterDriver().kind();
  ::unsetenv("VMTEST_DRIVER");
  EXPECT_EQ(RouterDriver().kind(), empty);
}

TEST_F(RouterDriverTest, WishThatCannotRunHereSaysWhyAndIsNotReplaced) {
  const testing::Variable cloud_hypervisor("VMTEST_CLOUD_HYPERVISOR", kNone);
  ::setenv("VMTEST_DRIVER", "cloud-hypervisor", 1);
  const RouterDriver router;
  EXPECT_EQ(router.kind(), DriverKind::CloudHypervisor);
  EXPECT_EQ(router.unavailable_reason(), std::string("VMTEST_CLOUD_HYPERVISOR=") + kNone + " is no program");
}

TEST_F(RouterDriverTest, TakesTheFirstThatCanRunVms) {
  const testing::Variable propolis("VMTEST_PROPOLIS", kNone);
  const testing::Variable cloud_hypervisor("VMTEST_CLOUD_HYPERVISOR", "/bin/sh");
  std::vector<std::unique_ptr<Driver>> drivers;
  drivers.push_back(std::make_unique<NoopDriver>());
  drivers.push_back(std::make_unique<PropolisDriver>());
  drivers.push_back(std::make_unique<CloudHypervisorDriver>());
  const RouterDriver router(std::move(drivers), std::nullopt);
  EXPECT_EQ(router.kind(), DriverKind::CloudHypervisor);
  EXPECT_EQ(router.unavailable_reason(), std::nullopt);
}

TEST_F(RouterDriverTest, FirstSaysWhyWhereNoneCanRunVms) {
  const testing::Variable propolis("VMTEST_PROPOLIS", kNone);
  const testing::Variable cloud_hypervisor("VMTEST_CLOUD_HYPERVISOR", kNone);
  std::vector<std::unique_ptr<Driver>> drivers;
  drivers.push_back(std::make_unique<CloudHypervisorDriver>());
  drivers.push_back(std::make_unique<PropolisDriver>());
  drivers.push_back(std::make_unique<NoopDriver>());
  const RouterDriver router(std::move(drivers), std::nullopt);
  EXPECT_EQ(router.kind(), DriverKind::CloudHypervisor);
  EXPECT_EQ(router.unavailable_reason(), std::string("VMTEST_CLOUD_HYPERVISOR=") + kNone + " is no program");
}

TEST_F(RouterDriverTest, FacetsGoByTheHandleAndNotByTheChoice) {
  NoopDriver noop;
  std::vector<std::unique_ptr<Driver>> drivers;
  drivers.push_back(std::make_unique<PropolisDriver>());
  drivers.push_back(std::make_unique<NoopDriver>(NoopScript{}, noop.world()));
  RouterDriver router(std::move(drivers), DriverKind::Propolis);
  VmHandle vm = noop.prepare({.name = "web", .vms_dir = folder_.path()});
  (void)noop.start(vm, {.memory_mib = 64});
  ASSERT_NE(router.resizing(), nullptr);
  ASSERT_NE(router.inspection(), nullptr);
  ASSERT_NE(router.guests(), nullptr);
  EXPECT_EQ(router.resizing()->size(vm, soon()), (MachineSize{1, 64}));
  router.inspection()->inject_nmi(vm, soon());
  EXPECT_EQ(noop.calls().back(), (NoopCall{"inject_nmi", "web"}));
  EXPECT_TRUE(router.guests()->connect_guest(vm)->exec({"true"}).ok());
  vm.driver = DriverKind::Propolis;
  EXPECT_EQ(failure_of([&] { (void)router.resizing()->size(vm, soon()); }),
            "the driver propolis cannot resize a VM while it runs");
  EXPECT_EQ(router.guests()->connect_guest(vm), nullptr);
}

TEST_F(RouterDriverTest, TemplatesArePlannedForTheChosenDriver) {
  std::vector<std::unique_ptr<Driver>> drivers;
  drivers.push_back(std::make_unique<NoopDriver>());
  drivers.push_back(std::make_unique<QemuDriver>());
  RouterDriver router(std::move(drivers), DriverKind::Noop);
  ASSERT_NE(router.templates(), nullptr) << "QEMU's VMs have templates";
  EXPECT_EQ(router.templates()->obstacle({}), "the driver noop cannot fork");
  EXPECT_THROW((void)router.templates()->fingerprint({}), Unsupported);
}

TEST_F(RouterDriverTest, FacetThatNoDriverHasIsNotThere) {
  const auto router = RouterDriver::noop_only();
  EXPECT_EQ(router->templates(), nullptr);
  EXPECT_EQ(router->hotplug(), nullptr);
  EXPECT_NE(router->resizing(), nullptr);
  EXPECT_NE(router->inspection(), nullptr);
  EXPECT_NE(router->guests(), nullptr);
}

TEST_F(RouterDriverTest, NeedsADriver) { EXPECT_THROW(RouterDriver({}, std::nullopt), Error); }

}  // namespace
}  // namespace vmtest
