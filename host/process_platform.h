#pragma once

#include <sys/types.h>

#include <filesystem>

#include "vmtest/host/file_descriptor.h"

namespace vmtest {

/// In a child, between fork and exec: asks the kernel for SIGKILL when `parent`'s thread ends, and ends at once if it has.
/// Async-signal-safe.
void die_with_parent(pid_t parent);
/// In a child, between fork and exec: has its orphaned descendants given to it. Async-signal-safe.
void adopt_orphans();
/// A descriptor that becomes readable when `pid`, an unreaped child or a process known to live, ends.
[[nodiscard]] FileDescriptor open_pidfd(pid_t pid);
/// The file this process was started from.
[[nodiscard]] std::filesystem::path own_program();

}  // namespace vmtest
