#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "testing/peer.h"
#include "vmtest/host/directories.h"
#include "vmtest/ssh_session.h"

namespace vmtest::ssh {

/// A test with one real server, skipped where there is none.
class PeerTest : public testing::Test {
 protected:
  /// Starts the server and makes a session to it; call it in SetUp or in the test.
  void start(PeerKind kind, const PeerOptions& options = {}) {
    peer_.emplace(kind, options);
    session_.emplace(peer_->session_options());
  }

  [[nodiscard]] Peer& peer() { return *peer_; }
  [[nodiscard]] SshSession& session() { return *session_; }
  /// A path in the guest.
  [[nodiscard]] std::string guest(const std::string& name) { return peer_->guest_folder() / name; }
  /// A path on the host.
  [[nodiscard]] std::filesystem::path host(const std::string& name) { return folder_.path() / name; }

  TemporaryDirectory folder_;
  std::optional<Peer> peer_;
  std::optional<SshSession> session_;
};

/// OpenSSH, for what only its configuration can show.
class OpenSshTest : public PeerTest {
 protected:
  void SetUp() override {
    if (const std::string why = Peer::missing(PeerKind::OpenSsh); !why.empty()) GTEST_SKIP() << why;
  }
};

/// The same test on both servers.
class EachServerTest : public PeerTest, public testing::WithParamInterface<PeerKind> {
 protected:
  void SetUp() override {
    if (const std::string why = Peer::missing(GetParam()); !why.empty()) GTEST_SKIP() << why;
    start(GetParam());
  }
};

inline std::string peer_name(const testing::TestParamInfo<PeerKind>& info) { return to_string(info.param); }

/// What `body` throws: its text, or empty when it throws nothing of that type.
template <typename Exception, typename Body>
[[nodiscard]] std::string thrown(Body body) {
  try {
    body();
  } catch (const Exception& exception) {
    return exception.what();
  }
  return {};
}

/// Waits until `done` or the deadline; says which.
template <typename Done>
[[nodiscard]] bool eventually(Done done, std::chrono::milliseconds time = std::chrono::seconds(10)) {
  const Deadline deadline = Deadline::after(time);
  while (!done()) {
    if (deadline.expired()) return false;
    (void)wait_readable(-1, Deadline::after(std::chrono::milliseconds(10)));
  }
  return true;
}

}  // namespace vmtest::ssh
