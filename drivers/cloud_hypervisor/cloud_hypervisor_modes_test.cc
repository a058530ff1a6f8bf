// What both modes are given of names, places and words: odd paths, long ones, whole command lines.

#include <gtest/gtest.h>

#include <chrono>
#include <sstream>
#include <string>
#include <vector>

#include "cloud_hypervisor/cloud_hypervisor_driver_fixture.h"
#include "halting_kernel.h"
#include "network/tap.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Words = std::vector<std::string>;

/// In both modes.
class CloudHypervisorModesTest : public CloudHypervisorDriverTest,
                                 public ::testing::WithParamInterface<CloudHypervisorDriver::Mode> {
 protected:
  CloudHypervisorModesTest() : CloudHypervisorDriverTest(GetParam()) {}

  /// Below a VM's runtime folder.
  [[nodiscard]] static fs::path longest_socket() {
    return GetParam() == CloudHypervisorDriver::Mode::Api ? "p0000/migration.sock" : "p0000/serial.sock";
  }
};

TEST_P(CloudHypervisorModesTest, FoldersAndDisksMayHaveOddNames) {
  const fs::path odd = folder_.path() / "a,readonly=on \"b\" [c] \xc3\xa4";
  fs::create_directory(odd);
  write_file(odd / "data].raw", std::string(1U << 20, '\0'), 0600);
  use_runtime_folder(odd);
  PrepareRequest odd_request = request();
  odd_request.vms_dir = odd / "vms ";
  vm_ = driver_.prepare(odd_request);
  MachineConfig config = machine();
  config.disks = {{.path = odd / "data].raw", .format = DiskFormat::Raw, .id = "data"}};
  (void)driver_.start(*vm_, config);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
  EXPECT_NE(read_file(odd / "vms " / "probe" / "events.json").find("booted"), std::string::npos);
  EXPECT_TRUE(connect_unix(driver_.console_endpoint(*vm_).address));
}

TEST_P(CloudHypervisorModesTest, TooLongSocketPathIsRefusedBeforeAnythingIsThere) {
  lengthen_runtime_folder(longest_socket(), max_socket_path() + 1);
  const std::string why = failure_of([&] { (void)driver_.prepare(request()); });
  EXPECT_NE(why.find("socket path is too long (108 bytes, the system takes 107): " + runtime_folder_.string()), std::string::npos)
      << why;
  EXPECT_NE(why.find(longest_socket().filename().string() + "; set XDG_RUNTIME_DIR to a shorter folder"), std::string::npos)
      << why;
  EXPECT_FALSE(fs::exists(folder_.path() / "vms"));
  EXPECT_TRUE(fs::is_empty(runtime_folder_ / "vmtest"));
}

TEST_P(CloudHypervisorModesTest, LongestSocketPathServes) {
  lengthen_runtime_folder(longest_socket(), max_socket_path());
  MachineConfig config = machine();
  config.agent_channel = true;
  (void)driver_.start(prepare(), config);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
  EXPECT_TRUE(connect_unix(driver_.console_endpoint(*vm_).address));
  EXPECT_TRUE(connect_unix(vm_->runtime_dir / "vsock.sock"));
}

