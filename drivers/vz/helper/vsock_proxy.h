#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "descriptor.h"
#include "unix_socket.h"

namespace vmtest::vz {

/// Vsock ports of the guest by a Unix socket, in Cloud Hypervisor's manner: a client writes `CONNECT <port>\n` and reads
/// `OK <port of the host>\n`, from there on the stream is the guest's. What the guest connects to is `<socket>_<port>`.
/// Threads of its own until it is destroyed.
class VsockProxy {
 public:
  struct Connection {
    Descriptor stream;
    std::uint32_t host_port = 0;
  };
  /// Connects to a port of the guest. Called by several threads at once; throws what names the failure.
  using Connect = std::function<Connection(std::uint32_t port)>;

  VsockProxy(std::string socket, Connect connect);
  VsockProxy(const VsockProxy&) = delete;
  VsockProxy& operator=(const VsockProxy&) = delete;
  ~VsockProxy();

  /// Takes a connection of the guest to `port`; false when nobody listens on the host's side.
  bool take_guest_connection(std::uint32_t port, Descriptor stream);

 private:
  struct Worker {
    std::thread thread;
    bool finished = false;
  };
  void listen();
  void start(std::function<void()> work);
  void serve(Descriptor client);
  void pump(const Descriptor& one, const Descriptor& other);
  /// Copies until one of them has ended, and ends the other's direction too.
  void copy(int from, int to);
  /// Writes all; false when nobody reads any more or this ends.
  [[nodiscard]] bool write(int to, std::string_view data);
  /// Waits for poll(2)'s `events`; false when this ends, or after `timeout_ms`.
  [[nodiscard]] bool wait(int fd, short events, int timeout_ms);

  std::string path_;
  Connect connect_;
  Listener listener_;
  Pipe stop_;
  std::thread thread_;
  std::mutex mutex_;
  std::list<Worker> workers_;
};

}  // namespace vmtest::vz
