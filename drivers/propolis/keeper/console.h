#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "vmtest/deadline.h"

namespace vmtest::propolis {

/// Whose startup script the firmware's shell runs, if it does.
enum class StartupScript { Others, Ours };

/// Where a guest's console comes from and goes to.
struct ConsoleOptions {
  std::string host;
  std::uint16_t port = 0;
  std::string version;
  /// Gets all that the guest prints, behind what is there.
  std::filesystem::path log;
  /// A Unix socket, for those who look on and type. Each is told what comes from its connection on.
  std::filesystem::path socket;
  /// The shell waits seconds for a key before it runs a script. Before ours it gets one.
  StartupScript startup_script = StartupScript::Others;
};

/// The guest's first serial port, by propolis-server's WebSocket, on a thread of its own.
class Console {
 public:
  /// Returns when it is connected, and has all from the guest's first byte on. Throws Error or Timeout when it cannot be.
  Console(const ConsoleOptions& options, const Deadline& deadline);
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  /// Waits for the server to end it, as it does when the guest has ended. False when the deadline passed first.
  bool wait_end(const Deadline& deadline);

 private:
  class Pump;
  std::unique_ptr<Pump> pump_;
};

}  // namespace vmtest::propolis
