#include "guest_programs.h"

#include "guest_paths.h"
#include "vmtest/guest_program.h"
#include "vmtest/host/program_files.h"

namespace vmtest {

std::filesystem::path find_guest_agent() {
  return find_own_program("guest-init", "VMTEST_GUEST_INIT", {kInstalledGuestPrograms, kBuiltGuestPrograms});
}

std::filesystem::path find_guest_programs() { return find_guest_agent().parent_path(); }

}  // namespace vmtest
