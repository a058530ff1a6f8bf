#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vmtest::guest {

/// When the steps of a boot were done, in seconds since the kernel started (CLOCK_BOOTTIME).
class Timeline {
 public:
  /// Notes that a step is done now.
  void mark(std::string_view step);
  /// One line per step: seconds with three decimals, a blank, its name.
  [[nodiscard]] std::string text() const;

 private:
  std::vector<std::pair<std::string, long>> milliseconds_;
};

}  // namespace vmtest::guest
