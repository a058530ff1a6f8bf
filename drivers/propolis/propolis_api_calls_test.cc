// Every call of the API that the library has, put to the simulated server, which checks bodies and replies against the API's
// description: in its newest version and its oldest. Firmware is the guest.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "api_client.h"
#include "failure.h"
#include "instance_spec.h"
#include "keeper/websocket.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/socket.h"
#include "wait.h"

namespace vmtest::propolis {
namespace {

using namespace std::chrono_literals;
using testing::failure_of;
using testing::wait_until;

constexpr const char* kFirmware = "/usr/share/ovmf/OVMF.fd";
constexpr const char* kId = "6f0c1d0e-3a5e-4c5e-9b6f-0d6a3f1c7d11";
constexpr const char* kSnapshot = "6f0c1d0e-3a5e-4c5e-9b6f-0d6a3f1c7d12";
/// What EDK II begins with: an empty screen.
constexpr const char* kFirstPrinted = "\033[2J";
/// The goodbye to who watches the console of a guest that ends: "going away" (RFC 6455, 7.4.1).
constexpr std::uint16_t kGoingAway = 1001;

Deadline soon() { return Deadline::after(60s); }

/// The status and the code of what the server refuses: "424 NoInstance".
std::string refusal_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Refused& refused) {
    return std::to_string(refused.status()) + (refused.code().empty() ? "" : " " + refused.code());
  }
  return "nothing was refused";
}

/// Has a server of its own, which offers versions up to that one.
class ApiServer : public ::testing::Test {
 protected:
  explicit ApiServer(std::string version) : api_("127.0.0.1", port_, std::move(version)) {}

  void SetUp() override {
    if (!std::filesystem::exists(kFirmware)) GTEST_SKIP() << "no boot ROM " << kFirmware;
    server_ = ChildProcess::start({.argv = {VMTEST_SIMULATED_PROPOLIS, "run", kFirmware, "127.0.0.1:" + std::to_string(port_)},
                                   .environment = {{"VMTEST_SIM_PROPOLIS_VERSION", api_.version()}},
                                   .working_directory = folder_.path()});
    ASSERT_TRUE(wait_until([&] { return listens(); }, soon())) << "there is no server at " << api_.address();
  }

  [[nodiscard]] bool listens() const {
    try {
      (void)api_.find_state(soon());
      return true;
    } catch (const std::system_error&) {
      return false;
    }
  }
  [[nodiscard]] static std::string body(const std::string& serial = {}) {
    MachineConfig machine;
    machine.memory_mib = 64;
    machine.boot = BootMode::Uefi;
    machine.smbios_serial = serial;
    return instance_body(machine, {.id = kId, .name = "t1", .vnics = {}});
  }
  void make() const { api_.ensure(body(), soon()); }
  /// Creating, Starting, Running.
  void run() const {
    make();
    api_.change_state(Change::Run, soon());
    EXPECT_EQ(api_.monitor_state(3, soon()).state, State::Running);
  }
  [[nodiscard]] WebSocketAddress console(const std::string& query = {}) const {
    return {
        .host = "127.0.0.1", .port = port_, .target = "/instance/serial" + query, .headers = {{kVersionHeader, api_.version()}}};
  }
  /// All that comes, until it is enough or the last.
  [[nodiscard]] static WebSocket::Received read(WebSocket& socket, const std::function<bool(const std::string&)>& enough) {
    WebSocket::Received all;
    const Deadline deadline = soon();
    while (!all.ended && !enough(all.data) && (socket.has_unread() || wait_readable(socket.descriptor(), deadline))) {
      const WebSocket::Received more = socket.receive();
      all.data += more.data;
      all.ended = more.ended;
      all.code = more.code;
    }
    return all;
  }

  TemporaryDirectory folder_;
  const std::uint16_t port_ = ephemeral_port();
  const ApiClient api_;
  ChildProcess server_;
};

class PropolisApiCallsTest : public ApiServer, public ::testing::WithParamInterface<const char*> {
 protected:
  PropolisApiCallsTest() : ApiServer(GetParam()) {}
};

TEST_P(PropolisApiCallsTest, ServersVersionIsFound) { EXPECT_EQ(ApiClient::negotiate("127.0.0.1", port_, soon()), GetParam()); }

TEST_P(PropolisApiCallsTest, VersionThatItDoesNotOfferIsRefusedWithItsWords) {
  const std::string why = failure_of([&] { (void)ApiClient("127.0.0.1", port_, "6.0.0").find_state(soon()); });
  EXPECT_EQ(why, "propolis-server refuses GET /instance (400): server does not support this API version: 6.0.0");
}

