#include "websocket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <poll.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <random>
#include <sstream>
#include <utility>
#include <vector>

#include "vmtest/error.h"
#include "vmtest/host/socket.h"
#include "vmtest/host/text.h"

namespace vmtest::propolis {
namespace {

constexpr const char* kGuid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
constexpr std::size_t kLongestHead = 64 * 1024;
/// A console's frames have some thousand bytes.
constexpr std::uint64_t kLongestFrame = 16U << 20;
constexpr time_t kSendSeconds = 5;
constexpr std::size_t kKeyBytes = 16;

enum Opcode : unsigned char { kContinuation = 0, kText = 1, kBinary = 2, kClose = 8, kPing = 9, kPong = 10 };

FileDescriptor open_connection(const std::string& host, std::uint16_t port, const Deadline& deadline) {
  sockaddr_storage address{};
  socklen_t length = 0;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address);
  if (::inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    length = sizeof *v4;
  } else if (::inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    length = sizeof *v6;
  } else {
    throw Error("\"" + host + "\" is no address");
  }
  const std::string where = host + ":" + std::to_string(port);
  FileDescriptor fd(::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) throw_errno("cannot make a socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    if (errno != EINPROGRESS) throw_errno("cannot connect to " + where);
    pollfd entry{fd.get(), POLLOUT, 0};
    if (::poll(&entry, 1, deadline.poll_timeout()) == 0) throw Timeout("cannot connect to " + where + " in time");
    int error = 0;
    socklen_t size = sizeof error;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0)
      throw_errno(error, "cannot connect to " + where);
  }
  set_nonblocking(fd.get(), false);
  const timeval limit{kSendSeconds, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  return fd;
}

/// False at the connection's end.
bool read_more(int socket, std::string& text) {
  std::vector<FileDescriptor> none;
  return receive_some(socket, text, none);
}

std::string header_of(const std::string& head, const char* name) {
  std::istringstream lines(head);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || ::strcasecmp(line.substr(0, colon).c_str(), name) != 0) continue;
    const std::size_t begin = line.find_first_not_of(" \t", colon + 1);
    const std::size_t end = line.find_last_not_of(" \t\r");
    return begin == std::string::npos ? "" : line.substr(begin, end + 1 - begin);
  }
  return "";
}

std::uint64_t big_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (const char byte : bytes) value = value << 8 | static_cast<unsigned char>(byte);
  return value;
}

void put_big_endian(std::string& text, std::uint64_t value, int bytes) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) text += static_cast<char>(value >> shift & 0xFF);
}

}  // namespace

std::string websocket_accept(const std::string& key) {
  const std::string text = key + kGuid;
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  if (EVP_Digest(text.data(), text.size(), digest, &length, EVP_sha1(), nullptr) != 1) throw Error("cannot compute a SHA-1");
  return base64(std::string_view(reinterpret_cast<const char*>(digest), length));
}

WebSocket WebSocket::connect(const std::string& host, std::uint16_t port, const std::string& target,
                             const std::map<std::string, std::string>& headers, const Deadline& deadline) {
  WebSocket made(open_connection(host, port, deadline));
  std::string bytes;
  while (bytes.size() < kKeyBytes) put_big_endian(bytes, std::random_device()(), 4);
  const std::string key = base64(bytes);
  const std::string shown = host.find(':') == std::string::npos ? host : "[" + host + "]";
  std::string request =
      "GET " + target + " HTTP/1.1\r\nHost: " + shown + ":" + std::to_string(port) +
      "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + "\r\n";
  for (const auto& [name, value] : headers) request += name + ": " + value + "\r\n";
  send_message(made.descriptor(), request + "\r\n");
  std::size_t end = std::string::npos;
  while ((end = made.unread_.find("\r\n\r\n")) == std::string::npos) {
    if (!wait_readable(made.descriptor(), deadline)) throw Timeout("no answer to " + target + " in time");
    if (!read_more(made.descriptor(), made.unread_)) throw Error("the connection ended before the answer to " + target);
    if (made.unread_.size() > kLongestHead) throw Error("the answer to " + target + " has no end");
  }
  const std::string head = made.unread_.substr(0, end);
  if (head.rfind("HTTP/1.1 101 ", 0) != 0) {
    throw Error("the server declines " + target + ": " + sanitize_console(head.substr(0, head.find('\r'))) + " " +
                sanitize_console(made.unread_.substr(end + 4)));
  }
  if (header_of(head, "Sec-WebSocket-Accept") != websocket_accept(key))
    throw Error("the answer to " + target + " is of no WebSocket");
  made.unread_.erase(0, end + 4);
  return made;
}

