// `debian-12`: a real distribution with systemd, OpenSSH and cloud-init, booted in each of its ways.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <string>

#include "failure.h"
#include "image.h"
#include "variable.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/vm_test.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

/// The same in all tests, so that those which may share a template do.
VmSpec debian() {
  VmSpec spec;
  spec.image = "debian-12";
  spec.vcpus = 2;
  spec.memory_mib = 768;
  spec.user = "root";
  return spec;
}

class DebianTest : public SharedVmTest<DebianTest> {
 public:
  static VmSpec shared_spec() {
    VmSpec spec = debian();
    spec.hostname = "deb";
    return spec;
  }

 protected:
  TemporaryDirectory folder_;
};

TEST_F(DebianTest, IsWhatTheSpecSays) {
  EXPECT_EQ(vm().run("hostname").out, "deb\n");
  EXPECT_EQ(vm().run("nproc").out, "2\n");
}

TEST_F(DebianTest, CloudInitAcceptsTheSeed) {
  GuestCommand command{"cloud-init schema --system"};
  command.timeout = 120s;
  const auto result = vm().exec(command);
  EXPECT_TRUE(result.ok()) << result;
}

TEST_F(DebianTest, HasNoFailedUnit) {
  GuestCommand command{"systemctl is-system-running --wait"};
  command.timeout = 180s;
  EXPECT_EQ(vm().exec(command).out, "running\n") << vm().exec("systemctl --failed --no-legend");
}

TEST_F(DebianTest, FilesBelongToWhoTheGuestKnows) {
  // The user who built the image without root is nobody here.
  GuestCommand command{"find / -xdev '(' -nouser -o -nogroup ')'; stat -c '%a %U %G' / /usr/bin/sudo /etc/shadow"};
  command.timeout = 120s;
  EXPECT_EQ(vm().run(command).out, "755 root root\n4755 root root\n640 root shadow\n");
}

TEST_F(DebianTest, FilesGoBothWaysBySftp) {
  std::filesystem::create_directories(folder_.path() / "tree" / "deep");
  write_file(folder_.path() / "tree" / "deep" / "a b", std::string(300000, 'y'));
  vm().push(folder_.path() / "tree", "/root/tree");
  vm().pull("/root/tree", folder_.path() / "again");
  EXPECT_EQ(read_file(folder_.path() / "again" / "deep" / "a b"), std::string(300000, 'y'));
}

TEST_F(DebianTest, ForwardsAPort) {
  auto server = vm().spawn(
      {"python3", "-c",
       "import socket\ns=socket.create_server(('127.0.0.1',4567))\nwhile 1:\n c,_=s.accept(); c.sendall(b'hi'); c.close()"});
  vm().wait_for_port(4567, 60s);
  const auto forward = vm().forward(4567);
  const FileDescriptor client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
  address.sin_port = ::htons(forward->host_port());
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_TRUE(wait_readable(client.get(), Deadline::after(60s)));
  char text[2] = {};
  EXPECT_EQ(::read(client.get(), text, sizeof text), 2);
  EXPECT_EQ(std::string(text, 2), "hi");
}

TEST_F(DebianTest, BackgroundProcessIsKilledWhenDropped) {
  const auto runs = [&] { return vm().exec({"pgrep", "-f", "^sleep 7654"}).ok(); };
  auto process = vm().spawn({"sleep", "7654"});
  vm().wait_until(runs, 60s, "the process to run");
  process.reset();
  vm().wait_until([&] { return !runs(); }, 60s, "the process to be gone");
}

/// Boots with `spec` and sees that a command works, and what else is to hold.
void expect_boots(
    const VmSpec& spec, const std::function<void(Vm&)>& then = [](Vm&) {}) {
  try {
    Vm vm = Vm::boot(spec);
    EXPECT_EQ(vm.run("cat /etc/debian_version").out.substr(0, 3), "12.");
    then(vm);
  } catch (const Unsupported& reason) {
    GTEST_SKIP() << reason.what();
  }
}

TEST(DebianBootTest, BootsFromItsDiskByUefi) {
  VmSpec spec = debian();
  spec.boot = BootMode::Uefi;
  spec.disk_size_mib = 5000;
  spec.hostname = "deb";
  spec.files = {{"/etc/my/config", "from the seed\n", 0600}};
  spec.setup_commands = {"cp /etc/my/config /root/copied"};
  spec.templates = Template::Never;
  expect_boots(spec, [](Vm& vm) {
    EXPECT_TRUE(vm.exec("test -d /sys/firmware/efi").ok());
    EXPECT_EQ(vm.run("hostname").out, "deb\n");
    EXPECT_EQ(vm.run("cat /root/copied").out, "from the seed\n");
    EXPECT_EQ(vm.run("stat -c %a /etc/my/config").out, "600\n");
    EXPECT_GT(std::stoi(vm.run("df -m --output=size / | tail -1").out), 4500);
  });
}

