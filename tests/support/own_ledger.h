#pragma once

#include <sched.h>
#include <sys/mount.h>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"

namespace vmtest::testing {

/// Gives this thread, and the threads and processes that it starts from now on, a ledger and short-lived folders that no test
/// beside this one uses. False where that needs root.
[[nodiscard]] inline bool take_own_ledger() {
  if (::unshare(CLONE_NEWNS) != 0) return false;
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) throw_errno("cannot make mounts private");
  if (::mount("tmpfs", ledger_dir().c_str(), "tmpfs", 0, "mode=700") != 0) throw_errno("cannot mount a ledger");
  return true;
}

}  // namespace vmtest::testing
