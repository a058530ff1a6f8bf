// The first test: each TEST_F runs in a virtual machine of its own, booted for it and gone after it.

#include <vmtest/vm_test.h>

class Hello : public vmtest::VmTest {};

TEST_F(Hello, RunsLinux) { EXPECT_EQ(vm().run("uname -s").out, "Linux\n"); }

TEST_F(Hello, PassesExitCodesOn) { EXPECT_EQ(vm().exec("exit 7").exit_code, 7); }

TEST_F(Hello, KeepsOutputAndErrorsApart) {
  const auto result = vm().exec("echo out; echo err >&2");
  EXPECT_EQ(result.out, "out\n");
  EXPECT_EQ(result.err, "err\n");
}

TEST_F(Hello, PassesArgumentsUnchanged) {
  EXPECT_EQ(vm().run({"printf", "%s|", "two words", "$HOME", "it's"}).out, "two words|$HOME|it's|");
}

// What one test does to its machine no other test sees.
TEST_F(Hello, MayDestroyItsMachine) {
  vm().run("rm -rf /bin/ls /etc/passwd");
  EXPECT_FALSE(vm().exec("test -e /etc/passwd").ok());
}

TEST_F(Hello, StartsWithAPristineMachine) { EXPECT_TRUE(vm().exec("test -e /etc/passwd").ok()); }
