// Fifty tests that do next to nothing, each with a machine of its own: how many a minute?

#include <vmtest/vm_test.h>

class Trivial : public vmtest::VmTest, public ::testing::WithParamInterface<int> {};

TEST_P(Trivial, RunsACommand) { EXPECT_TRUE(vm().exec("true").ok()); }

INSTANTIATE_TEST_SUITE_P(Fifty, Trivial, ::testing::Range(0, 50));
