#include "supervisor_paths.h"
#include "vmtest/host/program_files.h"
#include "vmtest/supervisor.h"

namespace vmtest {

std::filesystem::path find_supervisor() {
  return find_own_program("vmtest-supervisor", "VMTEST_SUPERVISOR", {kInstalledLibexec, kBuildTree});
}

}  // namespace vmtest
