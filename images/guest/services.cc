#include "guest/services.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "guest/console.h"
#include "guest/files.h"

namespace vmtest::guest {
namespace {

constexpr std::chrono::seconds kShortLife{1};
constexpr std::uint16_t kOpensshPort = 22;
/// A server that was told to start anew does so in a fraction of a second, unless it is emulated on a busy host.
constexpr std::chrono::seconds kRestartWait{20};
constexpr useconds_t kRestartPollMicroseconds = 5000;

struct Streams {
  std::string input;
  std::string output;
  int output_flags = 0;
};

std::vector<std::string> base_environment() {
  std::vector<std::string> environment = {std::string("PATH=") + kProgramPath, "HOME=/root", "USER=root", "LOGNAME=root",
                                          "SHELL=/bin/sh"};
  for (std::string& variable : parse_environment(find_file(kEnvironmentFile).value_or(""))) {
    environment.push_back(std::move(variable));
  }
  return environment;
}

std::vector<char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) {
    pointers.push_back(const_cast<char*>(text.c_str()));
  }
  pointers.push_back(nullptr);
  return pointers;
}

pid_t spawn(const std::vector<std::string>& argv, const std::vector<std::string>& environment, const Streams& streams) {
  const std::vector<char*> arguments = pointers_to(argv);
  const std::vector<char*> variables = pointers_to(environment);
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, streams.input.c_str(), O_RDWR, 0);
  posix_spawn_file_actions_addopen(&actions, 1, streams.output.c_str(), streams.output_flags, 0644);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, argv.front().c_str(), &actions, &attributes, arguments.data(), variables.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    throw std::runtime_error("cannot start " + argv.front() + ": " + std::strerror(error));
  }
  return pid;
}

}  // namespace

std::vector<std::string> parse_environment(std::string_view text) {
  std::vector<std::string> variables;
  for (std::string_view line : split(text, "\n")) {
    line = trim(line);
    const std::size_t equals = line.find('=');
    if (line.empty() || line[0] == '#' || equals == std::string_view::npos || equals == 0) {
      continue;
    }
    std::string_view value = line.substr(equals + 1);
    if (value.size() >= 2 && value.front() == '"' && value.back() == '"') {
      value = value.substr(1, value.size() - 2);
    }
    variables.push_back(std::string(line.substr(0, equals + 1)) + std::string(value));
  }
  return variables;
}

pid_t start_program(const std::vector<std::string>& argv, const std::string& output) {
  return spawn(argv, base_environment(), {"/dev/null", output, O_WRONLY | O_CREAT | O_APPEND});
}

pid_t start_on_terminal(const std::vector<std::string>& argv, const std::string& terminal) {
  // A session leader without a terminal gets the first one it opens.
  std::vector<std::string> environment = base_environment();
  environment.push_back("TERM=linux");
  return spawn(argv, environment, {terminal, terminal, O_RDWR});
}

int run_program(const std::vector<std::string>& argv, const std::string& output) {
  const pid_t pid = start_program(argv, output);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

std::string describe_status(int status) {
  return WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status)) : "exit code " + std::to_string(WEXITSTATUS(status));
}

Service::Service(std::string name, std::vector<std::string> argv, std::string terminal)
    : name_(std::move(name)), argv_(std::move(argv)), terminal_(std::move(terminal)) {}

void Service::start() {
  next_start_.reset();
  started_ = Clock::now();
  try {
    pid_ = terminal_.empty() ? start_program(argv_, "/var/log/" + name_ + ".log") : start_on_terminal(argv_, terminal_);
  } catch (const std::runtime_error& error) {
    report_error(name_, error.what());
    next_start_ = started_ + kShortLife;
  }
}

void Service::restart() {
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
  }
  start();
}

bool Service::ended(pid_t pid, int status) {
  if (pid != pid_) {
    return false;
  }
  pid_ = -1;
  const bool brief = Clock::now() - started_ < kShortLife;
  if (terminal_.empty()) {
    report_error(name_, "ended with " + describe_status(status) + ", starting it again");
  }
  next_start_ = brief ? started_ + kShortLife : Clock::now();
  return true;
}

unsigned long listener_inode(std::string_view proc_net_tcp, std::uint16_t port) {
  static constexpr std::size_t kLocalAddress = 1;
  static constexpr std::size_t kState = 3;
  static constexpr std::size_t kInode = 9;
  static constexpr std::string_view kListening = "0A";
  for (const std::string_view line : split(proc_net_tcp, "\n")) {
    const std::vector<std::string_view> words = split(line, " ");
    if (words.size() <= kInode || words[kState] != kListening) {
      continue;
    }
    const std::string address(words[kLocalAddress]);
    const std::size_t colon = address.rfind(':');
    if (colon != std::string::npos && std::strtoul(address.c_str() + colon + 1, nullptr, 16) == port) {
      return std::strtoul(std::string(words[kInode]).c_str(), nullptr, 10);
    }
  }
  return 0;
}

void set_openssh_host_key(const std::string& private_key, const std::string& public_key) {
  write_file("/etc/ssh/ssh_host_ed25519_key", private_key, 0600);
  write_file("/etc/ssh/ssh_host_ed25519_key.pub", public_key + "\n", 0644);
  const auto listener = [] { return listener_inode(find_file("/proc/net/tcp").value_or(""), kOpensshPort); };
  const unsigned long old = listener();
  const long pid = std::strtol(find_file("/run/sshd.pid").value_or("").c_str(), nullptr, 10);
  // It reads its keys anew and keeps the connections it has.
  if (pid <= 1 || kill(static_cast<pid_t>(pid), SIGHUP) != 0) {
    throw std::runtime_error("no sshd to take the new host key: /run/sshd.pid names no process");
  }
  const auto end = std::chrono::steady_clock::now() + kRestartWait;
  for (unsigned long now = old; now == old || now == 0; now = listener()) {
    if (std::chrono::steady_clock::now() > end) {
      throw std::runtime_error("sshd does not listen with its new host key");
    }
    usleep(kRestartPollMicroseconds);
  }
}

bool answers_ssh(std::uint16_t port, std::chrono::milliseconds wait) {
  const Descriptor connection(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (!connection || connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return false;
  }
  pollfd ready{connection.get(), POLLIN, 0};
  char banner[4] = {};
  return poll(&ready, 1, static_cast<int>(wait.count())) == 1 &&
         recv(connection.get(), banner, sizeof banner, 0) == sizeof banner && std::memcmp(banner, "SSH-", 4) == 0;
}

}  // namespace vmtest::guest
