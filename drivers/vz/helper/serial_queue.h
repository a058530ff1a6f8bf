#pragma once

#import <dispatch/dispatch.h>

#include <functional>

namespace vmtest::vz {

/// The queue on which all is done that the framework wants done in turn. Lives as long as the process.
class SerialQueue {
 public:
  SerialQueue();

  /// Runs `work` on the queue, waits for it and throws what it throws. Not to be called on the queue.
  void sync(const std::function<void()>& work);
  [[nodiscard]] dispatch_queue_t get() const { return queue_; }

 private:
  dispatch_queue_t queue_;
};

}  // namespace vmtest::vz
