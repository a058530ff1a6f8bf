#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "vmtest/guest.h"
#include "vmtest/step.h"

namespace vmtest {

namespace ssh {
class IoThread;
class SessionLog;
}  // namespace ssh

/// An ed25519 key pair: of the client, or of the guest's SSH server. A value.
struct SshKeyPair {
  /// Content of an OpenSSH private key file, not encrypted. Keep it out of logs; files that hold it are 0600.
  std::string private_key;
  /// The public key line, as in authorized_keys: "ssh-ed25519 AAAA... comment", without a line end.
  std::string public_key;

  bool operator==(const SshKeyPair&) const = default;
};

/// Makes a new key pair. Throws Error.
[[nodiscard]] SshKeyPair generate_ssh_key(const std::string& comment);
/// "SHA256:..." of a public key line, as ssh-keygen -l prints it. Throws Error when the line is not a key.
[[nodiscard]] std::string ssh_fingerprint(const std::string& public_key);

/// How to reach a guest's SSH server. The defaults suit a guest on hardware; scale them for emulation.
struct SshOptions {
  /// An address, or a name that is resolved once, when the session is made.
  std::string host = "127.0.0.1";
  std::uint16_t port = 22;
  std::string user = "root";
  /// Content of an OpenSSH private key file, not encrypted.
  std::string private_key = {};
  /// The server's public key line. Any other key is refused; there is no way to accept an unknown one.
  std::string host_key = {};
  /// From the call that needs a connection to a usable one, further attempts included: a guest that boots may refuse,
  /// drop or not answer the first.
  std::chrono::milliseconds connect_timeout = std::chrono::seconds(30);
  /// For the server's first line on one TCP connection. A hypervisor's user network accepts connections long before the
  /// guest does; without a line the connection is given up and made anew.
  std::chrono::milliseconds banner_timeout = std::chrono::seconds(5);
  /// For the key exchange on one TCP connection, and for the answer to each request to open a channel: a server that gives
  /// none has gone, and the connection with it.
  std::chrono::milliseconds handshake_timeout = std::chrono::seconds(20);
  /// For the server's answer to our key.
  std::chrono::milliseconds auth_timeout = std::chrono::seconds(20);
  /// A copy or a forwarded write gives up when nothing moves for this long.
  std::chrono::milliseconds transfer_timeout = std::chrono::seconds(60);
  /// While something waits for a silent guest, it is sent something this often, so that a guest that restarted in between
  /// resets the connection. A guest that says nothing (a paused VM) is not given up for it. Zero: never.
  std::chrono::milliseconds keepalive = std::chrono::seconds(15);
  /// Gets a line for each connection, command and copy, with its time: evidence for failed tests. Values of environment
  /// variables and input are left out. Made with mode 0600, appended to. Empty: no log.
  std::filesystem::path log_file = {};
};

/// An authenticated SSH connection to a guest, its host key pinned: the SSH implementation of Guest. Made without
/// connecting; the first call connects, the next ones share the connection, and the first call after a lost connection
/// connects anew. When the server allows no further session on one connection (MaxSessions), another is made.
///
/// Threads: every call may be made by several threads at once; commands, copies and forwards run side by side. All talking
/// is done by one I/O thread of the session.
///
/// Commands go to the user's login shell, which must be a POSIX shell, with every argument quoted. What a command's
/// background children print after it exited does not belong to it: exec() and wait() return once the command has exited
/// and either its output is closed or the server has nothing more of it to give, so a child that keeps the output open
/// (a daemon) does not hold them up. A command that takes too long is killed together with its process group.
///
/// Copies use SFTP, or cat and tar in the guest when its server has no SFTP. Links inside a folder are copied as links when
/// they lead to a place inside the folder; a pulled link that leads out throws Error, as does every other name that would.
/// Sockets, pipes and devices inside a folder are left out. Set-user-ID and set-group-ID bits are dropped. A failed pull
/// leaves nothing at the target; a failed push may leave an incomplete copy in the guest. The folder that shall hold a copy
/// must exist.
class SshSession final : public Guest {
 public:
  /// Checks the options: throws Error for keys that are none and for a host that has no address. Does not connect.
  explicit SshSession(SshOptions options);
  /// Ends everything that still runs on this session, which is told that the session was closed. Takes no longer when the
  /// guest hangs.
  ~SshSession() override;

  /// Connects now if there is no connection. Throws Timeout when no attempt succeeds within connect_timeout, saying what
  /// happened to the last; Error at once when the host key is another, our key is refused, or the server has no
  /// algorithm in common with us.
  void connect();
  /// How the attempt that made the latest connection went on, and when: "tcp" with the TCP connection made, "banner" with the
  /// server's first line, "key exchange" with the host key checked, "authentication". Empty before the first connection.
  [[nodiscard]] std::vector<Step> connect_steps() const;
  /// Drops the connection, and ends an attempt to connect: what runs on it throws Error, the next call connects anew. For
  /// when the guest is known to be gone or restarting. Returns at once.
  void reset();
  /// Whether there is a connection at present; the guest may be gone all the same.
  [[nodiscard]] bool connected() const;
  [[nodiscard]] const SshOptions& options() const { return options_; }

  [[nodiscard]] CommandResult exec(const GuestCommand& command) override;
  [[nodiscard]] std::unique_ptr<GuestProcess> spawn(const GuestCommand& command) override;
  void push(const std::filesystem::path& host_path, const std::string& guest_path) override;
  void pull(const std::string& guest_path, const std::filesystem::path& host_path) override;
  [[nodiscard]] std::unique_ptr<PortForward> forward(std::uint16_t guest_port,
                                                     const std::string& guest_host = "127.0.0.1") override;

 private:
  SshOptions options_;
  // Shared with processes, copies and forwards, which may outlive the session and then find it closed.
  std::shared_ptr<ssh::SessionLog> log_;
  std::shared_ptr<ssh::IoThread> io_;
};

}  // namespace vmtest
