#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace vmtest {

/// Something the caller asked for failed. `what()` is the whole story: one line per layer, the outermost first, the cause
/// last, and what the user can do about it where that is known. System calls that fail throw `std::system_error` instead,
/// which `with_context` turns into an `Error` at the next layer boundary.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A deadline passed. Catch it to try again with more time; `what()` says what was waited for and how long.
class Timeout : public Error {
 public:
  using Error::Error;
};

/// This host, hypervisor or image cannot do what was asked, and trying again will not help. Tests turn it into a skip.
class Unsupported : public Error {
 public:
  using Error::Error;
};

/// Rethrows the exception being handled with `context` as a line in front of its text. The type is kept for `Timeout` and
/// `Unsupported`, everything else becomes `Error`. Call it inside a catch block only.
[[noreturn]] void rethrow_with_context(std::string_view context);

/// Runs `body` and returns its result; an exception leaves with `context` as a line in front (see rethrow_with_context).
template <typename Body>
auto with_context(std::string_view context, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (...) {
    rethrow_with_context(context);
  }
}

/// Throws `std::system_error` for the current `errno` with `what` in front of the reason.
[[noreturn]] void throw_errno(const std::string& what);

/// Throws `std::system_error` for the given errno value with `what` in front of the reason.
[[noreturn]] void throw_errno(int error, const std::string& what);

}  // namespace vmtest
