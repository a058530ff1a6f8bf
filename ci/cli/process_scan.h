#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace vmtest::cli {

/// A process found by scan_processes().
struct FoundProcess {
  pid_t pid = -1;
  /// Start time in clock ticks since boot.
  unsigned long long start_time = 0;
  std::string command;
};

/// Processes of this user that were started with `entry` ("NAME=value") in their environment, or inherited it: all that is
/// left of something, wherever it moved in the process tree.
[[nodiscard]] std::vector<FoundProcess> scan_processes(const std::string& entry);

}  // namespace vmtest::cli
