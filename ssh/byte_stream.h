#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "channel.h"
#include "io_thread.h"

namespace vmtest::ssh {

/// A channel as a pair of byte streams that a caller's thread reads and writes: for SFTP, and for tar and cat in the guest.
/// Memory is bounded: a reader that does not read stops the guest. One thread may use it. Every wait ends after the idle
/// time with Timeout when nothing moves; the end of the channel throws Error unless it says otherwise.
class ByteStream {
 public:
  /// Opens the channel; does not wait for it.
  ByteStream(std::shared_ptr<IoThread> io, ChannelRequest request, std::chrono::milliseconds idle);
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;
  /// Closes the channel.
  ~ByteStream();

  /// Waits until the server granted the request. False when it refused or could not do it.
  [[nodiscard]] bool wait_open();
  /// Waits for data and returns what is there; empty at the end.
  [[nodiscard]] std::string read();
  /// Gives back what read() returned; the next read gets it again.
  void unread(std::string data);
  /// Exactly `size` bytes.
  [[nodiscard]] std::string read_exactly(std::size_t size);
  /// Queues `data` when there is room for it.
  void write(std::string data);
  /// The same; false when the other side has ended the stream.
  [[nodiscard]] bool try_write(std::string data);
  void end_input();

  /// How a command ended, once read() returned its end: "exit code 1".
  struct Ending {
    std::optional<int> exit_code;
    std::string signal;
    /// What it said on standard error, at most some kilobytes.
    std::string error_output;
  };
  [[nodiscard]] Ending wait_ending();

 private:
  struct State;

  std::shared_ptr<IoThread> io_;
  std::shared_ptr<State> state_;
  std::shared_ptr<Channel> channel_;
  std::chrono::milliseconds idle_;
  std::string unread_;  // taken from the state, not yet asked for
  std::size_t unread_from_ = 0;
};

}  // namespace vmtest::ssh
