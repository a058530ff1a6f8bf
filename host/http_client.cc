#include "vmtest/host/http_client.h"

#include <httplib.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <utility>

#include "vmtest/error.h"
#include "vmtest/host/socket.h"

namespace vmtest {
namespace {

/// No hypervisor has that much to say: more is a fault, and must not fill the memory.
constexpr std::size_t kLongestReply = 16U << 20;

void set_times(httplib::Client& client, const Deadline& deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::microseconds>(deadline.remaining());
  const auto seconds = static_cast<time_t>(left.count() / 1000000);
  const auto rest = static_cast<time_t>(left.count() % 1000000);
  client.set_connection_timeout(seconds, rest);
  client.set_read_timeout(seconds, rest);
  client.set_write_timeout(seconds, rest);
}

/// The library writes without MSG_NOSIGNAL: a server that is gone would end this process by SIGPIPE, which is a thread's own
/// signal and so can be kept from it and taken back.
class NoSigpipe {
 public:
  NoSigpipe() {
    ::sigemptyset(&sigpipe_);
    ::sigaddset(&sigpipe_, SIGPIPE);
    was_pending_ = pending();
    ::pthread_sigmask(SIG_BLOCK, &sigpipe_, &before_);
  }
  ~NoSigpipe() {
    int taken = 0;
    if (!was_pending_ && pending()) ::sigwait(&sigpipe_, &taken);
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoSigpipe(const NoSigpipe&) = delete;
  NoSigpipe& operator=(const NoSigpipe&) = delete;

 private:
  static bool pending() {
    sigset_t signals;
    return ::sigpending(&signals) == 0 && ::sigismember(&signals, SIGPIPE) == 1;
  }

  sigset_t sigpipe_{};
  sigset_t before_{};
  bool was_pending_ = false;
};

std::string shown(const HttpRequest& request) { return request.method + " " + request.path; }

}  // namespace

HttpClient HttpClient::unix_socket(std::filesystem::path path) {
  HttpClient client;
  client.socket_ = std::move(path);
  return client;
}

HttpClient HttpClient::tcp(std::string host, std::uint16_t port) {
  HttpClient client;
  client.host_ = std::move(host);
  client.port_ = port;
  return client;
}

std::string HttpClient::address() const { return socket_.empty() ? host_ + ":" + std::to_string(port_) : socket_.string(); }

HttpReply HttpClient::send(const HttpRequest& request, const Deadline& deadline) const {
  const std::string what = shown(request) + " to " + address();
  if (deadline.expired()) throw Timeout(what + " was not sent: its time was over");
  httplib::Client client = socket_.empty() ? httplib::Client(host_, port_) : httplib::Client(socket_.string());
  if (!socket_.empty()) client.set_address_family(AF_UNIX);
  set_times(client, deadline);

  HttpReply reply;
  bool too_long = false;
  httplib::Request message;
  message.method = request.method;
  message.path = request.path;
  // Its own would be the socket's path, which is no host.
  message.headers = {{"Host", socket_.empty() ? address() : "localhost"}, {"Accept", "*/*"}};
  for (const auto& [name, value] : request.headers) message.headers.emplace(name, value);
  if (!request.body.empty()) {
    message.body = request.body;
    message.headers.emplace("Content-Type", "application/json");
  }
  message.content_receiver = [&](const char* data, std::size_t count, std::uint64_t, std::uint64_t) {
    too_long = reply.body.size() + count > kLongestReply;
    if (too_long || deadline.expired()) return false;
    reply.body.append(data, count);
    return true;
  };

  const NoSigpipe quiet;
  const httplib::Result result = client.send(message);
  if (result) {
    reply.status = result->status;
    return reply;
  }
  if (too_long) throw Error("the answer to " + what + " is longer than " + std::to_string(kLongestReply >> 20) + " MiB");
  if (deadline.expired()) throw Timeout(what + ": no whole answer in time");
  if (result.error() == httplib::Error::Connection) {
    if (!socket_.empty()) (void)connect_unix(socket_);            // says why
    throw_errno(ECONNREFUSED, "cannot connect to " + address());  // the library keeps the reason to itself
  }
  if (result.error() == httplib::Error::Write) throw Error(what + ": the server closed the connection");
  throw Error(what + ": the answer is no HTTP, or ends in the middle");
}

}  // namespace vmtest
