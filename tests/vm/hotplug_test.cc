// Disks and network cards that come and go while a guest runs.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "vmtest/host/file_descriptor.h"
#include "vmtest/router_driver.h"
#include "vmtest/vm_test.h"
#include "wait.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;
using testing::wait_until;

sockaddr_in address_of(const std::string& text, std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  EXPECT_EQ(::inet_pton(AF_INET, text.c_str(), &address.sin_addr), 1) << text;
  return address;
}

class HotplugTest : public VmTest {
 protected:
  VmSpec spec() const override { return {.hotplug_ports = 2}; }

  /// Whether its VM must be a fork: over QEMU, unless the caller has them boot.
  static bool is_to_be_forked() {
    const char* mode = std::getenv("VMTEST_FORK");
    return RouterDriver().kind() == DriverKind::Qemu && (mode == nullptr || std::string_view(mode) != "never");
  }
  static bool has_nat() { return RouterDriver().support(Capability::Nat).supported(); }
  static Support tap_support() { return RouterDriver().support(Capability::Tap); }
  /// A disk of that serial number, or of none where guests see none.
  static DataDisk data_disk(const char* serial) {
    return {.size_mib = 16, .serial = RouterDriver().kind() == DriverKind::Vz ? "" : serial};
  }
  /// Whether a card of this host has that address.
  static bool has_address(const std::string& address) {
    const FileDescriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const sockaddr_in own = address_of(address, 0);
    return ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&own), sizeof own) == 0;
  }
  /// What the guest's SSH server says first at that address.
  static std::string ssh_banner(const std::string& address) {
    const Deadline deadline = Deadline::after(60s);
    const sockaddr_in server = address_of(address, 22);
    for (;;) {
      const FileDescriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      char text[64] = {};
      if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&server), sizeof server) == 0 &&
          wait_readable(socket.get(), deadline) && ::read(socket.get(), text, sizeof text - 1) > 0)
        return text;
      if (deadline.expired()) return {};
    }
  }

  /// Waits until the guest has no such file.
  void wait_until_gone(const std::string& path) {
    vm().wait_until([&] { return !vm().exec({"test", "-e", path}).ok(); }, 20s, path + " to be gone");
  }
};

TEST_F(HotplugTest, DiskComesAndGoes) {
  ASSERT_TRUE(vm().forked() || !is_to_be_forked()) << vm().boot_reason();
  const DataDisk wanted = data_disk("scratch");
  const PluggedDevice disk = vm().attach_disk(wanted);
  EXPECT_EQ(vm().run("cat /sys/block/" + disk.name.substr(5) + "/serial 2> /dev/null; true").out, wanted.serial);
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
  if (!has_nat()) GTEST_SKIP() << "this hypervisor has no network of its own";
  ASSERT_TRUE(vm().forked() || !is_to_be_forked()) << vm().boot_reason();
  const PluggedDevice card = vm().attach_nic();
  EXPECT_EQ(card.static_address, "");
  vm().run("ip link set " + card.name + " up");
  const std::string lease = vm().run("udhcpc -f -n -q -i " + card.name + " -s /bin/true 2>&1").out;
  EXPECT_NE(lease.find("obtained"), std::string::npos) << lease;
  vm().detach(card);
  wait_until_gone("/sys/class/net/" + card.name);
}

TEST_F(HotplugTest, HostReachesTheGuestByACardOnATap) {
  if (const Support tap = tap_support(); !tap.supported()) GTEST_SKIP() << tap.why;
  const PluggedDevice card = vm().attach_nic(Network::Tap);
  const std::string address = card.static_address.substr(0, card.static_address.find('/'));
  EXPECT_NE(address, vm().ip());
  EXPECT_EQ(ssh_banner(address).substr(0, 8), "SSH-2.0-");
  vm().run("ping -c 1 -W 20 " + card.gateway);
  const PluggedDevice other = vm().attach_nic(Network::Tap);
  EXPECT_NE(other.static_address, card.static_address);
  vm().detach(card);
  wait_until_gone("/sys/class/net/" + card.name);
  EXPECT_TRUE(wait_until([&] { return !has_address(card.gateway); }, Deadline::after(20s))) << "its TAP is still there";
  EXPECT_TRUE(has_address(other.gateway));
}

TEST_F(HotplugTest, CardOnATapIsThereAfterARestart) {
  if (const Support tap = tap_support(); !tap.supported()) GTEST_SKIP() << tap.why;
  const PluggedDevice card = vm().attach_nic(Network::Tap);
  vm().shutdown();
  vm().start();
  const std::string name = vm().run("grep -l " + card.id + " /sys/class/net/*/address | cut -d/ -f5").out;
  ASSERT_NE(name, "");
  vm().run("ip link set " + name.substr(0, name.size() - 1) + " up; ip address add " + card.static_address + " dev " + name);
  EXPECT_EQ(ssh_banner(card.static_address.substr(0, card.static_address.find('/'))).substr(0, 8), "SSH-2.0-");
  vm().detach(card);
  EXPECT_TRUE(wait_until([&] { return !has_address(card.gateway); }, Deadline::after(20s))) << "its TAP is still there";
}

TEST_F(HotplugTest, VmWithACardOnATapOfItsOwnIsNotForked) {
  if (const Support tap = tap_support(); !tap.supported()) GTEST_SKIP() << tap.why;
  const PluggedDevice card = vm().attach_nic(Network::Tap);
  try {
    (void)vm().fork();
    FAIL() << "it was forked";
  } catch (const Unsupported& error) {
    EXPECT_NE(std::string(error.what()).find("was plugged in"), std::string::npos) << error.what();
  }
}

TEST_F(HotplugTest, PortsRunOut) {
  const PluggedDevice one = vm().attach_disk();
  const PluggedDevice two = vm().attach_nic(has_nat() ? Network::Isolated : Network::Tap);
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
  if (!has_nat()) {
    EXPECT_THROW((void)vm().attach_nic(Network::Isolated), Unsupported);
  }
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
  const PluggedDevice kept = vm().attach_disk(data_disk("kept"));
  vm().run("echo kept | dd of=" + kept.name + " conv=notrunc && sync");
  const auto is_there = [&] {
    return vm().run("for d in /dev/[sv]d?; do [ \"$(head -c 4 $d 2> /dev/null | tr -d '\\0')\" = kept ] && echo yes; done; true")
               .out == "yes\n";
  };
  vm().reboot();
  vm().wait_until(is_there, 60s, "the disk after a reboot");
  vm().shutdown();
  vm().start();
  vm().wait_until(is_there, 60s, "the disk after a restart");
  vm().detach(kept);
}

class ForkedHotplugTest : public HotplugTest {
 protected:
  VmSpec spec() const override { return {.hotplug_ports = 3}; }
};

TEST_F(ForkedHotplugTest, ForksAndSnapshotsHaveWhatWasPluggedInThen) {
  const PluggedDevice disk = vm().attach_disk();
  // One on a TAP keeps its VM from being forked.
  std::optional<PluggedDevice> card;
  if (has_nat()) card = vm().attach_nic();
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
  if (card) {
    child.run("ip link set " + card->name + " up");
    const std::string lease = child.run("udhcpc -f -n -q -i " + card->name + " -s /bin/true 2>&1").out;
    EXPECT_NE(lease.find("obtained"), std::string::npos) << lease;
    child.detach(*card);
  }
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
