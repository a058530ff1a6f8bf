// Guests that grow and shrink while they run.

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "vmtest/router_driver.h"
#include "vmtest/vm_test.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

bool is_qemu() { return RouterDriver().kind() == DriverKind::Qemu; }

class ResizeTest : public VmTest {
 protected:
  VmSpec spec() const override {
    return {.memory_mib = 256, .max_vcpus = 3, .max_memory_mib = 512, .data_disks = {{.size_mib = 16}}, .hotplug_ports = 1};
  }

  [[nodiscard]] static std::string count_vcpus(Vm& vm) { return vm.run("grep -c ^processor /proc/cpuinfo").out; }
  [[nodiscard]] static long memory_mib(Vm& vm) {
    return std::stol(vm.run("awk '/^MemTotal/ { print $2 }' /proc/meminfo").out) / 1024;
  }
};

TEST_F(ResizeTest, VcpusComeAndWork) {
  EXPECT_EQ(count_vcpus(vm()), "1\n");
  vm().resize({.vcpus = 3});
  EXPECT_EQ(count_vcpus(vm()), "3\n");
  EXPECT_EQ(vm().run("taskset 4 sh -c 'cat /proc/self/stat' | cut -d' ' -f39").out, "2\n");
}

TEST_F(ResizeTest, VcpusGoWhereTheHypervisorTakesThem) {
  vm().resize({.vcpus = 2});
  if (is_qemu()) {
    EXPECT_THROW(vm().resize({.vcpus = 1}), Unsupported);
    EXPECT_EQ(count_vcpus(vm()), "2\n");
  } else {
    vm().resize({.vcpus = 1});
    EXPECT_EQ(count_vcpus(vm()), "1\n");
  }
}

TEST_F(ResizeTest, MemoryComesAndGoes) {
  const long before = memory_mib(vm());
  vm().resize({.memory_mib = 512});
  EXPECT_NEAR(memory_mib(vm()), before + 256, 16);
  // More than there was.
  vm().run(
      "mkdir -p /mnt/m && mount -t tmpfs -o size=400m m /mnt/m && dd if=/dev/zero of=/mnt/m/f bs=1M count=300 && rm /mnt/m/f");
  vm().resize({.memory_mib = 384});
  EXPECT_NEAR(memory_mib(vm()), before + 128, 16);
  vm().resize({.memory_mib = 256});
  EXPECT_NEAR(memory_mib(vm()), before, 16);
}

TEST_F(ResizeTest, DisksGrow) {
  const std::string size = "cat $(grep -lx 'data0' /sys/block/*/serial | sed s/serial/size/)";
  if (is_qemu() || !vm().forked()) {
    vm().resize_disk("data0", 48);
    EXPECT_EQ(vm().run(size).out, std::to_string(48 * 2048) + "\n");
  } else {
    EXPECT_THROW(vm().resize_disk("data0", 48), Unsupported);
    EXPECT_EQ(vm().run(size).out, std::to_string(16 * 2048) + "\n");
  }
  const PluggedDevice disk = vm().attach_disk({.size_mib = 16});
  vm().resize_disk(disk.id, 40);
  EXPECT_EQ(vm().run("blockdev --getsize64 " + disk.name).out, std::to_string(40 << 20) + "\n");
  vm().run("echo end | dd of=" + disk.name + " bs=1M seek=39 conv=notrunc,fsync");
  EXPECT_THROW(vm().resize_disk(disk.id, 40), Error);
  EXPECT_THROW(vm().resize_disk("none", 40), Error);
  EXPECT_THROW(vm().resize_disk("seed", 4000), Error);
}

