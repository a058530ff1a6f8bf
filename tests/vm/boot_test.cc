// What a freshly booted `tiny` is, and what its spec makes of it.

#include <gtest/gtest.h>

#include <chrono>
#include <set>

#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/image_store.h"
#include "vmtest/vm_test.h"

namespace vmtest {
namespace {

class TinyBootTest : public VmTest {
 protected:
  [[nodiscard]] VmSpec spec() const override {
    VmSpec spec;
    spec.hostname = "my-guest";
    spec.vcpus = 2;
    spec.memory_mib = 300;
    spec.mac_address = "02:11:22:33:44:55";
    spec.files = {{"/etc/my/config", std::string("binary\0content", 14), 0640}};
    spec.setup_commands = {"echo one >> /root/order", "echo two >> /root/order"};
    spec.data_disks = {{.size_mib = 16, .serial = "scratch"}};
    return spec;
  }
};

TEST_F(TinyBootTest, IsWhatTheSpecSays) {
  EXPECT_EQ(vm().run("hostname").out, "my-guest\n");
  EXPECT_EQ(vm().run("nproc").out, "2\n");
  EXPECT_EQ(vm().run("cat /sys/class/net/e*/address").out, "02:11:22:33:44:55\n");
  EXPECT_EQ(vm().run("cat /etc/my/config").out, std::string("binary\0content", 14));
  EXPECT_EQ(vm().run("stat -c %a /etc/my/config").out, "640\n");
  EXPECT_EQ(vm().run("cat /root/order").out, "one\ntwo\n");
  EXPECT_EQ(vm().run("cat /sys/block/vdc/serial /sys/block/vdc/size").out, "scratch32768\n");
  EXPECT_EQ(vm().run("id -un").out, "root\n");
}

TEST_F(TinyBootTest, TellsItsPhases) {
  const BootPhases phases = vm().boot_phases();
  EXPECT_GT(phases.clone, 0);
  EXPECT_GT(phases.seed, 0);
  EXPECT_GT(phases.hypervisor, 0);
  EXPECT_GT(phases.marker, 0);
  EXPECT_GT(phases.ssh, 0);
}

TEST_F(TinyBootTest, SaysWhichAcceleratorAndWhy) { EXPECT_FALSE(vm().accelerator_reason().empty()); }

TEST_F(TinyBootTest, LeavesTheImageAlone) {
  vm().run("dd if=/dev/urandom of=/root/noise bs=1M count=4 2>/dev/null && sync");
  EXPECT_NO_THROW(verify_image(*ImageStore().find("tiny", Architecture::X86_64)));
}

TEST(TinyVmTest, LeavesNothingBehind) {
  VmHandle handle;
  pid_t supervisor = -1;
  try {
    const Vm vm = Vm::boot();
    handle = vm.handle();
    supervisor = handle.supervisor_pid;
    EXPECT_TRUE(std::filesystem::exists(handle.work_dir / "handle.json"));
  } catch (const Unsupported& reason) {
    GTEST_SKIP() << reason.what();
  }
  EXPECT_FALSE(std::filesystem::exists(handle.work_dir));
  EXPECT_FALSE(std::filesystem::exists(handle.runtime_dir));
  EXPECT_FALSE(process_start_time(supervisor) == handle.supervisor_start_time);
}

TEST(TinyVmTest, TwoAtOnceHaveTheirOwnPortsAndDisks) {
  try {
    Vm one = Vm::boot();
    Vm two = Vm::boot();
    EXPECT_NE(one.ssh_port(), two.ssh_port());
    one.run("echo one > /root/name");
    EXPECT_FALSE(two.exec("test -e /root/name").ok());
    EXPECT_NE(one.run("cat /sys/class/net/e*/address").out, two.run("cat /sys/class/net/e*/address").out);
  } catch (const Unsupported& reason) {
    GTEST_SKIP() << reason.what();
  }
}

TEST(TinyVmTest, IsolatedGuestCannotReachOut) {
  try {
    Vm vm = Vm::boot({.network = Network::Isolated});
    EXPECT_TRUE(vm.exec("true").ok());
    EXPECT_FALSE(vm.exec("ping -c 1 -W 1 10.0.2.2").ok());
  } catch (const Unsupported& reason) {
    GTEST_SKIP() << reason.what();
  }
}

TEST(TinyVmTest, HasATapNetworkOfItsOwn) {
  try {
    Vm vm = Vm::boot({.network = Network::Tap});
    EXPECT_NE(vm.ip(), "127.0.0.1");
    EXPECT_NE(vm.run("ip -4 addr").out.find(vm.ip()), std::string::npos);
  } catch (const Unsupported& reason) {
    GTEST_SKIP() << reason.what();
  }
}

}  // namespace
}  // namespace vmtest
