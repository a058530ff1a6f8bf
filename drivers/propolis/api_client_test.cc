#include "api_client.h"

#include <gtest/gtest.h>
#include <httplib.h>

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "vmtest/host/socket.h"

namespace vmtest::propolis {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;

Deadline soon() { return Deadline::after(20s); }

/// A server that writes down what it is asked and gives the answer it was told to.
class RecordingServer {
 public:
  RecordingServer() {
    const auto record = [this](const httplib::Request& request, httplib::Response& response) {
      const std::lock_guard lock(mutex_);
      asked_ = request.method + " " + request.target;
      version_ = request.get_header_value("api-version");
      body_ = request.body;
      response.status = version_ == only_version_ || only_version_.empty() ? status_ : 400;
      response.set_content(answer_, "application/json");
    };
    server_.Get(".*", record);
    server_.Put(".*", record);
    server_.Post(".*", record);
    port_ = static_cast<std::uint16_t>(server_.bind_to_any_port("127.0.0.1"));
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
  }
  ~RecordingServer() {
    server_.stop();
    thread_.join();
  }
  RecordingServer(const RecordingServer&) = delete;
  RecordingServer& operator=(const RecordingServer&) = delete;

  void answer(int status, std::string text = {}, std::string only_version = {}) {
    const std::lock_guard lock(mutex_);
    status_ = status;
    answer_ = std::move(text);
    only_version_ = std::move(only_version);
  }
  std::string asked() {
    const std::lock_guard lock(mutex_);
    return asked_ + (body_.empty() ? "" : " " + body_);
  }
  std::string version() {
    const std::lock_guard lock(mutex_);
    return version_;
  }
  [[nodiscard]] std::uint16_t port() const { return port_; }

 private:
  std::mutex mutex_;
  int status_ = 204;
  std::string answer_, asked_, version_, body_, only_version_;
  httplib::Server server_;
  std::thread thread_;
  std::uint16_t port_ = 0;
};

class PropolisApiClientTest : public ::testing::Test {
 protected:
  /// The error of a call while the server answers so.
  std::string refusal(int status, const std::string& text) {
    server_.answer(status, text);
    try {
      api_.ensure("{}", soon());
    } catch (const Refused& refused) {
      EXPECT_EQ(refused.status(), status);
      code_ = refused.code();
      return refused.what();
    }
    return "nothing was thrown";
  }

  RecordingServer server_;
  ApiClient api_{"127.0.0.1", server_.port()};
  std::string code_;
};

TEST_F(PropolisApiClientTest, EachCallHasItsEndpointAndTheVersion) {
  const std::map<std::string, std::pair<std::string, std::function<void()>>> calls = {
      {"PUT /instance {\"a\":1}", {"", [&] { api_.ensure("{\"a\":1}", soon()); }}},
      {"GET /instance", {"{}", [&] { (void)api_.instance(soon()); }}},
      {"GET /instance/spec", {"{}", [&] { (void)api_.spec(soon()); }}},
      {"PUT /instance/state \"Run\"", {"", [&] { api_.change_state(Change::Run, soon()); }}},
      {"PUT /instance/state \"Stop\"", {"", [&] { api_.change_state(Change::Stop, soon()); }}},
      {"PUT /instance/state \"Reboot\"", {"", [&] { api_.change_state(Change::Reboot, soon()); }}},
      {"GET /instance/serial/history?from_start=7&max_bytes=9",
       {R"({"data":[],"last_byte_offset":0})", [&] { (void)api_.serial_history_from(7, 9, soon()); }}},
      {"GET /instance/serial/history?most_recent=7&max_bytes=9",
       {R"({"data":[],"last_byte_offset":0})", [&] { (void)api_.serial_history_last(7, 9, soon()); }}},
      {"POST /instance/nmi", {"null", [&] { api_.inject_nmi(soon()); }}},
      {"GET /instance/migration-status", {"{}", [&] { (void)api_.migration_status(soon()); }}},
      {"POST /instance/disk/d%2F0/snapshot/s", {"null", [&] { api_.snapshot_disk("d/0", "s", soon()); }}},
      {"GET /instance/disk/d/status", {"{}", [&] { (void)api_.disk_status("d", soon()); }}},
      {R"(PUT /instance/disk/d/vcr {"vcr_json":"{\"v\":2}"})",
       {"\"started\"",
        [&] {
          EXPECT_EQ(api_.replace_volume("d", {{"v", 2}}, soon()), "started");
        }}},
  };
  for (const auto& [wanted, call] : calls) {
    server_.answer(200, call.first);
    call.second();
    EXPECT_EQ(server_.asked(), wanted);
    EXPECT_EQ(server_.version(), "5.0.0") << wanted;
  }
}

