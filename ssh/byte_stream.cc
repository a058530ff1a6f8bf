#include "byte_stream.h"

#include <algorithm>
#include <utility>

#include "vmtest/deadline.h"
#include "vmtest/error.h"

namespace vmtest::ssh {
namespace {

// What a reader may leave unread, and a writer unsent, before the other side has to wait.
constexpr std::size_t kBuffer = 4 * 1024 * 1024;
constexpr std::size_t kErrorOutput = 4 * 1024;

}  // namespace

struct ByteStream::State : ChannelListener {
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t moves = 0;  // anything that happened counts as a sign of life
  bool is_open = false;
  bool ended = false;
  std::string data;
  bool wants_resume = false;
  std::size_t queued = 0;
  Ending ending;
  std::optional<ChannelEnd> end;

  template <typename Change>
  void change(Change body) {
    const std::lock_guard lock(mutex);
    body();
    ++moves;
    changed.notify_all();
  }

  void connected() override {
    change([] {});
  }
  void opened() override {
    change([&] { is_open = true; });
  }
  void received(Stream stream, std::string_view piece) override {
    change([&] {
      if (stream == Stream::Out) data += piece;
      else if (ending.error_output.size() < kErrorOutput) ending.error_output += piece;
    });
  }
  bool full() override {
    const std::lock_guard lock(mutex);
    wants_resume = data.size() >= kBuffer;
    return wants_resume;
  }
  void sent(std::size_t size) override {
    change([&] { queued -= size; });
  }
  void input_ended() override {
    change([&] { ended = true; });
  }
  void exited(int code) override {
    change([&] { ending.exit_code = code; });
  }
  void signalled(std::string_view name) override {
    change([&] { ending.signal = name; });
  }
  void closed(const ChannelEnd& why) override {
    change([&] {
      ended = true;
      end = why;
    });
  }

  /// Waits until `done`; Timeout when nothing moves for `idle`.
  template <typename Done>
  void wait(std::unique_lock<std::mutex>& lock, std::chrono::milliseconds idle, Done done) {
    while (!done()) {
      const std::uint64_t before = moves;
      if (!changed.wait_until(lock, Deadline::after(idle).time_point(), [&] { return moves != before; })) {
        throw Timeout("the guest's SSH server did nothing for " + format_seconds(idle));
      }
    }
  }
};

ByteStream::ByteStream(std::shared_ptr<IoThread> io, ChannelRequest request, std::chrono::milliseconds idle)
    : io_(std::move(io)), state_(std::make_shared<State>()), idle_(idle) {
  channel_ = io_->open(std::move(request), state_);
}

ByteStream::~ByteStream() { io_->give_up(channel_); }

bool ByteStream::wait_open() {
  std::unique_lock lock(state_->mutex);
  // The I/O thread bounds the time to connect, by other limits than ours.
  state_->changed.wait(lock, [&] { return state_->moves > 0; });
  state_->wait(lock, idle_, [&] { return state_->is_open || state_->end; });
  if (state_->is_open) return true;
  if (state_->end->kind == ChannelEnd::Kind::Refused) return false;
  state_->end->raise();
}

std::string ByteStream::read() {
  if (unread_from_ < unread_.size()) {
    std::string rest = unread_.substr(unread_from_);
    unread_.clear();
    unread_from_ = 0;
    return rest;
  }
  std::string data;
  bool resume = false;
  {
    std::unique_lock lock(state_->mutex);
    state_->wait(lock, idle_, [&] { return !state_->data.empty() || state_->ended; });
    data.swap(state_->data);
    resume = std::exchange(state_->wants_resume, false);
    if (data.empty() && state_->end && state_->end->kind != ChannelEnd::Kind::Closed) state_->end->raise();
  }
  if (resume) io_->resume(channel_);
  return data;
}

void ByteStream::unread(std::string data) {
  unread_ = std::move(data);
  unread_from_ = 0;
}

std::string ByteStream::read_exactly(std::size_t size) {
  std::string data;
  while (data.size() < size) {
    if (unread_from_ == unread_.size()) {
      unread_from_ = 0;
      unread_.clear();
      unread_ = read();
      if (unread_.empty()) throw Error("the guest ended the stream in the middle");
    }
    const std::size_t take = std::min(size - data.size(), unread_.size() - unread_from_);
    data.append(unread_, unread_from_, take);
    unread_from_ += take;
  }
  return data;
}

void ByteStream::write(std::string data) {
  if (!try_write(std::move(data))) throw Error("the guest ended the stream before it had everything");
}

bool ByteStream::try_write(std::string data) {
  {
    std::unique_lock lock(state_->mutex);
    state_->wait(lock, idle_, [&] { return state_->queued < kBuffer || state_->end; });
    if (state_->end) {
      if (state_->end->kind != ChannelEnd::Kind::Closed) state_->end->raise();
      return false;
    }
    state_->queued += data.size();
  }
  io_->send(channel_, std::move(data));
  return true;
}

void ByteStream::end_input() { io_->end_input(channel_); }

ByteStream::Ending ByteStream::wait_ending() {
  std::unique_lock lock(state_->mutex);
  state_->wait(lock, idle_, [&] { return state_->end.has_value(); });
  if (state_->end->kind != ChannelEnd::Kind::Closed) state_->end->raise();
  return state_->ending;
}

}  // namespace vmtest::ssh
