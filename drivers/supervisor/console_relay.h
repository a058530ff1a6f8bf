#pragma once

#include <poll.h>

#include <filesystem>
#include <list>
#include <string>
#include <vector>

#include "vmtest/host/file_descriptor.h"

namespace vmtest::supervisor {

/// Stands between a guest's serial port, which its hypervisor offers on a Unix socket to one at a time, and those who want it:
/// all that comes is appended to a log, and one person at a time may connect to a socket of our own, see what comes and type. It
/// connects as soon as there is somebody, and again when it was let go, as at a guest's reboot. Driven by its owner's event loop.
class ConsoleRelay {
 public:
  /// Neither is made before there is a port. Both folders must exist.
  ConsoleRelay(std::filesystem::path log, std::filesystem::path socket)
      : log_path_(std::move(log)), socket_path_(std::move(socket)) {}
  ~ConsoleRelay();
  ConsoleRelay(const ConsoleRelay&) = delete;
  ConsoleRelay& operator=(const ConsoleRelay&) = delete;

  /// The port of a process, from now on. Who types talks to the last one. Throws std::system_error.
  void add(const std::string& process, std::filesystem::path port);
  /// That process has ended: what it said last is taken. With the last port the person's connection ends, and the socket goes.
  void remove(const std::string& process);
  void rename(const std::string& process, const std::string& name);
  /// Processes whose port is connected.
  [[nodiscard]] std::vector<std::string> connected() const;

  /// Connects to ports that are there by now. Whether some are not, so that it is worth another try soon.
  bool connect();
  /// What poll(2) is to wait for.
  void append_to(std::vector<pollfd>& entries) const;
  /// What it found.
  void serve(const pollfd& entry);

 private:
  struct Port {
    std::string process;
    std::filesystem::path path;
    FileDescriptor connection = {};
  };

  /// Whether there is more where that came from.
  bool take(Port& port);
  void show(std::string_view text);
  void take_typed();
  void pass_typed(Port& port);
  void drop_person();

  const std::filesystem::path log_path_;
  const std::filesystem::path socket_path_;
  FileDescriptor log_;
  FileDescriptor listener_;
  FileDescriptor person_;
  std::list<Port> ports_;
  /// On its way to the guest.
  std::string typed_;
  /// On its way to the person.
  std::string unread_;
};

}  // namespace vmtest::supervisor
