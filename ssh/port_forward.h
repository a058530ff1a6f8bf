#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "io_thread.h"
#include "session_log.h"
#include "vmtest/guest.h"

namespace vmtest::ssh {

class ForwardListener;

/// A listening socket of the host's loopback whose connections go on through the session.
class SshPortForward final : public PortForward {
 public:
  /// Throws std::system_error.
  SshPortForward(std::shared_ptr<IoThread> io, std::shared_ptr<SessionLog> log, std::string guest_host, std::uint16_t guest_port);
  ~SshPortForward() override;

  [[nodiscard]] std::uint16_t host_port() const override { return port_; }

 private:
  std::shared_ptr<IoThread> io_;
  std::shared_ptr<ForwardListener> listener_;
  std::uint16_t port_ = 0;
};

}  // namespace vmtest::ssh