TEST_F(CloudHypervisorDriverTest, LongestSocketPathServesAMigration) {
  lengthen_runtime_folder("p0000/migration.sock", max_socket_path());
  (void)driver_.start(prepare(), machine());
  EXPECT_GT(driver_.migration()->migrate(*vm_, machine(), Deadline::after(60s)).total, 0ms);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

INSTANTIATE_TEST_SUITE_P(Modes, CloudHypervisorModesTest,
                         ::testing::Values(CloudHypervisorDriver::Mode::Api, CloudHypervisorDriver::Mode::CommandLine),
                         [](const auto& one) { return one.param == CloudHypervisorDriver::Mode::Api ? "Api" : "CommandLine"; });

/// What Cloud Hypervisor is started with, as it is told. Its API's mode, where nothing else is said.
class CloudHypervisorCommandLineTest : public CloudHypervisorDriverTest {
 protected:
  explicit CloudHypervisorCommandLineTest(CloudHypervisorDriver::Mode mode = CloudHypervisorDriver::Mode::Api)
      : CloudHypervisorDriverTest(mode) {}

  void SetUp() override {
    CloudHypervisorDriverTest::SetUp();
    if (IsSkipped()) return;
    stand_in("[ \"$1\" = --version ] || printf '%s\\n' \"$@\" >> " + arguments_file().string() + "\nexec " + named_ + " \"$@\"");
  }
  [[nodiscard]] fs::path arguments_file() const { return folder_.path() / "arguments"; }
  /// Of all processes, one after the other.
  [[nodiscard]] Words arguments() const {
    std::istringstream lines(read_file(arguments_file()));
    Words words;
    for (std::string line; std::getline(lines, line);) words.push_back(line);
    return words;
  }
  [[nodiscard]] static std::string path_is(const fs::path& path) { return "path=" + path.string(); }
};

TEST_F(CloudHypervisorCommandLineTest, ByTheApiIsItsSocketItsEventsAndWhatIsAdded) {
  MachineConfig config = machine();
  config.extra_arguments = {"--seccomp", "log"};
  (void)driver_.start(prepare(), config);
  // clang-format off
  const Words expected = {
      "--api-socket", path_is(vm_->runtime_dir / "api.sock"),
      "--event-monitor", path_is(vm_->work_dir / "events.json"),
      "--seccomp", "log",
  };
  // clang-format on
  EXPECT_EQ(arguments(), expected);
}

TEST_F(CloudHypervisorCommandLineTest, OfTheProcessThatAGuestMovesToIsOfItsOwnPlaces) {
  (void)driver_.start(prepare(), machine());
  (void)driver_.migration()->migrate(*vm_, machine(), Deadline::after(60s));
  const fs::path folder = fs::read_symlink(vm_->runtime_dir / "vsock.sock").parent_path();
  // clang-format off
  const Words expected = {
      "--api-socket", path_is(vm_->runtime_dir / "api.sock"),
      "--event-monitor", path_is(vm_->work_dir / "events.json"),
      "--api-socket", path_is(folder / "api.sock"),
      "--event-monitor", path_is(vm_->work_dir / "events-next.json"),
  };
  // clang-format on
  EXPECT_EQ(arguments(), expected);
}

class CloudHypervisorCommandLineModeTest : public CloudHypervisorCommandLineTest {
 protected:
  CloudHypervisorCommandLineModeTest() : CloudHypervisorCommandLineTest(CloudHypervisorDriver::Mode::CommandLine) {}
};

TEST_F(CloudHypervisorCommandLineModeTest, IsTheWholeMachine) {
  for (const char* name : {"initrd", "data.raw", "seed.iso"}) {
    write_file(folder_.path() / name, std::string(1U << 20, '\0'), 0600);
  }
  MachineConfig config = machine();
  config.vcpus = 2;
  config.initramfs = folder_.path() / "initrd";
  config.command_line = "console=ttyS0 root=LABEL=a,b quiet";
  config.disks = {{.path = folder_.path() / "data.raw", .format = DiskFormat::Raw, .id = "data", .serial = "data0"},
                  {.path = folder_.path() / "seed.iso", .format = DiskFormat::Raw, .read_only = true, .id = "seed"}};
  config.agent_channel = true;
  config.memory_balloon = true;
  config.smbios_serial = "ds=nocloud";
  config.extra_arguments = {"--pvpanic"};
  (void)driver_.start(prepare(), config);
  const std::string gateway = vm_->gateway;
  // clang-format off
  const Words expected = {
      "--cpus", "boot=2,max=2",
      "--memory", "size=67108864",
      "--kernel", testing::halting_kernel().string(),
      "--initramfs", (folder_.path() / "initrd").string(),
      "--cmdline", "console=ttyS0 root=LABEL=a,b quiet",
      "--disk", path_is(folder_.path() / "data.raw") + ",image_type=raw,id=data,serial=data0",
      "--disk", path_is(folder_.path() / "seed.iso") + ",image_type=raw,readonly=on,id=seed",
      "--net", "ip=" + gateway + ",mask=255.255.255.252,host_mac=" + host_mac_of(gateway) + ",mac=52:54:00:12:34:56,id=net0",
      "--rng", "src=/dev/urandom",
      "--balloon", "size=0,deflate_on_oom=on",
      "--serial", "socket=serial.sock",
      "--console", "off",
      "--vsock", "cid=3,socket=vsock.sock,id=vsock0",
      "--platform", "serial_number=ds=nocloud",
      "--event-monitor", path_is(vm_->work_dir / "events.json"),
      "--pvpanic",
  };
  // clang-format on
  EXPECT_EQ(arguments(), expected);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

}  // namespace
}  // namespace vmtest
