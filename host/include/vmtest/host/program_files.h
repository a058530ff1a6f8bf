#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace vmtest {

/// Finds a program of ours that this process needs: where the environment variable says, else beside this process' own
/// program, in its installation's libexec folder, or in one of `places` (where this build put it). Throws Error naming all
/// places looked at.
[[nodiscard]] std::filesystem::path find_own_program(const std::string& name, const char* variable,
                                                     const std::vector<std::filesystem::path>& places);

}  // namespace vmtest
