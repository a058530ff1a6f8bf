#pragma once

#include <string>

namespace vmtest {

/// How a hypervisor ended.
struct VmExit {
  /// One line: "QEMU ended with exit code 1".
  std::string how;
  /// The last lines it wrote to its standard error.
  std::string last_words;
  /// Whether somebody asked for it (stop, destroy, a guest's own power-off).
  bool orderly = false;
  /// Whether stop() had to end it by a signal: the guest did not power off in time, or was not to be asked.
  bool forced = false;
  /// The signal that ended the hypervisor, 0 when none did.
  int signal = 0;
};

}  // namespace vmtest
