#include "process_state.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "vmtest/error.h"
#include "vmtest/host/text.h"

namespace vmtest::ssh {
namespace {

// Our line is the first thing the login shell prints; what its own start-up files print before is let through. Without a
// marker in this much output the shell is none that we know, and nothing is held back any more.
constexpr std::size_t kMostBeforeMarker = 64 * 1024;

}  // namespace

ProcessState::ProcessState(const GuestCommand& command, std::string marker)
    : limit_(command.output_limit), marker_(std::move(marker)), on_stdout_(command.on_stdout), on_stderr_(command.on_stderr) {
  marker_done_ = marker_.empty();
}

void ProcessState::connected() {
  const std::lock_guard lock(mutex_);
  is_connected_ = true;
  changed_.notify_all();
}

void ProcessState::opened() {
  const std::lock_guard lock(mutex_);
  started_ = true;
  changed_.notify_all();
}

void ProcessState::received(Stream stream, std::string_view data) {
  std::string filtered;
  {
    const std::lock_guard lock(mutex_);
    if (stream == Stream::Err && !marker_done_) {
      filtered = without_marker(data);
      data = filtered;
      changed_.notify_all();
    }
    keep(stream == Stream::Out ? result_.out : result_.err, data);
  }
  if (data.empty()) return;
  const std::lock_guard lock(callback_mutex_);
  const OutputCallback& callback = stream == Stream::Out ? on_stdout_ : on_stderr_;
  if (callback) callback(data);
}

std::string ProcessState::without_marker(std::string_view data) {
  held_ += data;
  const std::size_t at = held_.find(marker_ + " ");
  const std::size_t line_end = at == std::string::npos ? at : held_.find('\n', at);
  if (line_end == std::string::npos) {
    if (held_.size() < kMostBeforeMarker) return {};
  } else {
    pid_ = std::strtol(held_.c_str() + at + marker_.size(), nullptr, 10);
    held_.erase(at, line_end + 1 - at);
  }
  marker_done_ = true;
  return std::exchange(held_, {});
}

void ProcessState::keep(std::string& stream, std::string_view data) {
  const std::size_t room = limit_ - std::min(limit_, stream.size());
  if (data.size() > room) result_.truncated = true;
  stream += data.substr(0, room);
}

void ProcessState::sent(std::size_t size) {
  const std::lock_guard lock(mutex_);
  queued_ -= size;
  changed_.notify_all();
}

void ProcessState::exited(int code) {
  const std::lock_guard lock(mutex_);
  result_.exit_code = code;
}

void ProcessState::signalled(std::string_view name) {
  const std::lock_guard lock(mutex_);
  result_.signal = name;
}

void ProcessState::closed(const ChannelEnd& end) {
  std::string rest;
  {
    const std::lock_guard lock(mutex_);
    rest = std::exchange(held_, {});
    marker_done_ = true;
    keep(result_.err, rest);
  }
  if (!rest.empty()) {
    const std::lock_guard lock(callback_mutex_);
    if (on_stderr_) on_stderr_(rest);
  }
  const std::lock_guard lock(mutex_);
  end_ = end;
  changed_.notify_all();
}

bool ProcessState::wait_started(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  // The I/O thread bounds this: it connects within its own limits or says that it cannot.
  changed_.wait(lock, [&] { return is_connected_ || end_; });
  return changed_.wait_until(lock, Deadline::after(timeout).time_point(), [&] { return started_ || end_; });
}

bool ProcessState::wait_ended(const Deadline& deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline.time_point(), [&] { return end_.has_value(); });
}

bool ProcessState::wait_room(std::size_t limit, const Deadline& deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline.time_point(), [&] { return queued_ < limit || end_; });
}

std::optional<long> ProcessState::wait_pid(const Deadline& deadline) {
  std::unique_lock lock(mutex_);
  (void)changed_.wait_until(lock, deadline.time_point(), [&] { return marker_done_ || !is_connected_ || end_; });
  return end_ ? std::nullopt : pid_;
}

void ProcessState::add_queued(std::size_t size) {
  const std::lock_guard lock(mutex_);
  queued_ += size;
}

bool ProcessState::all_sent() const {
  const std::lock_guard lock(mutex_);
  return queued_ == 0;
}

bool ProcessState::failed() const {
  const std::lock_guard lock(mutex_);
  return end_ && end_->kind != ChannelEnd::Kind::Closed;
}

bool ProcessState::ended() const {
  const std::lock_guard lock(mutex_);
  return end_.has_value();
}

CommandResult ProcessState::result() const {
  const std::lock_guard lock(mutex_);
  if (end_->kind == ChannelEnd::Kind::Refused) throw Error("the guest's SSH server does not run it: " + end_->text);
  if (end_->kind != ChannelEnd::Kind::Closed) end_->raise();
  // Killed together with its server, or a server that does not say.
  if (!result_.exit_code && result_.signal.empty()) throw Error("the guest's SSH server ended it without an exit status");
  return result_;
}

std::string ProcessState::output(Stream stream) const {
  const std::lock_guard lock(mutex_);
  return stream == Stream::Out ? result_.out : result_.err;
}

std::string ProcessState::tail() const {
  constexpr std::size_t kLines = 10;
  constexpr std::size_t kBytes = 4096;
  const std::lock_guard lock(mutex_);
  std::string text;
  for (const auto& [name, stream] : {std::pair{"stdout", &result_.out}, std::pair{"stderr", &result_.err}}) {
    if (stream->empty()) continue;
    const std::string_view end = std::string_view(*stream).substr(stream->size() - std::min(kBytes, stream->size()));
    text += std::string("\n  ") + name + " ends with:\n" + indent(last_lines(sanitize_console(end), kLines), "    ");
  }
  return text.empty() ? "\n  it printed nothing" : text;
}

void ProcessState::mute() {
  const std::lock_guard lock(callback_mutex_);
  on_stdout_ = {};
  on_stderr_ = {};
}

}  // namespace vmtest::ssh
