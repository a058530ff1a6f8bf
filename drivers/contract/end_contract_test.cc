// How VMs end, and what those who wait for it are told.

#include <signal.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "contract_fixture.h"

namespace vmtest::contract {

TEST_P(DriverContract, CrashIsReportedAtOnceAndIsNotOrderly) {
  if (!GetParam().cannot_crash.empty()) GTEST_SKIP() << GetParam().cannot_crash;
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

TEST_P(DriverContract, StopOfOneThatHangsKeepsItsTime) {
  const VmHandle vm = start();
  const std::vector<pid_t> processes = GetParam().processes(vm);
  if (processes.empty()) GTEST_SKIP() << "it has no processes";
  for (const pid_t pid : processes) EXPECT_TRUE(pid == vm.supervisor_pid || ::kill(pid, SIGSTOP) == 0);
  const auto begin = std::chrono::steady_clock::now();
  (void)driver_->stop(vm, 500ms);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 500ms + 1s);
  EXPECT_EQ(driver_->state(vm), VmState::Stopped);
  const auto runs = [&](pid_t pid) { return pid != vm.supervisor_pid && process_start_time(pid); };
  EXPECT_TRUE(wait_until([&] { return std::none_of(processes.begin(), processes.end(), runs); }, soon())) << "something runs on";
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

TEST_P(DriverContract, VmGoesWithTheObjectThatOwnsIt) {
  auto owner = GetParam().make();
  const VmHandle vm = owner->start(owner->prepare(request("short")), machine());
  const std::vector<pid_t> processes = GetParam().processes(vm);
  owner.reset();
  EXPECT_TRUE(wait_until([&] { return !fs::exists(vm.work_dir) && !fs::exists(vm.runtime_dir); }, soon()));
  for (const pid_t pid : processes) EXPECT_TRUE(wait_until([&] { return !process_start_time(pid); }, soon()));
}

}  // namespace vmtest::contract
