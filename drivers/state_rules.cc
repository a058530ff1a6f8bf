#include "state_rules.h"

#include <algorithm>
#include <string>

#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {

void require_state(const VmHandle& vm, VmState now, std::initializer_list<VmState> allowed, std::string_view wanted) {
  if (std::find(allowed.begin(), allowed.end(), now) != allowed.end()) return;
  throw Error("VM \"" + vm.name + "\" cannot " + std::string(wanted) + ": it is " + std::string(to_string(now)));
}

void require_kind(const VmHandle& vm, DriverKind kind) {
  if (vm.driver == kind) return;
  throw Error("VM \"" + vm.name + "\" belongs to the driver " + std::string(to_string(vm.driver)) + ", not to " +
              std::string(to_string(kind)));
}

bool owns_its_folder(const VmHandle& vm) {
  try {
    return parse_vm_handle(read_file(vm.work_dir / "handle.json")).id == vm.id;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace vmtest
