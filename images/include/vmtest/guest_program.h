#pragma once

#include <filesystem>

namespace vmtest {

/// The static program of ours that runs in guests: PID 1 of `tiny`, and with the argument "agent" the guest agent of any other
/// Linux. Found as VMTEST_GUEST_INIT, else beside this program, else installed, else in the build tree. Throws Error naming the
/// places looked at.
[[nodiscard]] std::filesystem::path find_guest_agent();

}  // namespace vmtest
