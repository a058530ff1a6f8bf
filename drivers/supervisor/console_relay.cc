#include "console_relay.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "vmtest/host/socket.h"

namespace vmtest::supervisor {
namespace {

/// Who does not read is let go of, since that must not hold up the guest.
constexpr std::size_t kMostUnread = 1U << 20;
constexpr std::size_t kMostAtOnce = 1U << 16;

/// Sends what goes without waiting, and drops it from `text`. False when the other side is gone.
bool send_some(int socket, std::string& text) {
  const ssize_t count = ::send(socket, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  text.erase(0, static_cast<std::size_t>(count));
  return true;
}

}  // namespace

ConsoleRelay::~ConsoleRelay() {
  if (listener_) ::unlink(socket_path_.c_str());
}

void ConsoleRelay::add(const std::string& process, std::filesystem::path port) {
  if (!listener_) {
    log_ = open_file(log_path_, O_WRONLY | O_CREAT | O_APPEND, 0600);
    listener_ = listen_unix(socket_path_);
  }
  ports_.push_back({process, std::move(port)});
}

void ConsoleRelay::remove(const std::string& process) {
  for (auto port = ports_.begin(); port != ports_.end();) {
    if (port->process != process) {
      ++port;
      continue;
    }
    // It may have begun and ended since we looked last; then there is nobody to hear of it any more.
    while (port->connection && take(*port)) {
    }
    port = ports_.erase(port);
  }
  if (!ports_.empty() || !listener_) return;
  drop_person();
  listener_.reset();
  log_.reset();
  ::unlink(socket_path_.c_str());
}

void ConsoleRelay::rename(const std::string& process, const std::string& name) {
  for (Port& port : ports_) {
    if (port.process == process) port.process = name;
  }
}

std::vector<std::string> ConsoleRelay::connected() const {
  std::vector<std::string> names;
  for (const Port& port : ports_) {
    if (port.connection) names.push_back(port.process);
  }
  return names;
}

bool ConsoleRelay::connect() {
  bool missing = false;
  for (Port& port : ports_) {
    if (port.connection) continue;
    try {
      port.connection = connect_unix(port.path);
      set_nonblocking(port.connection.get());
    } catch (const std::exception&) {
      missing = true;
    }
  }
  return missing;
}

void ConsoleRelay::append_to(std::vector<pollfd>& entries) const {
  // Keys wait in the person's socket until those before have gone.
  const auto readable = static_cast<short>(typed_.empty() ? POLLIN : 0);
  const auto writable = static_cast<short>(unread_.empty() ? 0 : POLLOUT);
  if (person_) entries.push_back({person_.get(), static_cast<short>(readable | writable), 0});
  else if (listener_) entries.push_back({listener_.get(), POLLIN, 0});
  for (const Port& port : ports_) {
    if (!port.connection) continue;
    const bool wanted = &port == &ports_.back() && !typed_.empty();
    entries.push_back({port.connection.get(), static_cast<short>(wanted ? POLLIN | POLLOUT : POLLIN), 0});
  }
}

void ConsoleRelay::serve(const pollfd& entry) {
  if (entry.revents == 0) return;
  if (listener_ && entry.fd == listener_.get()) {
    if (auto connection = accept_connection(listener_.get())) person_ = std::move(*connection);
    if (person_) set_nonblocking(person_.get());
    return;
  }
  if (person_ && entry.fd == person_.get()) {
    if ((entry.revents & POLLOUT) != 0 && !send_some(person_.get(), unread_)) return drop_person();
    if ((entry.revents & ~POLLOUT) != 0) take_typed();
    return;
  }
  for (Port& port : ports_) {
    if (!port.connection || entry.fd != port.connection.get()) continue;
    if ((entry.revents & POLLOUT) != 0) pass_typed(port);
    if ((entry.revents & ~POLLOUT) != 0) (void)take(port);
    return;
  }
}

bool ConsoleRelay::take(Port& port) {
  std::array<char, kMostAtOnce> buffer{};
  const ssize_t count = ::recv(port.connection.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (count > 0) {
    show({buffer.data(), static_cast<std::size_t>(count)});
    return true;
  }
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  port.connection.reset();
  return false;
}

void ConsoleRelay::show(std::string_view text) {
  try {
    write_all(log_.get(), text);
  } catch (const std::system_error&) {  // a full disk must not end the VM
  }
  if (!person_) return;
  unread_ += text;
  if (!send_some(person_.get(), unread_) || unread_.size() > kMostUnread) drop_person();
}

void ConsoleRelay::take_typed() {
  std::array<char, 4096> buffer{};
  const ssize_t count = ::recv(person_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) return drop_person();
  typed_.append(buffer.data(), static_cast<std::size_t>(count));
  if (!ports_.empty() && ports_.back().connection) pass_typed(ports_.back());
}

void ConsoleRelay::pass_typed(Port& port) {
  // One that is gone tells so when it is read from.
  if (!send_some(port.connection.get(), typed_)) typed_.clear();
}

void ConsoleRelay::drop_person() {
  person_.reset();
  typed_.clear();
  unread_.clear();
}

}  // namespace vmtest::supervisor
