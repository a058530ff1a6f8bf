#pragma once

#import <Foundation/Foundation.h>

#include <exception>

namespace vmtest::vz {

/// Runs `work` with an autorelease pool of its own, and throws what it throws. A pool alone is not drained by an exception that
/// leaves it.
template <class Work>
void with_pool(const Work& work) {
  std::exception_ptr failure;
  @autoreleasepool {
    try {
      work();
    } catch (...) {
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace vmtest::vz
