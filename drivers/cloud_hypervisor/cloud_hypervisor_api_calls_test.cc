// Every typed call, made of a Cloud Hypervisor that runs a VM. What stands in for it takes a request only when its body is what
// the API's description and source say, and checks each of its answers alike.

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "api_client.h"
#include "cloud_hypervisor/cloud_hypervisor_driver_fixture.h"
#include "variable.h"
#include "version.h"
#include "vmtest/supervisor.h"
#include "wait.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using cloud_hypervisor::ApiClient;
using cloud_hypervisor::MemoryRestoreMode;
using cloud_hypervisor::MigrationMode;
using cloud_hypervisor::State;
using nlohmann::json;

constexpr std::uint64_t kMib = 1U << 20;
constexpr const char* kNotThere = "No such file or directory";

Deadline soon() { return Deadline::after(60s); }

/// What a refusal says, its status in front: "500: ...".
std::string refusal_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Refused& refused) {
    return std::to_string(refused.status()) + ": " + refused.what();
  }
  return "it was not refused";
}

/// The identifiers of the devices of a kind in a description.
std::vector<std::string> ids_of(const json& config, const char* kind) {
  std::vector<std::string> ids;
  for (const json& device : config.value(kind, json::array())) ids.push_back(device.value("id", ""));
  return ids;
}

/// The driver's VM runs; the calls are made beside the driver.
class CloudHypervisorApiCallsTest : public CloudHypervisorDriverTest {
 protected:
  void SetUp() override {
    CloudHypervisorDriverTest::SetUp();
    if (IsSkipped()) return;
    MachineConfig config = machine();
    config.max_vcpus = 2;
    config.max_memory_mib = config.memory_mib + 128;
    config.memory_balloon = true;
    config.disks = {{.path = make_file("data.raw", kMib), .format = DiskFormat::Raw, .id = "data"}};
    (void)driver_.start(prepare(), config);
    api_.emplace(vm_->runtime_dir / "api.sock");
  }

  [[nodiscard]] const ApiClient& api() const { return *api_; }
  [[nodiscard]] json description() const { return api().info(soon()).at("config"); }
  [[nodiscard]] fs::path make_file(const char* name, std::uint64_t bytes) const {
    write_file(folder_.path() / name, "", 0600);
    fs::resize_file(folder_.path() / name, bytes);
    return folder_.path() / name;
  }
  /// In the place of the driver's VM there is one that has not been booted, whose memory is shared.
  void replace_vm() const {
    api().remove(soon());
    api().create({.memory = {.size = 64 * kMib, .shared = true}, .payload = {.kernel = testing::halting_kernel()}}, soon());
  }
  [[nodiscard]] bool has_event(const std::string& event) const {
    return read_file(vm_->work_dir / "events.json").find("\"" + event + "\"") != std::string::npos;
  }

 private:
  const testing::Variable guest_debug_{"VMTEST_SIM_CH_GUEST_DEBUG", "1"};
  std::optional<ApiClient> api_;
};

TEST_F(CloudHypervisorApiCallsTest, ServerTellsWhatItIs) {
  const cloud_hypervisor::Ping ping = api().ping(soon());
  EXPECT_NO_THROW(cloud_hypervisor::require_version(ping.version));
  EXPECT_NE(ping.build_version, "");
  EXPECT_EQ(ping.pid, SupervisorConnection::connect(vm_->supervisor_socket())->status().processes.at("cloud-hypervisor"));
  EXPECT_NE(std::find(ping.features.begin(), ping.features.end(), "kvm"), ping.features.end());
}

TEST_F(CloudHypervisorApiCallsTest, RunningVmIsDescribedAndCounted) {
  EXPECT_EQ(api().state(soon()), State::Running);
  const json info = api().info(soon());
  EXPECT_EQ(info.at("config").at("memory").at("size"), 64 * kMib);
  EXPECT_TRUE(info.at("device_tree").contains("data"));
  const json counters = api().counters(soon());
  EXPECT_TRUE(counters.at("data").contains("read_bytes"));
  EXPECT_TRUE(counters.at("net0").contains("rx_frames"));
}

