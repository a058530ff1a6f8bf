#pragma once

#import <Foundation/Foundation.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "api_error.h"

namespace vmtest::vz {

/// The end of something that the framework does by itself. Shared by who waits and by the completion handler, which may come
/// when nobody waits any more.
class Completion {
 public:
  /// nil: it went well.
  void finish(NSError* error);
  /// Throws ApiError with the framework's reasons, or (504) when the time has passed: "`what` did not end within 60 s".
  void wait(const std::string& what, std::chrono::seconds timeout);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool finished_ = false;
  std::optional<ApiError> error_;
};

}  // namespace vmtest::vz