TEST_F(PropolisApiClientTest, StatesAreRead) {
  for (const char* name :
       {"Creating", "Starting", "Running", "Stopping", "Stopped", "Rebooting", "Migrating", "Repairing", "Failed", "Destroyed"}) {
    server_.answer(200, json{{"instance", {{"state", name}}}}.dump());
    const auto state = api_.find_state(soon());
    ASSERT_TRUE(state);
    EXPECT_EQ(to_string(*state), name);
  }
}

TEST_F(PropolisApiClientTest, NoInstanceIsNoError) {
  server_.answer(424, R"({"request_id":"r","error_code":"NoInstance","message":"there is no instance"})");
  EXPECT_EQ(api_.find_state(soon()), std::nullopt);
}

TEST_F(PropolisApiClientTest, UnknownStateIsNamed) {
  server_.answer(200, R"({"instance":{"state":"Dreaming"}})");
  EXPECT_THROW((void)api_.find_state(soon()), Error);
}

TEST_F(PropolisApiClientTest, RefusalHasTheServersWords) {
  EXPECT_EQ(refusal(403, R"({"request_id":"r","error_code":"Forbidden","message":"Instance is preparing to stop"})"),
            "propolis-server refuses PUT /instance (403, Forbidden): Instance is preparing to stop");
  EXPECT_EQ(code_, "Forbidden");
}

TEST_F(PropolisApiClientTest, RefusalOfAnotherFormIsShownAsItIs) {
  EXPECT_EQ(refusal(500, R"(["outer","inner"])"), R"(propolis-server refuses PUT /instance (500): ["outer","inner"])");
  EXPECT_EQ(refusal(502, ""), "propolis-server refuses PUT /instance (502): no reason given");
  EXPECT_EQ(refusal(500, "a \033[31mred\033[0m word"), "propolis-server refuses PUT /instance (500): a red word");
}

TEST_F(PropolisApiClientTest, AnswerThatIsNoneIsAnError) {
  server_.answer(200, "no JSON");
  EXPECT_THROW((void)api_.find_state(soon()), Error);
  EXPECT_THROW((void)api_.spec(soon()), Error);
  EXPECT_THROW((void)api_.monitor_state(1, soon()), Error);
  server_.answer(200, R"({"data":[300],"last_byte_offset":"x"})");
  EXPECT_THROW((void)api_.serial_history_from(0, 1, soon()), Error);
}

TEST_F(PropolisApiClientTest, HistoryIsBytes) {
  server_.answer(200, R"({"data":[104,105,0,255],"last_byte_offset":44})");
  const SerialHistory history = api_.serial_history_from(40, 100, soon());
  EXPECT_EQ(history.data, std::string("hi\0\xff", 4));
  EXPECT_EQ(history.end, 44U);
}

TEST_F(PropolisApiClientTest, NewestVersionIsTaken) {
  server_.answer(424);
  EXPECT_EQ(ApiClient::negotiate("127.0.0.1", server_.port(), soon()), "5.0.0");
}

TEST_F(PropolisApiClientTest, OlderServerIsToldApart) {
  server_.answer(424, "", "1.0.0");
  EXPECT_EQ(ApiClient::negotiate("127.0.0.1", server_.port(), soon()), "1.0.0");
}

TEST_F(PropolisApiClientTest, ServerOfAnotherVersionIsAnError) {
  server_.answer(400, R"({"request_id":"r","message":"server does not support this API version: 1.0.0"})");
  try {
    (void)ApiClient::negotiate("127.0.0.1", server_.port(), soon());
    FAIL() << "it did not throw";
  } catch (const Error& error) {
    const std::string why = error.what();
    EXPECT_NE(why.find("speaks neither version 5.0.0 nor 1.0.0"), std::string::npos) << why;
    EXPECT_NE(why.find("does not support this API version"), std::string::npos) << why;
  }
}

TEST(PropolisApiClient, NobodyListening) {
  EXPECT_THROW((void)ApiClient("127.0.0.1", ephemeral_port()).find_state(soon()), std::system_error);
}

}  // namespace
}  // namespace vmtest::propolis
