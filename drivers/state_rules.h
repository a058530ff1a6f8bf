#pragma once

#include <initializer_list>
#include <string_view>

#include "vmtest/vm_handle.h"

namespace vmtest {

/// Throws Error unless the VM is in one of the states that a call is allowed in; `wanted` says what for ("start", "be paused").
void require_state(const VmHandle& vm, VmState now, std::initializer_list<VmState> allowed, std::string_view wanted);

/// Throws Error when the handle is not that driver's.
void require_kind(const VmHandle& vm, DriverKind kind);

/// Whether the VM's folder is its own, and not what a damaged handle names: only that may be removed.
[[nodiscard]] bool owns_its_folder(const VmHandle& vm);

}  // namespace vmtest
