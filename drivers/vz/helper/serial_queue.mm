#include "serial_queue.h"

#include <exception>

#include "autorelease.h"

namespace vmtest::vz {

SerialQueue::SerialQueue() : queue_(dispatch_queue_create("org.vmtest.vz-helper", DISPATCH_QUEUE_SERIAL)) {}

void SerialQueue::sync(const std::function<void()>& work) {
  // An exception must not pass through the queue's own code.
  __block std::exception_ptr failure;
  const std::function<void()>* const borrowed = &work;
  dispatch_sync(queue_, ^{
    try {
      with_pool(*borrowed);
    } catch (...) {
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace vmtest::vz
