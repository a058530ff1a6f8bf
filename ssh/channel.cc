#include "channel.h"

#include <algorithm>
#include <utility>

#include "vmtest/error.h"

namespace vmtest::ssh {
namespace {

using namespace std::chrono_literals;

// After its exit a command's output is still on its way. It is taken as complete when nothing came for this long...
constexpr auto kQuiet = 50ms;
// ...and the server answered this many requests since without sending data in between: by the second answer it has looked
// at the command's pipes once more, however slow it is.
constexpr int kQuietAnswers = 2;
// A background child that never stops printing does not hold its parent's result up for longer than this.
constexpr auto kLongestTail = 10s;
// Written to libssh in one go; it splits by the server's packet size.
constexpr std::size_t kWriteSize = 256 * 1024;

}  // namespace

void ChannelEnd::raise() const {
  if (kind == Kind::NotConnectedInTime) throw Timeout(text);
  throw Error(text);
}

Channel::Channel(ChannelRequest request, std::shared_ptr<ChannelListener> listener)
    : request_(std::move(request)), listener_(std::move(listener)) {
  ssh_callbacks_init(&callbacks_);
  callbacks_.userdata = this;
  callbacks_.channel_data_function = on_data;
  callbacks_.channel_eof_function = on_eof;
  callbacks_.channel_close_function = on_close;
  callbacks_.channel_exit_status_function = on_exit_status;
  callbacks_.channel_exit_signal_function = on_exit_signal;
}

Channel::~Channel() { detach(); }

bool Channel::start(ssh_session session) {
  handle_ = ssh_channel_new(session);
  if (handle_ == nullptr) return false;
  ssh_add_channel_callbacks(handle_, &callbacks_);
  session_ = session;
  state_ = State::Opening;
  started_ = Clock::now();
  open_refused_ = unserved_ = false;
  remote_eof_ = remote_closed_ = request_sent_ = false;
  ++attempts;
  listener_->connected();
  return true;
}

void Channel::detach() {
  if (handle_ == nullptr) return;
  ssh_remove_channel_callbacks(handle_, &callbacks_);
  // In non-blocking mode the first call may send no more than the end of our input, and ssh_channel_free would leave it at
  // that: the server then holds the channel for ever.
  if (may_have_run() && ssh_is_connected(session_) != 0 && ssh_channel_close(handle_) == SSH_AGAIN) ssh_channel_close(handle_);
  ssh_channel_free(handle_);
  handle_ = nullptr;
  session_ = nullptr;
}

void Channel::finish(const ChannelEnd& end) {
  if (finished_) return;
  finished_ = true;
  detach();
  // Listeners may hold their channel.
  const auto listener = std::move(listener_);
  listener->closed(end);
}

void Channel::send(std::string data) {
  if (data.empty() || finished_) return;
  unsent_ += data.size();
  outgoing_.push_back(std::move(data));
}

void Channel::step() {
  if (finished_) return;
  if (state_ == State::Opening) open();
  // Not while it opens: the server's answer would find no channel, and the server keep one.
  if (given_up_ && state_ != State::Opening) return finish({});
  if (state_ == State::Requesting) make_request();
  // Closed before it answered, so nothing was started. dropbear does that to a session that has no command yet when the
  // command of another one ends (sesscheckclose() of dropbear 2022.83 takes it for one whose command has ended).
  unserved_ = state_ == State::Requesting && remote_closed_;
  if (state_ != State::Open || finished_) return;
  pump();
  if (stalled_out_ || stalled_err_ || finished_) return;
  if (remote_eof_ && !eof_told_) {
    eof_told_ = true;
    listener_->input_ended();
  }
  if (remote_closed_ || (exit_known_ && eof_told_)) return finish({});
  if (exit_known_) probe_for_end();
}

void Channel::open() {
  const int result = is_session() ? ssh_channel_open_session(handle_)
                                  : ssh_channel_open_forward(handle_, request_.text.c_str(), request_.port, "127.0.0.1", 0);
  if (result == SSH_AGAIN || ssh_is_connected(session_) == 0) return;
  // Opened and closed again at once: see step().
  if (result == SSH_OK || remote_closed_) {
    state_ = State::Requesting;
    return;
  }
  refusal_ = ssh_get_error(session_);
  open_refused_ = true;
}

void Channel::make_request() {
  if (remote_closed_ && !request_sent_) return;
  request_sent_ = true;
  int result = SSH_OK;
  if (request_.kind == ChannelRequest::Kind::Exec) result = ssh_channel_request_exec(handle_, request_.text.c_str());
  if (request_.kind == ChannelRequest::Kind::Subsystem) result = ssh_channel_request_subsystem(handle_, request_.text.c_str());
  if (result == SSH_AGAIN || ssh_is_connected(session_) == 0) return;
  if (result != SSH_OK) return finish({ChannelEnd::Kind::Refused, ssh_get_error(session_)});
  state_ = State::Open;
  last_data_ = Clock::now();
  listener_->opened();
}

void Channel::pump() {
  while (!outgoing_.empty() && !remote_closed_) {
    if ((ssh_get_status(session_) & SSH_WRITE_PENDING) != 0) return;  // as much as the socket takes, and no more
    const std::string& front = outgoing_.front();
    const std::size_t size = std::min({front.size() - front_sent_, kWriteSize, std::size_t{ssh_channel_window_size(handle_)}});
    if (size == 0) return;
    const int written = ssh_channel_write(handle_, front.data() + front_sent_, static_cast<std::uint32_t>(size));
    if (written <= 0) return;
    front_sent_ += static_cast<std::size_t>(written);
    unsent_ -= static_cast<std::size_t>(written);
    if (front_sent_ == front.size()) {
      outgoing_.pop_front();
      front_sent_ = 0;
    }
    listener_->sent(static_cast<std::size_t>(written));
  }
  if (outgoing_.empty() && input_end_wanted_ && !input_end_sent_ && !remote_closed_) {
    input_end_sent_ = true;
    ssh_channel_send_eof(handle_);
  }
}

void Channel::resume() {
  if (handle_ == nullptr) return;
  if (stalled_out_) read_stalled(Stream::Out);
  if (stalled_err_) read_stalled(Stream::Err);
}

void Channel::read_stalled(Stream stream) {
  std::string buffer(64 * 1024, '\0');
  while (!listener_->full()) {
    const int size =
        ssh_channel_read_nonblocking(handle_, buffer.data(), static_cast<std::uint32_t>(buffer.size()), stream == Stream::Err);
    if (size <= 0) {
      (stream == Stream::Out ? stalled_out_ : stalled_err_) = false;
      return;
    }
    listener_->received(stream, std::string_view(buffer).substr(0, static_cast<std::size_t>(size)));
  }
}

void Channel::probe_for_end() {
  const auto now = Clock::now();
  if (now - exit_time_ >= kLongestTail) return finish({});
  if (!probing_) {
    if (now - last_data_ < kQuiet) return;
    probing_ = true;
    data_since_probe_ = false;
  }
  // A request that no server grants a running command; it stands for "are you there?", and each server answers it. OpenSSH
  // and dropbear answer in order, after the data they have sent.
  if (ssh_channel_request_env(handle_, "VMTEST_PROBE", "") == SSH_AGAIN) return;
  probing_ = false;
  quiet_answers_ = data_since_probe_ ? 0 : quiet_answers_ + 1;
  if (quiet_answers_ >= kQuietAnswers) return finish({});
  if (!data_since_probe_) probe_for_end();
}

Channel::Clock::time_point Channel::due() const {
  if (finished_ || !exit_known_ || stalled_out_ || stalled_err_) return Clock::time_point::max();
  return probing_ ? exit_time_ + kLongestTail : last_data_ + kQuiet;
}

int Channel::on_data(ssh_session, ssh_channel, void* data, std::uint32_t size, int is_stderr, void* self) {
  auto& channel = *static_cast<Channel*>(self);
  bool& stalled = is_stderr != 0 ? channel.stalled_err_ : channel.stalled_out_;
  channel.last_data_ = Clock::now();
  channel.data_since_probe_ = true;
  channel.quiet_answers_ = 0;
  // What is not taken stays with libssh, which then stops granting the server more (and is read by read_stalled).
  stalled = stalled || channel.listener_->full();
  if (stalled) return 0;
  channel.listener_->received(is_stderr != 0 ? Stream::Err : Stream::Out, {static_cast<const char*>(data), size});
  return static_cast<int>(size);
}

void Channel::on_eof(ssh_session, ssh_channel, void* self) { static_cast<Channel*>(self)->remote_eof_ = true; }

void Channel::on_close(ssh_session, ssh_channel, void* self) {
  auto& channel = *static_cast<Channel*>(self);
  channel.remote_eof_ = true;
  channel.remote_closed_ = true;
}

void Channel::on_exit_status(ssh_session, ssh_channel, int status, void* self) {
  auto& channel = *static_cast<Channel*>(self);
  channel.exit_known_ = true;
  channel.exit_time_ = Clock::now();
  channel.listener_->exited(status);
}

void Channel::on_exit_signal(ssh_session, ssh_channel, const char* signal, int, const char*, const char*, void* self) {
  auto& channel = *static_cast<Channel*>(self);
  channel.exit_known_ = true;
  channel.exit_time_ = Clock::now();
  channel.listener_->signalled(signal);
}

}  // namespace vmtest::ssh