TEST_F(CloudHypervisorApiCallsTest, VmStandsStillAndGoesOn) {
  api().pause(soon());
  EXPECT_EQ(api().state(soon()), State::Paused);
  api().resume(soon());
  EXPECT_EQ(api().state(soon()), State::Running);
}

TEST_F(CloudHypervisorApiCallsTest, VmBootsAnew) {
  api().reboot(soon());
  EXPECT_EQ(api().state(soon()), State::Running);
  api().shutdown(soon());
  EXPECT_EQ(api().state(soon()), State::Created);
  api().boot(soon());
  EXPECT_EQ(api().state(soon()), State::Running);
}

TEST_F(CloudHypervisorApiCallsTest, GuestIsToldToPowerOffAndInterrupted) {
  api().press_power_button(soon());
  EXPECT_EQ(api().state(soon()), State::Running) << "this guest does not listen";
  EXPECT_NO_THROW(api().inject_nmi(soon()));
}

TEST_F(CloudHypervisorApiCallsTest, VmIsForgottenAndAnotherOneMade) {
  api().remove(soon());
  const std::string why = refusal_of([&] { (void)api().info(soon()); });
  EXPECT_TRUE(why.starts_with("404: ")) << why;
  EXPECT_NE(why.find("VM is not created"), std::string::npos) << why;
  api().create({.memory = {.size = 64 * kMib}, .payload = {.kernel = testing::halting_kernel()}}, soon());
  EXPECT_EQ(api().state(soon()), State::Created);
  api().boot(soon());
  EXPECT_EQ(api().state(soon()), State::Running);
}

TEST_F(CloudHypervisorApiCallsTest, VcpusMemoryAndBalloonAreResized) {
  api().resize({.vcpus = 2}, soon());
  EXPECT_EQ(description().at("cpus").at("boot_vcpus"), 2);
  api().resize({.ram = 96 * kMib}, soon());
  EXPECT_EQ(description().at("memory").at("hotplugged_size"), 32 * kMib);
  api().resize({.balloon = 16 * kMib}, soon());
  EXPECT_EQ(description().at("balloon").at("size"), 16 * kMib);
}

TEST_F(CloudHypervisorApiCallsTest, DiskGrows) {
  api().resize_disk("data", 2 * kMib, soon());
  EXPECT_EQ(fs::file_size(folder_.path() / "data.raw"), 2 * kMib);
}

TEST_F(CloudHypervisorApiCallsTest, MemoryZoneThatIsNotThereIsRefused) {
  const std::string why = refusal_of([&] { api().resize_zone("mem0", 128 * kMib, soon()); });
  EXPECT_TRUE(why.starts_with("500: ")) << why;
  EXPECT_NE(why.find("The memory zone could not be resized"), std::string::npos) << why;
}