TEST_P(PropolisApiCallsTest, EmptyVersionIsRefusedWithItsWords) {
  const std::string why = failure_of([&] { (void)ApiClient("127.0.0.1", port_, "").find_state(soon()); });
  EXPECT_NE(why.find("GET /instance (400): bad value for header \"api-version\""), std::string::npos) << why;
}

TEST_P(PropolisApiCallsTest, ThereIsNoInstanceBeforeOneIsMade) {
  EXPECT_EQ(api_.find_state(soon()), std::nullopt);
  EXPECT_EQ(refusal_of([&] { (void)api_.instance(soon()); }), "424 NoInstance");
  EXPECT_EQ(refusal_of([&] { (void)api_.spec(soon()); }), "424 NoInstance");
  EXPECT_EQ(refusal_of([&] { api_.change_state(Change::Run, soon()); }), "424 NoInstance");
  EXPECT_EQ(refusal_of([&] { api_.change_state(Change::Stop, soon()); }), "424 NoInstance");
  EXPECT_EQ(refusal_of([&] { api_.change_state(Change::Reboot, soon()); }), "424 NoInstance");
  EXPECT_EQ(refusal_of([&] { (void)api_.monitor_state(0, soon()); }), "424 NoInstance");
  EXPECT_EQ(refusal_of([&] { (void)api_.serial_history_from(0, 1, soon()); }), "424 NoInstance");
  EXPECT_EQ(refusal_of([&] { (void)api_.serial_history_last(1, 1, soon()); }), "424 NoInstance");
  EXPECT_EQ(refusal_of([&] { api_.inject_nmi(soon()); }), "424 NoInstance");
  EXPECT_EQ(refusal_of([&] { (void)api_.migration_status(soon()); }), "424 NoInstance");
  EXPECT_EQ(refusal_of([&] { api_.snapshot_disk("root", kSnapshot, soon()); }), "424 NoInstance");
  EXPECT_EQ(refusal_of([&] { (void)api_.disk_status("root", soon()); }), "424 NoInstance");
  EXPECT_EQ(refusal_of([&] { (void)api_.replace_volume("root", {{"type", "volume"}}, soon()); }), "424 NoInstance");
}

TEST_P(PropolisApiCallsTest, ConsoleBeforeAnInstanceEndsAtOnce) {
  WebSocket socket(console(), soon());
  EXPECT_TRUE(read(socket, [](const std::string&) { return false; }).ended);
}

TEST_P(PropolisApiCallsTest, ConsoleNeedsTheVersionToo) {
  WebSocketAddress without = console();
  without.headers.clear();
  EXPECT_THROW(WebSocket(without, soon()), Error);
}

TEST_P(PropolisApiCallsTest, InstanceIsMadeAndDoesNotRunYet) {
  make();
  EXPECT_EQ(api_.find_state(soon()), State::Creating);
  const nlohmann::json properties = api_.instance(soon()).at("instance").at("properties");
  EXPECT_EQ(properties.at("id"), kId);
  EXPECT_EQ(properties.at("name"), "t1");
}

TEST_P(PropolisApiCallsTest, SecondInstanceIsRefused) {
  make();
  EXPECT_EQ(refusal_of([&] { make(); }), "409 AlreadyInitialized");
  EXPECT_EQ(api_.find_state(soon()), State::Creating);
}

TEST_P(PropolisApiCallsTest, BodyThatIsNoneIsRefused) {
  const std::string why = failure_of([&] { api_.ensure("{}", soon()); });
  EXPECT_NE(why.find("PUT /instance (400): unable to parse JSON body: missing field `init`"), std::string::npos) << why;
  EXPECT_EQ(api_.find_state(soon()), std::nullopt);
}

TEST_P(PropolisApiCallsTest, StatesAreMonitoredToTheEnd) {
  run();
  api_.change_state(Change::Reboot, soon());
  EXPECT_EQ(api_.monitor_state(5, soon()).state, State::Running) << "Rebooting, Running";
  api_.change_state(Change::Stop, soon());
  const StateChange last = api_.monitor_state(8, soon());
  EXPECT_EQ(last.state, State::Destroyed) << "Stopping, Stopped, Destroyed";
  EXPECT_EQ(last.generation, 8U);
  EXPECT_EQ(refusal_of([&] { (void)api_.monitor_state(9, soon()); }), "410 NoInstance");
  EXPECT_EQ(refusal_of([&] { api_.change_state(Change::Run, soon()); }), "424 NoInstance");
  EXPECT_EQ(api_.find_state(soon()), State::Destroyed);
}

TEST_P(PropolisApiCallsTest, RebootBeforeItRunsIsForbidden) {
  make();
  EXPECT_EQ(refusal_of([&] { api_.change_state(Change::Reboot, soon()); }),
            "403 instance state change not allowed: Operation requires an active instance");
  EXPECT_EQ(api_.find_state(soon()), State::Creating);
}

