#include "vm_core.h"

#include "vmtest/error.h"

namespace vmtest::vz::standin {

VmCore& core_of(NSObject* machine) { return *static_cast<VmCore*>(state_of(machine).core.get()); }

VmCore& checked(NSObject* machine, const char* what) {
  VmCore& core = core_of(machine);
  if (!on_queue(core.queue)) misuse(std::string(what) + " is called off the VM's queue");
  return core;
}

void answer(VmCore& core, Completion handler, NSError* error) {
  dispatch_async(core.queue, ^{
    handler(error);
  });
}

NSError* wrong_state(const char* what) {
  return make_error(VZErrorInvalidVirtualMachineStateTransition, "Invalid virtual machine state transition.",
                    std::string("Transition from the current state by ") + what + " is invalid.");
}

NSError* failure(NSInteger code, const char* description, const std::exception& error) {
  const bool unsupported = dynamic_cast<const Unsupported*>(&error) != nullptr;
  return make_error(unsupported ? VZErrorNotSupported : code, description, error.what());
}

}  // namespace vmtest::vz::standin
