// Disks and network cards that come and go while a guest runs.

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "vmtest/vm_test.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

class HotplugTest : public VmTest {
 protected:
  VmSpec spec() const override { return {.hotplug_ports = 2}; }

  /// Waits until the guest has no such file.
  void wait_until_gone(const std::string& path) {
    vm().wait_until([&] { return !vm().exec({"test", "-e", path}).ok(); }, 20s, path + " to be gone");
  }
};

TEST_F(HotplugTest, DiskComesAndGoes) {
  const PluggedDevice disk = vm().attach_disk({.size_mib = 16, .serial = "scratch"});
  EXPECT_EQ(vm().run("cat /sys/block/" + disk.name.substr(5) + "/serial").out, "scratch");
  EXPECT_EQ(vm().run("blockdev --getsize64 " + disk.name).out, std::to_string(16 << 20) + "\n");
  vm().run("echo written | dd of=" + disk.name + " conv=notrunc && sync && echo 3 > /proc/sys/vm/drop_caches");
  EXPECT_EQ(vm().run("head -c 7 " + disk.name).out, "written");
  vm().detach(disk);
  wait_until_gone(disk.name);
  EXPECT_THROW(vm().detach(disk), Error);
  // A new one in the same port is empty.
  const PluggedDevice next = vm().attach_disk({.size_mib = 16});
  EXPECT_EQ(vm().run("head -c 7 " + next.name + " | od -An -tx1 | tr -d ' \\n'").out, "00000000000000");
}

TEST_F(HotplugTest, NetworkCardComesAndGoes) {
  const PluggedDevice card = vm().attach_nic();
  vm().run("ip link set " + card.name + " up");
  const std::string lease = vm().run("udhcpc -f -n -q -i " + card.name + " -s /bin/true 2>&1").out;
  EXPECT_NE(lease.find("obtained"), std::string::npos) << lease;
  vm().detach(card);
  wait_until_gone("/sys/class/net/" + card.name);
}

TEST_F(HotplugTest, PortsRunOut) {
  const PluggedDevice one = vm().attach_disk();
  const PluggedDevice two = vm().attach_nic(Network::Isolated);
  try {
    (void)vm().attach_disk();
    FAIL() << "there was a third port";
  } catch (const Unsupported& error) {
    EXPECT_NE(std::string(error.what()).find(".hotplug_ports = 2"), std::string::npos) << error.what();
  }
  vm().detach(one);
  EXPECT_NE(vm().attach_disk().name, "");
}

TEST_F(HotplugTest, WhatCannotBeIsRefusedAndLeavesThePortFree) {
  EXPECT_THROW((void)vm().attach_disk({.size_mib = 0}), Error);
  EXPECT_THROW((void)vm().attach_disk({.serial = "a b"}), Error);
  EXPECT_THROW((void)vm().attach_nic(Network::Tap), Unsupported);
  const PluggedDevice one = vm().attach_disk();
  const PluggedDevice two = vm().attach_disk();
  EXPECT_NE(one.name, two.name);
}

TEST_F(HotplugTest, DiskThatTheGuestDoesNotFindIsTakenOut) {
  vm().run("mount -t tmpfs none /sys/block");
  EXPECT_THROW((void)vm().attach_disk({.size_mib = 16, .serial = "unseen"}), Timeout);
  vm().run("umount /sys/block");
  EXPECT_EQ(vm().run("cat /sys/block/*/serial").out.find("unseen"), std::string::npos);
  // Both ports are free.
  EXPECT_NE(vm().attach_disk().name, "");
  EXPECT_NE(vm().attach_disk().name, "");
}

TEST_F(HotplugTest, RebootKeepsWhatIsPluggedIn) {
  const PluggedDevice disk = vm().attach_disk({.serial = "kept"});
  vm().run("echo kept | dd of=" + disk.name + " conv=notrunc && sync");
  vm().reboot();
  const std::string find =
      "for d in /sys/block/*; do [ \"$(cat $d/serial 2> /dev/null)\" = kept ] && head -c 4 /dev/${d##*/}; done; true";
  EXPECT_EQ(vm().run(find).out, "kept");
  vm().shutdown();
  vm().start();
  EXPECT_EQ(vm().run(find).out, "kept");
}

class ForkedHotplugTest : public HotplugTest {
 protected:
  VmSpec spec() const override { return {.hotplug_ports = 3}; }
};

TEST_F(ForkedHotplugTest, ForksAndSnapshotsHaveWhatWasPluggedInThen) {
  const PluggedDevice disk = vm().attach_disk();
  const PluggedDevice card = vm().attach_nic();
  vm().run("echo before | dd of=" + disk.name + " conv=notrunc && sync");
  vm().snapshot("with-disk");
  Vm child = vm().fork();
  child.run("echo child! | dd of=" + disk.name + " conv=notrunc && sync");
  vm().run("echo after! | dd of=" + disk.name + " conv=notrunc && sync");
  EXPECT_EQ(child.run("head -c 6 " + disk.name).out, "child!");
  // What is plugged into the child is its own, beside what it has from its parent.
  const PluggedDevice more = child.attach_disk();
  EXPECT_NE(more.name, disk.name);
  child.run("echo more | dd of=" + more.name + " conv=notrunc && sync");
  child.run("ip link set " + card.name + " up");
  const std::string lease = child.run("udhcpc -f -n -q -i " + card.name + " -s /bin/true 2>&1").out;
  EXPECT_NE(lease.find("obtained"), std::string::npos) << lease;
  child.detach(card);
  child.detach(disk);
  vm().detach(disk);
  wait_until_gone(disk.name);
  vm().restore("with-disk");
  EXPECT_EQ(vm().run("head -c 6 " + disk.name).out, "before");
}

class NoPortsTest : public VmTest {};

TEST_F(NoPortsTest, AreNamedWithTheMend) {
  try {
    (void)vm().attach_disk();
    FAIL() << "there was a port";
  } catch (const Unsupported& error) {
    EXPECT_NE(std::string(error.what()).find(".hotplug_ports = 0"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace vmtest
