#pragma once

#include <chrono>

namespace vmtest {

/// A point in time after which waiting ends, on the steady clock. A value: copy it freely, share it between threads.
class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  /// The deadline `duration` from now. Very long durations saturate instead of overflowing.
  [[nodiscard]] static Deadline after(std::chrono::nanoseconds duration);
  /// The deadline at `point`.
  [[nodiscard]] static Deadline at(Clock::time_point point);

  /// Whether it has passed.
  [[nodiscard]] bool expired() const;
  /// The time left, zero once it has passed, rounded up to whole milliseconds so that waiting for it reaches it.
  [[nodiscard]] std::chrono::milliseconds remaining() const;
  /// The time left as a `poll(2)` time-out: milliseconds, at most `most`.
  [[nodiscard]] int poll_timeout(std::chrono::milliseconds most = std::chrono::hours(24)) const;
  /// The nearer of two deadlines.
  [[nodiscard]] Deadline earlier(const Deadline& other) const;
  [[nodiscard]] Clock::time_point time_point() const { return point_; }

 private:
  explicit Deadline(Clock::time_point point) : point_(point) {}

  Clock::time_point point_;
};

}  // namespace vmtest
