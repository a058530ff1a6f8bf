// A user's first test, built against the package: nothing of vmtest but its public headers is in reach.

#include <vmtest/vm_test.h>

#include <cstdio>
#include <cstdlib>

class Consumer : public vmtest::VmTest {};

TEST_F(Consumer, HasAVm) { EXPECT_EQ(vm().run("echo hello").out, "hello\n"); }

class SharedConsumer : public vmtest::SharedVmTest<SharedConsumer> {};

TEST_F(SharedConsumer, First) { vm().run("touch /tmp/first"); }
TEST_F(SharedConsumer, SecondSeesTheSameVm) { vm().run("test -e /tmp/first"); }

/// What CTest makes of results. Told to fail, it does so with another test program's last lines in its output.
TEST(ConsumerResult, FailsWhenTold) {
  if (std::getenv("CONSUMER_FAILS") == nullptr) return;
  std::printf("[  PASSED  ] 0 tests.\n[  SKIPPED ] 1 test, listed below:\n[  SKIPPED ] Other.Test\n");
  FAIL();
}
TEST(ConsumerResult, Skips) { GTEST_SKIP() << "to show what CTest says of it"; }

TEST(ConsumerWithoutVm, CanUseTheTypes) { EXPECT_EQ(vmtest::parse_marker("VMRS_READY 10.0.2.15"), "10.0.2.15"); }
