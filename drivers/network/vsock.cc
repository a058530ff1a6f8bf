#include "network/vsock.h"

#include <unistd.h>

#include <cerrno>
#include <string>

#include "vmtest/error.h"
#include "vmtest/host/socket.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

/// "OK 4294967295\n" is shorter, a reason of a refusal may be longer.
constexpr std::size_t kLongestAnswer = 500;

}  // namespace

FileDescriptor connect_vsock(const std::filesystem::path& socket, std::uint32_t port, const Deadline& deadline) {
  const std::string what = "port " + std::to_string(port) + " of the guest's vsock";
  FileDescriptor stream = connect_unix(socket);
  send_message(stream.get(), "CONNECT " + std::to_string(port) + "\n");
  std::string answer;
  while (answer.empty() || answer.back() != '\n') {
    if (answer.size() >= kLongestAnswer) throw Error(what + ": the hypervisor answers \"" + sanitize_console(answer) + "\"");
    if (!wait_readable(stream.get(), deadline)) throw Timeout(what + ": no answer in time");
    // A byte at a time: what follows the line is the guest's.
    char byte = 0;
    const ssize_t count = ::read(stream.get(), &byte, 1);
    if (count < 0 && errno != ECONNRESET) throw_errno("cannot read from " + socket.string());
    if (count <= 0) throw Error(what + ": nobody listens there");
    answer += byte;
  }
  if (answer.rfind("OK ", 0) != 0) throw Error(what + ": the hypervisor answers \"" + sanitize_console(answer) + "\"");
  return stream;
}

}  // namespace vmtest
