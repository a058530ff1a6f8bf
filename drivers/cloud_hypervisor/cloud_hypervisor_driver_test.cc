// What is Cloud Hypervisor's own about its driver, beside what drivers/contract tries on all: with what stands in for it where
// VMTEST_CLOUD_HYPERVISOR names none, and a kernel that halts.

#include "cloud_hypervisor/cloud_hypervisor_driver_fixture.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>

#include "halting_kernel.h"
#include "snapshot.h"
#include "variable.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/supervisor.h"
#include "vmtest/types.h"
#include "wait.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using nlohmann::json;

TEST_F(CloudHypervisorDriverTest, NetworkItDoesNotHaveIsRefusedAndNothingIsLeft) {
  PrepareRequest user = request();
  user.nics.front().kind = NicKind::User;
  EXPECT_THROW((void)driver_.prepare(user), Unsupported);
  PrepareRequest port = request();
  port.ssh_port = 10022;
  EXPECT_THROW((void)driver_.prepare(port), Unsupported);
  EXPECT_FALSE(fs::exists(folder_.path() / "vms"));
}

TEST_F(CloudHypervisorDriverTest, ForeignArchitectureIsRefused) {
  MachineConfig foreign = machine();
  foreign.architecture = host_architecture() == Architecture::X86_64 ? Architecture::Aarch64 : Architecture::X86_64;
  EXPECT_THROW((void)driver_.start(prepare(), foreign), Unsupported);
  EXPECT_EQ(driver_.state(*vm_), VmState::Prepared);
}

TEST_F(CloudHypervisorDriverTest, BootByUefiNeedsFirmwareMadeForIt) {
  MachineConfig uefi = machine();
  uefi.boot = BootMode::Uefi;
  {
    const testing::Variable none("VMTEST_CLOUD_HYPERVISOR_FIRMWARE", "");
    EXPECT_EQ(driver_.support(Capability::UefiBoot).kind, Support::Kind::NeedsHost);
    const std::string why = failure_of([&] { (void)driver_.start(prepare(), uefi); });
    EXPECT_NE(why.find("get CLOUDHV.fd"), std::string::npos) << why;
    EXPECT_NE(why.find("set VMTEST_CLOUD_HYPERVISOR_FIRMWARE"), std::string::npos) << why;
  }
  // As hypervisor-fw is: a program with a PVH entry.
  const testing::Variable firmware("VMTEST_CLOUD_HYPERVISOR_FIRMWARE", testing::halting_kernel().string());
  EXPECT_TRUE(driver_.support(Capability::UefiBoot).supported());
  (void)driver_.start(*vm_, uefi);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
  EXPECT_NE(read_file(vm_->work_dir / "vm.json").find("\"firmware\": \"" + testing::halting_kernel().string()),
            std::string::npos);
}

TEST_F(CloudHypervisorDriverTest, AddressIsThatOfItsTap) {
  const VmHandle& vm = prepare();
  EXPECT_EQ(driver_.guest_ip(vm) + "/30", vm.static_address);
  EXPECT_NE(vm.gateway, "");
}

