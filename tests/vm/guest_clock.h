#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <string_view>

#include "vmtest/error.h"
#include "vmtest/vm.h"

namespace vmtest::testing {

/// How a guest's clock compares to the host's, in seconds.
struct ClockReading {
  /// Of the guest's clock, if it was read half-way between question and answer; the truth is within half a round trip of it.
  double ahead = 0;
  double round_trip = 0;
};

/// Asks one process of the guest for the time until an answer comes within a few milliseconds, and for two seconds at most. The
/// quickest answer says most.
[[nodiscard]] inline ClockReading read_clock(Vm& vm) {
  constexpr double kQuick = 0.005;
  constexpr std::chrono::seconds kTime{2};
  constexpr std::chrono::seconds kAnswerTime{20};
  const auto now = [] { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); };
  std::mutex mutex;
  std::condition_variable arrived;
  std::string answer;
  double arrival = 0;
  // A variable of the shell: nothing has to be started for the answer.
  GuestCommand command("while read -r question; do echo $EPOCHREALTIME; done");
  command.on_stdout = [&](std::string_view text) {
    const double at = now();
    const std::lock_guard lock(mutex);
    answer += text;
    arrival = at;
    arrived.notify_one();
  };
  const auto clock = vm.spawn(command);
  ClockReading best{.round_trip = 3600};
  const Deadline deadline = Deadline::after(kTime);
  do {
    const double asked = now();
    clock->write("?\n", kAnswerTime);
    std::unique_lock lock(mutex);
    if (!arrived.wait_for(lock, kAnswerTime, [&] { return answer.ends_with('\n'); }))
      throw Timeout("the guest does not tell the time");
    const double round_trip = arrival - asked;
    if (round_trip < best.round_trip) best = {std::stod(answer) - asked - round_trip / 2, round_trip};
    answer.clear();
  } while (best.round_trip > kQuick && !deadline.expired());
  return best;
}

}  // namespace vmtest::testing
