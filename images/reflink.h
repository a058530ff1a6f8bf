#pragma once

#include <filesystem>

namespace vmtest {

/// Makes `target`, which must not exist, a copy of `source` that shares its blocks. Throws Unsupported when the file system
/// cannot, std::system_error otherwise; the target is not there then.
void reflink(const std::filesystem::path& source, const std::filesystem::path& target);

}  // namespace vmtest
