#include "network/vsock.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <system_error>
#include <thread>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/socket.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

class ConnectVsockTest : public ::testing::Test {
 protected:
  /// A device that hears one line, answers and hangs up.
  void serve(const std::string& answer) {
    device_ = std::thread([this, answer] {
      const FileDescriptor connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      char c = 0;
      while (::read(connection.get(), &c, 1) == 1 && c != '\n') heard_ += c;
      if (!answer.empty()) send_message(connection.get(), answer);
    });
  }
  void TearDown() override {
    if (device_.joinable()) device_.join();
  }
  std::string failure() {
    try {
      (void)connect_vsock(socket_, 5252, Deadline::after(20s));
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  }

  TemporaryDirectory folder_;
  std::filesystem::path socket_ = folder_.path() / "vsock.sock";
  FileDescriptor listener_ = listen_unix(socket_);
  std::string heard_;
  std::thread device_;
};

TEST_F(ConnectVsockTest, StreamBeginsAfterTheAnswer) {
  serve("OK 1073741824\nhello");
  const FileDescriptor stream = connect_vsock(socket_, 5252, Deadline::after(20s));
  char data[16] = {};
  ASSERT_EQ(::read(stream.get(), data, sizeof data), 5);
  EXPECT_STREQ(data, "hello");
  device_.join();
  EXPECT_EQ(heard_, "CONNECT 5252");
}

TEST_F(ConnectVsockTest, NobodyListeningInTheGuestIsAnError) {
  serve("");
  EXPECT_EQ(failure(), "port 5252 of the guest's vsock: nobody listens there");
}

TEST_F(ConnectVsockTest, OtherAnswersAreErrors) {
  serve("NO 1\n");
  EXPECT_NE(failure().find("answers \"NO 1"), std::string::npos);
}

TEST_F(ConnectVsockTest, EndlessAnswerIsAnError) {
  serve(std::string(1000, 'x'));
  EXPECT_NE(failure().find("answers \"xxx"), std::string::npos);
}

TEST_F(ConnectVsockTest, SilenceEndsAtTheDeadline) {
  EXPECT_THROW((void)connect_vsock(socket_, 5252, Deadline::after(50ms)), Timeout);
}

TEST_F(ConnectVsockTest, NoDeviceIsTheSystemsError) {
  EXPECT_THROW((void)connect_vsock(folder_.path() / "gone.sock", 5252, Deadline::after(1s)), std::system_error);
}

}  // namespace
}  // namespace vmtest
