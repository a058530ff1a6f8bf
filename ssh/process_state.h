#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "channel.h"
#include "vmtest/deadline.h"
#include "vmtest/guest.h"

namespace vmtest::ssh {

/// What is known of a running command; filled by the I/O thread, read by callers.
class ProcessState : public ChannelListener {
 public:
  /// `marker` is what command_line() was given: the line of standard error that begins with it is ours, and is left out.
  ProcessState(const GuestCommand& command, std::string marker);

  // Of ChannelListener.
  void connected() override;
  void opened() override;
  void received(Stream stream, std::string_view data) override;
  void sent(std::size_t size) override;
  void exited(int code) override;
  void signalled(std::string_view name) override;
  void closed(const ChannelEnd& end) override;

  /// Waits until the server took the command. False when the deadline passed first; it begins once there is a connection.
  [[nodiscard]] bool wait_started(std::chrono::milliseconds timeout);
  /// Waits until it is over, in whatever way.
  [[nodiscard]] bool wait_ended(const Deadline& deadline);
  /// Waits until less than `limit` bytes of input are on their way, or it is over.
  [[nodiscard]] bool wait_room(std::size_t limit, const Deadline& deadline);
  /// Waits for its process id; empty when it has not begun, is over, or the deadline passed.
  [[nodiscard]] std::optional<long> wait_pid(const Deadline& deadline);
  void add_queued(std::size_t size);
  /// Whether all input has gone to the server.
  [[nodiscard]] bool all_sent() const;

  [[nodiscard]] bool ended() const;
  /// It ended otherwise than by itself.
  [[nodiscard]] bool failed() const;
  /// Throws unless it ended by itself.
  [[nodiscard]] CommandResult result() const;
  [[nodiscard]] std::string output(Stream stream) const;
  /// The last lines of both streams for a message, harmless for terminals.
  [[nodiscard]] std::string tail() const;
  /// No callback runs after this returns.
  void mute();

 private:
  /// Takes our line out of standard error; returns what the command itself printed.
  [[nodiscard]] std::string without_marker(std::string_view data);
  void keep(std::string& stream, std::string_view data);

  const std::size_t limit_;
  const std::string marker_;
  std::mutex callback_mutex_;  // held while a callback runs, never together with mutex_
  OutputCallback on_stdout_;
  OutputCallback on_stderr_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool is_connected_ = false;
  bool started_ = false;
  std::size_t queued_ = 0;
  std::optional<long> pid_;
  bool marker_done_ = false;
  std::string held_;  // standard error before the marker was seen
  CommandResult result_;
  std::optional<ChannelEnd> end_;
};

}  // namespace vmtest::ssh
