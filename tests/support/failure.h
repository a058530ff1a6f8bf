#pragma once

#include <exception>
#include <functional>
#include <string>

namespace vmtest::testing {

/// What the error says that a call throws.
inline std::string failure_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace vmtest::testing
