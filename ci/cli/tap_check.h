#pragma once

namespace vmtest::cli {

/// Makes a TAP device and removes it. Throws std::system_error.
void try_tap();

}  // namespace vmtest::cli
