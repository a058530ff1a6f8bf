// The program: options, signals, the API's server. What talks to the framework is behind make_hypervisor().

#include <httplib.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <thread>

#include "api_server.h"
#include "event_log.h"
#include "exit_request.h"
#include "hypervisor.h"
#include "options.h"
#include "unix_socket.h"

namespace vmtest::vz {
namespace {

/// Calls that are under way when the process is to end get so long; the VM ends with the process anyway.
constexpr std::chrono::seconds kGrace{3};

/// Signals are waited for by a thread: a handler could do next to nothing.
void watch_signals(const sigset_t& signals, ExitRequest& exit) {
  std::thread([signals, &exit] {
    int number = 0;
    while (::sigwait(&signals, &number) != 0) {
    }
    exit.ask(0, "signal " + std::to_string(number));
  }).detach();
}

void watch_owner(int fd, ExitRequest& exit) {
  std::thread([fd, &exit] {
    char byte = 0;
    for (;;) {
      const ssize_t count = ::read(fd, &byte, 1);
      if (count == 0 || (count < 0 && errno != EINTR)) break;
    }
    exit.ask(0, "the owner has gone");
  }).detach();
}

int run(const Options& options) {
  // Sockets and logs are this user's business alone.
  ::umask(0077);
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  // macOS has macros of these names, which cannot stand behind "::".
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, number);
  // Before the first thread, so that all of them inherit it.
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  EventLog events = options.event_file.empty() ? EventLog() : EventLog(options.event_file);
  // Threads that are not waited for have it to the very end.
  static ExitRequest exit;
  const std::unique_ptr<Hypervisor> hypervisor = make_hypervisor();
  ApiServer api(*hypervisor, events, exit, options.after_guest);

  httplib::Server server;
  api.route(server);
  server.set_address_family(AF_UNIX);
  server.set_payload_max_length(1U << 20);
  remove_stale_socket(options.api_socket);
  if (!server.bind_to_port(options.api_socket, 80)) throw_errno("cannot listen on " + options.api_socket);
  RemovedPath socket_path(options.api_socket);

  watch_signals(signals, exit);
  if (options.owner_fd >= 0) watch_owner(options.owner_fd, exit);
  events.record("listening");

  std::atomic<bool> ended = false;
  ExitRequest::Wish wish;
  std::thread ending([&] {
    wish = exit.wait();
    const auto last = std::chrono::steady_clock::now() + kGrace;
    while (!ended) {
      // Has no effect on a server that does not serve yet.
      server.stop();
      if (std::chrono::steady_clock::now() > last) {
        ::unlink(options.api_socket.c_str());
        ::_exit(wish.code);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  if (!server.listen_after_bind()) exit.ask(1, "the server ended by itself");
  api.drop_vm();
  ended = true;
  ending.join();
  events.record("exit", {{"code", wish.code}, {"why", wish.why}});
  return wish.code;
}

int print_capabilities() {
  std::puts(capabilities_of(make_hypervisor()->facts()).dump().c_str());
  return 0;
}

}  // namespace
}  // namespace vmtest::vz

int main(int argc, char** argv) {
  try {
    const auto options = vmtest::vz::parse_options({argv + 1, argv + argc});
    if (options.help) {
      std::fputs(vmtest::vz::kUsage, stdout);
      return 0;
    }
    const int code = options.capabilities ? vmtest::vz::print_capabilities() : vmtest::vz::run(options);
    // Statics must not be torn down under the threads that wait for signals and for the owner.
    std::fflush(nullptr);
    ::_exit(code);
  } catch (const vmtest::vz::UsageError& error) {
    std::fprintf(stderr, "vmtest-vz-helper: %s\n%s", error.what(), vmtest::vz::kUsage);
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "vmtest-vz-helper: %s\n", error.what());
    return 1;
  }
}
