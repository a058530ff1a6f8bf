#pragma once

#include "vmtest/host/file_descriptor.h"

namespace vmtest::cli {

/// While it lives, SIGINT, SIGTERM and SIGHUP are noted instead of ending this process. One at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  /// Readable once a signal came.
  [[nodiscard]] int descriptor() const { return pipe_.read_end.get(); }
  /// The signal that came, or 0.
  [[nodiscard]] int signal() const;

 private:
  Pipe pipe_;
};

}  // namespace vmtest::cli
