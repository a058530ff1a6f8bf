#include "connector.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <system_error>
#include <utility>

#include "vmtest/error.h"
#include "vmtest/host/text.h"

namespace vmtest::ssh {
namespace {

using namespace std::chrono_literals;

// Pause after an attempt that failed at once (nothing listens yet), growing to the second value.
constexpr auto kFirstPause = 20ms;
constexpr auto kLongestPause = 250ms;

// Cheapest first for the guest, which may run under emulation. chacha20-poly1305 is the one authenticated cipher that both
// OpenSSH 9.2 and dropbear 2022.83 offer, and needs no AES instructions.
constexpr const char* kKeyExchange =
    "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,diffie-hellman-group14-sha256";
constexpr const char* kCiphers =
    "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr,aes256-ctr";
constexpr const char* kMacs = "hmac-sha2-256-etm@openssh.com,hmac-sha2-256";
// After the pinned key's own type, so that a server without such a key is told apart by its fingerprint.
constexpr const char* kHostKeyTypes =
    "ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-512,rsa-sha2-256";

/// This attempt failed in a way that the next may not.
class Retry : public Error {
 public:
  using Error::Error;
};

struct Attempt {
  const SshOptions& options;
  const Endpoint& endpoint;
  int interrupt;
  Deadline deadline;  // of all attempts

  /// Waits for `events` on `fd`. False when the nearer of both deadlines passed.
  bool wait(int fd, short events, const Deadline& step) const;
  FileDescriptor connect_socket() const;
  void await_banner(int fd) const;
  SessionPtr exchange_keys(FileDescriptor fd) const;
  void check_host_key(ssh_session session) const;
  void authenticate(ssh_session session) const;

  /// Calls `call`, one of libssh's non-blocking functions, until it is done. False when time is up.
  template <typename Call>
  bool complete(ssh_session session, int again, const Deadline& step, Call call, int& result) const {
    while ((result = call()) == again) {
      const int flags = ssh_get_poll_flags(session);
      const short events = static_cast<short>(POLLIN | ((flags & SSH_WRITE_PENDING) != 0 ? POLLOUT : 0));
      if (!wait(ssh_get_fd(session), events, step)) return false;
    }
    return true;
  }
};

bool Attempt::wait(int fd, short events, const Deadline& step) const {
  const Deadline nearer = deadline.earlier(step);
  while (true) {
    pollfd polled[] = {{fd, events, 0}, {interrupt, POLLIN, 0}};
    const int count = ::poll(polled, 2, nearer.poll_timeout());
    if (count < 0 && errno != EINTR) throw_errno("poll");
    if (count > 0 && polled[1].revents != 0) throw Error("the connection attempt was called off");
    if (count > 0) return true;
    if (nearer.expired()) return false;
  }
}

FileDescriptor Attempt::connect_socket() const {
  FileDescriptor fd(::socket(endpoint.address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) throw_errno("socket");
  // Commands are small messages that wait for each other.
  const int on = 1;
  ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  int error = 0;
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&endpoint.address), endpoint.size) != 0) error = errno;
  if (error == EINPROGRESS) {
    if (!wait(fd.get(), POLLOUT, Deadline::after(options.banner_timeout))) throw Retry("the TCP connection was not answered");
    socklen_t size = sizeof error;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  }
  if (error != 0) throw Retry("TCP connect: " + std::generic_category().message(error));
  return fd;
}

