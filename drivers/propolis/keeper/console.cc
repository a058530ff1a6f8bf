// The one file that sees Boost.Beast, which takes long to compile.

#include "console.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/websocket.hpp>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <set>
#include <thread>

#include "../api_client.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"

namespace vmtest::propolis {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace fs = std::filesystem;
using boost::system::error_code;

/// Who looks on but does not read is let go of, since it must not hold up the guest.
constexpr std::size_t kMostUnread = 1U << 20;
constexpr std::size_t kChunk = 4096;
/// A server that lives takes milliseconds for a new connection.
constexpr int kMostReconnections = 3;

}  // namespace

class Console::Pump {
 public:
  Pump(const ConsoleOptions& options, const Deadline& deadline)
      : options_(options), log_(open_file(options.log, O_WRONLY | O_CREAT | O_APPEND)), acceptor_(io_) {
    if (options.socket.string().size() > max_socket_path())
      throw Error("the path of the console's socket is too long: " + options.socket.string());
    listen();
    connect();
    thread_ = std::thread([this] { io_.run(); });
    std::future<void> connected = connected_.get_future();
    const bool in_time = connected.wait_for(deadline.remaining()) == std::future_status::ready;
    try {
      if (!in_time) throw Timeout("the server does not connect the guest's console in time");
      connected.get();
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Pump() { stop(); }
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

  bool wait_end(const Deadline& deadline) {
    std::unique_lock lock(mutex_);
    return end_.wait_until(lock, deadline.time_point(), [&] { return ended_; });
  }

 private:
  using Stream = beast::websocket::stream<beast::tcp_stream>;
  /// One who looks on.
  struct Viewer : std::enable_shared_from_this<Viewer> {
    explicit Viewer(asio::local::stream_protocol::socket connection) : socket(std::move(connection)) {}
    asio::local::stream_protocol::socket socket;
    std::array<char, kChunk> typed{};
    std::deque<std::string> unread;
    std::size_t unread_bytes = 0;
  };

  void listen() {
    std::error_code ignored;
    fs::remove(options_.socket, ignored);
    const asio::local::stream_protocol::endpoint endpoint(options_.socket.string());
    acceptor_.open(endpoint.protocol());
    const mode_t before = ::umask(0177);
    error_code failure;
    acceptor_.bind(endpoint, failure);
    ::umask(before);
    if (failure) throw Error("cannot make the console's socket " + options_.socket.string() + ": " + failure.message());
    acceptor_.listen();
    accept();
  }

  void accept() {
    acceptor_.async_accept([this](error_code failure, asio::local::stream_protocol::socket connection) {
      if (failure) return;
      const auto viewer = std::make_shared<Viewer>(std::move(connection));
      viewers_.insert(viewer);
      read_typed(viewer);
      accept();
    });
  }

  void read_typed(const std::shared_ptr<Viewer>& viewer) {
    viewer->socket.async_read_some(asio::buffer(viewer->typed), [this, viewer](error_code failure, std::size_t count) {
      if (failure) {
        drop(viewer);
        return;
      }
      // The next is read when this is sent: who types fast waits.
      type(std::string(viewer->typed.data(), count), [this, viewer] { read_typed(viewer); });
    });
  }

  void drop(const std::shared_ptr<Viewer>& viewer) {
    error_code ignored;
    viewer->socket.close(ignored);
    viewers_.erase(viewer);
  }

  void type(std::string text, std::function<void()> then) {
    typed_.emplace_back(std::move(text), std::move(then));
    if (typed_.size() == 1) send_typed();
  }

  void send_typed() {
    if (!stream_ || !up_ || typed_.empty()) return;
    stream_->binary(true);
    stream_->async_write(asio::buffer(typed_.front().first), [this, stream = stream_](error_code failure, std::size_t) {
      if (failure) return;  // the reader notices, too
      const auto then = std::move(typed_.front().second);
      typed_.pop_front();
      then();
      send_typed();
    });
  }

  void connect() {
    up_ = false;
    stream_ = std::make_shared<Stream>(io_);
    stream_->set_option(beast::websocket::stream_base::decorator(
        [version = options_.version](beast::websocket::request_type& request) { request.set(kVersionHeader, version); }));
    error_code failure;
    const auto address = asio::ip::make_address(options_.host, failure);
    if (failure) throw Error("\"" + options_.host + "\" is no address");
    beast::get_lowest_layer(*stream_).async_connect(asio::ip::tcp::endpoint(address, options_.port), [this, stream = stream_](
                                                                                                         error_code refused) {
      if (refused) {
        fail(refused);
        return;
      }
      const std::string target = "/instance/serial?from_start=" + std::to_string(received_);
      stream_->async_handshake(options_.host + ":" + std::to_string(options_.port), target, [this, stream](error_code declined) {
        if (declined) {
          fail(declined);
          return;
        }
        up_ = true;
        if (!was_up_) connected_.set_value();
        was_up_ = true;
        send_typed();
        read();
      });
    });
  }

  void read() {
    stream_->async_read_some(buffer_, kChunk, [this, stream = stream_](error_code failure, std::size_t count) {
      // Text frames tell of migrations, which there are none of.
      if (count > 0 && stream->got_binary()) {
        show(std::string(static_cast<const char*>(buffer_.data().data()), buffer_.size()));
        received_ += buffer_.size();
      }
      buffer_.consume(buffer_.size());
      if (failure) fail(failure);
      else read();
    });
  }

  void show(const std::string& text) {
    try {
      write_all(log_.get(), text);
    } catch (const std::exception&) {  // a full disk: who looks on still sees it
    }
    for (const auto& viewer : std::set<std::shared_ptr<Viewer>>(viewers_)) {
      viewer->unread_bytes += text.size();
      if (viewer->unread_bytes > kMostUnread) {
        drop(viewer);
        continue;
      }
      viewer->unread.push_back(text);
      if (viewer->unread.size() == 1) send_shown(viewer);
    }
  }

  void send_shown(const std::shared_ptr<Viewer>& viewer) {
    asio::async_write(viewer->socket, asio::buffer(viewer->unread.front()), [this, viewer](error_code failure, std::size_t) {
      if (failure) {
        drop(viewer);
        return;
      }
      viewer->unread_bytes -= viewer->unread.front().size();
      viewer->unread.pop_front();
      if (!viewer->unread.empty()) send_shown(viewer);
    });
  }

  void fail(error_code why) {
    if (!was_up_) {
      connected_.set_exception(
          std::make_exception_ptr(Error("the server does not connect the guest's console: " + why.message())));
      was_up_ = true;
    } else if (up_ && why != beast::websocket::error::closed && reconnections_++ < kMostReconnections) {
      connect();  // it goes on where it was
      return;
    }
    up_ = false;
    const std::lock_guard lock(mutex_);
    ended_ = true;
    end_.notify_all();
  }

  void stop() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
    ::unlink(options_.socket.c_str());
  }

  const ConsoleOptions options_;
  const FileDescriptor log_;
  asio::io_context io_;
  asio::local::stream_protocol::acceptor acceptor_;
  std::shared_ptr<Stream> stream_;
  beast::flat_buffer buffer_;
  std::set<std::shared_ptr<Viewer>> viewers_;
  std::deque<std::pair<std::string, std::function<void()>>> typed_;
  std::uint64_t received_ = 0;
  bool up_ = false;
  bool was_up_ = false;
  int reconnections_ = 0;
  std::promise<void> connected_;
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
