// What survives a reboot and what does not.

#include <vmtest/vm_test.h>

class Reboot : public vmtest::VmTest {};

TEST_F(Reboot, KeepsTheDiskAndForgetsTheMemory) {
  vm().run("echo kept > /root/on-disk && echo lost > /run/in-memory && sync");
  vm().reboot();
  EXPECT_EQ(vm().run("cat /root/on-disk").out, "kept\n");
  EXPECT_FALSE(vm().exec("test -e /run/in-memory").ok());
}

TEST_F(Reboot, SurvivesAPowerCutAfterSync) {
  vm().run("echo kept > /root/on-disk && sync");
  vm().power_off();
  vm().start();
  EXPECT_EQ(vm().run("cat /root/on-disk").out, "kept\n");
}
