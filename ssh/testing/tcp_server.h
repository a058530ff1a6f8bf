#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "vmtest/host/file_descriptor.h"

namespace vmtest::ssh {

/// Listens on a port of the loopback and gives each connection to `serve`, one after the other; keeps them open until it
/// goes out of scope unless `serve` closes them.
class TcpServer {
 public:
  using Serve = std::function<void(FileDescriptor& connection)>;

  explicit TcpServer(Serve serve) : serve_(std::move(serve)), socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(socket_.get(), generic, size) != 0 || ::listen(socket_.get(), 64) != 0 ||
        ::getsockname(socket_.get(), generic, &size) != 0)
      std::abort();
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { run(); });
  }
  TcpServer(const TcpServer&) = delete;
  TcpServer& operator=(const TcpServer&) = delete;
  ~TcpServer() {
    write_all(stop_.write_end.get(), "x");
    thread_.join();
  }

  [[nodiscard]] std::uint16_t port() const { return port_; }
  /// Connections taken so far.
  [[nodiscard]] int connections() const { return count_; }

 private:
  void run() {
    std::vector<FileDescriptor> open;
    while (true) {
      pollfd polled[] = {{socket_.get(), POLLIN, 0}, {stop_.read_end.get(), POLLIN, 0}};
      (void)::poll(polled, 2, -1);
      if (polled[1].revents != 0) return;
      FileDescriptor connection(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!connection) continue;
      ++count_;
      serve_(connection);
      open.push_back(std::move(connection));
    }
  }

  Serve serve_;
  FileDescriptor socket_;
  Pipe stop_ = make_pipe();
  std::uint16_t port_ = 0;
  std::atomic<int> count_ = 0;
  std::thread thread_;
};

}  // namespace vmtest::ssh
