#include "port_relay.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <exception>

namespace vmtest::vz {
namespace {

/// What may wait for a client that does not read, and for a guest that does not.
constexpr std::size_t kMostWaiting = 1U << 20;

/// Reads what is there and appends it; false at the end of the stream.
bool read_some(int fd, std::string& data) {
  char buffer[16384];
  const ssize_t count = ::read(fd, buffer, sizeof buffer);
  if (count > 0) data.append(buffer, static_cast<std::size_t>(count));
  return count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR));
}

/// Writes what can be written and removes it; false when nobody reads any more.
bool write_some(int fd, std::string& data) {
  const ssize_t count = ::write(fd, data.data(), data.size());
  if (count > 0) data.erase(0, static_cast<std::size_t>(count));
  return count >= 0 || errno == EAGAIN || errno == EINTR;
}

}  // namespace

PortRelay::PortRelay(const Options& options)
    : unread_(options.unread),
      listener_(listen_unix(options.socket)),
      to_guest_(make_pipe()),
      from_guest_(make_pipe()),
      stop_(make_pipe()) {
  if (!options.log.empty()) log_ = open_file(options.log, O_WRONLY | O_CREAT | (options.append ? O_APPEND : O_TRUNC));
  set_nonblocking(to_guest_.write_end.get());
  set_nonblocking(from_guest_.read_end.get());
  thread_ = std::thread([this] { run(); });
}

PortRelay::~PortRelay() {
  stop_.write_end.reset();
  thread_.join();
  // What the guest said last is for the log.
  drop_client();
  while (unread_ == Unread::Drop && read_guest()) {
  }
}

void PortRelay::run() {
  for (;;) {
    const bool room = for_client_.size() < kMostWaiting;
    const bool listens_to_guest = unread_ == Unread::Drop || (client_ && room);
    short client_events = 0;
    if (for_guest_.empty()) client_events |= POLLIN;
    if (!for_client_.empty()) client_events |= POLLOUT;
    // A negative descriptor is left out.
    pollfd entries[] = {
        {stop_.read_end.get(), POLLIN, 0},
        {listens_to_guest ? from_guest_.read_end.get() : -1, POLLIN, 0},
        {for_guest_.empty() ? -1 : to_guest_.write_end.get(), POLLOUT, 0},
        {client_.get(), client_events, 0},
        {client_ ? -1 : listener_.socket.get(), POLLIN, 0},
    };
    if (::poll(entries, std::size(entries), -1) < 0) continue;
    if (entries[0].revents != 0) return;
    if (entries[1].revents != 0) (void)read_guest();
    if (entries[2].revents != 0) write_guest();
    if ((entries[3].revents & POLLOUT) != 0) write_client();
    if (client_ && (entries[3].revents & ~POLLOUT) != 0) read_client();
    if (entries[4].revents != 0) {
      client_ = accept_connection(listener_.socket.get());
      if (client_) set_nonblocking(client_.get());
    }
  }
}

bool PortRelay::read_guest() {
  std::string data;
  (void)read_some(from_guest_.read_end.get(), data);
  if (log_ && !data.empty()) {
    try {
      write_all(log_.get(), data);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "vmtest-vz-helper: the guest's output is not logged any more: %s\n", error.what());
      log_.reset();
    }
  }
  if (client_) for_client_ += data;
  if (unread_ == Unread::Drop && for_client_.size() > kMostWaiting) drop_client();
  return !data.empty();
}

void PortRelay::read_client() {
  if (!for_guest_.empty()) {
    // Gone, with something of its own still under way.
    drop_client();
    return;
  }
  if (!read_some(client_.get(), for_guest_)) drop_client();
  if (!for_guest_.empty()) write_guest();
}

void PortRelay::write_client() {
  if (!write_some(client_.get(), for_client_)) drop_client();
}

void PortRelay::write_guest() { (void)write_some(to_guest_.write_end.get(), for_guest_); }

void PortRelay::drop_client() {
  client_.reset();
  for_client_.clear();
}

}  // namespace vmtest::vz
