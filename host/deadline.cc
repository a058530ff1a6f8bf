#include "vmtest/deadline.h"

#include <algorithm>

namespace vmtest {

Deadline Deadline::after(std::chrono::nanoseconds duration) {
  const auto now = Clock::now();
  const auto room = Clock::time_point::max() - now;
  return Deadline(duration > room ? Clock::time_point::max() : now + duration);
}

Deadline Deadline::at(Clock::time_point point) { return Deadline(point); }

bool Deadline::expired() const { return Clock::now() >= point_; }

std::chrono::milliseconds Deadline::remaining() const {
  const auto now = Clock::now();
  if (now >= point_) return std::chrono::milliseconds(0);
  return std::chrono::ceil<std::chrono::milliseconds>(point_ - now);
}

int Deadline::poll_timeout(std::chrono::milliseconds most) const {
  return static_cast<int>(std::min({remaining(), most, std::chrono::milliseconds(24 * 3600 * 1000)}).count());
}

Deadline Deadline::earlier(const Deadline& other) const { return Deadline(std::min(point_, other.point_)); }

}  // namespace vmtest
