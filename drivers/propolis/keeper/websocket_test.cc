#include "websocket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <chrono>
#include <filesystem>
#include <thread>
#include <vector>

#include "vmtest/error.h"
#include "vmtest/host/socket.h"
#include "websocket_peer.h"

namespace vmtest::propolis {
namespace {

using namespace std::chrono_literals;
using testing::accept_upgrade;
using testing::frame;
using testing::soon;

/// What is received until something is.
WebSocket::Received receive(WebSocket& socket) {
  EXPECT_TRUE(wait_readable(socket.descriptor(), soon()));
  return socket.receive();
}

/// Descriptors that a child would have, too.
int inherited_descriptors() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int flags = ::fcntl(std::stoi(entry.path().filename()), F_GETFD);
    if (flags != -1 && (flags & FD_CLOEXEC) == 0) ++count;
  }
  return count;
}

class WebSocketTest : public ::testing::Test {
 protected:
  /// Connects while the peer answers by what `answer` makes of the request.
  WebSocket connect(const testing::Peer::Answer& answer = accept_upgrade) {
    return peer_.answering(answer, [&] {
      return WebSocket({"127.0.0.1", peer_.port(), "/instance/serial?from_start=0", {{"api-version", "5.0.0"}}}, soon());
    });
  }

  testing::Peer peer_;
};

TEST_F(WebSocketTest, AsksForAnUpgradeWithItsHeaders) {
  (void)connect();
  EXPECT_EQ(peer_.request().rfind("GET /instance/serial?from_start=0 HTTP/1.1\r\n", 0), 0U) << peer_.request();
  EXPECT_NE(peer_.request().find("\r\napi-version: 5.0.0\r\n"), std::string::npos) << peer_.request();
}

TEST_F(WebSocketTest, BinaryIsDataAndTextIsNot) {
  WebSocket socket = connect();
  peer_.send(frame(0x82, "one ") + frame(0x81, "no") + frame(0x02, "tw") + frame(0x80, "o"));
  std::string data;
  while (data.size() < 7) data += receive(socket).data;
  EXPECT_EQ(data, "one two");
}

TEST_F(WebSocketTest, FramesThatComeInPiecesAreJoined) {
  WebSocket socket = connect();
  const std::string payload(300, 'x');
  peer_.send(std::string("\x82\x7e\x01\x2c", 4) + payload.substr(0, 100));
  EXPECT_EQ(receive(socket).data, "");
  peer_.send(payload.substr(100));
  EXPECT_EQ(receive(socket).data, payload);
}

TEST_F(WebSocketTest, WhatComesWithTheAnswerIsNotLost) {
  WebSocket socket = connect([](const std::string& request) { return accept_upgrade(request) + frame(0x82, "early"); });
  EXPECT_TRUE(socket.has_unread());
  EXPECT_EQ(socket.receive().data, "early");
  EXPECT_FALSE(socket.has_unread());
}

TEST_F(WebSocketTest, SentDataIsMasked) {
  WebSocket socket = connect();
  socket.send("typed");
  const std::string sent = peer_.hear(11);
  ASSERT_EQ(sent.size(), 11U);
  EXPECT_EQ(sent.substr(0, 2), "\x82\x85");
  std::string text;
  for (std::size_t i = 0; i < 5; ++i) text += static_cast<char>(sent[6 + i] ^ sent[2 + i % 4]);
  EXPECT_EQ(text, "typed");
}

TEST_F(WebSocketTest, PingIsAnswered) {
  WebSocket socket = connect();
  peer_.send(frame(0x89, "hi"));
  EXPECT_EQ(receive(socket).data, "");
  EXPECT_EQ(peer_.hear(8).substr(0, 2), "\x8a\x82");
}

TEST_F(WebSocketTest, GoodbyeEndsItWithACode) {
  WebSocket socket = connect();
  peer_.send(frame(0x82, "last") + std::string("\x88\x0c\x03\xe9VM stopped", 14));
  const WebSocket::Received received = receive(socket);
  EXPECT_EQ(received.data, "last");
  EXPECT_TRUE(received.ended);
  EXPECT_EQ(received.code, 1001);
}

