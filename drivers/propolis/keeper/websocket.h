#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "vmtest/deadline.h"

struct lws;
struct lws_context;

namespace vmtest::propolis {

/// Where a WebSocket is.
struct WebSocketAddress {
  /// An IP address.
  std::string host;
  std::uint16_t port = 0;
  /// A path with its query.
  std::string target;
  /// Sent with the request.
  std::map<std::string, std::string> headers = {};
};

/// A client's end of a WebSocket (RFC 6455) on a TCP connection, by libwebsockets. One thread at a time may use it.
class WebSocket {
 public:
  /// What has come.
  struct Received {
    /// Of binary messages, joined. Text is dropped.
    std::string data;
    /// Whether this was the last: the server said goodbye, or broke the protocol, or the connection ended.
    bool ended = false;
    /// The goodbye's code; 0 when there was no goodbye.
    std::uint16_t code = 0;
  };

  /// Connects and asks for an upgrade. Throws Timeout, and Error when nobody listens, or with the server's words when it
  /// declines.
  WebSocket(WebSocketAddress address, const Deadline& deadline);
  ~WebSocket();
  WebSocket(const WebSocket&) = delete;
  WebSocket& operator=(const WebSocket&) = delete;

  /// Readable when something has come.
  [[nodiscard]] int descriptor() const { return descriptor_; }
  /// Whether something came while we connected or sent, or it ended then, which the descriptor does not tell.
  [[nodiscard]] bool has_unread() const { return !received_.data.empty() || received_.ended; }
  /// Reads what is there, if anything, and answers the server's pings.
  [[nodiscard]] Received receive();
  /// Sends a binary message. Throws Error when the connection has ended, or the server does not read for seconds.
  void send(std::string_view data);

 private:
  struct Events;
  struct Destroy {
    void operator()(lws_context* context) const;
  };

  const WebSocketAddress address_;
  const Deadline deadline_;
  /// None before there is a connection, and once it has ended.
  lws* connection_ = nullptr;
  int descriptor_ = -1;
  /// Why there is no WebSocket.
  std::string failure_;
  Received received_;
  std::string outgoing_;
  /// Ends first, since that, too, is told to the above.
  std::unique_ptr<lws_context, Destroy> context_;
};

}  // namespace vmtest::propolis
