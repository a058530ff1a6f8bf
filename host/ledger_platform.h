#pragma once

#include <sys/types.h>

#include <optional>

namespace vmtest {

// Write locks on single bytes that belong to the open file, not to the process: they end with its last descriptor and pass
// to other processes with it (on Linux: open file description locks, fcntl(2)). All throw std::system_error.

/// Locks a byte unless another open file holds it.
[[nodiscard]] bool try_lock_byte(int fd, off_t at);
void unlock_byte(int fd, off_t at);
/// Whether another open file holds a lock in the range.
[[nodiscard]] bool range_is_locked(int fd, off_t at, off_t size);
[[nodiscard]] inline bool byte_is_locked(int fd, off_t at) { return range_is_locked(fd, at, 1); }
/// Where a lock starts that another open file holds in the range: any of them, not the first.
[[nodiscard]] std::optional<off_t> any_lock(int fd, off_t at, off_t size);

/// Memory that programs can have without the host swapping, in MiB (on Linux: MemAvailable of /proc/meminfo).
[[nodiscard]] unsigned long available_memory_mib();

}  // namespace vmtest
