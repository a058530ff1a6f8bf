// A guest that moves into another process, by each version's way.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <future>
#include <string>

#include "cloud_hypervisor/cloud_hypervisor_driver_fixture.h"
#include "variable.h"
#include "vmtest/error.h"
#include "vmtest/host/socket.h"
#include "vmtest/supervisor.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

TEST_F(CloudHypervisorDriverTest, MigrationIsNoEndToWhoWaitsForOneAndMovesTheSockets) {
  MachineConfig config = machine();
  config.agent_channel = true;
  (void)driver_.start(prepare(), config);
  const auto processes = [&] { return SupervisorConnection::connect(vm_->supervisor_socket())->status().processes; };
  const auto before = processes();
  std::atomic<bool> stopped = false;
  auto waiter = std::async(std::launch::async, [&] {
    const auto exit = driver_.wait_exit(*vm_, 60s);
    EXPECT_TRUE(stopped) << exit->how;
    return exit;
  });
  for (int time = 0; time < 2; ++time) EXPECT_GT(driver_.migration()->migrate(*vm_, config, Deadline::after(60s)).total, 0ms);
  EXPECT_EQ(processes().size(), 1U);
  EXPECT_NE(processes(), before);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
  EXPECT_NO_THROW((void)connect_unix(vm_->runtime_dir / "vsock.sock"));
  driver_.suspend(*vm_);
  EXPECT_EQ(driver_.state(*vm_), VmState::Suspended);
  stopped = true;
  (void)driver_.stop(*vm_, 0ms);
  EXPECT_TRUE(waiter.get());
}

TEST_F(CloudHypervisorDriverTest, FailedMigrationLeavesTheGuestWhereItWas) {
  if (!is_stand_in()) GTEST_SKIP() << named_ << " cannot be asked to fail";
  (void)driver_.start(prepare(), machine());
  stand_in("VMTEST_SIM_CH_QEMU=/bin/false exec " + named_ + " \"$@\"");
  const std::string why = failure_of([&] { (void)driver_.migration()->migrate(*vm_, machine(), Deadline::after(60s)); });
  EXPECT_NE(why.find("cannot migrate VM \"probe\""), std::string::npos) << why;
  EXPECT_NE(why.find("Migration aborted"), std::string::npos) << "the log's words are missing: " << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
  EXPECT_FALSE(driver_.wait_exit(*vm_, 0ms));
  ::setenv(kVariable, named_.c_str(), 1);
  EXPECT_NO_THROW((void)driver_.migration()->migrate(*vm_, machine(), Deadline::after(60s)));
}

/// By the versions that send a guest in ways of their own: see migration_way().
class CloudHypervisorMigrationTest : public CloudHypervisorDriverTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    CloudHypervisorDriverTest::SetUp();
    if (!IsSkipped() && !is_stand_in()) GTEST_SKIP() << named_ << " is of one version";
  }

 private:
  const testing::Variable version_{"VMTEST_SIM_CH_VERSION", GetParam()};
};

TEST_P(CloudHypervisorMigrationTest, GuestMovesAndCanBeSentOn) {
  (void)driver_.start(prepare(), machine());
  EXPECT_GT(driver_.migration()->migrate(*vm_, machine(), Deadline::after(60s)).total, 0ms);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
  EXPECT_GT(driver_.migration()->migrate(*vm_, machine(), Deadline::after(60s)).total, 0ms);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
  EXPECT_EQ(SupervisorConnection::connect(vm_->supervisor_socket())->status().processes.size(), 1U);
}

TEST_P(CloudHypervisorMigrationTest, FailureIsToldAndTheGuestStays) {
  (void)driver_.start(prepare(), machine());
  stand_in("VMTEST_SIM_CH_QEMU=/bin/false exec " + named_ + " \"$@\"");
  const std::string why = failure_of([&] { (void)driver_.migration()->migrate(*vm_, machine(), Deadline::after(60s)); });
  EXPECT_NE(why.find("cannot migrate VM \"probe\""), std::string::npos) << why;
  EXPECT_NE(why.find("Migration aborted"), std::string::npos) << "the log's words are missing: " << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
  driver_.suspend(*vm_);
  EXPECT_EQ(driver_.state(*vm_), VmState::Suspended);
}

TEST_P(CloudHypervisorMigrationTest, FrozenVmContinues) {
  const fs::path state = folder_.path() / "state";
  (void)driver_.start(prepare(), machine());
  driver_.templates()->save(*vm_, state, Deadline::after(60s));
  MachineConfig again = machine();
  again.restore_from = state;
  (void)driver_.start(*vm_, again);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

INSTANTIATE_TEST_SUITE_P(Versions, CloudHypervisorMigrationTest, ::testing::Values("v51", "v52", "v53", "main"),
                         [](const auto& one) { return std::string(one.param); });

TEST_F(CloudHypervisorDriverTest, WhatCannotMigrateIsRefused) {
  MachineConfig named = machine();
  named.nics.front().tap_name = "tap7";
  MachineConfig shared = machine();
  shared.shared_folders = {{folder_.path(), "src"}};
  MachineConfig more = machine();
  more.extra_arguments = {"--pvpanic"};
  (void)driver_.start(prepare(), machine());
  for (const MachineConfig& config : {named, shared, more}) {
    EXPECT_THROW((void)driver_.migration()->migrate(*vm_, config, Deadline::after(60s)), Unsupported);
  }
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

}  // namespace
}  // namespace vmtest
