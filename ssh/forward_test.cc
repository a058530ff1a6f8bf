// Ports of the guest on the host's loopback. The "guest" is this machine, so a listener of the test stands for its service.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/socket.h>
#include <unistd.h>

#include <future>
#include <thread>

#include "testing/peer_test.h"
#include "testing/tcp_server.h"
#include "vmtest/host/socket.h"

namespace vmtest::ssh {
namespace {

using namespace std::chrono_literals;

FileDescriptor connect_to(std::uint16_t port) {
  FileDescriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return FileDescriptor();
  return fd;
}

std::string read_to_end(int fd) {
  std::string all;
  std::string buffer(64 * 1024, '\0');
  for (ssize_t size = 0; wait_readable(fd, Deadline::after(20s)) && (size = ::read(fd, buffer.data(), buffer.size())) > 0;) {
    all.append(buffer, 0, static_cast<std::size_t>(size));
  }
  return all;
}

/// Sends all it gets back, on a thread per connection.
class EchoServer {
 public:
  [[nodiscard]] std::uint16_t port() const { return server_.port(); }

 private:
  std::vector<std::jthread> threads_;  // outlive the server, which makes them
  TcpServer server_{[this](FileDescriptor& connection) {
    threads_.emplace_back([fd = connection.duplicate()] {
      std::string buffer(64 * 1024, '\0');
      for (ssize_t size = 0; (size = ::read(fd.get(), buffer.data(), buffer.size())) > 0;) {
        write_all(fd.get(), std::string_view(buffer).substr(0, static_cast<std::size_t>(size)));
      }
      ::shutdown(fd.get(), SHUT_WR);
    });
    connection.reset();
  }};
};

std::string echo_through(std::uint16_t port, std::string_view data) {
  const FileDescriptor fd = connect_to(port);
  std::thread writer([&] {
    write_all(fd.get(), data);
    ::shutdown(fd.get(), SHUT_WR);
  });
  std::string answer = read_to_end(fd.get());
  writer.join();
  return answer;
}

class ForwardTest : public EachServerTest {};
INSTANTIATE_TEST_SUITE_P(On, ForwardTest, testing::Values(PeerKind::OpenSsh, PeerKind::Dropbear), peer_name);

TEST_P(ForwardTest, CarriesBothDirectionsAndTheirEnds) {
  EchoServer service;
  const auto forward = session().forward(service.port());
  const std::string large(3'000'000, 'e');
  EXPECT_EQ(echo_through(forward->host_port(), large), large);
}

TEST_P(ForwardTest, CarriesManyConnectionsAtOnce) {
  EchoServer service;
  const auto forward = session().forward(service.port());
  std::vector<std::future<std::string>> answers(20);
  std::generate(answers.begin(), answers.end(), [&, i = 0]() mutable {
    return std::async(std::launch::async, [&, i = i++] { return echo_through(forward->host_port(), std::to_string(i)); });
  });
  const bool all =
      std::all_of(answers.begin(), answers.end(), [i = 0](auto& answer) mutable { return answer.get() == std::to_string(i++); });
  EXPECT_TRUE(all);
  EXPECT_EQ(session().exec("echo meanwhile").out, "meanwhile\n");
}

TEST_P(ForwardTest, PortWhereNobodyListensHangsUp) {
  const auto forward = session().forward(ephemeral_port());
  const FileDescriptor fd = connect_to(forward->host_port());
  EXPECT_EQ(read_to_end(fd.get()), "");
}

TEST_P(ForwardTest, EndsWithItsObject) {
  EchoServer service;
  auto forward = session().forward(service.port());
  const std::uint16_t port = forward->host_port();
  const FileDescriptor open = connect_to(port);
  write_all(open.get(), "x");
  ASSERT_TRUE(wait_readable(open.get(), Deadline::after(20s)));
  forward.reset();
  EXPECT_EQ(read_to_end(open.get()), "x");
  EXPECT_FALSE(connect_to(port).valid());
}

TEST_P(ForwardTest, ConnectsAnewAfterTheConnectionWasLost) {
  EchoServer service;
  const auto forward = session().forward(service.port());
  ASSERT_EQ(echo_through(forward->host_port(), "one"), "one");
  session().reset();
  EXPECT_EQ(echo_through(forward->host_port(), "two"), "two");
}

}  // namespace
}  // namespace vmtest::ssh
