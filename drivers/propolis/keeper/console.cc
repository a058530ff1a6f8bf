#include "console.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <list>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "../api_client.h"
#include "startup_prompt.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"
#include "websocket.h"

namespace vmtest::propolis {
namespace {

/// Who looks on but does not read is let go of, since it must not hold up the guest.
constexpr std::size_t kMostUnread = 1U << 20;
/// A server that lives takes milliseconds for a new connection.
constexpr std::chrono::seconds kReconnectTime{5};
constexpr int kMostReconnections = 3;
/// XON (Ctrl-Q): a key to the firmware, and nothing to a terminal that runs, should it come late.
constexpr std::string_view kAnyKey = "\x11";

WebSocketAddress address(const ConsoleOptions& options, std::uint64_t from) {
  return {.host = options.host,
          .port = options.port,
          .target = "/instance/serial?from_start=" + std::to_string(from),
          .headers = {{kVersionHeader, options.version}}};
}

FileDescriptor listen(const std::filesystem::path& socket) {
  std::error_code ignored;
  std::filesystem::remove(socket, ignored);
  return listen_unix(socket);
}

}  // namespace

class Console::Pump {
 public:
  Pump(const ConsoleOptions& options, const Deadline& deadline)
      : options_(options),
        log_(open_file(options.log, O_WRONLY | O_CREAT | O_APPEND)),
        listener_(listen(options.socket)),
        line_(std::in_place, address(options, 0), deadline),
        thread_([this] { run(); }) {}
  ~Pump() {
    wake_.write_end.reset();
    thread_.join();
    ::unlink(options_.socket.c_str());
  }
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

  bool wait_end(const Deadline& deadline) {
    std::unique_lock lock(mutex_);
    return end_.wait_until(lock, deadline.time_point(), [&] { return ended_; });
  }

 private:
  /// One who looks on.
  struct Viewer {
    FileDescriptor socket;
    std::string unread;
    bool gone = false;
  };

  void run() noexcept {
    try {
      while (line_ && turn()) {
      }
    } catch (const std::exception&) {  // poll(2) does not fail but for a lack of memory
    }
    const std::lock_guard lock(mutex_);
    ended_ = true;
    end_.notify_all();
  }

  /// False when it is time to end.
  bool turn() {
    // What came while we connected or sent.
    while (line_ && line_->has_unread()) take_shown();
    if (!line_) return false;
    std::vector<pollfd> entries = {
        {wake_.read_end.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}, {line_->descriptor(), POLLIN, 0}};
    for (const Viewer& viewer : viewers_) {
      entries.push_back({viewer.socket.get(), static_cast<short>(viewer.unread.empty() ? POLLIN : POLLIN | POLLOUT), 0});
    }
    if (::poll(entries.data(), entries.size(), -1) < 0) {
      if (errno == EINTR) return true;
      throw_errno("poll");
    }
    if (entries[0].revents != 0) return false;
    std::size_t at = 3;
    for (Viewer& viewer : viewers_) {
      const short events = entries[at++].revents;
      if ((events & POLLOUT) != 0) flush(viewer);
      if ((events & ~POLLOUT) != 0) take_typed(viewer);
    }
    if (entries[1].revents != 0) {
      if (auto connection = accept_connection(listener_.get())) {
        set_nonblocking(connection->get());
        viewers_.push_back({std::move(*connection), "", false});
      }
    }
    if (line_ && entries[2].revents != 0) take_shown();
    viewers_.remove_if([](const Viewer& viewer) { return viewer.gone; });
    return true;
  }

  void take_typed(Viewer& viewer) {
    std::string typed;
    std::vector<FileDescriptor> none;
    try {
      viewer.gone = !receive_some(viewer.socket.get(), typed, none);
    } catch (const std::system_error&) {
      viewer.gone = true;
    }
    if (!typed.empty()) type(typed);
  }

  void type(std::string_view keys) {
    if (!line_) return;
    try {
      line_->send(keys);
    } catch (const Error&) {
      // Of one that has ended, the rest and the goodbye are there to be taken.
      if (!line_->has_unread()) reconnect();
    }
  }

  void take_shown() {
    const WebSocket::Received received = line_->receive();
    received_ += received.data.size();
    try {
      write_all(log_.get(), received.data);
    } catch (const std::exception&) {  // a full disk: who looks on still sees it
    }
    for (Viewer& viewer : viewers_) {
      viewer.unread += received.data;
      flush(viewer);
    }
    if (!received.ended) {
      if (options_.startup_script == StartupScript::Ours && prompt_.take(received.data)) type(kAnyKey);
      return;
    }
    // A goodbye is the guest's end.
    if (received.code != 0) line_.reset();
    else reconnect();
  }

  void reconnect() {
    line_.reset();
    if (reconnections_++ >= kMostReconnections) return;
    try {
      line_.emplace(address(options_, received_), Deadline::after(kReconnectTime));
    } catch (const std::exception&) {  // the server is gone
    }
  }

  static void flush(Viewer& viewer) {
    while (!viewer.gone && !viewer.unread.empty()) {
      const ssize_t count = ::send(viewer.socket.get(), viewer.unread.data(), viewer.unread.size(), MSG_NOSIGNAL);
      if (count > 0) viewer.unread.erase(0, static_cast<std::size_t>(count));
      else if (errno == EAGAIN || errno == EWOULDBLOCK) break;
      else if (errno != EINTR) viewer.gone = true;
    }
    viewer.gone = viewer.gone || viewer.unread.size() > kMostUnread;
  }

  const ConsoleOptions options_;
  const FileDescriptor log_;
  const FileDescriptor listener_;
  /// None once it has ended.
  std::optional<WebSocket> line_;
  /// Its writing end is closed to end the thread.
  Pipe wake_ = make_pipe();
  std::list<Viewer> viewers_;
  StartupPrompt prompt_;
  std::uint64_t received_ = 0;
  int reconnections_ = 0;
  std::mutex mutex_;
  std::condition_variable end_;
  /// Guarded by mutex_.
  bool ended_ = false;
  std::thread thread_;
};

Console::Console(const ConsoleOptions& options, const Deadline& deadline) : pump_(std::make_unique<Pump>(options, deadline)) {}
Console::~Console() = default;
bool Console::wait_end(const Deadline& deadline) { return pump_->wait_end(deadline); }

}  // namespace vmtest::propolis
