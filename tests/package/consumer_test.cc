// A user's first test, built against the package: nothing of vmtest but its public headers is in reach.

#include <vmtest/vm_test.h>

class Consumer : public vmtest::VmTest {};

TEST_F(Consumer, HasAVm) { EXPECT_EQ(vm().run("echo hello").out, "hello\n"); }

class SharedConsumer : public vmtest::SharedVmTest<SharedConsumer> {};

TEST_F(SharedConsumer, First) { vm().run("touch /tmp/first"); }
TEST_F(SharedConsumer, SecondSeesTheSameVm) { vm().run("test -e /tmp/first"); }

TEST(ConsumerWithoutVm, CanUseTheTypes) { EXPECT_EQ(vmtest::parse_marker("VMRS_READY 10.0.2.15"), "10.0.2.15"); }
