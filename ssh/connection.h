#pragma once

#include <poll.h>

#include <memory>
#include <string>
#include <vector>

#include "channel.h"
#include "libssh_handles.h"
#include "vmtest/ssh_session.h"

namespace vmtest::ssh {

/// One connected session with its channels. For the I/O thread only.
class Connection {
 public:
  using Clock = Channel::Clock;

  /// Throws Error.
  Connection(SessionPtr session, const SshOptions& options);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();

  /// Starts the channel here. False when libssh cannot.
  [[nodiscard]] bool add(const std::shared_ptr<Channel>& channel);
  /// Reads what came, sends what can be sent, lets all channels go on.
  void service();
  /// What to wait for on its socket.
  [[nodiscard]] pollfd interest() const;
  /// When service() must be called next though nothing comes.
  [[nodiscard]] Clock::time_point due() const;

  /// Why it can not be used any more; empty while it can.
  [[nodiscard]] const std::string& death() const { return death_; }
  /// Ends its use.
  void declare_dead(std::string reason);
  /// The server granted no further session while others were open. Over when one of them ends.
  [[nodiscard]] bool full() const { return full_; }
  /// Channels the server granted no place, for another connection; empties the list.
  [[nodiscard]] std::vector<std::shared_ptr<Channel>> take_displaced();
  /// All channels, when it is dead; empties the list.
  [[nodiscard]] std::vector<std::shared_ptr<Channel>> take_all();

 private:
  void read();
  void step_channels();
  void watch();

  SessionPtr session_;
  EventPtr event_;
  ssh_counter_struct counter_ = {};
  std::uint64_t heard_bytes_ = 0;
  Clock::time_point heard_ = {};
  Clock::time_point asked_ = {};
  std::chrono::milliseconds keepalive_;
  std::chrono::milliseconds open_timeout_;
  std::vector<std::shared_ptr<Channel>> channels_;
  std::vector<std::shared_ptr<Channel>> displaced_;
  bool full_ = false;
  std::string death_;
};

}  // namespace vmtest::ssh
