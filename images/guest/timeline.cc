#include "guest/timeline.h"

#include <time.h>

#include <array>
#include <cstdio>

namespace vmtest::guest {

void Timeline::mark(std::string_view step) {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  milliseconds_.emplace_back(step, now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

std::string Timeline::text() const {
  std::string out;
  for (const auto& [step, time] : milliseconds_) {
    std::array<char, 32> seconds{};
    std::snprintf(seconds.data(), seconds.size(), "%ld.%03ld ", time / 1000, time % 1000);
    out += seconds.data() + step + "\n";
  }
  return out;
}

}  // namespace vmtest::guest
