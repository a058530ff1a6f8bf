#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "vmtest/host/directories.h"
#include "vmtest/host/process.h"
#include "vmtest/ssh_session.h"

namespace vmtest::ssh {

enum class PeerKind { OpenSsh, Dropbear };
/// "OpenSsh", "Dropbear".
[[nodiscard]] std::string to_string(PeerKind kind);

/// What a test wants of its server.
struct PeerOptions {
  /// Further lines of sshd_config.
  std::vector<std::string> sshd_config = {};
  /// Whether OpenSSH has an SFTP subsystem. (The dropbear of Debian looks for a program that only guests have.)
  bool has_sftp = true;
  /// A program to stand behind it instead of OpenSSH's own, and its arguments.
  std::filesystem::path sftp_program = {};
  std::string sftp_arguments = {};
  /// OpenSSH only: dropbear wants one of /etc/shells.
  std::string login_shell = "/bin/sh";
};

/// A real SSH server on a port of the loopback, without privileges, with its own configuration, keys and home folder.
/// As root it runs as "nobody", since the servers would want system accounts and folders otherwise.
class Peer {
 public:
  /// Why this machine cannot run one; empty when it can. VMTEST_TEST_SSH_SERVERS names a folder with unpacked ones.
  [[nodiscard]] static std::string missing(PeerKind kind);

  explicit Peer(PeerKind kind, const PeerOptions& options = {});
  ~Peer();

  /// For a session that works.
  [[nodiscard]] SshOptions session_options() const;
  /// The home folder of the server's user: the "guest".
  [[nodiscard]] std::filesystem::path guest_folder() const { return folder_.path() / "home"; }
  /// Writes a file there, as the user's own.
  void write_guest_file(const std::string& name, std::string_view content, unsigned mode = 0644) const;
  /// What the server printed.
  [[nodiscard]] std::string server_log() const;
  [[nodiscard]] std::uint16_t port() const { return port_; }
  /// Kills the server and all its sessions, as a crash of the guest would.
  void crash();
  /// Starts the server again, on the same port with the same keys.
  void start();
  /// The same for OpenSSH with further lines of sshd_config.
  void restart_with(const std::vector<std::string>& sshd_config);

 private:
  [[nodiscard]] std::vector<std::string> openssh_command(const PeerOptions& options);
  [[nodiscard]] std::vector<std::string> dropbear_command();

  TemporaryDirectory folder_{"vmtest-peer-"};
  std::uint16_t port_;
  SshKeyPair client_key_ = generate_ssh_key("client");
  SshKeyPair host_key_ = generate_ssh_key("host");
  std::string user_;
  ProcessOptions process_options_;
  ChildProcess server_;
};

}  // namespace vmtest::ssh