TEST_F(CloudHypervisorApiCallsTest, DevicesBecomePartOfADescriptionBeforeTheBoot) {
  replace_vm();
  const fs::path file = make_file("file", 4 * kMib);
  EXPECT_FALSE(api().add_device("/sys/bus/pci/devices/0000:00:1e.0", "vfio1", soon()));
  EXPECT_FALSE(api().add_disk({.path = file, .readonly = true, .id = "disk1", .serial = "s"}, soon()));
  EXPECT_FALSE(api().add_fs({.tag = "t", .socket = "/none/fs", .id = "fs1"}, soon()));
  EXPECT_FALSE(api().add_generic_vhost_user(
      {.socket = "/none/generic", .device_type = 26, .queue_sizes = {128, 128}, .id = "generic1"}, soon()));
  EXPECT_FALSE(api().add_net({.mac = "52:54:00:12:34:57", .id = "net1"}, soon()));
  EXPECT_FALSE(api().add_pmem({.file = file, .size = 2 * kMib, .discard_writes = true, .id = "pmem1"}, soon()));
  EXPECT_FALSE(api().add_user_device("/none/user", soon()));
  EXPECT_FALSE(api().add_vdpa({.path = "/dev/vhost-vdpa-none", .num_queues = 2, .id = "vdpa1"}, soon()));
  EXPECT_FALSE(api().add_vsock({.cid = 4, .socket = "/none/vsock", .id = "vsock1"}, soon()));
  const json described = description();
  EXPECT_EQ(ids_of(described, "devices"), std::vector<std::string>{"vfio1"});
  EXPECT_EQ(ids_of(described, "disks"), std::vector<std::string>{"disk1"});
  EXPECT_EQ(ids_of(described, "fs"), std::vector<std::string>{"fs1"});
  EXPECT_EQ(ids_of(described, "generic_vhost_user"), std::vector<std::string>{"generic1"});
  EXPECT_EQ(ids_of(described, "net"), std::vector<std::string>{"net1"});
  EXPECT_EQ(ids_of(described, "pmem"), std::vector<std::string>{"pmem1"});
  EXPECT_EQ(described.at("user_devices").at(0).at("socket"), "/none/user");
  EXPECT_EQ(ids_of(described, "vdpa"), std::vector<std::string>{"vdpa1"});
  EXPECT_EQ(described.at("vsock").at("id"), "vsock1");
}

TEST_F(CloudHypervisorApiCallsTest, DevicesArePluggedIntoARunningVm) {
  const auto disk = api().add_disk({.path = make_file("second.raw", kMib), .id = "disk1"}, soon());
  ASSERT_TRUE(disk);
  EXPECT_EQ(disk->id, "disk1");
  const auto net = api().add_net({.id = "net1"}, soon());
  ASSERT_TRUE(net);
  EXPECT_EQ(net->id, "net1");
  const auto pmem = api().add_pmem({.file = make_file("pmem", 4 * kMib), .id = "pmem1"}, soon());
  ASSERT_TRUE(pmem);
  EXPECT_EQ(pmem->id, "pmem1");
  const auto vsock = api().add_vsock({.cid = 4, .socket = folder_.path() / "vsock", .id = "vsock1"}, soon());
  ASSERT_TRUE(vsock);
  EXPECT_EQ(vsock->id, "vsock1");
  EXPECT_NE(disk->bdf, net->bdf);
  EXPECT_TRUE(api().info(soon()).at("device_tree").contains("pmem1"));
}

TEST_F(CloudHypervisorApiCallsTest, DevicesThatThisHostLacksAreRefused) {
  replace_vm();
  api().boot(soon());
  const std::vector<std::string> refusals = {
      refusal_of([&] { (void)api().add_device("/sys/bus/pci/devices/none", "", soon()); }),
      refusal_of([&] { (void)api().add_fs({.tag = "t", .socket = "/none/fs"}, soon()); }),
      refusal_of([&] {
        (void)api().add_generic_vhost_user({.socket = "/none/generic", .device_type = 26, .queue_sizes = {128}}, soon());
      }),
      refusal_of([&] { (void)api().add_user_device("/none/user", soon()); }),
      refusal_of([&] { (void)api().add_vdpa({.path = "/dev/vhost-vdpa-none"}, soon()); }),
  };
  for (const std::string& why : refusals) {
    EXPECT_TRUE(why.starts_with("500: ")) << why;
    EXPECT_NE(why.find(kNotThere), std::string::npos) << why;
  }
  EXPECT_EQ(api().state(soon()), State::Running);
}