TEST_F(WebSocketTest, GoodbyeThatComesWithTheAnswerIsNotLost) {
  WebSocket socket =
      connect([](const std::string& request) { return accept_upgrade(request) + std::string("\x88\x02\x03\xe9", 4); });
  EXPECT_TRUE(socket.has_unread());
  const WebSocket::Received received = socket.receive();
  EXPECT_TRUE(received.ended);
  EXPECT_EQ(received.code, 1001);
}

TEST_F(WebSocketTest, EndWithoutAGoodbyeHasNoCode) {
  WebSocket socket = connect();
  peer_.close();
  const WebSocket::Received received = receive(socket);
  EXPECT_TRUE(received.ended);
  EXPECT_EQ(received.code, 0);
}

TEST_F(WebSocketTest, WhatIsNoFrameEndsIt) {
  WebSocket socket = connect();
  peer_.send(frame(0x82, "last") + frame(0x83, "x"));
  const WebSocket::Received received = receive(socket);
  EXPECT_EQ(received.data, "last");
  EXPECT_TRUE(received.ended);
  EXPECT_EQ(received.code, 0);
}

TEST_F(WebSocketTest, SendingToOneThatHasEndedIsAnError) {
  WebSocket socket = connect();
  peer_.close();
  EXPECT_TRUE(receive(socket).ended);
  EXPECT_THROW(socket.send("typed"), Error);
}

TEST_F(WebSocketTest, WhatComesDuringASendIsNotLost) {
  WebSocket socket = connect();
  peer_.send(frame(0x82, "crossing"));
  EXPECT_TRUE(wait_readable(socket.descriptor(), soon()));
  socket.send("typed");
  EXPECT_EQ(socket.receive().data, "crossing");
}

TEST_F(WebSocketTest, LongMessageArrivesWhole) {
  WebSocket socket = connect();
  constexpr std::size_t kLong = 8U << 20;
  constexpr std::size_t kHead = 14;
  std::string heard;
  std::thread reader([&] { heard = peer_.hear(kHead + kLong); });
  socket.send(std::string(kLong, 'x'));
  reader.join();
  EXPECT_EQ(heard.size(), kHead + kLong);
}

TEST_F(WebSocketTest, RefusalIsQuoted) {
  try {
    (void)connect([this](const std::string&) {
      peer_.send("HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 29\r\n\r\n{\"message\":");
      peer_.pause();
      return "\"no such version\"}";
    });
    FAIL() << "it did not throw";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("400 Bad Request"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("{\"message\":\"no such version\"}"), std::string::npos) << error.what();
  }
}

TEST_F(WebSocketTest, RefusalWithoutALengthIsQuotedAsFarAsItGoes) {
  try {
    (void)connect([](const std::string&) { return "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\n\r\nnot here"; });
    FAIL() << "it did not throw";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("302 Found not here"), std::string::npos) << error.what();
  }
}

TEST_F(WebSocketTest, AnswerToAnotherKeyIsRefused) {
  EXPECT_THROW((void)connect([](const std::string&) { return "HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: x\r\n\r\n"; }), Error);
}

TEST_F(WebSocketTest, ConnectionThatEndsBeforeTheAnswer) {
  EXPECT_THROW((void)connect([](const std::string&) { return ""; }), Error);
}

TEST_F(WebSocketTest, SilentServerIsATimeout) {
  EXPECT_THROW((void)WebSocket({"127.0.0.1", peer_.port(), "/"}, Deadline::after(100ms)), Timeout);
}

TEST_F(WebSocketTest, DescriptorsAreCloseOnExec) {
  const int before = inherited_descriptors();
  const WebSocket socket = connect();
  EXPECT_EQ(inherited_descriptors(), before);
}

TEST_F(WebSocketTest, ProxyOfTheEnvironmentIsNotAsked) {
  ASSERT_EQ(::setenv("http_proxy", ("127.0.0.1:" + std::to_string(ephemeral_port())).c_str(), 1), 0);
  EXPECT_NO_THROW((void)connect());
  ::unsetenv("http_proxy");
}

TEST(WebSocketConnect, NobodyListening) { EXPECT_THROW((void)WebSocket({"127.0.0.1", ephemeral_port(), "/"}, soon()), Error); }

}  // namespace
}  // namespace vmtest::propolis
