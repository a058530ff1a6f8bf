#pragma once

#include <sys/un.h>

#include <cstddef>
#include <string>

#include "descriptor.h"

namespace vmtest::vz {

inline constexpr std::size_t kLongestSocketPath = sizeof(sockaddr_un::sun_path) - 1;

/// Removes a socket that nobody listens on any more. Throws ApiError (409) when somebody does, or when it is no socket.
void remove_stale_socket(const std::string& path);
/// A path that is removed when this is destroyed.
class RemovedPath {
 public:
  RemovedPath() = default;
  explicit RemovedPath(std::string path) : path_(std::move(path)) {}
  RemovedPath(RemovedPath&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  RemovedPath& operator=(RemovedPath&& other) noexcept;
  ~RemovedPath() { remove(); }

 private:
  void remove();
  std::string path_;
};

/// A listening Unix stream socket, and its path.
struct Listener {
  Descriptor socket;
  RemovedPath path;
};
[[nodiscard]] Listener listen_unix(const std::string& path);
/// Accepts a waiting connection; invalid when there is none. The listener does not block.
[[nodiscard]] Descriptor accept_connection(int listener);
[[nodiscard]] Descriptor connect_unix(const std::string& path);
/// The same without waiting for a listener that has many to accept. The connection does not block either.
[[nodiscard]] Descriptor connect_unix_at_once(const std::string& path);

/// A Unix datagram socket bound to one path and connected to another.
struct DatagramPair {
  Descriptor socket;
  RemovedPath path;
};
[[nodiscard]] DatagramPair connect_datagram(const std::string& local, const std::string& remote);

}  // namespace vmtest::vz