WebSocket::Received WebSocket::receive() {
  Received received;
  take_frames(received);
  if (received.ended || !received.data.empty()) return received;
  if (!wait_readable(descriptor(), Deadline::after(std::chrono::milliseconds(0)))) return received;
  bool open = false;
  try {
    open = read_more(descriptor(), unread_);
  } catch (const std::system_error&) {  // reset by a server that was killed
  }
  take_frames(received);
  received.ended = received.ended || !open;
  return received;
}

void WebSocket::take_frames(Received& received) {
  constexpr unsigned kShort = 125;
  constexpr unsigned kTwoBytes = 126;
  while (!received.ended && unread_.size() >= 2) {
    const auto first = static_cast<unsigned char>(unread_[0]);
    const auto second = static_cast<unsigned char>(unread_[1]);
    if ((first & 0x70U) != 0 || (second & 0x80U) != 0) throw Error("the server sends what is no WebSocket's frame");
    std::size_t head = 2;
    std::uint64_t length = second & 0x7FU;
    if (length > kShort) {
      head += length == kTwoBytes ? 2 : 8;
      if (unread_.size() < head) return;
      length = big_endian(std::string_view(unread_).substr(2, head - 2));
    }
    if (length > kLongestFrame) throw Error("the server sends a frame of " + std::to_string(length) + " bytes");
    if (unread_.size() < head + length) return;
    const std::string payload = unread_.substr(head, length);
    unread_.erase(0, head + length);
    const unsigned opcode = first & 0x0FU;
    switch (opcode) {
      case kText:
      case kBinary:
        binary_ = opcode == kBinary;
        [[fallthrough]];
      case kContinuation:
        if (binary_) received.data += payload;
        break;
      case kClose:
        received.ended = true;
        if (payload.size() >= 2) received.code = static_cast<std::uint16_t>(big_endian(std::string_view(payload).substr(0, 2)));
        try {
          send_frame(kClose, payload);
        } catch (const std::system_error&) {  // it did not wait for ours
        }
        break;
      case kPing:
        send_frame(kPong, payload);
        break;
      case kPong:
        break;
      default:
        throw Error("the server sends a frame of an unknown kind");
    }
  }
}

void WebSocket::send(std::string_view data) { send_frame(kBinary, data); }

void WebSocket::send_frame(unsigned char opcode, std::string_view payload) {
  constexpr std::size_t kShort = 125;
  constexpr std::size_t kTwoBytes = 65535;
  std::string frame(1, static_cast<char>(0x80U | opcode));
  if (payload.size() <= kShort) {
    frame += static_cast<char>(0x80U | payload.size());
  } else {
    frame += static_cast<char>(payload.size() <= kTwoBytes ? 0xFE : 0xFF);
    put_big_endian(frame, payload.size(), payload.size() <= kTwoBytes ? 2 : 8);
  }
  std::string mask;
  put_big_endian(mask, std::random_device()(), 4);
  frame += mask;
  for (std::size_t i = 0; i < payload.size(); ++i) frame += static_cast<char>(payload[i] ^ mask[i % 4]);
  send_message(descriptor(), frame);
}

}  // namespace vmtest::propolis
