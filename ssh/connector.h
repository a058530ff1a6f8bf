#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "libssh_handles.h"
#include "session_log.h"
#include "vmtest/deadline.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/ssh_session.h"

namespace vmtest::ssh {

/// The server's address, resolved.
struct Endpoint {
  sockaddr_storage address = {};
  socklen_t size = 0;
  /// "127.0.0.1:22", for messages.
  std::string text = {};
};

/// Throws Error when the host has no address.
[[nodiscard]] Endpoint resolve(const SshOptions& options);

/// Connects, exchanges keys, checks the host key and authenticates, again and again until it succeeds, something is wrong
/// for good, or the deadline passes. The session is in non-blocking mode. Ends with Error soon after `interrupt` becomes
/// readable (-1: never). Puts the steps of the attempt that succeeded into `steps`. Throws Timeout and Error.
[[nodiscard]] SessionPtr connect(const SshOptions& options, const Endpoint& endpoint, int interrupt, SessionLog& log,
                                 std::vector<Step>& steps);

}  // namespace vmtest::ssh
