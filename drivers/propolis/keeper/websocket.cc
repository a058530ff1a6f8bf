#include "websocket.h"

#include <libwebsockets.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/text.h"

namespace vmtest::propolis {
namespace {

/// How much is read at once.
constexpr unsigned kReadSize = 64 * 1024;
constexpr std::chrono::seconds kSendTime{5};
/// For the body of a refusal whose head has come.
constexpr std::chrono::seconds kBodyTime{1};
constexpr std::size_t kLongestBody = 4096;
/// How much longer the library's own limits are than ours, which say more.
constexpr unsigned kLaterSeconds = 10;
/// None: else the library takes the one of the environment variable http_proxy, for 127.0.0.1 too.
constexpr const char* kProxy = ":0";
/// No pings of ours: nothing calls the library in silent times, and then it would take their answers for late.
constexpr lws_retry_bo_t kNoPings{};

/// Lets lws_service() return when a deadline has passed.
class Alarm {
 public:
  Alarm(lws_context* context, const Deadline& deadline) : deadline_(deadline) {
    const std::chrono::microseconds left = deadline.remaining();
    lws_sul_schedule(context, 0, &timer_, &ring, std::max<lws_usec_t>(left.count(), 1));
  }
  ~Alarm() { lws_sul_cancel(&timer_); }
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;

  [[nodiscard]] bool expired() const { return deadline_.expired(); }

 private:
  static void ring(lws_sorted_usec_list_t*) {}

  const Deadline deadline_;
  lws_sorted_usec_list_t timer_{};
};

/// Does what can be done without waiting.
void serve(lws_context* context) {
  lws_service(context, -1);
  // What was read may have to be answered.
  lws_service(context, -1);
}

std::uint16_t close_code(std::string_view payload) {
  if (payload.size() < 2) return 0;
  return static_cast<std::uint16_t>(static_cast<unsigned char>(payload[0]) << 8 | static_cast<unsigned char>(payload[1]));
}

}  // namespace

/// What the library calls.
struct WebSocket::Events {
  static const lws_protocols kProtocols[];

  /// No exception may pass through the library.
  static int handle(lws* connection, lws_callback_reasons reason, void*, void* in, std::size_t length) noexcept {
    constexpr int kGoOn = 0;
    constexpr int kClose = -1;
    constexpr unsigned kSwitchingProtocols = 101;
    auto* self = static_cast<WebSocket*>(lws_context_user(lws_get_context(connection)));
    const std::string_view text(static_cast<const char*>(in), in == nullptr ? 0 : length);
    switch (reason) {
      case LWS_CALLBACK_CLIENT_APPEND_HANDSHAKE_HEADER:
        return append_headers(*self, connection, static_cast<unsigned char**>(in), length) ? kGoOn : kClose;
      case LWS_CALLBACK_ESTABLISHED_CLIENT_HTTP:
        if (lws_http_client_http_response(connection) == kSwitchingProtocols) return kGoOn;
        self->failure_ = "the server declines: " + refusal(*self, connection);
        return kClose;
      case LWS_CALLBACK_RECEIVE_CLIENT_HTTP_READ:
        self->received_.data += text;
        return kGoOn;
      case LWS_CALLBACK_COMPLETED_CLIENT_HTTP:
        return kClose;
      case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
        if (self->failure_.empty()) self->failure_ = text.empty() ? "the connection ended" : text;
        return kGoOn;
      case LWS_CALLBACK_CLIENT_ESTABLISHED:
        self->connection_ = connection;
        self->descriptor_ = lws_get_socket_fd(connection);
        return kGoOn;
      case LWS_CALLBACK_CLIENT_RECEIVE:
        if (lws_frame_is_binary(connection) != 0) self->received_.data += text;
        return kGoOn;
      case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
        self->received_.ended = true;
        self->received_.code = close_code(text);
        return kGoOn;
      case LWS_CALLBACK_CLIENT_WRITEABLE:
        return write(connection, std::exchange(self->outgoing_, {})) ? kGoOn : kClose;
      case LWS_CALLBACK_CLIENT_CLOSED:
        self->received_.ended = true;
        self->connection_ = nullptr;
        return kGoOn;
      default:
        return kGoOn;
    }
  }

  static bool append_headers(const WebSocket& self, lws* connection, unsigned char** at, std::size_t room) {
    unsigned char* const end = *at + room;
    const auto bytes = [](const std::string& text) { return reinterpret_cast<const unsigned char*>(text.c_str()); };
    return std::all_of(self.address_.headers.begin(), self.address_.headers.end(), [&](const auto& header) {
      const auto& [name, value] = header;
      return lws_add_http_header_by_name(connection, bytes(name + ":"), bytes(value), static_cast<int>(value.size()), at, end) ==
             0;
    });
  }

