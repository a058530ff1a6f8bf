#include "protocol.h"

#include "vmtest/host/socket.h"

namespace vmtest::supervisor {

bool LineBuffer::receive(int socket) { return receive_some(socket, buffer_, descriptors_) && buffer_.size() <= kLongestLine; }

std::optional<nlohmann::json> LineBuffer::next() {
  const std::size_t end = buffer_.find('\n');
  if (end == std::string::npos) return std::nullopt;
  const std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 1);
  return nlohmann::json::parse(line);
}

FileDescriptor LineBuffer::take_descriptor() {
  if (descriptors_.empty()) return {};
  FileDescriptor first = std::move(descriptors_.front());
  descriptors_.erase(descriptors_.begin());
  return first;
}

void send(int socket, const nlohmann::json& message, int fd) {
  // Console text may hold any bytes; they must not make a reply fail.
  send_message(socket, message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n", fd);
}

}  // namespace vmtest::supervisor
