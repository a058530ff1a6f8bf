#pragma once

#import <Virtualization/Virtualization.h>

#include "host_facts.h"
#include "objc_handle.h"
#include "vm_config.h"

namespace vmtest::vz {

[[nodiscard]] Handle<VZBootLoader*> make_boot_loader(const BootLoader& loader);
/// Nothing on systems that have one platform only.
[[nodiscard]] Handle<VZPlatformConfiguration*> make_platform(const Platform& platform, const OsVersion& version);

}  // namespace vmtest::vz
