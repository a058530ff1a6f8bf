#include "vmtest/host/socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"

namespace vmtest {
namespace {

bool is_close_on_exec(int fd) { return (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0; }

class SocketTest : public ::testing::Test {
 protected:
  TemporaryDirectory folder_;
  std::filesystem::path path_ = folder_.path() / "socket";
  std::string data_;
  std::vector<FileDescriptor> fds_;
};

TEST_F(SocketTest, ListenerTakesConnections) {
  const FileDescriptor listener = listen_unix(path_);
  const FileDescriptor client = connect_unix(path_);
  const auto server = accept_connection(listener.get());
  ASSERT_TRUE(server);
  send_message(client.get(), "hello");
  EXPECT_TRUE(receive_some(server->get(), data_, fds_));
  EXPECT_EQ(data_, "hello");
}

TEST_F(SocketTest, ListenerIsPrivate) {
  const FileDescriptor listener = listen_unix(path_);
  struct stat info {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST_F(SocketTest, AllAreCloseOnExec) {
  const FileDescriptor listener = listen_unix(path_);
  const FileDescriptor client = connect_unix(path_);
  const auto server = accept_connection(listener.get());
  const auto [one, other] = make_socket_pair();
  EXPECT_TRUE(is_close_on_exec(listener.get()));
  EXPECT_TRUE(is_close_on_exec(client.get()));
  EXPECT_TRUE(is_close_on_exec(server->get()));
  EXPECT_TRUE(is_close_on_exec(one.get()));
  EXPECT_TRUE(is_close_on_exec(other.get()));
}

TEST_F(SocketTest, AcceptIsEmptyWhenNobodyWaits) {
  const FileDescriptor listener = listen_unix(path_);
  set_nonblocking(listener.get());
  EXPECT_FALSE(accept_connection(listener.get()));
}

TEST_F(SocketTest, ListenerThatTakesNoConnectionsIsATimeout) {
  const FileDescriptor listener = listen_unix(path_);
  std::vector<FileDescriptor> waiting;
  try {
    while (waiting.size() < 5000) waiting.push_back(connect_unix(path_));
    FAIL() << "all were connected";
  } catch (const Timeout& error) {
    EXPECT_NE(std::string(error.what()).find(path_.string()), std::string::npos) << error.what();
  }
  ASSERT_TRUE(accept_connection(listener.get()));
  EXPECT_TRUE(connect_unix(path_)) << "there is room for one again";
}

TEST_F(SocketTest, ConnectingToNobodyNamesThePath) {
  try {
    (void)connect_unix(path_);
    FAIL() << "was connected";
  } catch (const std::system_error& error) {
    EXPECT_NE(std::string(error.what()).find(path_.string()), std::string::npos);
  }
}

TEST_F(SocketTest, PathInUseIsAnError) {
  const FileDescriptor listener = listen_unix(path_);
  EXPECT_THROW((void)listen_unix(path_), std::system_error);
}

TEST_F(SocketTest, TooLongPathSaysSoAndWhatToDo) {
  try {
    (void)listen_unix("/tmp/" + std::string(200, 'x'));
    FAIL() << "was accepted";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("too long (205 bytes, the system takes 107)"), std::string::npos);
    EXPECT_NE(text.find("set XDG_RUNTIME_DIR to a shorter folder"), std::string::npos);
  }
}

TEST_F(SocketTest, LongestPathWorks) {
  const std::size_t used = folder_.path().string().size() + 1;
  const auto longest = folder_.path() / std::string(max_socket_path() - used, 'x');
  const FileDescriptor listener = listen_unix(longest);
  EXPECT_TRUE(connect_unix(longest));
}

TEST_F(SocketTest, DescriptorsPassAndAreCloseOnExec) {
  const auto [sender, receiver] = make_socket_pair();
  Pipe pipe = make_pipe();
  send_message(sender.get(), "here", pipe.write_end.get());
  pipe.write_end.reset();
  ASSERT_TRUE(receive_some(receiver.get(), data_, fds_));
  ASSERT_EQ(fds_.size(), 1U);
  EXPECT_TRUE(is_close_on_exec(fds_[0].get()));
  write_all(fds_[0].get(), "through");
  char buffer[16] = {};
  EXPECT_EQ(::read(pipe.read_end.get(), buffer, sizeof buffer), 7);
  EXPECT_STREQ(buffer, "through");
}

TEST_F(SocketTest, LongMessagesCarryTheirDescriptorOnce) {
  auto [sender, receiver] = make_socket_pair();
  const std::string sent(4 << 20, 'x');
  std::thread sending([&sending_end = sender, &sent] {
    send_message(sending_end.get(), sent, STDIN_FILENO);
    sending_end.reset();
  });
  while (receive_some(receiver.get(), data_, fds_)) {
  }
  sending.join();
  EXPECT_EQ(data_.size(), sent.size());
  EXPECT_EQ(fds_.size(), 1U);
}

TEST_F(SocketTest, EndOfTheConnectionIsFalse) {
  auto [one, other] = make_socket_pair();
  one.reset();
  EXPECT_FALSE(receive_some(other.get(), data_, fds_));
}

TEST_F(SocketTest, NothingThereIsTrueAndEmptyWhenNonblocking) {
  const auto [one, other] = make_socket_pair();
  set_nonblocking(other.get());
  EXPECT_TRUE(receive_some(other.get(), data_, fds_));
  EXPECT_EQ(data_, "");
}

TEST_F(SocketTest, SendingToTheDeadIsAnErrorNotASignal) {
  auto [one, other] = make_socket_pair();
  other.reset();
  EXPECT_THROW(send_message(one.get(), "x"), std::system_error);
}

TEST_F(SocketTest, PeerIsKnown) {
  const auto [one, other] = make_socket_pair();
  EXPECT_EQ(peer_pid(one.get()), ::getpid());
}

TEST_F(SocketTest, EphemeralPortIsFree) { EXPECT_TRUE(port_is_free(ephemeral_port())); }

}  // namespace
}  // namespace vmtest
