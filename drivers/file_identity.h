#pragma once

#include <filesystem>
#include <string>

namespace vmtest {

// What a frozen VM depends on beside its own files, as text that differs when it does.

/// A file by what changes when it is replaced.
[[nodiscard]] std::string identity_of_file(const std::filesystem::path& file);
/// The files right in a folder; empty when it is not there.
[[nodiscard]] std::string identity_of_folder(const std::filesystem::path& folder);
/// What a guest sees of the host's processor when that executes it.
[[nodiscard]] std::string identity_of_processor();

}  // namespace vmtest
