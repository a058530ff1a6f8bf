#include "vz/api_client.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "failure.h"
#include "http/recording_server.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/socket.h"
#include "vz/capabilities.h"
#include "vz/vm.h"

namespace vmtest::vz_driver {
namespace {

using nlohmann::json;
using testing::failure_of;
using namespace std::chrono_literals;

Deadline soon() { return Deadline::after(20s); }

class VzApiClientTest : public ::testing::Test {
 protected:
  TemporaryDirectory folder_;
  testing::RecordingServer server_{folder_.path() / "api.sock"};
  ApiClient client_{folder_.path() / "api.sock"};
};

TEST_F(VzApiClientTest, EachCallIsARequest) {
  struct Call {
    const char* request;
    std::function<void()> make;
    const char* body = "null";
  };
  const std::vector<Call> calls = {
      {"vmm.shutdown", [&] { client_.shutdown(soon()); }},
      {"vm.create",
       [&] {
         client_.create({{"cpus", 1}}, soon());
       },
       R"({"cpus":1})"},
      {"vm.boot", [&] { client_.boot(soon()); }},
      {"vm.pause", [&] { client_.pause(soon()); }},
      {"vm.resume", [&] { client_.resume(soon()); }},
      {"vm.power-button", [&] { client_.press_power_button(soon()); }},
      {"vm.save", [&] { client_.save("/state", soon()); }, R"({"path":"/state"})"},
      {"vm.restore", [&] { client_.restore("/state", soon()); }, R"({"path":"/state"})"},
      {"vm.attach-usb-disk",
       [&] {
         client_.attach_usb_disk({{"id", "a"}}, soon());
       },
       R"({"id":"a"})"},
      {"vm.detach-usb-disk", [&] { client_.detach_usb_disk("a", soon()); }, R"({"id":"a"})"},
  };
  for (const Call& call : calls) {
    call.make();
    EXPECT_EQ(server_.asked(), std::string("PUT /api/v1/") + call.request);
    EXPECT_EQ(server_.body(), json::parse(call.body)) << call.request;
  }
}

TEST_F(VzApiClientTest, StatesAreTheFrameworks) {
  for (const auto& [name, state] : {std::pair{"Running", State::Running}, {"Paused", State::Paused}, {"Error", State::Error}}) {
    server_.answer(200, json({{"state", name}}).dump());
    EXPECT_EQ(client_.state(soon()), state);
  }
  server_.answer(200, R"({"state":"Melting"})");
  EXPECT_EQ(failure_of([&] { (void)client_.state(soon()); }),
            "the VZ helper says that its VM is in a state that is not known here: Melting");
}

TEST_F(VzApiClientTest, RefusalHasTheFrameworksWords) {
  server_.answer(500, R"(["cannot boot the VM","VZErrorDomain 1: Internal virtualization error."])");
  EXPECT_EQ(failure_of([&] { client_.boot(soon()); }),
            "the VZ helper refuses vm.boot (500): cannot boot the VM: VZErrorDomain 1: Internal virtualization error.");
  server_.answer(500, "a body of its own");
  EXPECT_EQ(failure_of([&] { client_.boot(soon()); }), "the VZ helper refuses vm.boot (500): a body of its own");
}

TEST_F(VzApiClientTest, WhatTheHostDoesNotOfferIsUnsupported) {
  server_.answer(501, R"(["cannot save the VM","save-restore needs macOS 14.0; this is macOS 13.1"])");
  EXPECT_THROW(client_.save("/state", soon()), Unsupported);
}

TEST_F(VzApiClientTest, AnswersThatAreNoneAreErrors) {
  for (const char* answer : {"", "[]", "garbage", "{}", R"({"state":7})"}) {
    server_.answer(200, answer);
    EXPECT_THROW((void)client_.state(soon()), Error) << answer;
    EXPECT_THROW(client_.ping(soon()), Error) << answer;
  }
}

TEST_F(VzApiClientTest, OtherProgramsAndVersionsAreNamed) {
  server_.answer(200, R"({"name":"vmtest-vz-helper","api":1})");
  EXPECT_NO_THROW(client_.ping(soon()));
  server_.answer(200, R"({"name":"vmtest-vz-helper","api":2})");
  EXPECT_NE(failure_of([&] { client_.ping(soon()); }).find("version 2 of its API, this driver version 1"), std::string::npos);
  server_.answer(200, R"({"name":"vfkit","api":1})");
  EXPECT_NE(failure_of([&] { client_.ping(soon()); }).find("it calls itself vfkit"), std::string::npos);
}

TEST(VzApiClient, NobodyThereIsASystemError) { EXPECT_THROW(ApiClient("/nonexistent/api.sock").ping(soon()), std::system_error); }

TEST(VzApiClient, SilenceEndsAtTheDeadline) {
  const TemporaryDirectory folder;
  const FileDescriptor nobody_answers = listen_unix(folder.path() / "api.sock");
  EXPECT_THROW((void)ApiClient(folder.path() / "api.sock").state(Deadline::after(100ms)), Timeout);
}

TEST(VzCapabilities, NameWhatIsMissing) {
  const HostCapabilities host = parse_capabilities(
      R"({"os":"macOS 13.1","features":{"nat":{"supported":true},"nvme":{"supported":false,"why":"needs macOS 14.0"}}})");
  EXPECT_EQ(host.os, "macOS 13.1");
  EXPECT_EQ(host.why_not("nat"), std::nullopt);
  EXPECT_EQ(host.why_not("nvme"), "nvme needs macOS 14.0");
  for (const char* text : {"", "[]", R"({"os":1})", R"({"os":"macOS 15.0","features":{"nat":{"supported":false}}})"})
    EXPECT_THROW((void)parse_capabilities(text), Error) << text;
}

TEST(VzEvents, AreReadAsFarAsTheyAreWhole) {
  EXPECT_EQ(parse_events("{\"event\":\"booted\",\"time\":1.5}\n{\"event\":\"stopped-with-error\",\"errors\":[\"a\",\"b\"]}\n"
                         "nonsense\n{\"event\":\"exit\",\"code\":0,\"why\":\"signal 15\"}\n{\"event\":\"ex"),
            (std::vector<Event>{{"booted"}, {"stopped-with-error", "a: b"}, {"exit", "signal 15"}}));
}

TEST(VzEnding, SaysHowItEnded) {
  const ExitStatus good{0, 0};
  ExitStatus killed;
  killed.signal = 9;
  EXPECT_EQ(judge_ending({good, "", {{"guest-stopped"}, {"exit", "the guest stopped"}}}).how, "the guest powered off");
  EXPECT_TRUE(judge_ending({good, "", {{"guest-stopped"}}}).orderly);
  const VmExit error = judge_ending({good, "", {{"stopped-with-error", "VZErrorDomain 1: Internal"}, {"exit"}}});
  EXPECT_FALSE(error.orderly);
  EXPECT_EQ(error.how, "Virtualization.framework stopped the VM: VZErrorDomain 1: Internal");
  EXPECT_EQ(judge_ending({good, "", {{"exit", "signal 15"}}}).how, "somebody ended the VZ helper: signal 15");
  const VmExit crash = judge_ending({killed, "its last words", {{"booted"}}});
  EXPECT_FALSE(crash.orderly);
  EXPECT_EQ(crash.how, "the VZ helper ended with signal 9 (Killed)");
  EXPECT_EQ(crash.last_words, "its last words");
  EXPECT_TRUE(judge_ending({killed, "", {}, true}).orderly);
}

}  // namespace
}  // namespace vmtest::vz_driver
