#pragma once

// Opt-in: this header, alone in vmtest, shows libssh's types. Link libssh yourself to call it.

#include <libssh/libssh.h>

#include <utility>

#include "vmtest/ssh_session.h"

namespace vmtest {

/// A connection of its own whose `ssh_session` belongs to the holder alone: connected, host key verified, authenticated,
/// in libssh's blocking mode. It shares nothing with an SshSession, whose own session never leaves its I/O thread: libssh
/// sessions are not thread-safe. One thread at a time may use it.
class NativeSshSession {
 public:
  /// Takes ownership of `session`.
  explicit NativeSshSession(ssh_session session) : session_(session) {}
  NativeSshSession(NativeSshSession&& other) noexcept : session_(std::exchange(other.session_, nullptr)) {}
  NativeSshSession& operator=(NativeSshSession&& other) noexcept;
  NativeSshSession(const NativeSshSession&) = delete;
  NativeSshSession& operator=(const NativeSshSession&) = delete;
  ~NativeSshSession();

  /// libssh's own session. Free channels and SFTP sessions made from it before this goes out of scope.
  [[nodiscard]] ssh_session get() const { return session_; }

 private:
  ssh_session session_;
};

/// Connects and authenticates. Throws as SshSession::connect() does.
[[nodiscard]] NativeSshSession open_native_session(const SshOptions& options);
/// A further connection to the guest that `session` leads to.
[[nodiscard]] NativeSshSession open_native_session(const SshSession& session);

}  // namespace vmtest
