#include "vsock_proxy.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <exception>
#include <memory>
#include <string_view>
#include <utility>

namespace vmtest::vz {
namespace {

constexpr std::string_view kConnect = "CONNECT ";
/// "CONNECT 4294967295".
constexpr std::size_t kLongestRequest = 18;
/// A client that connects knows what it wants.
constexpr int kRequestMilliseconds = 10'000;

}  // namespace

VsockProxy::VsockProxy(std::string socket, Connect connect)
    : path_(std::move(socket)), connect_(std::move(connect)), listener_(listen_unix(path_)), stop_(make_pipe()) {
  thread_ = std::thread([this] { listen(); });
}

VsockProxy::~VsockProxy() {
  stop_.write_end.reset();
  thread_.join();
  // The listener is gone, so the list grows no more but by the guest's connections, which end with the VM before this.
  for (Worker& worker : workers_) worker.thread.join();
}

bool VsockProxy::wait(int fd, short events, int timeout_ms) {
  for (;;) {
    pollfd entries[] = {{stop_.read_end.get(), POLLIN, 0}, {fd, events, 0}};
    const int count = ::poll(entries, 2, timeout_ms);
    if (count < 0 && errno == EINTR) continue;
    return count > 0 && entries[0].revents == 0;
  }
}

void VsockProxy::listen() {
  while (wait(listener_.socket.get(), POLLIN, -1)) {
    auto client = std::make_shared<Descriptor>(accept_connection(listener_.socket.get()));
    if (*client) start([this, client] { serve(std::move(*client)); });
  }
}

void VsockProxy::start(std::function<void()> work) {
  const std::lock_guard lock(mutex_);
  for (auto worker = workers_.begin(); worker != workers_.end();) {
    if (worker->finished) worker->thread.join();
    worker = worker->finished ? workers_.erase(worker) : std::next(worker);
  }
  Worker& worker = workers_.emplace_back();
  worker.thread = std::thread([this, &worker, work = std::move(work)] {
    work();
    const std::lock_guard finishing(mutex_);
    worker.finished = true;
  });
}

void VsockProxy::serve(Descriptor client) {
  // Byte by byte: what follows the line is the guest's.
  std::string request;
  for (char byte = 0; request.size() <= kLongestRequest; request += byte) {
    if (!wait(client.get(), POLLIN, kRequestMilliseconds) || ::read(client.get(), &byte, 1) != 1) return;
    if (byte == '\n') break;
  }
  try {
    std::uint32_t port = 0;
    const char* const end = request.data() + request.size();
    const bool is_request = request.compare(0, kConnect.size(), kConnect) == 0;
    const auto parsed = std::from_chars(request.data() + (is_request ? kConnect.size() : 0), end, port);
    if (!is_request || parsed.ec != std::errc() || parsed.ptr != end) {
      write_all(client.get(), "ERROR the first line must be CONNECT and a port number\n");
      return;
    }
    Connection connection = connect_(port);
    write_all(client.get(), "OK " + std::to_string(connection.host_port) + "\n");
    pump(client, connection.stream);
  } catch (const std::exception& error) {
    try {
      write_all(client.get(), std::string("ERROR ") + error.what() + "\n");
    } catch (const std::exception&) {
      // Nobody is there to tell.
    }
  }
}

bool VsockProxy::take_guest_connection(std::uint32_t port, Descriptor stream) {
  try {
    // This is called on the VM's queue, which must not be held up.
    auto host = std::make_shared<Descriptor>(connect_unix_at_once(path_ + "_" + std::to_string(port)));
    auto guest = std::make_shared<Descriptor>(std::move(stream));
    start([this, host, guest] { pump(*host, *guest); });
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

void VsockProxy::pump(const Descriptor& one, const Descriptor& other) {
  // Writing must not outlast this.
  set_nonblocking(one.get());
  set_nonblocking(other.get());
  // One direction each: a slow reader holds up its own direction only.
  std::thread backwards([&] { copy(other.get(), one.get()); });
  copy(one.get(), other.get());
  backwards.join();
}

void VsockProxy::copy(int from, int to) {
  char buffer[65536];
  while (wait(from, POLLIN, -1)) {
    const ssize_t count = ::read(from, buffer, sizeof buffer);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count <= 0) break;
    if (write(to, {buffer, static_cast<std::size_t>(count)})) continue;
    // The reader is gone: its peer must learn that too.
    ::shutdown(from, SHUT_RD);
    break;
  }
  ::shutdown(to, SHUT_WR);
}

bool VsockProxy::write(int to, std::string_view data) {
  while (!data.empty()) {
    const ssize_t count = ::write(to, data.data(), data.size());
    if (count >= 0) {
      data.remove_prefix(static_cast<std::size_t>(count));
    } else if (errno == EAGAIN) {
      if (!wait(to, POLLOUT, -1)) return false;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace vmtest::vz
