// What a freshly booted `tiny` is, and what its spec makes of it.

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <set>

#include "failure.h"
#include "image.h"
#include "variable.h"
#include "vmtest/clone.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/socket.h"
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
    spec.disk_size_mib = 4096;
    spec.vnc = true;
    spec.templates = Template::Never;
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
  EXPECT_GT(std::stoi(vm().run("df -m / | awk 'END {print $2}'").out), 3800);
}

TEST_F(TinyBootTest, ServesItsDisplay) {
  const FileDescriptor viewer = connect_unix(vm().vnc_socket());
  char greeting[12];
  ASSERT_TRUE(wait_readable(viewer.get(), Deadline::after(std::chrono::seconds(20))));
  ASSERT_EQ(::read(viewer.get(), greeting, sizeof greeting), 12);
  EXPECT_EQ(std::string(greeting, 4), "RFB ");
  const ToolResult listed = exec_tool({VMTEST_CLI, "ps", "--json"}, Deadline::after(std::chrono::seconds(20)));
  EXPECT_NE(listed.out.find(vm().vnc_socket().string()), std::string::npos) << listed.out << listed.err;
}

TEST_F(TinyBootTest, TellsItsPhases) {
  const BootPhases phases = vm().boot_phases();
  EXPECT_GT(phases.clone, 0);
  EXPECT_GT(phases.seed, 0);
  EXPECT_GT(phases.hypervisor, 0);
  EXPECT_GT(phases.marker, 0);
  EXPECT_GT(phases.ssh, 0);
}

TEST_F(TinyBootTest, LateTimerIsNoPanicUnderEmulation) {
  const std::string line = vm().run("cat /proc/cmdline").out;
  EXPECT_EQ(line.find(" no_timer_check") != std::string::npos, vm().accelerator() == Accelerator::Tcg) << line;
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
  EXPECT_NE(process_start_time(supervisor), handle.supervisor_start_time);
}

TEST(TinyVmTest, KeepsItsImageThoughTheStoreNoLongerHasIt) {
  testing::require_image("tiny");
  if (::testing::Test::IsSkipped()) return;
  const std::filesystem::path tiny = ImageStore().find("tiny", Architecture::X86_64)->folder;
  const TemporaryDirectory home;
  const testing::Variable here("VMTEST_HOME", home.path().string());
  const std::filesystem::path build = ImageStore().folder() / ".build-tiny-x86_64-abcdef";
  std::filesystem::create_directories(build.parent_path());
  std::filesystem::copy(tiny, build);
  std::filesystem::create_directory_symlink(build.filename(), build.parent_path() / "tiny-x86_64");
  {
    Vm vm = Vm::boot();
    EXPECT_TRUE(ImageStore().remove("tiny", Architecture::X86_64));
    EXPECT_EQ(ImageStore().remove_leftovers(), 0U);
    {
      Vm child = vm.fork();
      EXPECT_TRUE(child.exec("true").ok());
    }
    vm.power_off();
    vm.start();
    EXPECT_TRUE(vm.exec("true").ok());
  }
  EXPECT_EQ(ImageStore().remove_leftovers(), 1U);
}

TEST(TinyVmTest, ServesAUserWhoIsNotRoot) {
  testing::require_image("tiny");
  if (::testing::Test::IsSkipped()) return;
  Vm vm = Vm::boot({.user = "dev", .setup_commands = {"id -un > /etc/set-up-by"}});
  EXPECT_EQ(vm.run("id -un; pwd; cat /etc/set-up-by").out, "dev\n/home/dev\nroot\n");
  EXPECT_FALSE(vm.exec("echo > /etc/no").ok());
  // This image has no sudo, which is said at once.
  const auto began = std::chrono::steady_clock::now();
  const std::string refused = testing::failure_of([&] { vm.reboot(); });
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(20));
  EXPECT_NE(refused.find("sudo: not found"), std::string::npos) << refused;
  EXPECT_NE(refused.find("user \"dev\" needs sudo"), std::string::npos) << refused;
  EXPECT_EQ(vm.run("id -un").out, "dev\n");
  EXPECT_FALSE(vm.shutdown().forced);
}

TEST(TinyVmTest, TwoAtOnceHaveTheirOwnPortsAndDisks) {
  try {
    Vm one = Vm::boot({.templates = Template::Never});
    Vm two = Vm::boot({.templates = Template::Never});
    EXPECT_NE(one.ssh_port(), two.ssh_port());
    one.run("echo one > /root/name");
    EXPECT_FALSE(two.exec("test -e /root/name").ok());
    EXPECT_NE(one.run("cat /sys/class/net/e*/address").out, two.run("cat /sys/class/net/e*/address").out);
  } catch (const Unsupported& reason) {
    GTEST_SKIP() << reason.what();
  }
}

/// Whether a guest on that network gets a connection to a listener on the host's loopback through its gateway.
bool reaches_the_host(Network network) {
  const FileDescriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  socklen_t size = sizeof address;
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(listener.get(), 1), 0);
  EXPECT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  Vm vm = Vm::boot({.network = network});
  (void)vm.exec("timeout 5 nc 10.0.2.2 " + std::to_string(ntohs(address.sin_port)) + " < /dev/null");
  return wait_readable(listener.get(), Deadline::after(std::chrono::milliseconds(0)));
}

TEST(TinyVmTest, OnlyAnIsolatedGuestCannotReachTheHost) {
  try {
    EXPECT_TRUE(reaches_the_host(Network::User));
    EXPECT_FALSE(reaches_the_host(Network::Isolated));
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

TEST(TinyVmTest, LoadsModulesForWhatDriversOffer) {
  testing::require_image("tiny");
  if (IsSkipped()) return;
  Vm vm = Vm::boot();
  // The names of those that are neither loaded then nor built into the kernel.
  const std::string missing =
      vm.run(
            "for m in virtio_pci virtio_blk virtio_net virtio_scsi virtio_rng virtio_balloon virtio_mem virtio_console "
            "vmw_vsock_virtio_transport virtiofs 9p 9pnet_virtio isofs i6300esb qemu_fw_cfg; do\n"
            "  modprobe $m; { cut -d' ' -f1 /proc/modules; sed 's,.*/,,; s,[.]ko,,' /lib/modules/*/modules.builtin; } | "
            "tr - _ | grep -qx $m || echo $m\n"
            "done")
          .out;
  EXPECT_EQ(missing, "");
}

TEST(TinyVmTest, DiskFileBootsWithTheKernelItIsGiven) {
  testing::require_image("tiny");
  if (IsSkipped()) return;
  const TemporaryDirectory folder;
  const Image tiny = ImageChoice("tiny").resolve(Architecture::X86_64);
  const auto raw = folder.path() / "disk.img";
  (void)clone_disk({.source = tiny.disk, .target = raw, .method = CloneMethod::RawCopy},
                   Deadline::after(std::chrono::seconds(60)));
  Image image = Image::file(raw, DiskFormat::Raw);
  image.kernel = tiny.kernel;
  image.initramfs = tiny.initramfs;
  image.command_line = tiny.command_line;
  image.boot_modes = {BootMode::Direct};
  const auto before = std::filesystem::last_write_time(raw);
  {
    Vm vm = Vm::boot({.image = image, .templates = Template::Never});
    EXPECT_EQ(vm.run("touch /root/file && sync && . /etc/os-release && echo $ID").out, "vmtest-tiny\n");
  }
  EXPECT_EQ(std::filesystem::last_write_time(raw), before) << "its clone was to be written to";
}

}  // namespace
}  // namespace vmtest
