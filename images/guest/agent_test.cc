#include "guest/agent.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace vmtest::guest {
namespace {

std::string answer(std::string_view line) {
  return Agent([](const HostKey&) {}).answer(line);
}

TEST(AgentTest, AnswersAPing) { EXPECT_EQ(answer(R"({"id":"7","op":"ping"})"), R"({"id":"7","ok":true})"); }

TEST(AgentTest, KeepsAReplyUntilTheHostTakesIt) {
  std::array<int, 2> ends{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()), 0);
  const Descriptor host(ends[0]);
  // As long as this way is full, no reply goes.
  const std::string noise(4096, '.');
  std::size_t filled = 0;
  for (ssize_t count = 0; (count = write(ends[1], noise.data(), noise.size())) > 0;) {
    filled += static_cast<std::size_t>(count);
  }
  Agent agent([](const HostKey&) {});
  agent.attach(Descriptor(ends[1]));
  const std::string request = "{\"id\":\"7\",\"op\":\"ping\"}\n";
  ASSERT_EQ(write(host.get(), request.data(), request.size()), static_cast<ssize_t>(request.size()));
  agent.handle();

  std::array<char, 4096> data{};
  for (ssize_t count = 0; (count = read(host.get(), data.data(), data.size())) > 0;) {
    filled -= static_cast<std::size_t>(count);
  }
  ASSERT_EQ(filled, 0U);
  agent.handle();
  const ssize_t count = read(host.get(), data.data(), data.size());
  ASSERT_GT(count, 0);
  EXPECT_EQ(std::string(data.data(), static_cast<std::size_t>(count)), "{\"id\":\"7\",\"ok\":true}\n");
}

/// A socket that an agent listens to, and those who connect to it.
class ListeningAgentTest : public testing::Test {
 protected:
  void SetUp() override {
    Descriptor listener(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    // Bound to a name of the kernel's choice.
    address_.sun_family = AF_UNIX;
    ASSERT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof(sa_family_t)), 0);
    ASSERT_EQ(listen(listener.get(), SOMAXCONN), 0);
    ASSERT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address_), &size_), 0);
    agent_.listen(std::move(listener));
  }

  [[nodiscard]] Descriptor connect_to_agent() const {
    Descriptor host(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(host.get(), reinterpret_cast<const sockaddr*>(&address_), size_), 0);
    return host;
  }
  static void ask(const Descriptor& host, const std::string& id) {
    const std::string request = R"({"id":")" + id + "\",\"op\":\"ping\"}\n";
    EXPECT_EQ(write(host.get(), request.data(), request.size()), static_cast<ssize_t>(request.size()));
  }
  /// What is there to be read; none at the stream's end.
  [[nodiscard]] static std::optional<std::string> read_from(const Descriptor& host) {
    std::array<char, 4096> data{};
    const ssize_t count = read(host.get(), data.data(), data.size());
    if (count == 0) {
      return std::nullopt;
    }
    return count < 0 ? "" : std::string(data.data(), static_cast<std::size_t>(count));
  }
  static std::string reply_to(const std::string& id) { return R"({"id":")" + id + "\",\"ok\":true}\n"; }

  sockaddr_un address_{};
  socklen_t size_ = sizeof address_;
  Agent agent_{[](const HostKey&) {}};
};

TEST_F(ListeningAgentTest, ServesHostsSideBySide) {
  const Descriptor first = connect_to_agent();
  const Descriptor second = connect_to_agent();
  agent_.handle();
  ask(second, "2");
  agent_.handle();
  EXPECT_EQ(read_from(second), reply_to("2"));
  EXPECT_EQ(read_from(first), "");
  ask(first, "1");
  agent_.handle();
  EXPECT_EQ(read_from(first), reply_to("1"));
}

TEST_F(ListeningAgentTest, ServesTheNextWhenOneHasHungUp) {
  {
    const Descriptor gone = connect_to_agent();
    ask(gone, "1");
  }
  agent_.handle();
  const Descriptor next = connect_to_agent();
  ask(next, "2");
  agent_.handle();
  EXPECT_EQ(read_from(next), reply_to("2"));
}

TEST_F(ListeningAgentTest, HangsUpOnTheLongestWhenThereAreTooMany) {
  std::vector<Descriptor> hosts;
  for (int number = 0; number < 17; ++number) {
    hosts.push_back(connect_to_agent());
    agent_.handle();
  }
  EXPECT_EQ(read_from(hosts.front()), std::nullopt);
  ask(hosts.back(), "17");
  agent_.handle();
  EXPECT_EQ(read_from(hosts.back()), reply_to("17"));
  EXPECT_EQ(read_from(hosts.at(1)), "");
}

TEST(AgentTest, RefusesAnUnknownOperation) {
  EXPECT_EQ(answer(R"({"id":"8","op":"fly"})"), R"({"id":"8","ok":false,"error":"unknown operation fly"})");
}

TEST(AgentTest, RefusesWhatIsNoJson) {
  const std::string reply = answer("hello");
  EXPECT_NE(reply.find(R"("ok":false,"error":"JSON line 1 column 1)"), std::string::npos) << reply;
}

TEST(AgentTest, RefusesARefreshWithoutEntropy) {
  EXPECT_EQ(answer(R"({"id":"9","op":"refresh","hostname":"x"})"),
            R"({"id":"9","ok":false,"error":"entropy: must be Base64 of some bytes"})");
}

TEST(AgentTest, RefusesAClockWithoutATime) {
  EXPECT_EQ(answer(R"({"id":"9","op":"clock"})"), R"({"id":"9","ok":false,"error":"time_ns: is missing"})");
}

TEST(AgentTest, QuotesWhatTheHostSent) { EXPECT_EQ(answer(R"({"id":"a\"b","op":"ping"})"), R"({"id":"a\"b","ok":true})"); }

TEST(ReplaceAddressTest, ReplacesWhatStandsAlone) {
  EXPECT_EQ(replace_address("Address=10.0.0.2/30\nGateway=10.0.0.1\n110.0.0.2 10.0.0.21 1.10.0.0.2", "10.0.0.2", "10.9.9.6"),
            "Address=10.9.9.6/30\nGateway=10.0.0.1\n110.0.0.2 10.0.0.21 1.10.0.0.2");
}

TEST(AgentTest, RenamesTheMachineInHosts) {
  EXPECT_EQ(rename_in_hosts("127.0.0.1 localhost\n127.0.1.1 old\n10.0.0.1 other\n", "new.example"),
            "127.0.0.1 localhost\n127.0.1.1\tnew.example new\n10.0.0.1 other\n");
}

TEST(AgentTest, AddsTheMachineToHosts) { EXPECT_EQ(rename_in_hosts("", "new"), "127.0.1.1\tnew\n"); }

}  // namespace
}  // namespace vmtest::guest
