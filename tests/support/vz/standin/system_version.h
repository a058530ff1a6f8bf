#pragma once

#include <string>

namespace vmtest::vz::standin {

/// Ends the process, as the framework does when it is misused.
[[noreturn]] void misuse(const std::string& what);

struct SystemVersion {
  long major = 0;
  long minor = 0;
};
/// The system to be: VMTEST_SIM_VZ_OS_VERSION, 15.0 if that is not set.
[[nodiscard]] SystemVersion simulated_system();

/// Ends the process when that system is older than what is used: there it would be a message that nobody understands.
void require_system(const char* what, long major, long minor);
/// The same for a class, by its name.
void require_class(const char* name);

}  // namespace vmtest::vz::standin
