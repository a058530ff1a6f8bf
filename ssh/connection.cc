#include "connection.h"

#include <algorithm>
#include <utility>

#include "session_log.h"
#include "vmtest/error.h"

namespace vmtest::ssh {
namespace {

// Starts of a channel that the server closes unserved each time, before we believe that it means it.
constexpr int kMostStarts = 20;

}  // namespace

Connection::Connection(SessionPtr session, const SshOptions& options)
    : session_(std::move(session)),
      event_(ssh_event_new()),
      heard_(Clock::now()),
      asked_(heard_),
      keepalive_(options.keepalive),
      open_timeout_(options.handshake_timeout) {
  if (!event_ || ssh_event_add_session(event_.get(), session_.get()) != SSH_OK) throw Error("libssh: cannot watch the session");
  ssh_set_counters(session_.get(), &counter_, nullptr);
}

Connection::~Connection() {
  for (const auto& channel : channels_) channel->detach();
  // Whatever was left to say (the last channel's close) is said as far as the socket takes it.
  if (death_.empty()) ssh_blocking_flush(session_.get(), 0);
  ssh_event_remove_session(event_.get(), session_.get());
}

bool Connection::add(const std::shared_ptr<Channel>& channel) {
  if (!channel->start(session_.get())) return false;
  channels_.push_back(channel);
  return true;
}

void Connection::service() {
  watch();
  // Each of libssh's functions may also take in what came for other channels, so all are stepped until nothing comes.
  std::uint64_t seen = 0;
  do {
    read();
    seen = counter_.in_bytes;
    step_channels();
  } while (death_.empty() && counter_.in_bytes != seen);
}

void Connection::read() {
  // libssh reads the socket and calls the channels' callbacks. SSH_AGAIN: nothing came.
  for (std::uint64_t before = 0; death_.empty();) {
    before = counter_.in_bytes;
    const int result = ssh_event_dopoll(event_.get(), 0);
    if (result == SSH_ERROR || ssh_is_connected(session_.get()) == 0) {
      const std::string reason = ssh_get_error(session_.get());
      declare_dead(reason.empty() ? "the guest closed it" : reason);
    }
    if (counter_.in_bytes == before) return;
  }
}

void Connection::step_channels() {
  if (!death_.empty()) return;
  for (const auto& channel : channels_) {
    channel->step();
    if (channel->unserved()) {
      channel->detach();
      if (channel->attempts < kMostStarts) displaced_.push_back(channel);
      else channel->finish({ChannelEnd::Kind::Refused, "it closes every session without a word"});
    }
    if (!channel->open_refused()) continue;
    // With others open it is most likely one too many for this connection (OpenSSH's MaxSessions).
    const bool session = channel->request().kind != ChannelRequest::Kind::DirectTcp;
    const bool busy = std::any_of(channels_.begin(), channels_.end(), [](const auto& other) { return other->may_have_run(); });
    if (session && busy && !channel->given_up()) {
      channel->detach();
      displaced_.push_back(channel);
    } else {
      channel->finish({ChannelEnd::Kind::Refused, channel->refusal()});
    }
  }
  if (std::erase_if(channels_, [](const auto& channel) { return channel->finished(); }) > 0) full_ = false;
  if (std::erase_if(channels_, [](const auto& channel) { return channel->open_refused(); }) > 0) full_ = true;
  std::erase_if(channels_, [](const auto& channel) { return channel->unserved(); });
  if (ssh_is_connected(session_.get()) == 0) declare_dead("the guest closed it");
}

void Connection::watch() {
  const auto now = Clock::now();
  if (counter_.in_bytes != heard_bytes_) {
    heard_bytes_ = counter_.in_bytes;
    heard_ = now;
  }
  if (channels_.empty() || !death_.empty()) return;
  for (const auto& channel : channels_) {
    const auto since = std::max(channel->started(), heard_);
    if (channel->opening() && now - since >= open_timeout_) {
      return declare_dead("the guest's SSH server did not answer for " + format_seconds(open_timeout_));
    }
  }
  if (keepalive_.count() > 0 && now - std::max(heard_, asked_) >= keepalive_) {
    asked_ = now;
    // Needs no answer: a guest that restarted resets the connection when it gets anything on it.
    ssh_send_ignore(session_.get(), "vmtest");
  }
}

pollfd Connection::interest() const {
  const bool write = (ssh_get_poll_flags(session_.get()) & SSH_WRITE_PENDING) != 0;
  return {ssh_get_fd(session_.get()), static_cast<short>(POLLIN | (write ? POLLOUT : 0)), 0};
}

Connection::Clock::time_point Connection::due() const {
  auto due = Clock::time_point::max();
  for (const auto& channel : channels_) {
    due = std::min(due, channel->due());
    if (channel->opening()) due = std::min(due, std::max(channel->started(), heard_) + open_timeout_);
  }
  if (!channels_.empty() && keepalive_.count() > 0) due = std::min(due, std::max(heard_, asked_) + keepalive_);
  return due;
}

void Connection::declare_dead(std::string reason) {
  if (death_.empty()) death_ = std::move(reason);
}

std::vector<std::shared_ptr<Channel>> Connection::take_displaced() { return std::exchange(displaced_, {}); }

std::vector<std::shared_ptr<Channel>> Connection::take_all() {
  std::vector<std::shared_ptr<Channel>> all = std::exchange(channels_, {});
  for (auto& channel : std::exchange(displaced_, {})) all.push_back(std::move(channel));
  return all;
}

}  // namespace vmtest::ssh
