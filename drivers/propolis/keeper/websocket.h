#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "vmtest/deadline.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::propolis {

/// A client's end of a WebSocket (RFC 6455) without extensions, on a TCP connection. Written here because what it takes is less
/// than what a library of it takes to build. One thread at a time may use it.
class WebSocket {
 public:
  /// What has come.
  struct Received {
    /// Of binary messages, joined. Text is dropped.
    std::string data;
    /// Whether this was the last: the server said goodbye, or the connection ended.
    bool ended = false;
    /// The goodbye's code; 0 when there was no goodbye.
    std::uint16_t code = 0;
  };

  /// Connects and asks for an upgrade. Throws std::system_error when nobody listens, Timeout, and Error with the server's words
  /// when it declines.
  [[nodiscard]] static WebSocket connect(const std::string& host, std::uint16_t port, const std::string& target,
                                         const std::map<std::string, std::string>& headers, const Deadline& deadline);

  /// Readable when something has come.
  [[nodiscard]] int descriptor() const { return socket_.get(); }
  /// Whether something came along with the answer to the upgrade, which the descriptor does not tell.
  [[nodiscard]] bool has_unread() const { return !unread_.empty(); }
  /// Reads what is there, if anything, and answers the server's pings. Throws Error for what is no WebSocket.
  [[nodiscard]] Received receive();
  /// Sends a binary message. Throws std::system_error when the connection has ended, or the server does not read for seconds.
  void send(std::string_view data);

 private:
  explicit WebSocket(FileDescriptor socket) : socket_(std::move(socket)) {}
  void send_frame(unsigned char opcode, std::string_view payload);
  /// Takes the whole frames out of what was read.
  void take_frames(Received& received);

  FileDescriptor socket_;
  std::string unread_;
  /// Whether the message that is under way is binary.
  bool binary_ = false;
};

/// What a server must answer to a key.
[[nodiscard]] std::string websocket_accept(const std::string& key);

}  // namespace vmtest::propolis
