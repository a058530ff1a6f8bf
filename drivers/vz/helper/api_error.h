#pragma once

#include <exception>
#include <string>
#include <utility>
#include <vector>

namespace vmtest::vz {

/// A call that failed: the HTTP status and the messages of the answer's body, outermost first.
class ApiError : public std::exception {
 public:
  ApiError(int status, std::vector<std::string> chain) : status_(status), chain_(std::move(chain)) {
    for (const std::string& message : chain_) what_ += (what_.empty() ? "" : ": ") + message;
  }
  ApiError(int status, std::string message) : ApiError(status, std::vector<std::string>{std::move(message)}) {}

  [[nodiscard]] int status() const { return status_; }
  [[nodiscard]] const std::vector<std::string>& chain() const { return chain_; }
  [[nodiscard]] const char* what() const noexcept override { return what_.c_str(); }

 private:
  int status_;
  std::vector<std::string> chain_;
  std::string what_;
};

/// The body or an argument is not what the call takes.
inline constexpr int kBadRequest = 400;
/// There is no such call, or no VM yet.
inline constexpr int kNotFound = 404;
/// The VM is in a state that does not allow the call.
inline constexpr int kConflict = 409;
/// The framework refused or failed.
inline constexpr int kFailed = 500;
/// This host's system or processor does not offer what was asked for.
inline constexpr int kNotOffered = 501;
/// The framework did not answer in time; what was asked for may happen yet.
inline constexpr int kTimedOut = 504;

}  // namespace vmtest::vz
