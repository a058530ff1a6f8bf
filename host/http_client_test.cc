#include "vmtest/host/http_client.h"

#include <gtest/gtest.h>
#include <httplib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <future>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

Deadline soon() { return Deadline::after(20s); }

/// A server that takes one connection, reads its request and answers with these bytes.
class OneAnswer {
 public:
  enum class Then { Close, Linger };
  OneAnswer(const std::filesystem::path& path, std::string bytes, Then then = Then::Close)
      : path_(path), listener_(listen_unix(path)), thread_([this, bytes = std::move(bytes), then] { serve(bytes, then); }) {}
  ~OneAnswer() {
    done_.set_value();
    thread_.join();
    std::filesystem::remove(path_);
  }
  OneAnswer(const OneAnswer&) = delete;
  OneAnswer& operator=(const OneAnswer&) = delete;

  [[nodiscard]] const std::string& request() const { return request_; }

 private:
  /// Whether the request has all of its body.
  [[nodiscard]] bool whole() const {
    constexpr std::string_view kLength = "Content-Length: ";
    const std::size_t end = request_.find("\r\n\r\n");
    if (end == std::string::npos) return false;
    const std::size_t length = request_.find(kLength);
    return length == std::string::npos || request_.size() >= end + 4 + std::stoul(request_.substr(length + kLength.size()));
  }
  void serve(const std::string& bytes, Then then) {
    const FileDescriptor connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    char data[4096];
    while (!whole()) {
      const ssize_t count = ::read(connection.get(), data, sizeof data);
      if (count <= 0) break;
      request_.append(data, static_cast<std::size_t>(count));
    }
    // A client that has heard enough closes its end.
    for (std::size_t at = 0; at < bytes.size();) {
      const ssize_t sent = ::send(connection.get(), bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
      if (sent <= 0) break;
      at += static_cast<std::size_t>(sent);
    }
    if (then == Then::Linger) done_.get_future().wait();
  }

  const std::filesystem::path path_;
  std::promise<void> done_;
  std::string request_;
  FileDescriptor listener_;
  std::thread thread_;
};

class HttpClientTest : public ::testing::Test {
 protected:
  /// The message of the error that the answer leads to.
  std::string failure(const std::string& bytes) {
    const OneAnswer server(socket_, bytes);
    try {
      (void)client_.send({.path = "/x"}, soon());
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  }

  TemporaryDirectory folder_;
  std::filesystem::path socket_ = folder_.path() / "api.sock";
  HttpClient client_ = HttpClient::unix_socket(socket_);
};

TEST_F(HttpClientTest, SendsMethodPathHeadersAndBody) {
  std::string request;
  HttpReply reply;
  {
    const OneAnswer server(socket_, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue");
    reply = client_.send({"PUT", "/api/v1/vm.create", "{\"a\":1}", {{"api-version", "5.0.0"}}}, soon());
    request = server.request();
  }
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body, "true");
  EXPECT_EQ(request.rfind("PUT /api/v1/vm.create HTTP/1.1\r\n", 0), 0U) << request;
  EXPECT_NE(request.find("Host: localhost\r\n"), std::string::npos) << request;
  EXPECT_NE(request.find("api-version: 5.0.0\r\n"), std::string::npos) << request;
  EXPECT_NE(request.find("Content-Length: 7\r\n"), std::string::npos) << request;
  EXPECT_NE(request.find("\r\n\r\n{\"a\":1}"), std::string::npos) << request;
}

TEST_F(HttpClientTest, StatusOfARefusalIsAnAnswer) {
  const OneAnswer server(socket_, "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 9\r\n\r\n[\"sorry\"]");
  const HttpReply reply = client_.send({"PUT", "/api/v1/vm.boot"}, soon());
  EXPECT_EQ(reply.status, 500);
  EXPECT_EQ(reply.body, "[\"sorry\"]");
}

TEST_F(HttpClientTest, TakesAnAnswerWithoutABody) {
  const OneAnswer server(socket_, "HTTP/1.1 204 No Content\r\n\r\n", OneAnswer::Then::Linger);
  EXPECT_EQ(client_.send({"PUT", "/api/v1/vm.boot"}, soon()).status, 204);
}

TEST_F(HttpClientTest, NobodyListeningIsTheSystemsError) {
  EXPECT_THROW((void)client_.send({.path = "/x"}, soon()), std::system_error);
}

TEST_F(HttpClientTest, ConnectionClosedInTheMiddleIsAnError) {
  EXPECT_NE(failure("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").find("ends in the middle"), std::string::npos);
  EXPECT_NE(failure("HTTP/1.1 200").find("ends in the middle"), std::string::npos);
  EXPECT_NE(failure("").find("ends in the middle"), std::string::npos);
}

TEST_F(HttpClientTest, GarbageIsAnError) {
  EXPECT_NE(failure("what a lovely day\r\n\r\n").find("GET /x to " + socket_.string()), std::string::npos);
}

TEST_F(HttpClientTest, ServerThatHearsNoMoreIsAnErrorAndNoSignal) {
  const FileDescriptor listener = listen_unix(socket_);
  std::promise<void> done;
  std::thread server([&] {
    const FileDescriptor connection(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ::shutdown(connection.get(), SHUT_RD);  // the client's next write is a broken pipe
    done.get_future().wait();
  });
  EXPECT_THROW((void)client_.send({"PUT", "/x", std::string(20000000, 'x')}, soon()), Error);
  done.set_value();
  server.join();
}

TEST_F(HttpClientTest, EndlessAnswerIsAnError) {
  const std::string head = "HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n";
  EXPECT_NE(failure(head + std::string(20000000, 'x')).find("longer than 16 MiB"), std::string::npos);
}

TEST_F(HttpClientTest, SilenceEndsAtTheDeadline) {
  const OneAnswer server(socket_, "", OneAnswer::Then::Linger);
  EXPECT_THROW((void)client_.send({.path = "/x"}, Deadline::after(50ms)), Timeout);
}

TEST_F(HttpClientTest, HalfAnAnswerAndThenSilenceEndsAtTheDeadline) {
  const OneAnswer server(socket_, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", OneAnswer::Then::Linger);
  EXPECT_THROW((void)client_.send({.path = "/x"}, Deadline::after(50ms)), Timeout);
}

TEST_F(HttpClientTest, SpeaksTcpToo) {
  httplib::Server server;
  server.Get("/instance", [](const httplib::Request& request, httplib::Response& response) {
    response.set_content(request.get_header_value("api-version"), "application/json");
  });
  const int port = server.bind_to_any_port("127.0.0.1");
  std::thread thread([&] { server.listen_after_bind(); });
  const HttpClient client = HttpClient::tcp("127.0.0.1", static_cast<std::uint16_t>(port));
  const HttpReply reply = client.send({.path = "/instance", .headers = {{"api-version", "1.0.0"}}}, soon());
  server.stop();
  thread.join();
  EXPECT_EQ(reply.body, "1.0.0");
  EXPECT_EQ(client.address(), "127.0.0.1:" + std::to_string(port));
}

}  // namespace
}  // namespace vmtest
