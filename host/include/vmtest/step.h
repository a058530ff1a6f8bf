#pragma once

#include <chrono>
#include <string_view>

namespace vmtest {

/// A step of something longer, and when it was done. What tells of its steps names them in its documentation.
struct Step {
  /// Outlives the program: a literal.
  std::string_view what;
  std::chrono::steady_clock::time_point at;
};

}  // namespace vmtest
