#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "vmtest/deadline.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"
#include "vmtest/host/text.h"

namespace vmtest::propolis::testing {

inline Deadline soon() { return Deadline::after(std::chrono::seconds(20)); }

/// A server that answers one upgrade, and then sends and hears what the test says.
class Peer {
 public:
  using Answer = std::function<std::string(const std::string&)>;

  Peer() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
    EXPECT_EQ(::listen(listener_.get(), 1), 0);
    EXPECT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
    port_ = ntohs(address.sin_port);
  }

  /// What `ask` makes, while the peer answers a request by what `answer` makes of it; by nothing it hangs up.
  template <typename Ask>
  auto answering(const Answer& answer, Ask&& ask) {
    std::thread thread([this, answer] { serve(answer); });
    const Join join{thread};
    return ask();
  }
  void send(const std::string& bytes) const { send_message(connection_.get(), bytes); }
  void close() { connection_.reset(); }
  /// For what was sent before to have been read.
  void pause() const { (void)wait_readable(connection_.get(), Deadline::after(std::chrono::milliseconds(100))); }
  std::string hear(std::size_t bytes) {
    std::string text;
    std::vector<FileDescriptor> none;
    while (text.size() < bytes && wait_readable(connection_.get(), soon()) && receive_some(connection_.get(), text, none)) {
    }
    return text;
  }
  [[nodiscard]] const std::string& request() const { return request_; }
  [[nodiscard]] std::uint16_t port() const { return port_; }

 private:
  struct Join {
    std::thread& thread;
    ~Join() { thread.join(); }
  };

  void serve(const Answer& answer) {
    if (!wait_readable(listener_.get(), soon())) return;
    connection_ = FileDescriptor(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    std::vector<FileDescriptor> none;
    while (request_.find("\r\n\r\n") == std::string::npos && receive_some(connection_.get(), request_, none)) {
    }
    const std::string reply = answer(request_);
    if (reply.empty()) connection_.reset();
    else send_message(connection_.get(), reply);
  }

  FileDescriptor listener_;
  FileDescriptor connection_;
  std::uint16_t port_ = 0;
  std::string request_;
};

/// The answer that makes a connection a WebSocket.
inline std::string accept_upgrade(const std::string& request) {
  const std::string name = "Sec-WebSocket-Key: ";
  const std::size_t at = request.find(name) + name.size();
  const std::string key = request.substr(at, request.find('\r', at) - at) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  EXPECT_EQ(EVP_Digest(key.data(), key.size(), digest, &length, EVP_sha1(), nullptr), 1);
  return "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: " +
         base64(std::string_view(reinterpret_cast<const char*>(digest), length)) + "\r\n\r\n";
}

/// A whole frame of up to 125 bytes, by its first byte.
inline std::string frame(unsigned char first, const std::string& payload) {
  return std::string{static_cast<char>(first), static_cast<char>(payload.size())} + payload;
}

}  // namespace vmtest::propolis::testing
