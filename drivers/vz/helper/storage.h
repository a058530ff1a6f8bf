#pragma once

#import <Virtualization/Virtualization.h>

#include "host_facts.h"
#include "objc_handle.h"
#include "vm_config.h"

namespace vmtest::vz {

[[nodiscard]] Handle<VZStorageDeviceConfiguration*> make_storage_device(const Disk& disk, const OsVersion& version);
/// A disk to attach while the guest runs.
[[nodiscard]] Handle<VZUSBMassStorageDevice*> make_usb_device(const Disk& disk, const OsVersion& version);

}  // namespace vmtest::vz
