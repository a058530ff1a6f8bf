#include "qmp_client.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <thread>

#include "failure.h"
#include "vmtest/host/socket.h"

namespace vmtest {
namespace {

using nlohmann::json;
using testing::failure_of;

Deadline soon() { return Deadline::after(std::chrono::seconds(20)); }

constexpr const char* kGreeting =
    R"({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}})"
    "\r\n";

/// A machine protocol server with state: it negotiates, runs or is paused, and writes its name into a passed descriptor. What
/// else it does with a command is said by a script.
class FakeQemu {
 public:
  using Script = std::function<void(FakeQemu&, const json& request)>;

  explicit FakeQemu(std::string greeting = kGreeting, Script script = {}) : script_(std::move(script)) {
    auto [ours, theirs] = make_socket_pair();
    socket_ = std::move(ours);
    client_ = std::move(theirs);
    send(greeting);
    thread_ = std::thread([this] { serve(); });
  }
  ~FakeQemu() {
    client_.reset();
    hang_up();
    thread_.join();
  }

  FileDescriptor take_client() { return std::move(client_); }
  void send(const std::string& text) { send_message(socket_.get(), text); }
  void send_in_pieces(const std::string& text) {
    for (const char c : text) send(std::string(1, c));
  }
  void reply(const json& request, json result = json::object()) { send(reply_text(request, std::move(result))); }
  static std::string reply_text(const json& request, json result = json::object()) {
    return json{{"return", std::move(result)}, {"id", request.at("id")}}.dump() + "\r\n";
  }
  void hang_up() { ::shutdown(socket_.get(), SHUT_RDWR); }

 private:
  void serve() {
    std::string buffer;
    try {
      while (receive_some(socket_.get(), buffer, descriptors_)) {
        for (std::size_t end = 0; (end = buffer.find('\n')) != std::string::npos; buffer.erase(0, end + 1)) {
          answer(json::parse(buffer.substr(0, end)));
        }
      }
    } catch (const std::exception&) {  // the client went away
    }
  }

  void answer(const json& request) {
    const std::string command = request.at("execute");
    if (command == "qmp_capabilities") {
      negotiated_ = true;
      reply(request);
    } else if (!negotiated_) {
      refuse(request, "CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'");
    } else if (script_) {
      script_(*this, request);
    } else if (command == "stop" || command == "cont") {
      running_ = command == "cont";
      send(json{{"event", running_ ? "RESUME" : "STOP"}, {"timestamp", {{"seconds", 5}, {"microseconds", 7}}}}.dump() + "\r\n");
      reply(request);
    } else if (command == "query-status") {
      reply(request, {{"status", running_ ? "running" : "paused"}});
    } else if (command == "getfd" && !descriptors_.empty()) {
      write_all(descriptors_.back().get(), request.at("arguments").at("fdname").get<std::string>());
      reply(request);
    } else {
      refuse(request, "CommandNotFound", "The command " + command + " has not been found");
    }
  }

  void refuse(const json& request, const std::string& error_class, const std::string& description) {
    send(json{{"error", {{"class", error_class}, {"desc", description}}}, {"id", request.at("id")}}.dump() + "\r\n");
  }

