#pragma once

#include <memory>
#include <string>

#include "io_thread.h"
#include "session_log.h"
#include "vmtest/guest.h"

namespace vmtest::ssh {

class ProcessState;

/// A command on a channel of its own.
class RemoteProcess final : public GuestProcess {
 public:
  /// Starts it; does not wait for it. Throws Error for what cannot be given to a command.
  RemoteProcess(std::shared_ptr<IoThread> io, std::shared_ptr<SessionLog> log, const GuestCommand& command);
  ~RemoteProcess() override;

  /// Waits until the server has taken it: `timeout` at most once there is a connection. Throws Error and Timeout.
  void wait_started(std::chrono::milliseconds timeout);
  /// The result of a command that gets its standard input from `command` and is killed when it takes too long.
  [[nodiscard]] CommandResult run(const GuestCommand& command);

  void write(std::string_view data, std::chrono::milliseconds timeout) override;
  void close_input() override;
  [[nodiscard]] CommandResult wait(std::chrono::milliseconds timeout) override;
  [[nodiscard]] std::optional<CommandResult> poll() override;
  void signal(std::string_view name) override;
  [[nodiscard]] std::string stdout_so_far() override;
  [[nodiscard]] std::string stderr_so_far() override;

 private:
  void kill() noexcept;
  [[nodiscard]] std::shared_ptr<ProcessState> run_helper(const std::string& line);

  std::shared_ptr<IoThread> io_;
  std::shared_ptr<SessionLog> log_;
  std::string name_;
  std::chrono::steady_clock::time_point started_;
  std::shared_ptr<ProcessState> state_;
  std::shared_ptr<Channel> channel_;
};

}  // namespace vmtest::ssh
