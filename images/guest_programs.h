#pragma once

#include <filesystem>

namespace vmtest {

/// The folder with the static programs that go into guests: the folder of the program named by
/// `VMTEST_GUEST_INIT`, else beside this program, else the
/// installed libexec folder, else the build tree. Throws Error naming the places looked at.
[[nodiscard]] std::filesystem::path find_guest_programs();

}  // namespace vmtest
