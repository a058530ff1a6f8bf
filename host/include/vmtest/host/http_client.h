#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "vmtest/deadline.h"

namespace vmtest {

/// A question to a server.
struct HttpRequest {
  /// "GET", "PUT" ...
  std::string method = "GET";
  /// From the slash on, with its query: "/api/v1/vm.info".
  std::string path;
  /// JSON text; nothing is sent when it is empty.
  std::string body = {};
  std::map<std::string, std::string> headers = {};
};

/// A server's answer, whatever its status.
struct HttpReply {
  int status = 0;
  std::string body;
};

/// Asks a hypervisor's server, which speaks HTTP/1.1 on a Unix socket or on a TCP port. Each request has a connection of its own,
/// so that a server that ended and came back is found again. A value; may be used by several threads at once.
class HttpClient {
 public:
  [[nodiscard]] static HttpClient unix_socket(std::filesystem::path path);
  [[nodiscard]] static HttpClient tcp(std::string host, std::uint16_t port);

  /// Sends a request and returns the answer. Throws std::system_error when nobody listens, Timeout when the answer is not whole
  /// by the deadline, Error when what comes is no HTTP, ends in the middle or is longer than 16 MiB.
  [[nodiscard]] HttpReply send(const HttpRequest& request, const Deadline& deadline) const;

  /// The socket's path, or "host:port".
  [[nodiscard]] std::string address() const;

 private:
  HttpClient() = default;

  std::filesystem::path socket_;
  std::string host_;
  std::uint16_t port_ = 0;
};

}  // namespace vmtest
