#include "vmtest/host/socket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "vmtest/error.h"

namespace vmtest {
namespace {

sockaddr_un unix_address(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string& text = path.native();
  require_socket_path(path);
  std::memcpy(address.sun_path, text.data(), text.size());
  return address;
}

FileDescriptor bind_loopback(std::uint16_t port) {
  FileDescriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) throw_errno("cannot make a TCP socket");
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return {};
  // With SO_REUSEADDR a bind beside a listener succeeds on some systems; only listening proves that the port is free.
  if (::listen(fd.get(), 1) != 0) return {};
  return fd;
}

constexpr std::size_t kMostPassedDescriptors = 16;
/// Listeners of ours take connections within milliseconds.
constexpr std::chrono::seconds kAcceptTime{5};

}  // namespace

std::size_t max_socket_path() { return sizeof(sockaddr_un::sun_path) - 1; }

void require_socket_path(const std::filesystem::path& path) {
  const std::size_t size = path.native().size();
  if (size <= max_socket_path()) return;
  throw Error("socket path is too long (" + std::to_string(size) + " bytes, the system takes " +
              std::to_string(max_socket_path()) + "): " + path.string() + "; set XDG_RUNTIME_DIR to a shorter folder");
}

FileDescriptor listen_unix(const std::filesystem::path& path) {
  const sockaddr_un address = unix_address(path);
  FileDescriptor fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) throw_errno("cannot make a Unix socket");
  ::fchmod(fd.get(), 0600);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || ::listen(fd.get(), 16) != 0) {
    throw_errno("cannot listen on " + path.string());
  }
  return fd;
}

FileDescriptor connect_unix(const std::filesystem::path& path) {
  const sockaddr_un address = unix_address(path);
  FileDescriptor fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) throw_errno("cannot make a Unix socket");
  // Connecting waits while as many connections as the listener has room for wait to be accepted.
  constexpr timeval kLimit{kAcceptTime.count(), 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &kLimit, sizeof kLimit);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == EAGAIN)
      throw Timeout("cannot connect to " + path.string() + ": who listens there has taken no connection for " +
                    std::to_string(kAcceptTime.count()) + " s; it may be stopped");
    throw_errno("cannot connect to " + path.string());
  }
  constexpr timeval kNoLimit{0, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &kNoLimit, sizeof kNoLimit);
  return fd;
}

std::optional<FileDescriptor> accept_connection(int listener) {
  FileDescriptor fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  if (!fd) return std::nullopt;
  return fd;
}

std::pair<FileDescriptor, FileDescriptor> make_socket_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw_errno("cannot make a socket pair");
  return {FileDescriptor(ends[0]), FileDescriptor(ends[1])};
}

void send_message(int socket, std::string_view data, int fd) {
  while (!data.empty()) {
    iovec part{const_cast<char*>(data.data()), data.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (fd >= 0) {
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    const ssize_t count = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_errno("cannot send on a socket");
    fd = -1;
    data.remove_prefix(static_cast<std::size_t>(count));
  }
}

bool receive_some(int socket, std::string& data, std::vector<FileDescriptor>& fds) {
  char buffer[16384];
  iovec part{buffer, sizeof buffer};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMostPassedDescriptors)];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t count = 0;
  do {
    count = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (count < 0 && errno == EINTR);
  if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
  if (count < 0 && errno == ECONNRESET) return false;
  if (count < 0) throw_errno("cannot receive on a socket");
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t number = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < number; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
      fds.emplace_back(fd);
    }
  }
  data.append(buffer, static_cast<std::size_t>(count));
  return count > 0;
}

bool port_is_free(std::uint16_t port) { return bind_loopback(port).valid(); }

std::uint16_t ephemeral_port() {
  const FileDescriptor fd = bind_loopback(0);
  sockaddr_in address{};
  socklen_t size = sizeof address;
  if (!fd || ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    throw_errno("cannot find a free port");
  }
  return ntohs(address.sin_port);
}

}  // namespace vmtest