TEST(DebianBootTest, DiskFileBootsByBiosAsStockCloudInitDoes) {
  testing::require_image("debian-12");
  if (IsSkipped()) return;
  VmSpec spec = debian();
  // As any cloud image: nothing is known of it but its format.
  spec.image = Image::file(ImageChoice("debian-12").resolve(Architecture::X86_64).disk, DiskFormat::Qcow2);
  spec.seed_profile = SeedProfile::Stock;
  spec.templates = Template::Never;
  expect_boots(spec, [](Vm& vm) {
    EXPECT_FALSE(vm.exec("test -d /sys/firmware/efi").ok());
    // A stage that our profile calls off.
    EXPECT_EQ(vm.run("systemctl show -P ConditionResult cloud-config.service").out, "yes\n");
  });
}

TEST(DebianBootTest, ForkRenewsItsLeaseAndReachesTheHost) {
  const testing::Variable mode("VMTEST_FORK", "require");
  expect_boots(debian(), [](Vm& vm) {
    const FileDescriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    socklen_t size = sizeof address;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), size), 0);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
    ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    const std::string port = std::to_string(ntohs(address.sin_port));
    const std::string card = vm.run("ip -o route get 10.0.2.2 | sed 's/.* dev \\([^ ]*\\).*/\\1/' | tr -d '\\n'").out;
    const auto lease_seconds = [&] {
      return std::stoi("0" + vm.run("ip -o -4 addr show dev " + card + " | sed 's/.* valid_lft \\([0-9]*\\)sec.*/\\1/'").out);
    };
    const int before = lease_seconds();
    // By a broadcast: QEMU's DHCP server answers a renewal by one, which networkd, then bound to its address, does not hear.
    vm.run("networkctl reconfigure " + card);
    vm.wait_until([&] { return lease_seconds() > before; }, 60s, "a new lease");
    EXPECT_NE(vm.run("ip -o -4 addr show dev " + card).out.find("inet 10.0.2.15/"), std::string::npos);
    vm.run({"bash", "-c", "echo hello > /dev/tcp/10.0.2.2/" + port});
    ASSERT_TRUE(wait_readable(listener.get(), Deadline::after(20s)));
    const FileDescriptor connection(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ASSERT_TRUE(wait_readable(connection.get(), Deadline::after(20s)));
    char text[6] = {};
    EXPECT_EQ(::read(connection.get(), text, sizeof text), 6);
    EXPECT_EQ(std::string(text, 6), "hello\n");
  });
}

TEST(DebianBootTest, RebootComesBackReadyForAUserWhoIsNotRoot) {
  VmSpec spec = debian();
  spec.user = "dev";
  spec.templates = Template::Never;  // nobody else would continue from it
  expect_boots(spec, [](Vm& vm) {
    vm.run("echo kept > file && sync");
    vm.reboot();
    EXPECT_EQ(vm.run("cat file; id -un; sudo -n id -un").out, "kept\ndev\nroot\n");
  });
}

/// What the error says of a boot that must fail.
std::string failure(VmSpec spec) {
  const TemporaryDirectory folder;
  spec.templates = Template::Never;
  return testing::failure_of([&] { (void)Vm::boot(spec, {.evidence_dir = folder.path()}); });
}

TEST(DebianFailureTest, EmergencyShellIsNamed) {
  testing::require_image("debian-12");
  if (IsSkipped()) return;
  VmSpec spec = debian();
  spec.extra_command_line = "systemd.unit=emergency.target";
  const std::string text = failure(spec);
  EXPECT_NE(text.find("the guest will not become ready: emergency shell: "), std::string::npos) << text;
}

TEST(DebianFailureTest, SetupCommandThatFailsIsNamed) {
  testing::require_image("debian-12");
  if (IsSkipped()) return;
  VmSpec spec = debian();
  spec.setup_commands = {"true", "expr 1111 + 2222 >&2; exit 3"};
  const std::string text = failure(spec);
  EXPECT_NE(text.find("runcmd \"expr 1111 + 2222 >&2; exit 3\": exit code 3"), std::string::npos) << text;
  EXPECT_NE(text.find(" 3333\n"), std::string::npos) << text;
}

TEST(DebianFailureTest, SeedThatCloudInitCannotFollowIsNamed) {
  testing::require_image("debian-12");
  if (IsSkipped()) return;
  VmSpec spec = debian();
  spec.files = {{"/proc/vmtest/file", "no file can be made there", 0644}};
  const std::string text = failure(spec);
  EXPECT_NE(text.find("the guest will not become ready: failed cloud-init: "), std::string::npos) << text;
  EXPECT_NE(text.find("Running module write-files"), std::string::npos) << text;
}

}  // namespace
}  // namespace vmtest