void Attempt::await_banner(int fd) const {
  // The line is only looked at and left for libssh, which would wait for it without end.
  const Deadline step = Deadline::after(options.banner_timeout);
  const auto set_least = [fd](int bytes) { ::setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes); };
  std::string start(1024, '\0');
  for (ssize_t seen = 0;;) {
    set_least(static_cast<int>(seen) + 1);  // poll(2) then waits for more than was there
    if (!wait(fd, POLLIN, step)) throw Retry("the TCP connection was accepted, but no SSH server said anything on it");
    const ssize_t size = ::recv(fd, start.data(), start.size(), MSG_PEEK);
    if (size < 0) throw Retry("before the SSH server's first line: " + std::generic_category().message(errno));
    const std::string_view text(start.data(), static_cast<std::size_t>(size));
    // Servers may say other lines first (RFC 4253, 4.2).
    if (text.starts_with("SSH-") || text.find("\nSSH-") != std::string_view::npos) break;
    if (text.size() == start.size()) {
      throw Error("what answers there is no SSH server; it says \"" + sanitize_console(text.substr(0, 60)) + "\"");
    }
    if (size <= seen) {
      throw Retry(size == 0 ? "the connection was closed before the SSH server's first line"
                            : "the connection was closed after \"" + sanitize_console(last_lines(text, 1)) + "\"");
    }
    seen = size;
  }
  set_least(1);
}

template <typename Value>
void set_option(ssh_session session, ssh_options_e option, const Value* value) {
  if (ssh_options_set(session, option, value) < 0) throw Error(std::string("libssh option: ") + ssh_get_error(session));
}

SessionPtr Attempt::exchange_keys(FileDescriptor fd) const {
  SessionPtr session(ssh_new());
  if (!session) throw Error("libssh: out of memory");
  const int off = 0;
  const std::string pinned_type = options.host_key.substr(0, options.host_key.find(' '));
  const std::string host_keys = (pinned_type == "ssh-rsa" ? "rsa-sha2-512,rsa-sha2-256" : pinned_type) + "," + kHostKeyTypes;
  set_option(session.get(), SSH_OPTIONS_PROCESS_CONFIG, &off);  // the user's ~/.ssh/config has no say in tests
  set_option(session.get(), SSH_OPTIONS_HOST, options.host.c_str());
  set_option(session.get(), SSH_OPTIONS_USER, options.user.c_str());
  set_option(session.get(), SSH_OPTIONS_KEY_EXCHANGE, kKeyExchange);
  set_option(session.get(), SSH_OPTIONS_HOSTKEYS, host_keys.c_str());
  for (const auto option : {SSH_OPTIONS_CIPHERS_C_S, SSH_OPTIONS_CIPHERS_S_C}) set_option(session.get(), option, kCiphers);
  for (const auto option : {SSH_OPTIONS_HMAC_C_S, SSH_OPTIONS_HMAC_S_C}) set_option(session.get(), option, kMacs);
  set_option(session.get(), SSH_OPTIONS_COMPRESSION, "no");
  const socket_t socket = fd.get();
  set_option(session.get(), SSH_OPTIONS_FD, &socket);
  ssh_set_blocking(session.get(), 0);
  (void)fd.release();  // libssh closes it

  int result = SSH_OK;
  const auto call = [&] { return ssh_connect(session.get()); };
  if (!complete(session.get(), SSH_AGAIN, Deadline::after(options.handshake_timeout), call, result)) {
    throw Retry("the SSH server did not finish the key exchange in time");
  }
  if (result == SSH_OK) return session;
  const std::string reason = ssh_get_error(session.get());
  // No algorithm in common will not get better.
  if (reason.find("kex error") != std::string::npos) throw Error("the SSH server and libssh do not agree: " + reason);
  throw Retry("the SSH server ended the key exchange: " + reason);
}

void Attempt::check_host_key(ssh_session session) const {
  ssh_key raw = nullptr;
  if (ssh_get_server_publickey(session, &raw) != SSH_OK) throw Error("libssh gives no host key");
  const KeyPtr offered(raw);
  const KeyPtr pinned = import_public_key(options.host_key);
  if (ssh_key_cmp(offered.get(), pinned.get(), SSH_KEY_CMP_PUBLIC) == 0) return;
  throw Error("wrong host key: the SSH server has " + fingerprint(offered.get()) + " (" +
              ssh_key_type_to_char(ssh_key_type(offered.get())) + "), but the guest's key is " + fingerprint(pinned.get()) +
              ". Another machine answers there, or the guest made its own host keys instead of taking the seed's.");
}

