#pragma once

#include <string>
#include <thread>

#include "descriptor.h"
#include "unix_socket.h"

namespace vmtest::vz {

/// Joins a port of the guest, which is a pipe each way, to whoever connects to a Unix socket: one client at a time, the next
/// is accepted when it has gone. Runs in a thread of its own until it is destroyed.
class PortRelay {
 public:
  enum class Unread {
    /// What the guest sends is always read, for the log; a client that does not keep up is cut off. A serial console.
    Drop,
    /// What the guest sends waits for a client, and for it to read: nothing is lost. A port of a protocol.
    Hold,
  };
  struct Options {
    std::string socket;
    /// Receives all that the guest sends; empty: nothing does.
    std::string log = {};
    bool append = false;
    Unread unread = Unread::Drop;
  };
  /// Throws std::system_error or ApiError when a file or socket cannot be made.
  explicit PortRelay(const Options& options);
  PortRelay(const PortRelay&) = delete;
  PortRelay& operator=(const PortRelay&) = delete;
  ~PortRelay();

  /// The guest's ends: what the port reads from and writes to. Owned by this.
  [[nodiscard]] int port_input() const { return to_guest_.read_end.get(); }
  [[nodiscard]] int port_output() const { return from_guest_.write_end.get(); }

 private:
  void run();
  /// Whether there was something.
  bool read_guest();
  void read_client();
  void write_client();
  void write_guest();
  void drop_client();

  Unread unread_;
  Listener listener_;
  Pipe to_guest_;
  Pipe from_guest_;
  Pipe stop_;
  Descriptor log_;
  // Of the thread.
  Descriptor client_;
  std::string for_client_;
  std::string for_guest_;
  std::thread thread_;
};

}  // namespace vmtest::vz