TEST_F(CloudHypervisorDriverTest, FrozenVmContinues) {
  const fs::path state = folder_.path() / "state";
  (void)driver_.start(prepare(), machine());
  driver_.templates()->save(*vm_, state, Deadline::after(60s));
  EXPECT_EQ(driver_.state(*vm_), VmState::Stopped);
  EXPECT_EQ(files_of_state(state), (std::vector<fs::path>{state, state.string() + ".config", state.string() + ".memory"}));
  MachineConfig again = machine();
  again.restore_from = state;
  (void)driver_.start(*vm_, again);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

TEST_F(CloudHypervisorDriverTest, CheckpointIsNoEndToWhoWaitsForOne) {
  const fs::path state = folder_.path() / "state";
  (void)driver_.start(prepare(), machine());
  std::atomic<bool> stopped = false;
  auto waiter = std::async(std::launch::async, [&] {
    const auto exit = driver_.wait_exit(*vm_, 60s);
    EXPECT_TRUE(stopped) << exit->how;
    return exit;
  });
  EXPECT_GT(driver_.templates()->checkpoint(*vm_, state, {}, Deadline::after(60s)).count(), 0);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
  EXPECT_TRUE(fs::exists(state));
  stopped = true;
  (void)driver_.stop(*vm_, 0ms);
  const auto exit = waiter.get();
  ASSERT_TRUE(exit);
  EXPECT_TRUE(exit->orderly) << exit->how;
}

TEST_F(CloudHypervisorDriverTest, CheckpointThatCannotGoOnIsAnEnd) {
  (void)driver_.start(prepare(), machine());
  ::setenv(kVariable, "/nonexistent/cloud-hypervisor", 1);
  EXPECT_THROW((void)driver_.templates()->checkpoint(*vm_, folder_.path() / "state", {}, Deadline::after(60s)), Error);
  EXPECT_TRUE(driver_.wait_exit(*vm_, 5s));
  EXPECT_NE(driver_.state(*vm_), VmState::Suspended);
}

TEST_F(CloudHypervisorDriverTest, DamagedStateIsAnErrorAndNothingRuns) {
  MachineConfig again = machine();
  again.restore_from = folder_.path() / "state";
  write_file(again.restore_from, "{}", 0600);
  write_file(again.restore_from.string() + ".config", "no JSON", 0600);
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), again); });
  EXPECT_NE(why.find("is no description of a VM"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(CloudHypervisorDriverTest, VcpusThatTheGuestKeepsAreWaitedForNextTime) {
  MachineConfig config = machine();
  config.max_vcpus = 3;
  (void)driver_.start(prepare(), config);
  ResizeFacet& resizing = *driver_.resizing();
  resizing.resize_vcpus(*vm_, 3, Deadline::after(20s));
  // The kernel that halts lets nothing go.
  resizing.resize_vcpus(*vm_, 2, Deadline::after(20s));
  try {
    resizing.resize_vcpus(*vm_, 1, Deadline::after(2s));
    FAIL() << "it took them";
  } catch (const Timeout& error) {
    EXPECT_NE(std::string(error.what()).find("does not let go of the vCPUs that it was asked for before"), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

TEST_F(CloudHypervisorDriverTest, BuildThatCannotDumpMemorySaysSo) {
  if (!is_stand_in()) GTEST_SKIP() << named_ << " was built as it is";
  ::unsetenv("VMTEST_SIM_CH_GUEST_DEBUG");
  (void)driver_.start(prepare(), machine());
  const std::string why =
      failure_of([&] { driver_.inspection()->dump_memory(*vm_, folder_.path() / "core", Deadline::after(20s)); });
  EXPECT_NE(why.find("was built without guest_debug"), std::string::npos) << why;
  EXPECT_FALSE(fs::exists(folder_.path() / "core"));
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

/// In both modes.
class CloudHypervisorCompanionsTest : public CloudHypervisorDriverTest,
                                      public ::testing::WithParamInterface<CloudHypervisorDriver::Mode> {
 protected:
  void SetUp() override {
    CloudHypervisorDriverTest::SetUp();
    for (const Capability capability : {Capability::VirtioFs, Capability::Tpm}) {
      if (const Support support = mode_driver_.support(capability); !support.supported()) GTEST_SKIP() << support.why;
    }
    fs::create_directory(folder_.path() / "shared");
    companion_vm_ = mode_driver_.prepare(request());
  }
  void TearDown() override {
    ::unsetenv("VMTEST_SWTPM");
    if (companion_vm_) mode_driver_.destroy(*companion_vm_);
    CloudHypervisorDriverTest::TearDown();
  }
  [[nodiscard]] MachineConfig with_companions() const {
    MachineConfig config = machine();
    config.shared_folders = {{folder_.path() / "shared", "src"}};
    config.tpm = true;
    return config;
  }
  [[nodiscard]] std::map<std::string, pid_t> processes() const {
    return SupervisorConnection::connect(companion_vm_->supervisor_socket())->status().processes;
  }

  CloudHypervisorDriver mode_driver_{GetParam()};
  std::optional<VmHandle> companion_vm_;
};

TEST_P(CloudHypervisorCompanionsTest, RunBesideItAndEndWithIt) {
  (void)mode_driver_.start(*companion_vm_, with_companions());
  EXPECT_TRUE(processes().contains("virtiofsd-src"));
  EXPECT_TRUE(processes().contains("swtpm"));
  (void)mode_driver_.stop(*companion_vm_, 0ms);
  EXPECT_TRUE(testing::wait_until([&] { return processes().empty(); }, Deadline::after(20s)));
}

TEST_P(CloudHypervisorCompanionsTest, OneThatDiesTakesTheVmWithIt) {
  (void)mode_driver_.start(*companion_vm_, with_companions());
  ASSERT_EQ(::kill(processes().at("swtpm"), SIGKILL), 0);
  const auto exit = mode_driver_.wait_exit(*companion_vm_, 20s);
  ASSERT_TRUE(exit);
  EXPECT_FALSE(exit->orderly);
  EXPECT_EQ(exit->how, "swtpm ended with signal 9 (Killed), and the VM, which needs it, was ended");
}

TEST_P(CloudHypervisorCompanionsTest, OneThatDiesAtOnceIsQuoted) {
  write_file(folder_.path() / "swtpm", "#!/bin/sh\necho no TPM today >&2\nexit 5\n", 0700);
  ::setenv("VMTEST_SWTPM", (folder_.path() / "swtpm").c_str(), 1);
  const std::string why = failure_of([&] { (void)mode_driver_.start(*companion_vm_, with_companions()); });
  EXPECT_NE(why.find("swtpm, which is the TPM, ended with exit code 5"), std::string::npos) << why;
  EXPECT_NE(why.find("no TPM today"), std::string::npos) << why;
}

INSTANTIATE_TEST_SUITE_P(Modes, CloudHypervisorCompanionsTest,
                         ::testing::Values(CloudHypervisorDriver::Mode::Api, CloudHypervisorDriver::Mode::CommandLine));

TEST(CloudHypervisorSnapshot, TakesTheMachinesOwnPlaces) {
  cloud_hypervisor::VmConfig machine;
  machine.payload.kernel = "/new/kernel";
  machine.disks = {{.path = "/new/root.qcow2", .id = "root"}};
  machine.net = {{.ip = "198.18.0.1", .mask = "255.255.255.252", .host_mac = "02:00:c6:12:00:01", .id = "net0"}};
  machine.serial = {cloud_hypervisor::ConsoleConfig::Mode::File, "/new/console.log"};
  machine.vsock = cloud_hypervisor::VsockConfig{.socket = "/new/vsock.sock"};
  const json saved = {{"disks", {{{"id", "root"}, {"path", "/old/root.qcow2"}, {"readonly", false}}}},
                      {"net", {{{"id", "net0"}, {"tap", "old"}, {"mac", "52:54:00:12:34:56"}}}},
                      {"payload", {{"kernel", "/old/kernel"}, {"cmdline", "quiet"}}},
                      {"serial", {{"mode", "File"}, {"file", "/old/console.log"}}},
                      {"vsock", {{"cid", 3}, {"socket", "/old/vsock.sock"}}}};
  json wanted = saved;
  wanted["disks"][0]["path"] = "/new/root.qcow2";
  wanted["net"][0].update(
      {{"tap", nullptr}, {"ip", "198.18.0.1"}, {"mask", "255.255.255.252"}, {"host_mac", "02:00:c6:12:00:01"}});
  wanted["payload"]["kernel"] = "/new/kernel";
  wanted["serial"]["file"] = "/new/console.log";
  wanted["vsock"]["socket"] = "/new/vsock.sock";
  EXPECT_EQ(cloud_hypervisor::adapt(saved, machine), wanted);
}

TEST(CloudHypervisorSnapshot, DiskThatTheMachineLacksIsNamed) {
  const json saved = {{"disks", {{{"id", "data0"}, {"path", "/old/data0.qcow2"}}}}};
  const std::string why = failure_of([&] { (void)cloud_hypervisor::adapt(saved, {}); });
  EXPECT_EQ(why, "the frozen VM has a disk \"data0\", this machine has none");
}

}  // namespace
}  // namespace vmtest
