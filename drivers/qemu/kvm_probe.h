#pragma once

#include <string_view>

namespace vmtest {

/// A small guest that does what every real kernel does in its first second and firmware does not: paging and 64-bit mode,
/// exceptions, page faults, SSE, MSRs, user mode and system calls, timer interrupts. QEMU's `-kernel` takes it (Multiboot 1).
/// It writes a letter to port 0xE9 after each stage, in the order of kvm_probe_stages(), and ends QEMU through
/// isa-debug-exit at port 0xF4. Empty where this host's architecture has none.
[[nodiscard]] std::string_view kvm_probe_image();

/// What the stage with that letter tries: "timer interrupts".
[[nodiscard]] std::string_view kvm_probe_stage(char letter);

/// QEMU's exit code when all stages passed.
inline constexpr int kKvmProbePassed = (0x2A << 1) | 1;
/// The last stage's letter.
inline constexpr char kKvmProbeLastStage = 'H';

}  // namespace vmtest
