#pragma once

#include <sys/types.h>

#include <functional>
#include <initializer_list>
#include <vector>

#include "vmtest/host/file_descriptor.h"

namespace vmtest::supervisor {

/// Makes orphaned descendants children of this process.
void become_reaper();
/// Blocks the signals and makes them readable.
[[nodiscard]] FileDescriptor open_signals(std::initializer_list<int> numbers);
/// The signals that came since the last call; never blocks.
[[nodiscard]] std::vector<int> read_signals(int fd);
/// A descriptor that becomes readable at the end of a process; none when it has ended.
[[nodiscard]] FileDescriptor try_open_pidfd(pid_t pid);
/// Reaps ended children that `is_known` does not claim.
void reap_strays(const std::function<bool(pid_t)>& is_known);
/// Kills and reaps all children; true while some are left.
[[nodiscard]] bool kill_and_reap_children();
/// Closes all descriptors from `first` up.
void close_from(int first);

}  // namespace vmtest::supervisor
