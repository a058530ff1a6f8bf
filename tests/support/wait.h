#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

#include "vmtest/deadline.h"

namespace vmtest::testing {

/// Polls `predicate` until it is true or the deadline passes, and returns what it said last.
template <typename Predicate>
[[nodiscard]] bool wait_until(Predicate predicate, const Deadline& deadline) {
  constexpr std::chrono::milliseconds kPoll{2};
  while (!predicate()) {
    if (deadline.expired()) return predicate();
    std::this_thread::sleep_for(std::min(kPoll, deadline.remaining()));
  }
  return true;
}

}  // namespace vmtest::testing
