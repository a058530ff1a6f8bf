#include "network/ports.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <set>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/socket.h"

namespace vmtest {
namespace {

FileDescriptor listen_on(std::uint16_t port) {
  FileDescriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool listens =
      ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 && ::listen(fd.get(), 1) == 0;
  return listens ? std::move(fd) : FileDescriptor();
}

class SshPortTest : public testing::Test {
 protected:
  TemporaryDirectory folder_;
  Ledger ledger_{folder_.path() / "ledger", {1024, 8}};
  /// Another process' view: its own open files.
  Ledger other_{folder_.path() / "ledger", {1024, 8}};
};

TEST(SshPortCandidatesTest, CoverTheRangeOnce) {
  const auto ports = ssh_port_candidates("web");
  EXPECT_EQ(ports.size(), 101U);
  EXPECT_EQ((std::set<std::uint16_t>(ports.begin(), ports.end()).size()), 101U);
  EXPECT_EQ(*std::min_element(ports.begin(), ports.end()), 10022);
  EXPECT_EQ(*std::max_element(ports.begin(), ports.end()), 10122);
}

TEST(SshPortCandidatesTest, DependOnTheNameAlone) {
  EXPECT_EQ(ssh_port_candidates("web"), ssh_port_candidates("web"));
  EXPECT_NE(ssh_port_candidates("web").front(), ssh_port_candidates("database").front());
}

TEST(SshPortCandidatesTest, GoOnWithTheNextPort) {
  const auto ports = ssh_port_candidates("web");
  const auto last = std::find(ports.begin(), ports.end(), 10122);
  ASSERT_NE(last, ports.end());
  const auto after = last + 1 == ports.end() ? ports.begin() : last + 1;
  EXPECT_EQ(*after, 10022);
}

TEST_F(SshPortTest, TwoVmsOfOneNameGetDifferentPorts) {
  const LeasedPort first = take_ssh_port(ledger_, "web", std::nullopt);
  const LeasedPort second = take_ssh_port(other_, "web", std::nullopt);
  EXPECT_NE(first.port, second.port);
}

TEST_F(SshPortTest, PassesOverAPortSomebodyListensOn) {
  const std::uint16_t favourite = take_ssh_port(ledger_, "web", std::nullopt).port;
  const FileDescriptor listener = listen_on(favourite);
  ASSERT_TRUE(listener);
  EXPECT_NE(take_ssh_port(ledger_, "web", std::nullopt).port, favourite);
}

TEST_F(SshPortTest, FallsBackToAnEphemeralPort) {
  std::vector<std::optional<Lease>> held;
  for (const std::uint16_t port : ssh_port_candidates("web")) held.push_back(ledger_.try_port(port));
  const LeasedPort found = take_ssh_port(other_, "web", std::nullopt);
  EXPECT_GT(found.port, kLastSshPort);
}

TEST_F(SshPortTest, TakesTheFixedPort) {
  const std::uint16_t wished = ephemeral_port();
  EXPECT_EQ(take_ssh_port(ledger_, "web", wished).port, wished);
}

TEST_F(SshPortTest, FixedPortThatAnotherVmHasIsAnError) {
  const LeasedPort taken = take_ssh_port(other_, "web", ephemeral_port());
  EXPECT_THROW((void)take_ssh_port(ledger_, "api", taken.port), Error);
}

TEST_F(SshPortTest, PortIsFreeAgainWithItsLease) {
  const std::uint16_t wished = ephemeral_port();
  (void)take_ssh_port(ledger_, "web", wished);
  EXPECT_EQ(take_ssh_port(other_, "api", wished).port, wished);
}

}  // namespace
}  // namespace vmtest
