#include "unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "api_error.h"

namespace vmtest::vz {
namespace {

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() > kLongestSocketPath) {
    throw ApiError(kBadRequest, "the path of a Unix socket has up to " + std::to_string(kLongestSocketPath) + " bytes: " + path);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Descriptor make_socket(int type) {
  // macOS has no SOCK_CLOEXEC.
  Descriptor fd(::socket(AF_UNIX, type, 0));
  if (!fd || ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC) != 0) throw_errno("cannot make a Unix socket");
  return fd;
}

bool connects(int fd, const sockaddr_un& address) {
  return ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

void bind_to(int fd, const std::string& path) {
  const sockaddr_un address = address_of(path);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) throw_errno("cannot bind " + path);
}

}  // namespace

RemovedPath& RemovedPath::operator=(RemovedPath&& other) noexcept {
  if (this != &other) {
    remove();
    path_ = std::exchange(other.path_, {});
  }
  return *this;
}

void RemovedPath::remove() {
  if (!path_.empty()) ::unlink(path_.c_str());
  path_.clear();
}

void remove_stale_socket(const std::string& path) {
  const sockaddr_un address = address_of(path);
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return;
  if (!S_ISSOCK(info.st_mode)) throw ApiError(kConflict, path + " is there already and no socket");
  bool taken = false;
  for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
    const Descriptor probe = make_socket(type);
    // One of another kind, and one that nobody has open.
    taken = taken || connects(probe.get(), address) || (errno != EPROTOTYPE && errno != ECONNREFUSED);
  }
  if (taken) throw ApiError(kConflict, path + " is in use by another process");
  ::unlink(path.c_str());
}

Listener listen_unix(const std::string& path) {
  remove_stale_socket(path);
  Listener listener{make_socket(SOCK_STREAM), {}};
  bind_to(listener.socket.get(), path);
  listener.path = RemovedPath(path);
  if (::listen(listener.socket.get(), 16) != 0) throw_errno("cannot listen on " + path);
  set_nonblocking(listener.socket.get());
  return listener;
}

Descriptor accept_connection(int listener) {
  Descriptor fd(::accept(listener, nullptr, nullptr));
  if (fd && ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC) != 0) throw_errno("cannot mark a connection close-on-exec");
  return fd;
}

Descriptor connect_unix(const std::string& path) {
  Descriptor fd = make_socket(SOCK_STREAM);
  if (!connects(fd.get(), address_of(path))) throw_errno("cannot connect to " + path);
  return fd;
}

Descriptor connect_unix_at_once(const std::string& path) {
  Descriptor fd = make_socket(SOCK_STREAM);
  set_nonblocking(fd.get());
  if (!connects(fd.get(), address_of(path))) throw_errno("cannot connect to " + path);
  return fd;
}

DatagramPair connect_datagram(const std::string& local, const std::string& remote) {
  remove_stale_socket(local);
  DatagramPair pair{make_socket(SOCK_DGRAM), {}};
  bind_to(pair.socket.get(), local);
  pair.path = RemovedPath(local);
  if (!connects(pair.socket.get(), address_of(remote))) throw_errno("cannot connect to " + remote);
  // The framework's advice for frames: room to receive four times what can be sent.
  const int send_bytes = 1 << 20;
  const int receive_bytes = 4 << 20;
  ::setsockopt(pair.socket.get(), SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes);
  ::setsockopt(pair.socket.get(), SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
  return pair;
}

}  // namespace vmtest::vz
