#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vmtest/deadline.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {

/// Longest path a Unix socket can have on this system.
[[nodiscard]] std::size_t max_socket_path();
/// Throws Error, which says what to do, when that path is longer.
void require_socket_path(const std::filesystem::path& path);
/// Listens on a Unix stream socket made at `path` (0600). Throws Error when the path is too long, std::system_error else.
[[nodiscard]] FileDescriptor listen_unix(const std::filesystem::path& path);
/// Connects to a Unix stream socket. Throws std::system_error; Timeout after five seconds where a listener takes no connections.
[[nodiscard]] FileDescriptor connect_unix(const std::filesystem::path& path);
/// Accepts a connection; empty when none is waiting.
[[nodiscard]] std::optional<FileDescriptor> accept_connection(int listener);
/// Two connected Unix stream sockets.
[[nodiscard]] std::pair<FileDescriptor, FileDescriptor> make_socket_pair();
/// Sends all of `data`, with descriptor `fd` unless it is -1. Never raises SIGPIPE. Throws std::system_error.
void send_message(int socket, std::string_view data, int fd = -1);
/// Receives what is there into `data` (appended) and passed descriptors into `fds`. False at the end of the connection.
/// Blocks unless the socket is non-blocking; then an empty read is true and appends nothing.
bool receive_some(int socket, std::string& data, std::vector<FileDescriptor>& fds);
/// The process at the other end of a Unix socket.
[[nodiscard]] pid_t peer_pid(int socket);

/// Whether a TCP port of 127.0.0.1 can be bound now.
[[nodiscard]] bool port_is_free(std::uint16_t port);
/// A port of 127.0.0.1 the system chose, free at the time.
[[nodiscard]] std::uint16_t ephemeral_port();

}  // namespace vmtest
