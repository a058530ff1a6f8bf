#pragma once

#include <filesystem>

namespace vmtest {

/// The folder of find_guest_agent(), for recipes.
[[nodiscard]] std::filesystem::path find_guest_programs();

}  // namespace vmtest