  /// The server's words, with the body as far as it comes in time.
  static std::string refusal(WebSocket& self, lws* connection) {
    char status[256] = "";
    (void)lws_hdr_copy(connection, status, sizeof status, WSI_TOKEN_HTTP);
    const Deadline deadline = self.deadline_.earlier(Deadline::after(kBodyTime));
    std::string& body = self.received_.data;
    for (std::size_t before = 0; body.size() < kLongestBody; before = body.size()) {
      char buffer[1024];
      char* at = buffer;
      int size = sizeof buffer;
      if (lws_http_client_read(connection, &at, &size) < 0) break;
      if (body.size() == before && !wait_readable(lws_get_socket_fd(connection), deadline)) break;
    }
    return sanitize_console(status) + " " + sanitize_console(body);
  }

  static bool write(lws* connection, const std::string& data) {
    if (data.empty()) return true;
    // The frame's head goes in front. What the socket does not take at once the library keeps.
    std::string frame = std::string(LWS_PRE, '\0') + data;
    auto* payload = reinterpret_cast<unsigned char*>(frame.data() + LWS_PRE);
    return lws_write(connection, payload, data.size(), LWS_WRITE_BINARY) >= 0;
  }
};

const lws_protocols WebSocket::Events::kProtocols[] = {{"vmtest", &handle, 0, 0, 0, nullptr, 0}, {}};

void WebSocket::Destroy::operator()(lws_context* context) const { lws_context_destroy(context); }

WebSocket::WebSocket(WebSocketAddress address, const Deadline& deadline) : address_(std::move(address)), deadline_(deadline) {
  const bool v6 = address_.host.find(':') != std::string::npos;
  const std::string host = (v6 ? "[" + address_.host + "]" : address_.host) + ":" + std::to_string(address_.port);
  lws_set_log_level(0, nullptr);
  lws_context_creation_info settings{};
  settings.port = CONTEXT_PORT_NO_LISTEN;
  settings.protocols = Events::kProtocols;
  settings.user = this;
  settings.options = v6 ? 0 : LWS_SERVER_OPTION_DISABLE_IPV6;
  settings.http_proxy_address = kProxy;
  settings.pt_serv_buf_size = kReadSize;
  settings.fd_limit_per_thread = 1;
  settings.timeout_secs = static_cast<unsigned>(deadline.remaining() / std::chrono::seconds(1)) + kLaterSeconds;
  settings.connect_timeout_secs = settings.timeout_secs;
  context_.reset(lws_create_context(&settings));
  if (!context_) throw Error("libwebsockets does not start");
  lws_client_connect_info request{};
  request.context = context_.get();
  request.address = address_.host.c_str();
  request.port = address_.port;
  request.path = address_.target.c_str();
  request.host = host.c_str();
  request.ssl_connection = LCCSCF_HTTP_NO_FOLLOW_REDIRECT;
  // Without it, the body of a refusal is dropped.
  request.local_protocol_name = Events::kProtocols[0].name;
  request.retry_and_idle_policy = &kNoPings;
  if (lws_client_connect_via_info(&request) == nullptr && failure_.empty()) failure_ = "there is no connection";
  const Alarm alarm(context_.get(), deadline);
  // One that ends as it begins has been there.
  while (descriptor_ < 0 && failure_.empty() && !alarm.expired()) lws_service(context_.get(), 0);
  if (!failure_.empty()) throw Error("no WebSocket from " + host + address_.target + ": " + failure_);
  if (descriptor_ < 0) throw Timeout("no WebSocket from " + host + address_.target + " in time");
  // What came with the answer.
  if (connection_ != nullptr) serve(context_.get());
}

WebSocket::~WebSocket() = default;

WebSocket::Received WebSocket::receive() {
  if (connection_ != nullptr) serve(context_.get());
  Received received = received_;
  received_.data.clear();
  return received;
}

void WebSocket::send(std::string_view data) {
  outgoing_ += data;
  const Alarm alarm(context_.get(), Deadline::after(kSendTime));
  while (connection_ != nullptr && (!outgoing_.empty() || lws_partial_buffered(connection_) != 0)) {
    if (alarm.expired()) throw Error("the server does not read");
    lws_callback_on_writable(connection_);
    lws_service(context_.get(), 0);
  }
  if (connection_ == nullptr) throw Error("the connection has ended");
}

}  // namespace vmtest::propolis
