#include "vsock_proxy.h"

#include <sys/socket.h>

#include <stdexcept>

#include "relay_test_support.h"

namespace vmtest::vz {
namespace {

class VsockProxyTest : public RelayTest {
 protected:
  /// A guest that takes connections to port 7, and tells its side of them here.
  VsockProxy::Connection connect(std::uint32_t port) {
    if (port != 7) throw std::runtime_error("nobody listens on port " + std::to_string(port));
    auto [ours, theirs] = pair();
    guest_ = std::move(theirs);
    return {std::move(ours), 4321};
  }
  static std::pair<Descriptor, Descriptor> pair() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    return {Descriptor(ends[0]), Descriptor(ends[1])};
  }
  VsockProxy::Connect connector() {
    return [this](std::uint32_t port) { return connect(port); };
  }

  Descriptor guest_;
};

TEST_F(VsockProxyTest, ConnectsByCloudHypervisorsHandshake) {
  const VsockProxy proxy(path("v"), connector());
  const Descriptor client = connect_unix(path("v"));
  write_all(client.get(), "CONNECT 7\nhello");
  EXPECT_EQ(read_some(client.get(), 8), "OK 4321\n");
  EXPECT_EQ(read_some(guest_.get(), 5), "hello");
  write_all(guest_.get(), "answer");
  EXPECT_EQ(read_some(client.get(), 6), "answer");
}

TEST_F(VsockProxyTest, PassesTheEndOfEachDirection) {
  const VsockProxy proxy(path("v"), connector());
  const Descriptor client = connect_unix(path("v"));
  write_all(client.get(), "CONNECT 7\n");
  EXPECT_EQ(read_some(client.get(), 8), "OK 4321\n");
  ::shutdown(client.get(), SHUT_WR);
  EXPECT_TRUE(ends(guest_.get()));
  write_all(guest_.get(), "after that");
  EXPECT_EQ(read_some(client.get(), 10), "after that");
  guest_.reset();
  EXPECT_TRUE(ends(client.get()));
}

TEST_F(VsockProxyTest, SaysWhyAPortRefuses) {
  const VsockProxy proxy(path("v"), connector());
  const Descriptor client = connect_unix(path("v"));
  write_all(client.get(), "CONNECT 8\n");
  EXPECT_EQ(read_some(client.get(), 1000), "ERROR nobody listens on port 8\n");
}

TEST_F(VsockProxyTest, RefusesWhatIsNoHandshake) {
  const VsockProxy proxy(path("v"), connector());
  for (const char* const request : {"CONNECT seven\n", "CONNECT 4294967296\n", "GET / HTTP/1.1\n", "\n", "CONNECT 7x\n"}) {
    const Descriptor client = connect_unix(path("v"));
    write_all(client.get(), request);
    EXPECT_EQ(read_some(client.get(), 6), "ERROR ") << request;
  }
}

TEST_F(VsockProxyTest, ServesSeveralClientsAtOnce) {
  const VsockProxy proxy(path("v"), connector());
  const Descriptor silent = connect_unix(path("v"));
  const Descriptor client = connect_unix(path("v"));
  write_all(client.get(), "CONNECT 7\n");
  EXPECT_EQ(read_some(client.get(), 8), "OK 4321\n");
}

TEST_F(VsockProxyTest, TakesTheGuestsConnectionsToASocketOfThePort) {
  VsockProxy proxy(path("v"), connector());
  const Listener host = listen_unix(path("v_99"));
  auto [guest, theirs] = pair();
  ASSERT_TRUE(proxy.take_guest_connection(99, std::move(theirs)));
  pollfd entry{host.socket.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&entry, 1, 10'000), 1);
  const Descriptor accepted = accept_connection(host.socket.get());
  write_all(guest.get(), "from the guest");
  EXPECT_EQ(read_some(accepted.get(), 14), "from the guest");
}

TEST_F(VsockProxyTest, RefusesTheGuestWhereNobodyListens) {
  VsockProxy proxy(path("v"), connector());
  EXPECT_FALSE(proxy.take_guest_connection(99, pair().first));
}

TEST_F(VsockProxyTest, EndsWithConnectionsThatNobodyReads) {
  std::thread guest;
  const Descriptor client = [&] {
    const VsockProxy proxy(path("v"), connector());
    Descriptor reads_nothing = connect_unix(path("v"));
    write_all(reads_nothing.get(), "CONNECT 7\n");
    EXPECT_EQ(read_some(reads_nothing.get(), 8), "OK 4321\n");
    guest = std::thread([&] {
      // More than the sockets hold.
      const std::string much(8U << 20, 'g');
      EXPECT_LT(::send(guest_.get(), much.data(), much.size(), MSG_NOSIGNAL), static_cast<ssize_t>(much.size()));
    });
    pollfd entry{reads_nothing.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&entry, 1, 10'000), 1);
    return reads_nothing;
  }();
  guest.join();
  EXPECT_FALSE(std::filesystem::exists(path("v")));
}

}  // namespace
}  // namespace vmtest::vz
