#include <sys/socket.h>

#include "vmtest/error.h"
#include "vmtest/host/socket.h"

namespace vmtest {

pid_t peer_pid(int socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) throw_errno("cannot tell a socket's peer");
  return credentials.pid;
}

}  // namespace vmtest
