#pragma once

#include <filesystem>
#include <string>

namespace vmtest::cloud_hypervisor {

/// "53.0.0": throws when it is too old, or no version.
void require_version(const std::string& version);

/// What a program says of itself, "53.0.0", asked once for each file. Throws Error with its own words when it does not run.
[[nodiscard]] std::string version_of(const std::filesystem::path& program);

}  // namespace vmtest::cloud_hypervisor
