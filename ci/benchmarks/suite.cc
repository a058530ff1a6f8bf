// Fifty tests that do next to nothing, each with a machine of its own: how many a minute?

#include <vmtest/vm_test.h>

#include <chrono>
#include <cstdio>

class Trivial : public vmtest::VmTest, public ::testing::WithParamInterface<int> {};

TEST_P(Trivial, RunsACommand) { EXPECT_TRUE(vm().exec("true").ok()); }

/// For a process whose VM was made ahead of its turn: when, by the clock that all processes share, its first command was
/// answered.
class DISABLED_Ahead : public vmtest::VmTest {};  // NOLINT(readability-identifier-naming)

TEST_F(DISABLED_Ahead, RunsACommand) {
  vm().run("true");
  const std::chrono::duration<double> now = std::chrono::steady_clock::now().time_since_epoch();
  std::printf("answered %.6f\n", now.count());
}

INSTANTIATE_TEST_SUITE_P(Fifty, Trivial, ::testing::Range(0, 50));