void Attempt::authenticate(ssh_session session) const {
  const KeyPtr key = import_private_key(options.private_key);
  // Signed at once: asking for the methods first, or offering the key before, would each cost a round trip.
  int result = SSH_AUTH_ERROR;
  const auto call = [&] { return ssh_userauth_publickey(session, nullptr, key.get()); };
  if (!complete(session, SSH_AUTH_AGAIN, Deadline::after(options.auth_timeout), call, result)) {
    throw Retry("the SSH server did not answer our key in time");
  }
  if (result == SSH_AUTH_SUCCESS) return;
  const std::string reason = ssh_get_error(session);
  if (result == SSH_AUTH_ERROR && ssh_is_connected(session) == 0)
    throw Retry("the SSH server hung up during authentication: " + reason);
  throw Error("the SSH server refuses our key " + fingerprint(key.get()) + " for user \"" + options.user +
              "\" (is it in the account's authorized_keys, and may the account log in?)" +
              (result == SSH_AUTH_PARTIAL ? ": it wants a second proof beside it" : ""));
}

}  // namespace

Endpoint resolve(const SshOptions& options) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(options.host.c_str(), std::to_string(options.port).c_str(), &hints, &found);
  if (error != 0) throw Error("no address for the SSH server \"" + options.host + "\": " + ::gai_strerror(error));
  Endpoint endpoint;
  std::memcpy(&endpoint.address, found->ai_addr, found->ai_addrlen);
  endpoint.size = found->ai_addrlen;
  endpoint.text = options.host + ":" + std::to_string(options.port);
  ::freeaddrinfo(found);
  return endpoint;
}

SessionPtr connect(const SshOptions& options, const Endpoint& endpoint, int interrupt, SessionLog& log,
                   std::vector<Step>& steps) {
  const auto started = std::chrono::steady_clock::now();
  const Attempt attempt{options, endpoint, interrupt, Deadline::after(options.connect_timeout)};
  std::chrono::milliseconds pause = kFirstPause;
  for (int count = 1;; ++count) {
    std::string reason;
    steps.clear();
    const auto done = [&](std::string_view what) { steps.push_back({what, std::chrono::steady_clock::now()}); };
    try {
      FileDescriptor fd = attempt.connect_socket();
      done("tcp");
      attempt.await_banner(fd.get());
      done("banner");
      SessionPtr session = attempt.exchange_keys(std::move(fd));
      attempt.check_host_key(session.get());
      done("key exchange");
      const auto keys = steps.back().at;
      attempt.authenticate(session.get());
      done("authentication");
      log.line("connect " + endpoint.text + ": attempt " + std::to_string(count) + " succeeded, authentication took " +
                   format_seconds(steps.back().at - keys) + ", all of it",
               started);
      return session;
    } catch (const Retry& retry) {
      reason = retry.what();
    } catch (const std::exception& error) {
      log.line("connect " + endpoint.text + ": " + error.what(), started);
      throw Error("cannot connect to " + options.user + " at the SSH server " + endpoint.text + "\n" + error.what());
    }
    log.line("connect " + endpoint.text + ": attempt " + std::to_string(count) + ": " + reason, started);
    if (!attempt.deadline.expired()) {
      (void)attempt.wait(-1, 0, Deadline::after(pause));
      pause = std::min<std::chrono::milliseconds>(pause * 2, kLongestPause);
    }
    if (attempt.deadline.expired()) {
      throw Timeout("cannot connect to the SSH server " + endpoint.text + " within " + format_seconds(options.connect_timeout) +
                    " (" + std::to_string(count) + (count == 1 ? " attempt" : " attempts") + ")\n" + reason);
    }
  }
}

}  // namespace vmtest::ssh