TEST_F(ResizeTest, RebootKeepsTheSizeAndAStartDoesNot) {
  const long before = memory_mib(vm());
  vm().resize({.vcpus = 2, .memory_mib = 384});
  vm().reboot();
  EXPECT_EQ(count_vcpus(vm()), "2\n");
  EXPECT_NEAR(memory_mib(vm()), before + 128, 24);
  vm().shutdown();
  vm().start();
  EXPECT_EQ(count_vcpus(vm()), "1\n");
  EXPECT_NEAR(memory_mib(vm()), before, 16);
  vm().resize({.vcpus = 3});
  EXPECT_EQ(count_vcpus(vm()), "3\n");
}

TEST_F(ResizeTest, ForksAndSnapshotsHaveTheSizeOfThatMoment) {
  if (const Support forks = RouterDriver().support(Capability::Snapshot); !forks.supported()) GTEST_SKIP() << forks.why;
  const long before = memory_mib(vm());
  vm().resize({.vcpus = 2, .memory_mib = 384});
  vm().snapshot("grown");
  Vm child = vm().fork();
  EXPECT_EQ(count_vcpus(child), "2\n");
  EXPECT_NEAR(memory_mib(child), before + 128, 16);
  child.resize({.vcpus = 3, .memory_mib = 512});
  EXPECT_EQ(count_vcpus(child), "3\n");
  EXPECT_NEAR(memory_mib(child), before + 256, 16);
  vm().resize({.vcpus = 3, .memory_mib = 256});
  vm().restore("grown");
  EXPECT_EQ(count_vcpus(vm()), "2\n");
  EXPECT_NEAR(memory_mib(vm()), before + 128, 16);
}

TEST_F(ResizeTest, GuestThatDoesNotFollowIsSaid) {
  // It has no say about what it is offered, but takes nothing.
  vm().run("echo offline > /sys/devices/system/memory/auto_online_blocks && mount -t tmpfs none /sys/devices/system/cpu");
  try {
    vm().resize({.vcpus = 2});
    FAIL() << "it has them";
  } catch (const Timeout& error) {
    EXPECT_NE(std::string(error.what()).find("waited in vain for the guest to have 2 vCPUs"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("it has 1"), std::string::npos) << error.what();
  }
}

TEST_F(ResizeTest, BeyondItsSpecIsRefusedWithTheMend) {
  const auto refusal = [&](const VmSize& size) -> std::string {
    try {
      vm().resize(size);
      return {};
    } catch (const Unsupported& error) {
      return error.what();
    }
  };
  EXPECT_NE(refusal({.vcpus = 4}).find(".max_vcpus = 3"), std::string::npos);
  EXPECT_NE(refusal({.memory_mib = 640}).find(".max_memory_mib = 512"), std::string::npos);
  EXPECT_THROW(vm().resize({.vcpus = 0}), Error);
  EXPECT_EQ(count_vcpus(vm()), "1\n");
}

class BalloonTest : public VmTest {
 protected:
  VmSpec spec() const override { return {.memory_mib = 256, .max_memory_mib = 384, .memory_balloon = true}; }
};

TEST_F(BalloonTest, TakesMemoryThatTheGuestBeganWith) {
  const auto free_mib = [&] { return std::stol(vm().run("awk '/^MemFree/ { print $2 }' /proc/meminfo").out) / 1024; };
  const long before = free_mib();
  vm().resize({.memory_mib = 192});
  EXPECT_LT(free_mib(), before - 32);
  vm().resize({.memory_mib = 384});
  EXPECT_GT(free_mib(), before + 64);
}

TEST_F(BalloonTest, TakesNothingFromTheTemplatesOfOthers) {
  // QEMU would.
  if (is_qemu()) {
    EXPECT_FALSE(vm().forked());
    EXPECT_NE(vm().boot_reason(), "");
    EXPECT_THROW((void)vm().fork(), Unsupported);
  }
}

class NoRoomTest : public VmTest {};

TEST_F(NoRoomTest, IsNamedWithTheMend) {
  try {
    vm().resize({.memory_mib = 128});
    FAIL() << "there was a balloon";
  } catch (const Unsupported& error) {
    EXPECT_NE(std::string(error.what()).find("no .memory_balloon"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace vmtest
