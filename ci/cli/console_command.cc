#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <string>
#include <string_view>

#include "cli11.h"
#include "exit_codes.h"
#include "interrupt.h"
#include "subcommand.h"
#include "terminal.h"
#include "vm_inventory.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"
#include "vmtest/router_driver.h"

namespace vmtest::cli {

RawTerminal::RawTerminal(int fd) : fd_(fd) {
  termios settings{};
  if (::tcgetattr(fd, &settings) != 0) return;
  before_ = settings;
  ::cfmakeraw(&settings);
  ::tcsetattr(fd, TCSANOW, &settings);
}

RawTerminal::~RawTerminal() {
  if (before_) ::tcsetattr(fd_, TCSANOW, &*before_);
}

namespace {

/// Ctrl-]
constexpr char kDetach = '\x1d';

enum class Flow { GoesOn, Ended, Detached };

/// Passes on what is there to read.
Flow pump(int from, int to, bool watch_keys) {
  std::array<char, 4096> buffer{};
  const ssize_t count = ::read(from, buffer.data(), buffer.size());
  if (count < 0) return errno == EINTR || errno == EAGAIN ? Flow::GoesOn : Flow::Ended;
  if (count == 0) return Flow::Ended;
  const std::string_view text(buffer.data(), static_cast<std::size_t>(count));
  const std::size_t detach = watch_keys ? text.find(kDetach) : std::string_view::npos;
  write_all(to, text.substr(0, detach));
  return detach == std::string_view::npos ? Flow::GoesOn : Flow::Detached;
}

int attach(const std::string& name) {
  const VmEntry vm = find_vm(name);
  const ConsoleEndpoint endpoint = RouterDriver().console_endpoint(vm.handle.value());
  if (endpoint.kind != ConsoleEndpoint::Kind::UnixSocket) throw Error("VM \"" + name + "\" has no console on a Unix socket");
  const FileDescriptor socket = connect_unix(endpoint.address);
  fmt::print(stderr, "attached to {}; Ctrl-] detaches. What was printed before is in {}\n", name, endpoint.log.string());
  const InterruptGuard interrupts;
  const RawTerminal raw(STDIN_FILENO);
  pollfd entries[] = {{STDIN_FILENO, POLLIN, 0}, {socket.get(), POLLIN, 0}, {interrupts.descriptor(), POLLIN, 0}};
  for (;;) {
    if (::poll(entries, 3, -1) < 0 && errno != EINTR) throw_errno("poll");
    if (interrupts.signal() != 0) return kSignalBase + interrupts.signal();
    if (entries[1].revents != 0 && pump(socket.get(), STDOUT_FILENO, false) == Flow::Ended) {
      fmt::print(stderr, "\r\nthe VM has ended\r\n");
      return kSuccess;
    }
    if (entries[0].revents == 0) continue;
    switch (pump(STDIN_FILENO, socket.get(), true)) {
      case Flow::GoesOn:
        break;
      case Flow::Ended:
        entries[0].fd = -1;
        break;  // input that has ended leaves the console to look at
      case Flow::Detached:
        return kSuccess;
    }
  }
}

}  // namespace

void add_console(CLI::App& app, Action& action) {
  const auto name = std::make_shared<std::string>();
  app.add_option("name", *name, "Name of the VM, see `vmtest ps`")->required()->type_name("NAME");
  app.footer(
      "Keys go to the guest as they are. Ctrl-] detaches and leaves the VM running. One person at a time can be attached.\n"
      "Exit codes: 0 detached, or the VM has ended; 2 a wrong command line; 3 there is no such VM, or its console cannot be "
      "reached;\n"
      "128+N ended by signal N.");
  app.final_callback([name, &action] { action = [name] { return attach(*name); }; });
}

}  // namespace vmtest::cli
