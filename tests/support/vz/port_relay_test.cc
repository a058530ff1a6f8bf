#include "port_relay.h"

#include <fcntl.h>

#include "api_error.h"
#include "relay_test_support.h"

namespace vmtest::vz {
namespace {

using PortRelayTest = RelayTest;

TEST_F(PortRelayTest, JoinsTheGuestAndAClient) {
  const PortRelay relay({.socket = path("s")});
  const Descriptor client = connect_unix(path("s"));
  write_all(client.get(), "to the guest");
  EXPECT_EQ(read_some(relay.port_input(), 12), "to the guest");
  write_all(relay.port_output(), "to the client");
  EXPECT_EQ(read_some(client.get(), 13), "to the client");
}

TEST_F(PortRelayTest, LogsWithAndWithoutAClient) {
  {
    const PortRelay relay({.socket = path("s"), .log = path("log")});
    write_all(relay.port_output(), "first ");
    ASSERT_TRUE(comes([&] { return read_file(path("log")) == "first "; }));
    const Descriptor client = connect_unix(path("s"));
    // What it sends shows that it is there.
    write_all(client.get(), "x");
    EXPECT_EQ(read_some(relay.port_input(), 1), "x");
    write_all(relay.port_output(), "second ");
    EXPECT_EQ(read_some(client.get(), 7), "second ");
    write_all(relay.port_output(), "last");
  }
  EXPECT_EQ(read_file(path("log")), "first second last");
}

TEST_F(PortRelayTest, AppendsToALogWhenAsked) {
  write_all(open_file(path("log"), O_WRONLY | O_CREAT).get(), "old ");
  { write_all(PortRelay({.socket = path("s"), .log = path("log"), .append = true}).port_output(), "new"); }
  EXPECT_EQ(read_file(path("log")), "old new");
  { const PortRelay relay({.socket = path("s"), .log = path("log")}); }
  EXPECT_EQ(read_file(path("log")), "");
}

TEST_F(PortRelayTest, ServesTheNextClientAfterTheFirst) {
  const PortRelay relay({.socket = path("s")});
  Descriptor first = connect_unix(path("s"));
  write_all(first.get(), "1");
  EXPECT_EQ(read_some(relay.port_input(), 1), "1");
  const Descriptor second = connect_unix(path("s"));
  first.reset();
  write_all(second.get(), "2");
  EXPECT_EQ(read_some(relay.port_input(), 1), "2");
}

TEST_F(PortRelayTest, HoldsWhatTheGuestSendsUntilAClientComes) {
  const PortRelay relay({.socket = path("s"), .unread = PortRelay::Unread::Hold});
  write_all(relay.port_output(), "hello");
  const Descriptor client = connect_unix(path("s"));
  EXPECT_EQ(read_some(client.get(), 5), "hello");
}

TEST_F(PortRelayTest, HoldsMoreThanAClientReadsAtOnce) {
  const PortRelay relay({.socket = path("s"), .unread = PortRelay::Unread::Hold});
  const Descriptor client = connect_unix(path("s"));
  const std::string much(4U << 20, 'g');
  std::thread guest([&] { write_all(relay.port_output(), much); });
  EXPECT_EQ(read_some(client.get(), much.size()).size(), much.size());
  guest.join();
}

TEST_F(PortRelayTest, CutsOffAClientThatDoesNotRead) {
  const PortRelay relay({.socket = path("s"), .log = path("log")});
  const Descriptor client = connect_unix(path("s"));
  write_all(client.get(), "x");
  EXPECT_EQ(read_some(relay.port_input(), 1), "x");
  // The guest is never held up.
  const std::string much(8U << 20, 'g');
  write_all(relay.port_output(), much);
  ASSERT_TRUE(comes([&] { return std::filesystem::file_size(path("log")) == much.size(); }));
  EXPECT_LT(read_some(client.get(), much.size()).size(), much.size());
}

TEST_F(PortRelayTest, RemovesItsSocket) {
  { const PortRelay relay({.socket = path("s")}); }
  EXPECT_FALSE(std::filesystem::exists(path("s")));
}

TEST_F(PortRelayTest, TakesTheSocketOfOneThatDied) {
  Listener left = listen_unix(path("s"));
  left.socket.reset();
  const PortRelay relay({.socket = path("s")});
  const Descriptor client = connect_unix(path("s"));
  write_all(client.get(), "x");
  EXPECT_EQ(read_some(relay.port_input(), 1), "x");
}

TEST_F(PortRelayTest, LeavesTheSocketOfOneThatLives) {
  const PortRelay relay({.socket = path("s")});
  EXPECT_THROW(PortRelay({.socket = path("s")}), ApiError);
  const Descriptor client = connect_unix(path("s"));
}

TEST_F(PortRelayTest, LeavesWhatIsNoSocket) {
  write_all(open_file(path("s"), O_WRONLY | O_CREAT).get(), "precious");
  EXPECT_THROW(PortRelay({.socket = path("s")}), ApiError);
  EXPECT_EQ(read_file(path("s")), "precious");
}

}  // namespace
}  // namespace vmtest::vz
