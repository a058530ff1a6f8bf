#include "port_forward.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "vmtest/error.h"

namespace vmtest::ssh {
namespace {

// On its way in each direction before the sender has to wait.
constexpr std::size_t kBuffer = 1024 * 1024;
constexpr int kBacklog = 128;

FileDescriptor listen_on_loopback(std::uint16_t& port) {
  FileDescriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (!fd || ::bind(fd.get(), generic, size) != 0 || ::listen(fd.get(), kBacklog) != 0 ||
      ::getsockname(fd.get(), generic, &size) != 0) {
    throw_errno("cannot listen on 127.0.0.1 for a forwarded port");
  }
  port = ntohs(address.sin_port);
  return fd;
}

}  // namespace

/// One connection: a socket of the host and a channel. On the I/O thread only.
class ForwardedConnection final : public Pollable,
                                  public ChannelListener,
                                  public std::enable_shared_from_this<ForwardedConnection> {
 public:
  ForwardedConnection(IoThread& io, SessionLog& log, FileDescriptor socket) : io_(io), log_(log), socket_(std::move(socket)) {}

  void start(const std::string& host, std::uint16_t port) {
    channel_ = io_.open({ChannelRequest::Kind::DirectTcp, host, port}, shared_from_this());
  }
  void close() {
    socket_.reset();
    io_.give_up(channel_);
  }

  [[nodiscard]] pollfd interest() override {
    const bool read = open_ && !socket_ended_ && unsent_ < kBuffer;
    const short events = static_cast<short>((read ? POLLIN : 0) | (!to_socket_.empty() ? POLLOUT : 0));
    // With no events an error alone would wake the loop again and again.
    return {events != 0 ? socket_.get() : -1, events, 0};
  }

  void ready(short events) override {
    if ((events & (POLLOUT | POLLERR)) != 0) flush();
    if ((events & (POLLIN | POLLHUP | POLLERR)) != 0 && socket_ && !socket_ended_ && open_ && unsent_ < kBuffer) read_socket();
  }
  [[nodiscard]] bool finished() const override { return !socket_; }

  void opened() override { open_ = true; }
  void received(Stream, std::string_view data) override {
    to_socket_ += data;
    flush();
  }
  bool full() override { return to_socket_.size() >= kBuffer; }
  void sent(std::size_t size) override { unsent_ -= size; }
  void input_ended() override {
    guest_ended_ = true;
    flush();
  }
  void closed(const ChannelEnd& end) override {
    if (end.kind != ChannelEnd::Kind::Closed) log_.line("forwarded connection: " + end.text);
    channel_closed_ = true;
    guest_ended_ = true;
    flush();
  }

 private:
  void read_socket() {
    std::string data(64 * 1024, '\0');
    const ssize_t size = ::recv(socket_.get(), data.data(), data.size(), 0);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size < 0) return close();
    if (size == 0) {
      socket_ended_ = true;
      io_.end_input(channel_);
      return flush();
    }
    data.resize(static_cast<std::size_t>(size));
    unsent_ += data.size();
    io_.send(channel_, std::move(data));
  }

  void flush() {
    if (!socket_) return;
    const bool was_full = full();
    while (sent_ < to_socket_.size()) {
      const ssize_t size = ::send(socket_.get(), to_socket_.data() + sent_, to_socket_.size() - sent_, MSG_NOSIGNAL);
      if (size < 0 && errno == EINTR) continue;
      if (size < 0 && errno == EAGAIN) break;
      if (size < 0) return close();
      sent_ += static_cast<std::size_t>(size);
    }
    if (sent_ == to_socket_.size() || sent_ >= kBuffer) {
      to_socket_.erase(0, sent_);
      sent_ = 0;
    }
    if (was_full && !full()) io_.resume(channel_);
    if (!to_socket_.empty() || !guest_ended_) return;
    if (!told_end_) {
      told_end_ = true;
      ::shutdown(socket_.get(), SHUT_WR);
    }
    if (channel_closed_ || socket_ended_) close();
  }

  IoThread& io_;
  SessionLog& log_;
  FileDescriptor socket_;
  std::shared_ptr<Channel> channel_;
  std::string to_socket_;
  std::size_t sent_ = 0;
  std::size_t unsent_ = 0;
  bool open_ = false;
  bool socket_ended_ = false;
  bool guest_ended_ = false;
  bool told_end_ = false;
  bool channel_closed_ = false;
};

/// The listening socket and the connections it took. On the I/O thread only, but for stop().
class ForwardListener final : public Pollable, public std::enable_shared_from_this<ForwardListener> {
 public:
  ForwardListener(IoThread& io, std::shared_ptr<SessionLog> log, FileDescriptor socket, std::string host, std::uint16_t port)
      : io_(io), log_(std::move(log)), socket_(std::move(socket)), host_(std::move(host)), port_(port) {}

  [[nodiscard]] pollfd interest() override { return {socket_.get(), POLLIN, 0}; }
  [[nodiscard]] bool finished() const override { return !socket_; }

  void ready(short) override {
    FileDescriptor accepted(::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!accepted) return;
    const int on = 1;
    ::setsockopt(accepted.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    auto connection = std::make_shared<ForwardedConnection>(io_, *log_, std::move(accepted));
    connection->start(host_, port_);
    io_.add(connection);
    std::erase_if(connections_, [](const auto& old) { return old.expired(); });
    connections_.push_back(connection);
  }

  /// The port is free at once; the connections end on the I/O thread.
  void stop() {
    ::shutdown(socket_.get(), SHUT_RDWR);
    io_.post([self = shared_from_this()] {
      self->socket_.reset();
      for (const auto& old : self->connections_) {
        if (const auto connection = old.lock()) connection->close();
      }
    });
  }

 private:
  IoThread& io_;
  std::shared_ptr<SessionLog> log_;
  FileDescriptor socket_;
  std::string host_;
  std::uint16_t port_;
  std::vector<std::weak_ptr<ForwardedConnection>> connections_;
};

SshPortForward::SshPortForward(std::shared_ptr<IoThread> io, std::shared_ptr<SessionLog> log, std::string guest_host,
                               std::uint16_t guest_port)
    : io_(std::move(io)) {
  FileDescriptor socket = listen_on_loopback(port_);
  log->line("forward 127.0.0.1:" + std::to_string(port_) + " to " + guest_host + ":" + std::to_string(guest_port));
  listener_ = std::make_shared<ForwardListener>(*io_, std::move(log), std::move(socket), std::move(guest_host), guest_port);
  io_->add(listener_);
}

SshPortForward::~SshPortForward() { listener_->stop(); }

}  // namespace vmtest::ssh