  Script script_;
  FileDescriptor socket_;
  FileDescriptor client_;
  std::vector<FileDescriptor> descriptors_;
  bool negotiated_ = false;
  bool running_ = true;
  std::thread thread_;
};

TEST(QmpClientTest, NegotiatesAndReadsTheVersion) {
  FakeQemu qemu;
  const QmpClient client(qemu.take_client(), soon());
  EXPECT_EQ(client.version(), "7.2.22");
  EXPECT_EQ(client.broken(), "");
}

TEST(QmpClientTest, RunsCommands) {
  FakeQemu qemu;
  QmpClient client(qemu.take_client(), soon());
  EXPECT_EQ(client.execute("query-status", soon()).at("status"), "running");
  client.execute("stop", soon());
  EXPECT_EQ(client.execute("query-status", soon()).at("status"), "paused");
}

TEST(QmpClientTest, RefusedCommandLeavesTheConnectionFine) {
  FakeQemu qemu;
  QmpClient client(qemu.take_client(), soon());
  try {
    client.execute("no-such-command", soon());
    FAIL() << "not refused";
  } catch (const QmpError& error) {
    EXPECT_EQ(error.error_class(), "CommandNotFound");
    EXPECT_NE(std::string(error.what()).find("no-such-command"), std::string::npos);
  }
  EXPECT_EQ(client.execute("query-status", soon()).at("status"), "running");
}

TEST(QmpClientTest, DeliversEventsThatCameBeforeAReply) {
  FakeQemu qemu;
  QmpClient client(qemu.take_client(), soon());
  client.execute("stop", soon());
  const auto event = client.wait_event("STOP", soon());
  ASSERT_TRUE(event);
  EXPECT_EQ(event->timestamp_us, 5'000'007);
}

TEST(QmpClientTest, WaitsForTheEventAskedForAndKeepsOthers) {
  FakeQemu qemu;
  QmpClient client(qemu.take_client(), soon());
  client.execute("stop", soon());
  client.execute("cont", soon());
  EXPECT_TRUE(client.wait_event("RESUME", soon()));
  EXPECT_TRUE(client.find_event("STOP"));
  EXPECT_TRUE(client.wait_event([](const QmpEvent& event) { return event.name == "STOP"; }, soon()));
  EXPECT_FALSE(client.find_event("STOP"));
}

TEST(QmpClientTest, WaitForAnEventEndsWithItsDeadline) {
  FakeQemu qemu;
  QmpClient client(qemu.take_client(), soon());
  EXPECT_FALSE(client.wait_event("STOP", Deadline::after(std::chrono::milliseconds(20))));
}

TEST(QmpClientTest, PutsSplitRepliesTogether) {
  FakeQemu qemu(kGreeting, [](FakeQemu& self, const json& request) {
    self.send_in_pieces(FakeQemu::reply_text(request, {{"a", 1}}));
  });
  QmpClient client(qemu.take_client(), soon());
  EXPECT_EQ(client.execute("query", soon()).at("a"), 1);
}

TEST(QmpClientTest, TakesCoalescedMessagesApart) {
  FakeQemu qemu(kGreeting, [](FakeQemu& self, const json& request) {
    self.send("{\"event\": \"A\"}\r\n" + FakeQemu::reply_text(request) + "{\"event\": \"B\"}\r\n");
  });
  QmpClient client(qemu.take_client(), soon());
  client.execute("query", soon());
  EXPECT_TRUE(client.wait_event("A", soon()));
  EXPECT_TRUE(client.wait_event("B", soon()));
}

TEST(QmpClientTest, MatchesRepliesThatComeInAnotherOrder) {
  auto held = std::make_shared<std::vector<json>>();
  FakeQemu qemu(kGreeting, [held](FakeQemu& self, const json& request) {
    held->push_back(request);
    if (held->size() < 2) return;
    self.reply(held->at(1), held->at(1).at("execute"));
    self.reply(held->at(0), held->at(0).at("execute"));
  });
  QmpClient client(qemu.take_client(), soon());
  std::string other;
  std::thread thread([&] { other = client.execute("one", soon()); });
  const std::string mine = client.execute("two", soon());
  thread.join();
  EXPECT_EQ(mine, "two");
  EXPECT_EQ(other, "one");
}

TEST(QmpClientTest, ServesManyThreads) {
  FakeQemu qemu(kGreeting, [](FakeQemu& self, const json& request) { self.reply(request, request.at("execute")); });
  QmpClient client(qemu.take_client(), soon());
  std::atomic<int> right = 0;
  const auto work = [&](const std::string& name) {
    for (int i = 0; i < 50; ++i) right += client.execute(name + std::to_string(i), soon()) == name + std::to_string(i) ? 1 : 0;
  };
  std::vector<std::thread> threads;
  for (const char* name : {"a", "b", "c", "d"}) threads.emplace_back(work, name);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 200);
}

TEST(QmpClientTest, GarbageBreaksTheConnectionAndIsShown) {
  FakeQemu qemu(kGreeting, [](FakeQemu& self, const json&) { self.send("<html>oops</html>\r\n"); });
  QmpClient client(qemu.take_client(), soon());
  EXPECT_NE(failure_of([&] { client.execute("query", soon()); }).find("<html>oops"), std::string::npos);
  EXPECT_NE(failure_of([&] { client.execute("query", soon()); }).find("<html>oops"), std::string::npos);
}

TEST(QmpClientTest, JsonThatIsNoMessageBreaksTheConnection) {
  FakeQemu qemu(kGreeting, [](FakeQemu& self, const json&) { self.send("[1, 2]\r\n"); });
  QmpClient client(qemu.take_client(), soon());
  EXPECT_THROW(client.execute("query", soon()), Error);
  EXPECT_NE(client.broken(), "");
}

TEST(QmpClientTest, AnswerToNothingAskedBreaksTheConnection) {
  FakeQemu qemu(kGreeting, [](FakeQemu& self, const json&) { self.send("{\"return\": {}, \"id\": 4711}\r\n"); });
  QmpClient client(qemu.take_client(), soon());
  EXPECT_THROW(client.execute("query", soon()), Error);
  EXPECT_NE(client.broken(), "");
}

TEST(QmpClientTest, PeerThatIsNoQemuIsRefused) {
  FakeQemu peer("SSH-2.0-OpenSSH_9.2\r\n");
  EXPECT_NE(failure_of([&] { QmpClient(peer.take_client(), soon()); }).find("SSH-2.0"), std::string::npos);
}

TEST(QmpClientTest, SilentPeerTimesOut) {
  FakeQemu peer("");
  EXPECT_THROW(QmpClient(peer.take_client(), Deadline::after(std::chrono::milliseconds(20))), Timeout);
}

TEST(QmpClientTest, EndlessLineIsRefused) {
  FakeQemu qemu(kGreeting, [](FakeQemu& self, const json&) {
    for (int i = 0; i < 17; ++i) self.send(std::string(1U << 20, 'x'));
  });
  QmpClient client(qemu.take_client(), soon());
  EXPECT_NE(failure_of([&] { client.execute("query", soon()); }).find("MiB"), std::string::npos);
}

TEST(QmpClientTest, PeerThatDiesMidReplyIsAnError) {
  FakeQemu qemu(kGreeting, [](FakeQemu& self, const json&) {
    self.send("{\"return\": {\"sta");
    self.hang_up();
  });
  QmpClient client(qemu.take_client(), soon());
  EXPECT_NE(failure_of([&] { client.execute("query-status", soon()); }).find("closed"), std::string::npos);
}

TEST(QmpClientTest, LastEventOfADyingPeerIsHeard) {
  FakeQemu qemu(kGreeting, [](FakeQemu& self, const json&) {
    self.send("{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-shutdown\"}}\r\n");
    self.hang_up();
  });
  QmpClient client(qemu.take_client(), soon());
  EXPECT_THROW(client.execute("quit", soon()), Error);
  client.read_pending();
  const auto event = client.find_event("SHUTDOWN");
  ASSERT_TRUE(event);
  EXPECT_EQ(event->data.at("reason"), "guest-shutdown");
}

TEST(QmpClientTest, UnansweredCommandTimesOutAndItsLateReplyIsDropped) {
  auto held = std::make_shared<json>();
  FakeQemu qemu(kGreeting, [held](FakeQemu& self, const json& request) {
    if (request.at("execute") == "slow") {
      *held = request;
      return;
    }
    self.reply(*held, "late");
    self.reply(request, "prompt");
  });
  QmpClient client(qemu.take_client(), soon());
  EXPECT_THROW(client.execute("slow", Deadline::after(std::chrono::milliseconds(20))), Timeout);
  EXPECT_EQ(client.execute("quick", soon()), "prompt");
}

TEST(QmpClientTest, PassesDescriptors) {
  FakeQemu qemu;
  QmpClient client(qemu.take_client(), soon());
  const Pipe pipe = make_pipe();
  client.pass_descriptor("state", pipe.write_end.get(), soon());
  char name[8] = {};
  EXPECT_EQ(::read(pipe.read_end.get(), name, sizeof name), 5);
  EXPECT_STREQ(name, "state");
}

}  // namespace
}  // namespace vmtest