TEST_P(PropolisApiCallsTest, WhatTheGuestPrintedIsKept) {
  run();
  EXPECT_TRUE(wait_until(
      [&] { return api_.serial_history_from(0, 1U << 20, soon()).data.find(kFirstPrinted) != std::string::npos; }, soon()));
  const SerialHistory first = api_.serial_history_from(0, 3, soon());
  EXPECT_EQ(first.data.size(), 3U);
  EXPECT_EQ(first.end, 3U);
  const SerialHistory last = api_.serial_history_last(3, 2, soon());
  EXPECT_EQ(last.data.size(), 2U);
  EXPECT_GE(last.end, first.end - 1);
}

TEST_P(PropolisApiCallsTest, ConsoleIsReadFromTheStartToItsGoodbye) {
  make();
  WebSocket socket(console("?from_start=0"), soon());
  api_.change_state(Change::Run, soon());
  const auto printed = [](const std::string& data) { return data.find(kFirstPrinted) != std::string::npos; };
  EXPECT_TRUE(printed(read(socket, printed).data));
  EXPECT_NO_THROW(socket.send("x"));
  api_.change_state(Change::Stop, soon());
  const WebSocket::Received rest = read(socket, [](const std::string&) { return false; });
  EXPECT_TRUE(rest.ended);
  EXPECT_EQ(rest.code, kGoingAway);
}

TEST_P(PropolisApiCallsTest, RunningGuestIsInterrupted) {
  run();
  EXPECT_NO_THROW(api_.inject_nmi(soon()));
  EXPECT_EQ(api_.find_state(soon()), State::Running);
}

TEST_P(PropolisApiCallsTest, NothingMigrates) {
  make();
  EXPECT_EQ(api_.migration_status(soon()), nlohmann::json({{"migration_in", nullptr}, {"migration_out", nullptr}}));
}

// Their bodies and paths are taken, or these would be 400; the simulator has no Crucible behind them.
TEST_P(PropolisApiCallsTest, DiskThatIsNotInCrucibleIsNotFound) {
  make();
  EXPECT_EQ(refusal_of([&] { api_.snapshot_disk("root", kSnapshot, soon()); }), "404 no disk with id root!");
  EXPECT_EQ(refusal_of([&] { (void)api_.disk_status("root", soon()); }), "404 No crucible backend for id root");
  EXPECT_EQ(refusal_of([&] {
              (void)api_.replace_volume("root", {{"type", "volume"}}, soon());
            }),
            "404 No crucible backend for id root");
}

TEST_P(PropolisApiCallsTest, SnapshotWhoseNameIsNoUuidIsRefused) {
  make();
  const std::string why = failure_of([&] { api_.snapshot_disk("root", "monday", soon()); });
  EXPECT_NE(why.find("(400): bad parameter in URL path"), std::string::npos) << why;
}

INSTANTIATE_TEST_SUITE_P(Of, PropolisApiCallsTest, ::testing::Values(kNewestVersion, kOldestVersion),
                         [](const ::testing::TestParamInfo<const char*>& version) {
                           return std::string("Version") + version.param[0];
                         });

class PropolisNewestApiTest : public ApiServer {
 protected:
  PropolisNewestApiTest() : ApiServer(kNewestVersion) {}
};

TEST_F(PropolisNewestApiTest, SpecificationIsToldAsItIs) {
  api_.ensure(body("ds=nocloud"), soon());
  const nlohmann::json spec = api_.spec(soon()).at("spec").at("value");
  EXPECT_TRUE(spec.at("components").contains("com1"));
  EXPECT_EQ(spec.at("board").at("memory_mb"), 64);
  EXPECT_EQ(spec.at("smbios").at("serial_number"), "ds=nocloud");
}

class PropolisOldestApiTest : public ApiServer {
 protected:
  PropolisOldestApiTest() : ApiServer(kOldestVersion) {}
};

TEST_F(PropolisOldestApiTest, SpecificationHasAVersionOfItsOwn) {
  make();
  const nlohmann::json spec = api_.spec(soon()).at("spec").at("value");
  EXPECT_EQ(spec.at("version"), "V0");
  EXPECT_TRUE(spec.at("spec").at("components").contains("com1"));
}

TEST_F(PropolisOldestApiTest, SerialNumberOfTheMachineIsUnknown) {
  const std::string why = failure_of([&] { api_.ensure(body("ds=nocloud"), soon()); });
  EXPECT_NE(why.find("unknown field `smbios`"), std::string::npos) << why;
}

}  // namespace
}  // namespace vmtest::propolis
