// Connecting, losing and sharing the connection.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <thread>

#include "testing/peer_test.h"
#include "testing/tcp_server.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"
#include "vmtest/ssh_native.h"

namespace vmtest::ssh {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using testing::HasSubstr;

/// Options for a port where no real server is.
SshOptions options_for(std::uint16_t port) {
  SshOptions options;
  options.port = port;
  options.private_key = generate_ssh_key("c").private_key;
  options.host_key = generate_ssh_key("h").public_key;
  options.connect_timeout = 600ms;
  options.banner_timeout = 150ms;
  return options;
}

TEST(ConnectTest, NobodyListensSaysSoWhenTimeIsUp) {
  SshSession session(options_for(ephemeral_port()));
  const std::string message = thrown<Timeout>([&] { session.connect(); });
  EXPECT_THAT(message, HasSubstr("0.600 s"));
  EXPECT_THAT(message, HasSubstr("refused"));
}

TEST(ConnectTest, ServerThatNeverSpeaksIsTriedAgainUntilTimeIsUp) {
  TcpServer server([](FileDescriptor&) {});
  SshSession session(options_for(server.port()));
  EXPECT_THAT(thrown<Timeout>([&] { session.connect(); }), HasSubstr("no SSH server said anything"));
  EXPECT_GE(server.connections(), 3);
}

TEST(ConnectTest, ServerThatHangsUpAtOnceIsTriedAgain) {
  TcpServer server([](FileDescriptor& connection) { connection.reset(); });
  SshSession session(options_for(server.port()));
  EXPECT_THAT(thrown<Timeout>([&] { session.connect(); }), HasSubstr("closed before"));
  EXPECT_GE(server.connections(), 2);
}

TEST(ConnectTest, ServerThatHangsUpInTheKeyExchangeIsTriedAgain) {
  TcpServer server([](FileDescriptor& connection) {
    write_all(connection.get(), "SSH-2.0-Fake\r\n");
    connection.reset();
  });
  SshSession session(options_for(server.port()));
  EXPECT_THAT(thrown<Timeout>([&] { session.connect(); }), HasSubstr("key exchange"));
  EXPECT_GE(server.connections(), 2);
}

TEST(ConnectTest, ServerThatIsNoSshServerIsAnErrorAtOnce) {
  TcpServer server(
      [](FileDescriptor& connection) { write_all(connection.get(), "HTTP/1.1 400 Bad Request\r\n" + std::string(2000, 'x')); });
  SshOptions options = options_for(server.port());
  options.connect_timeout = 60s;
  SshSession session(options);
  EXPECT_THAT(thrown<Error>([&] { session.connect(); }), HasSubstr("is no SSH server"));
}

TEST(ConnectTest, EndsSoonWhenTheSessionIsResetOrDestroyed) {
  TcpServer server([](FileDescriptor&) {});
  SshOptions options = options_for(server.port());
  options.connect_timeout = options.banner_timeout = 60s;
  std::optional<SshSession> session(options);
  auto connecting = std::async(std::launch::async, [&] { return thrown<Error>([&] { session->connect(); }); });
  ASSERT_TRUE(eventually([&] { return server.connections() == 1; }));
  session->reset();
  EXPECT_THAT(connecting.get(), HasSubstr("called off"));
  auto again = session->forward(22);
  session.reset();
  EXPECT_EQ(server.connections(), 1);
}

class ConnectionTest : public EachServerTest {};
INSTANTIATE_TEST_SUITE_P(On, ConnectionTest, testing::Values(PeerKind::OpenSsh, PeerKind::Dropbear), peer_name);

TEST_P(ConnectionTest, ConnectsAtTheFirstCallAndStays) {
  EXPECT_FALSE(session().connected());
  const std::string first = session().exec("echo $PPID").out;
  EXPECT_TRUE(session().connected());
  session().connect();
  EXPECT_EQ(session().exec("echo $PPID").out, first);  // the same process of the server
}

TEST_P(ConnectionTest, TellsItsSteps) {
  EXPECT_TRUE(session().connect_steps().empty());
  const auto before = Clock::now();
  session().connect();
  std::vector<std::string_view> names;
  std::vector<Clock::time_point> moments = {before};
  for (const Step& step : session().connect_steps()) {
    names.push_back(step.what);
    moments.push_back(step.at);
  }
  moments.push_back(Clock::now());
  EXPECT_THAT(names, testing::ElementsAre("tcp", "banner", "key exchange", "authentication"));
  EXPECT_TRUE(std::is_sorted(moments.begin(), moments.end()));
}

TEST_P(ConnectionTest, WrongHostKeyIsRefusedNamingBothFingerprints) {
  SshOptions options = peer().session_options();
  const std::string real = ssh_fingerprint(options.host_key);
  options.host_key = generate_ssh_key("other").public_key;
  SshSession wrong(options);
  const std::string message = thrown<Error>([&] { (void)wrong.exec("true"); });
  EXPECT_THAT(message, HasSubstr("wrong host key"));
  EXPECT_THAT(message, HasSubstr(real));
  EXPECT_THAT(message, HasSubstr(ssh_fingerprint(options.host_key)));
}

TEST_P(ConnectionTest, RefusedKeyIsAnErrorAtOnce) {
  SshOptions options = peer().session_options();
  options.private_key = generate_ssh_key("stranger").private_key;
  options.connect_timeout = 60s;
  SshSession stranger(options);
  const auto started = Clock::now();
  EXPECT_THAT(thrown<Error>([&] { stranger.connect(); }), HasSubstr("refuses our key SHA256:"));
  EXPECT_LT(Clock::now() - started, 20s);
}

TEST_P(ConnectionTest, WaitsForAServerThatStartsLater) {
  peer().crash();
  auto answer = std::async(std::launch::async, [&] { return session().exec("echo up").out; });
  ASSERT_EQ(answer.wait_for(200ms), std::future_status::timeout);
  peer().start();
  EXPECT_EQ(answer.get(), "up\n");
}

TEST_P(ConnectionTest, LostConnectionEndsWhatRunsAndTheNextCallConnectsAnew) {
  const auto process = session().spawn("sleep 6001");
  auto running = std::async(std::launch::async, [&] { return thrown<Error>([&] { (void)session().exec("sleep 6002"); }); });
  ASSERT_EQ(running.wait_for(300ms), std::future_status::timeout);
  peer().crash();
  EXPECT_THAT(running.get(), HasSubstr("connection to the guest was lost"));
  EXPECT_THROW((void)process->wait(20s), Error);
  peer().start();
  EXPECT_EQ(session().exec("echo again").out, "again\n");
}

TEST_P(ConnectionTest, ConnectionThatDiedUnusedIsReplacedUnseen) {
  session().connect();
  peer().crash();
  peer().start();
  EXPECT_EQ(session().exec("echo again").out, "again\n");
}

TEST_P(ConnectionTest, ResetEndsWhatRuns) {
  const auto process = session().spawn("sleep 6003");
  session().reset();
  EXPECT_THAT(thrown<Error>([&] { (void)process->wait(20s); }), HasSubstr("reset"));
  EXPECT_EQ(session().exec("echo again").out, "again\n");
}

TEST_P(ConnectionTest, ProcessesAndForwardsOutliveTheSessionHarmlessly) {
  const auto process = session().spawn("sleep 6004");
  const auto forward = session().forward(9);
  session_.reset();
  EXPECT_THAT(thrown<Error>([&] { (void)process->wait(20s); }), HasSubstr("session was closed"));
  EXPECT_THROW(process->signal("TERM"), Error);
}

TEST_P(ConnectionTest, DestructionIsQuickWithAHungServer) {
  TcpServer server([&](FileDescriptor& connection) { write_all(connection.get(), "SSH-2.0-Hangs\r\n"); });
  SshOptions options = peer().session_options();
  options.port = server.port();
  std::optional<SshSession> hung(options);
  auto call = std::async(std::launch::async, [&] { return thrown<Error>([&] { (void)hung->exec("true"); }); });
  ASSERT_TRUE(eventually([&] { return server.connections() == 1; }));
  const auto started = Clock::now();
  hung->reset();
  EXPECT_FALSE(call.get().empty());
  hung.reset();
  EXPECT_LT(Clock::now() - started, 2s);
}

TEST_P(ConnectionTest, NativeSessionIsConnectedAndTheCallersOwn) {
  const NativeSshSession native = open_native_session(session());
  ssh_channel channel = ssh_channel_new(native.get());
  ASSERT_EQ(ssh_channel_open_session(channel), SSH_OK);
  ASSERT_EQ(ssh_channel_request_exec(channel, "echo native"), SSH_OK);
  std::string text(100, '\0');
  text.resize(static_cast<std::size_t>(ssh_channel_read(channel, text.data(), 100, 0)));
  ssh_channel_free(channel);
  EXPECT_EQ(text, "native\n");
}

TEST_P(ConnectionTest, LogTellsWhatHappenedWithoutSecrets) {
  SshOptions options = peer().session_options();
  options.log_file = host("ssh.log");
  SshSession logged(options);
  GuestCommand command("echo \"$TOKEN\" >&2; exit 3");
  command.environment = {{"TOKEN", "hunter2"}};
  (void)logged.exec(command);
  const std::string log = read_file(options.log_file);
  EXPECT_THAT(log, HasSubstr("connect 127.0.0.1:"));
  EXPECT_THAT(log, HasSubstr("exit code 3"));
  EXPECT_THAT(log, testing::Not(HasSubstr("hunter2")));
  EXPECT_EQ(std::filesystem::status(options.log_file).permissions(), std::filesystem::perms(0600));
}

TEST_F(OpenSshTest, MoreSessionsThanOneConnectionMayHaveGetAnother) {
  start(PeerKind::OpenSsh, {.sshd_config = {"MaxSessions 2"}});
  std::vector<std::unique_ptr<GuestProcess>> processes(5);
  std::generate(processes.begin(), processes.end(), [&] { return session().spawn("read line; echo $line"); });
  EXPECT_EQ(session().exec("echo one more").out, "one more\n");
  processes.back()->write("last\n", 5s);
  EXPECT_EQ(processes.back()->wait(20s).out, "last\n");
}

TEST_F(OpenSshTest, KeysAreExchangedAnewInTheMiddleOfATransfer) {
  start(PeerKind::OpenSsh, {.sshd_config = {"RekeyLimit 1M"}});
  GuestCommand command("cat | tr a b");
  command.standard_input = std::string(10'000'000, 'a');
  const CommandResult result = session().exec(command);
  EXPECT_EQ(result.out.size(), 10'000'000U);
  EXPECT_EQ(result.out.find_first_not_of('b'), std::string::npos);
}

TEST_F(OpenSshTest, ShellThatPrintsFirstIsUnderstood) {
  start(PeerKind::OpenSsh, {.sshd_config = {"SetEnv ENV=/nonexistent"}});
  peer().write_guest_file(".ssh/rc", "echo noise >&2\n");
  const auto process = session().spawn("echo ready; sleep 6006");
  EXPECT_TRUE(eventually([&] { return process->stdout_so_far() == "ready\n"; }));
  process->signal("TERM");
  const CommandResult result = process->wait(20s);
  EXPECT_EQ(result.err, "noise\n");
  EXPECT_EQ(result.signal, "TERM");
}

}  // namespace
}  // namespace vmtest::ssh
