// Guests that move into another process of their hypervisor.

#include <thread>

#include "contract_fixture.h"

namespace vmtest::contract {

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

}  // namespace vmtest::contract
