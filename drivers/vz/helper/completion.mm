#include "completion.h"

#include "foundation.h"

namespace vmtest::vz {

void Completion::finish(NSError* error) {
  const std::lock_guard lock(mutex_);
  if (finished_) return;
  finished_ = true;
  if (error != nil) error_ = api_error(error);
  changed_.notify_all();
}

void Completion::wait(const std::string& what, std::chrono::seconds timeout) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, timeout, [this] { return finished_; })) {
    throw ApiError(kTimedOut, what + " did not end within " + std::to_string(timeout.count()) + " s");
  }
  if (error_) throw ApiError(*error_);
}

}  // namespace vmtest::vz
