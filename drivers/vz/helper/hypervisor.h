#pragma once

#include <memory>

#include "backend.h"

namespace vmtest::vz {

/// Apple's Virtualization.framework.
[[nodiscard]] std::unique_ptr<Hypervisor> make_hypervisor();

}  // namespace vmtest::vz
