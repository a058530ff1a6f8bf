#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vmtest::guest {

/// Where programs are looked up.
inline constexpr const char* kProgramPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Lines NAME="value" that every program started here, logins over SSH included, gets as its environment.
inline constexpr const char* kEnvironmentFile = "/etc/environment";

/// The variables in the text of such a file as "NAME=value": quotes around a value are taken off, what is in them stays as it
/// is; comments and lines without a name are skipped.
[[nodiscard]] std::vector<std::string> parse_environment(std::string_view text);

/// Starts a program in a session of its own, with ordinary signal handling and / as its folder. Standard input is
/// /dev/null; both outputs are appended to `output`, which is made when missing. Throws when it cannot be started.
[[nodiscard]] pid_t start_program(const std::vector<std::string>& argv, const std::string& output);
/// Starts a program that talks to a terminal, which becomes its controlling terminal. Throws.
[[nodiscard]] pid_t start_on_terminal(const std::vector<std::string>& argv, const std::string& terminal);
/// Runs a program to its end; its wait status. Other children are left alone.
[[nodiscard]] int run_program(const std::vector<std::string>& argv, const std::string& output);
/// "exit code 3", "signal 9".
[[nodiscard]] std::string describe_status(int status);

/// A program that is kept running: when it ends it is started again, after a second when it did not live for one.
class Service {
 public:
  using Clock = std::chrono::steady_clock;

  /// `terminal` empty: output goes to /var/log/<name>.log.
  Service(std::string name, std::vector<std::string> argv, std::string terminal = {});

  [[nodiscard]] const std::string& name() const { return name_; }
  void start();
  /// Ends it, waits for that, and starts it again. What it started goes on.
  void restart();
  /// Tells it of a child that ended; true when it was its own.
  bool ended(pid_t pid, int status);
  /// When it is to be started again, or empty.
  [[nodiscard]] std::optional<Clock::time_point> next_start() const { return next_start_; }

 private:
  std::string name_;
  std::vector<std::string> argv_;
  std::string terminal_;
  pid_t pid_ = -1;
  Clock::time_point started_{};
  std::optional<Clock::time_point> next_start_;
};

/// Gives the running OpenSSH server another ed25519 host key, and returns when it listens with that. Throws.
void set_openssh_host_key(const std::string& private_key, const std::string& public_key);

/// The inode of the socket that listens on this port in the text of /proc/net/tcp; 0 when there is none.
[[nodiscard]] unsigned long listener_inode(std::string_view proc_net_tcp, std::uint16_t port);

/// True when an SSH server on this port of loopback answers with its banner ("SSH-") within the time.
[[nodiscard]] bool answers_ssh(std::uint16_t port, std::chrono::milliseconds wait);

}  // namespace vmtest::guest
