#include "interrupt.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>

namespace vmtest::cli {
namespace {

std::atomic<int> noted_signal = 0;
std::atomic<int> wake_descriptor = -1;

void note(int number) {
  const int error = errno;
  noted_signal = number;
  [[maybe_unused]] const ssize_t count = ::write(wake_descriptor, "", 1);
  errno = error;
}

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

}  // namespace

InterruptGuard::InterruptGuard() : pipe_(make_pipe()) {
  set_nonblocking(pipe_.write_end.get());
  noted_signal = 0;
  wake_descriptor = pipe_.write_end.get();
  for (const int number : kSignals) {
    struct sigaction action {};
    action.sa_handler = note;
    ::sigaction(number, &action, nullptr);
  }
}

InterruptGuard::~InterruptGuard() {
  for (const int number : kSignals) std::signal(number, SIG_DFL);
}

int InterruptGuard::signal() const { return noted_signal; }

}  // namespace vmtest::cli
