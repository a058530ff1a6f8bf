#pragma once

#include <chrono>
#include <string>

#include "vmtest/machine_config.h"
#include "vmtest/types.h"

namespace vmtest {

/// What runs a guest on this host, and why.
struct AcceleratorChoice {
  /// Kvm or Tcg.
  Accelerator accelerator = Accelerator::Tcg;
  /// One line: "KVM: a 64-bit guest ran on it", "TCG: /dev/kvm cannot be opened: Permission denied".
  std::string reason;
};

/// Settles which accelerator a guest of architecture `guest` gets. A wish of Auto is first replaced by VMTEST_ACCEL (auto,
/// kvm or tcg); then Kvm demands KVM and throws with the reason when it does not serve (Unsupported when the wish was Kvm, Error
/// when VMTEST_ACCEL demands it), Tcg takes emulation, and Auto takes KVM if it is proven to work. The proof is a small 64-bit
/// guest that really runs (a /dev/kvm that opens proves nothing); its outcome is remembered in cache_dir() until the host boots
/// again or QEMU or the KVM modules change, unless it took too long. Throws Error when VMTEST_ACCEL says something else. May be
/// called by several threads and processes at once.
[[nodiscard]] AcceleratorChoice choose_accelerator(Accelerator wish, Architecture guest);

/// Whether KVM serves guests of `guest` here: proven anew, nothing remembered. The choice's reason says how it went.
[[nodiscard]] AcceleratorChoice prove_kvm(Architecture guest);

}  // namespace vmtest