TEST_F(CloudHypervisorApiCallsTest, DeviceIsTakenOutOfADescription) {
  replace_vm();
  EXPECT_FALSE(api().add_disk({.path = make_file("file", kMib), .id = "disk1"}, soon()));
  api().remove_device("disk1", soon());
  EXPECT_EQ(ids_of(description(), "disks"), std::vector<std::string>());
  const std::string why = refusal_of([&] { api().remove_device("disk1", soon()); });
  EXPECT_NE(why.find("No device with id \"disk1\" to remove"), std::string::npos) << why;
}

TEST_F(CloudHypervisorApiCallsTest, SnapshotIsRestored) {
  const fs::path folder = folder_.path() / "snapshot";
  fs::create_directory(folder);
  api().pause(soon());
  api().snapshot(folder, soon());
  EXPECT_TRUE(fs::exists(folder / "state.json"));
  api().remove(soon());
  api().restore({.folder = folder, .prefault = true, .memory_mode = MemoryRestoreMode::Copy}, soon());
  EXPECT_EQ(api().state(soon()), State::Paused);
  api().remove(soon());
  api().restore({.folder = folder, .resume = true}, soon());
  EXPECT_EQ(api().state(soon()), State::Running);
}

TEST_F(CloudHypervisorApiCallsTest, MemoryIsDumped) {
  const std::vector<std::string> features = api().ping(soon()).features;
  if (std::find(features.begin(), features.end(), "guest_debug") == features.end()) GTEST_SKIP() << named_ << " cannot";
  api().dump_core(folder_.path() / "core", soon());
  EXPECT_GT(fs::file_size(folder_.path() / "core"), 64 * kMib);
  EXPECT_EQ(api().state(soon()), State::Running);
}

TEST_F(CloudHypervisorApiCallsTest, GuestThatNobodyReceivesStays) {
  api().send_migration({.url = "unix:" + (folder_.path() / "none").string(),
                        .downtime_ms = 100,
                        .timeout_s = 20,
                        .connections = 1,
                        .mode = MigrationMode::Precopy},
                       soon());
  EXPECT_TRUE(testing::wait_until([&] { return has_event("migration-failed"); }, soon()));
  EXPECT_EQ(api().state(soon()), State::Running);
}

TEST_F(CloudHypervisorApiCallsTest, FieldsOfASendingReachTheServer) {
  const std::string local = refusal_of([&] { api().send_migration({.url = "unix:/s", .local = true}, soon()); });
  EXPECT_NE(local.find("Local migration requires shared memory or hugepages enabled"), std::string::npos) << local;
  const std::string many = refusal_of([&] { api().send_migration({.url = "unix:/s", .connections = 2}, soon()); });
  EXPECT_NE(many.find("UNIX sockets and connections option"), std::string::npos) << many;
  const std::string secret = refusal_of([&] { api().send_migration({.url = "unix:/s", .tls_dir = "/tls"}, soon()); });
  EXPECT_NE(secret.find("UNIX sockets and TLS encryption"), std::string::npos) << secret;
}

TEST_F(CloudHypervisorApiCallsTest, FieldsOfAReceptionReachTheServer) {
  api().remove(soon());
  const std::string nowhere =
      refusal_of([&] { api().receive_migration({.url = "unix:/none/s", .mode = MigrationMode::Precopy}, soon()); });
  EXPECT_NE(nowhere.find(kNotThere), std::string::npos) << nowhere;
  const std::string secret = refusal_of([&] { api().receive_migration({.url = "unix:/s", .tls_dir = "/tls"}, soon()); });
  EXPECT_NE(secret.find("UNIX sockets and TLS encryption"), std::string::npos) << secret;
}

TEST_F(CloudHypervisorApiCallsTest, ServerEnds) {
  api().shutdown_vmm(soon());
  const auto exit = driver_.wait_exit(*vm_, 20s);
  ASSERT_TRUE(exit);
  EXPECT_TRUE(exit->orderly) << exit->how;
  EXPECT_EQ(driver_.state(*vm_), VmState::Stopped);
}

}  // namespace
}  // namespace vmtest
