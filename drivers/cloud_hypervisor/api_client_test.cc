#include "api_client.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "http/recording_server.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::cloud_hypervisor {
namespace {

using nlohmann::json;
using testing::RecordingServer;
using namespace std::chrono_literals;

Deadline soon() { return Deadline::after(20s); }

class CloudHypervisorApiClientTest : public ::testing::Test {
 protected:
  TemporaryDirectory folder_;
  RecordingServer server_{folder_.path() / "api.sock"};
  ApiClient client_{folder_.path() / "api.sock"};
};

/// A call and the request it makes.
struct Call {
  const char* request;
  std::function<void(const ApiClient&)> make;
  const char* body = "null";
};

const std::vector<Call>& calls_without_an_answer() {
  static const std::vector<Call> calls = {
      {"vmm.shutdown", [](const ApiClient& client) { client.shutdown_vmm(soon()); }},
      {"vm.create", [](const ApiClient& client) { client.create({.payload = {.kernel = "/k"}}, soon()); },
       R"({"cpus":{"boot_vcpus":1,"max_vcpus":1},"memory":{"size":0},"payload":{"kernel":"/k"},"serial":{"mode":"Null"},"console":{"mode":"Off"}})"},
      {"vm.delete", [](const ApiClient& client) { client.remove(soon()); }},
      {"vm.boot", [](const ApiClient& client) { client.boot(soon()); }},
      {"vm.pause", [](const ApiClient& client) { client.pause(soon()); }},
      {"vm.resume", [](const ApiClient& client) { client.resume(soon()); }},
      {"vm.shutdown", [](const ApiClient& client) { client.shutdown(soon()); }},
      {"vm.reboot", [](const ApiClient& client) { client.reboot(soon()); }},
      {"vm.power-button", [](const ApiClient& client) { client.press_power_button(soon()); }},
      {"vm.nmi", [](const ApiClient& client) { client.inject_nmi(soon()); }},
      {"vm.resize", [](const ApiClient& client) { client.resize({.vcpus = 2, .ram = 1024, .balloon = 512}, soon()); },
       R"({"desired_vcpus":2,"desired_ram":1024,"desired_balloon":512})"},
      {"vm.resize-disk", [](const ApiClient& client) { client.resize_disk("root", 4096, soon()); },
       R"({"id":"root","desired_size":4096})"},
      {"vm.resize-zone", [](const ApiClient& client) { client.resize_zone("mem0", 4096, soon()); },
       R"({"id":"mem0","desired_ram":4096})"},
      {"vm.add-device",
       [](const ApiClient& client) { (void)client.add_device("/sys/bus/pci/devices/0000:00:05.0", "gpu", soon()); },
       R"({"path":"/sys/bus/pci/devices/0000:00:05.0","id":"gpu"})"},
      {"vm.add-disk", [](const ApiClient& client) { (void)client.add_disk({.path = "/d", .id = "data1"}, soon()); },
       R"({"path":"/d","image_type":"Raw","id":"data1"})"},
      {"vm.add-fs", [](const ApiClient& client) { (void)client.add_fs({.tag = "t", .socket = "/s"}, soon()); },
       R"({"tag":"t","socket":"/s","num_queues":1,"queue_size":1024})"},
      {"vm.add-generic-vhost-user",
       [](const ApiClient& client) {
         (void)client.add_generic_vhost_user({.socket = "/s", .device_type = 26, .queue_sizes = {128, 128}}, soon());
       },
       R"({"socket":"/s","device_type":26,"queue_sizes":[128,128]})"},
      {"vm.add-net", [](const ApiClient& client) { (void)client.add_net({.tap = "vmtest1", .id = "net1"}, soon()); },
       R"({"tap":"vmtest1","id":"net1"})"},
      {"vm.add-pmem", [](const ApiClient& client) { (void)client.add_pmem({.file = "/p", .size = 4096}, soon()); },
       R"({"file":"/p","size":4096,"discard_writes":false})"},
      {"vm.add-user-device", [](const ApiClient& client) { (void)client.add_user_device("/s", soon()); }, R"({"socket":"/s"})"},
      {"vm.add-vdpa",
       [](const ApiClient& client) { (void)client.add_vdpa({.path = "/dev/vhost-vdpa-0", .num_queues = 2}, soon()); },
       R"({"path":"/dev/vhost-vdpa-0","num_queues":2})"},
      {"vm.add-vsock", [](const ApiClient& client) { (void)client.add_vsock({.cid = 4, .socket = "/s"}, soon()); },
       R"({"cid":4,"socket":"/s"})"},
      {"vm.remove-device", [](const ApiClient& client) { client.remove_device("data1", soon()); }, R"({"id":"data1"})"},
      {"vm.snapshot", [](const ApiClient& client) { client.snapshot("/snap", soon()); }, R"({"destination_url":"file:///snap"})"},
      {"vm.restore",
       [](const ApiClient& client) {
         client.restore({.folder = "/snap", .resume = true, .memory_mode = MemoryRestoreMode::OnDemand}, soon());
       },
       R"({"source_url":"file:///snap","resume":true,"memory_restore_mode":"OnDemand"})"},
      {"vm.coredump", [](const ApiClient& client) { client.dump_core("/core", soon()); },
       R"({"destination_url":"file:///core"})"},
      {"vm.receive-migration",
       [](const ApiClient& client) { client.receive_migration({.url = "unix:/m", .mode = MigrationMode::Postcopy}, soon()); },
       R"({"receiver_url":"unix:/m","memory_mode":"Postcopy"})"},
      {"vm.send-migration",
       [](const ApiClient& client) {
         client.send_migration({.url = "tcp:127.0.0.1:7000", .downtime_ms = 50, .connections = 2, .tls_dir = "/tls"}, soon());
       },
       R"({"destination_url":"tcp:127.0.0.1:7000","downtime_ms":50,"connections":2,"tls_dir":"/tls"})"},
  };
  return calls;
}

/// All that a description of the API has.
std::set<std::string> described_endpoints(const std::filesystem::path& yaml) {
  std::istringstream lines(read_file(yaml));
  std::set<std::string> endpoints;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("  /") && line.ends_with(":")) endpoints.insert(line.substr(3, line.size() - 4));
  }
  return endpoints;
}

TEST_F(CloudHypervisorApiClientTest, EachCallMakesItsRequest) {
  std::set<std::string> endpoints = {"vmm.ping", "vm.info", "vm.counters"};  // asked for below
  for (const Call& call : calls_without_an_answer()) {
    call.make(client_);
    EXPECT_EQ(server_.asked(), std::string("PUT /api/v1/") + call.request);
    EXPECT_EQ(server_.body(), json::parse(call.body)) << call.request;
    endpoints.insert(call.request);
  }
  EXPECT_EQ(endpoints.size(), 31U);
  EXPECT_EQ(endpoints, described_endpoints(VMTEST_CLOUD_HYPERVISOR_OPENAPI ".yaml"));
  EXPECT_EQ(endpoints, described_endpoints(VMTEST_CLOUD_HYPERVISOR_OPENAPI "-v53.yaml"));
}

TEST_F(CloudHypervisorApiClientTest, TellsWhoAnswers) {
  server_.answer(200, R"({"build_version":"v53.0-1","version":"53.0.0","pid":42,"features":["kvm","io_uring"]})");
  const Ping ping = client_.ping(soon());
  EXPECT_EQ(server_.asked(), "GET /api/v1/vmm.ping");
  EXPECT_EQ(ping.version, "53.0.0");
  EXPECT_EQ(ping.pid, 42);
  EXPECT_EQ(ping.features, (std::vector<std::string>{"kvm", "io_uring"}));
}

TEST_F(CloudHypervisorApiClientTest, ReadsTheState) {
  server_.answer(200, R"({"config":{"payload":{}},"state":"Paused"})");
  EXPECT_EQ(client_.state(soon()), State::Paused);
  EXPECT_EQ(server_.asked(), "GET /api/v1/vm.info");
  server_.answer(200, R"({"config":{"payload":{}},"state":"Dreaming"})");
  EXPECT_THROW((void)client_.state(soon()), Error);
}

TEST_F(CloudHypervisorApiClientTest, ReadsCounters) {
  server_.answer(200, R"({"_disk0":{"read_bytes":512}})");
  EXPECT_EQ(client_.counters(soon())["_disk0"]["read_bytes"], 512);
}

TEST_F(CloudHypervisorApiClientTest, DeviceOfARunningVmHasAPlace) {
  server_.answer(200, R"({"id":"data1","bdf":"0000:00:06.0"})");
  const auto device = client_.add_disk({.path = "/d"}, soon());
  ASSERT_TRUE(device);
  EXPECT_EQ(device->bdf, "0000:00:06.0");
  server_.answer(204);
  EXPECT_FALSE(client_.add_disk({.path = "/d"}, soon()));
}

TEST_F(CloudHypervisorApiClientTest, RefusalHasTheServersWordsAndStatus) {
  server_.answer(404, R"(["Error from API","The VM could not boot","Cannot open disk path /gone"])");
  try {
    client_.boot(soon());
    FAIL() << "it was not refused";
  } catch (const Refused& refused) {
    EXPECT_EQ(refused.status(), 404);
    EXPECT_STREQ(refused.what(),
                 "Cloud Hypervisor refuses vm.boot (404): Error from API: The VM could not boot: Cannot open disk path /gone");
  }
}

TEST_F(CloudHypervisorApiClientTest, AnswersThatAreNoneAreErrors) {
  for (const char* answer : {"", "[]", "garbage", "{}", R"({"version":7})"}) {
    server_.answer(200, answer);
    EXPECT_THROW((void)client_.ping(soon()), Error) << answer;
  }
  server_.answer(200, R"({"id":"data1"})");
  EXPECT_THROW((void)client_.add_disk({.path = "/d"}, soon()), Error);
}

TEST(CloudHypervisorRefusalTest, WordsAreAnArrayOrWhateverThereIs) {
  EXPECT_EQ(words_of_refusal(R"(["outer","inner"])"), "outer: inner");
  EXPECT_EQ(words_of_refusal("Internal error"), "Internal error");
  EXPECT_EQ(words_of_refusal(""), "no reason given");
  EXPECT_EQ(words_of_refusal("[1,2]"), "[1,2]");
  EXPECT_EQ(words_of_refusal("a\x1b[31mb").find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace vmtest::cloud_hypervisor
