#pragma once

#include <libssh/callbacks.h>
#include <libssh/libssh.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>

namespace vmtest::ssh {

enum class Stream { Out, Err };

/// What a channel is opened for.
struct ChannelRequest {
  enum class Kind { Exec, Subsystem, DirectTcp };
  Kind kind = Kind::Exec;
  /// Command line, subsystem, or the host as the guest sees it.
  std::string text;
  std::uint16_t port = 0;
};

/// Why a channel ended.
struct ChannelEnd {
  enum class Kind {
    /// The server closed it, or the caller gave it up.
    Closed,
    /// The server did not grant it.
    Refused,
    /// The connection ended while it was open.
    Lost,
    /// There was no connection and none could be made.
    NotConnected,
    /// The same, for lack of time.
    NotConnectedInTime,
  };
  Kind kind = Kind::Closed;
  std::string text = {};

  /// Throws what callers get for it: Timeout or Error with `text`.
  [[noreturn]] void raise() const;
};

/// Hears of a channel. All calls come from the I/O thread, one at a time; `closed` is the last.
class ChannelListener {
 public:
  virtual ~ChannelListener() = default;

  /// A connection is there and the request on its way (again, when the first connection turned out to be stale).
  virtual void connected() {}
  /// The server granted the request.
  virtual void opened() {}
  /// Data came.
  virtual void received(Stream stream, std::string_view data) = 0;
  /// Whether further data shall wait with the server; IoThread::resume when that is over.
  [[nodiscard]] virtual bool full() { return false; }
  /// `size` bytes of what was to be sent are on their way.
  virtual void sent(std::size_t size) { (void)size; }
  /// The server has no more data.
  virtual void input_ended() {}
  virtual void exited(int code) { (void)code; }
  virtual void signalled(std::string_view name) { (void)name; }
  virtual void closed(const ChannelEnd& end) = 0;
};

/// One channel of a connection. Callers hold it as a token; everything but the constructor is for the I/O thread.
class Channel {
 public:
  using Clock = std::chrono::steady_clock;

  Channel(ChannelRequest request, std::shared_ptr<ChannelListener> listener);
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  ~Channel();

  /// Begins on a connection. False when libssh cannot make a channel.
  [[nodiscard]] bool start(ssh_session session);
  /// Goes on as far as possible without waiting. Call it until finished() after each sign of life of the connection.
  void step();
  /// Frees libssh's channel; the listener hears nothing more of it. The channel can be started on another connection
  /// unless may_have_run().
  void detach();
  /// Tells the listener that it is over, once, and detaches.
  void finish(const ChannelEnd& end);

  void send(std::string data);
  void end_input() { input_end_wanted_ = true; }
  void resume();
  void give_up() { given_up_ = true; }
  [[nodiscard]] bool given_up() const { return given_up_; }

  [[nodiscard]] bool finished() const { return finished_; }
  [[nodiscard]] bool opening() const { return state_ == State::Opening && !open_refused_; }
  /// The request went out.
  [[nodiscard]] bool may_have_run() const { return state_ == State::Requesting || state_ == State::Open; }
  /// The server refused to open the channel (not what was asked on it); see Connection.
  [[nodiscard]] bool open_refused() const { return open_refused_; }
  /// The server closed it without an answer to the request, which it has not begun: to be started anew.
  [[nodiscard]] bool unserved() const { return unserved_; }
  [[nodiscard]] const std::string& refusal() const { return refusal_; }
  [[nodiscard]] Clock::time_point started() const { return started_; }
  [[nodiscard]] const ChannelRequest& request() const { return request_; }
  /// When step() must be called next though nothing comes; time_point::max() when that is not needed.
  [[nodiscard]] Clock::time_point due() const;
  [[nodiscard]] std::size_t unsent() const { return unsent_; }

  /// Times this channel was put on a connection.
  int attempts = 0;

 private:
  enum class State { Idle, Opening, Requesting, Open };

  void open();
  void make_request();
  void pump();
  void probe_for_end();
  void read_stalled(Stream stream);
  [[nodiscard]] bool is_session() const { return request_.kind != ChannelRequest::Kind::DirectTcp; }
  static int on_data(ssh_session, ssh_channel, void* data, std::uint32_t size, int is_stderr, void* self);
  static void on_eof(ssh_session, ssh_channel, void* self);
  static void on_close(ssh_session, ssh_channel, void* self);
  static void on_exit_status(ssh_session, ssh_channel, int status, void* self);
  static void on_exit_signal(ssh_session, ssh_channel, const char* signal, int, const char*, const char*, void* self);

  ChannelRequest request_;
  std::shared_ptr<ChannelListener> listener_;
  ssh_channel handle_ = nullptr;
  ssh_session session_ = nullptr;
  ssh_channel_callbacks_struct callbacks_ = {};
  State state_ = State::Idle;
  std::deque<std::string> outgoing_;
  std::size_t front_sent_ = 0;
  std::size_t unsent_ = 0;
  Clock::time_point started_ = {};
  bool input_end_wanted_ = false;
  bool input_end_sent_ = false;
  bool stalled_out_ = false;
  bool stalled_err_ = false;
  bool remote_eof_ = false;
  bool eof_told_ = false;
  bool remote_closed_ = false;
  bool given_up_ = false;
  bool finished_ = false;
  bool open_refused_ = false;
  bool unserved_ = false;
  bool request_sent_ = false;
  std::string refusal_;

  // After the exit status: whether background children keep the output open (see probe_for_end).
  bool exit_known_ = false;
  Clock::time_point exit_time_ = {};
  Clock::time_point last_data_ = {};
  int quiet_answers_ = 0;
  bool probing_ = false;
  bool data_since_probe_ = false;
};

}  // namespace vmtest::ssh
