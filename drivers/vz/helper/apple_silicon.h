#pragma once

#import <Virtualization/Virtualization.h>

#include <string>

#include "host_facts.h"
#include "objc_handle.h"
#include "vm_config.h"

namespace vmtest::vz {

// What the framework's headers declare for Apple silicon alone. The build takes apple_silicon.mm there and
// apple_silicon_none.mm, which refuses, elsewhere.

/// "arm64" or "x86_64".
[[nodiscard]] std::string architecture();
[[nodiscard]] HostFacts::Rosetta rosetta();
[[nodiscard]] Handle<VZBootLoader*> make_macos_boot_loader();
[[nodiscard]] Handle<VZPlatformConfiguration*> make_mac_platform(const Platform& platform, const OsVersion& version);
[[nodiscard]] Handle<VZDirectoryShare*> make_rosetta_share(const Share& share);
[[nodiscard]] Handle<VZGraphicsDeviceConfiguration*> make_mac_graphics(const Graphics& graphics);
[[nodiscard]] Handle<VZKeyboardConfiguration*> make_mac_keyboard();
[[nodiscard]] Handle<VZPointingDeviceConfiguration*> make_mac_trackpad();
/// Whether the framework can save and restore such a VM.
[[nodiscard]] bool can_save(VZVirtualMachineConfiguration* configuration, NSError** error);
void save_state(VZVirtualMachine* machine, NSURL* url, void (^finished)(NSError*));
void restore_state(VZVirtualMachine* machine, NSURL* url, void (^finished)(NSError*));

}  // namespace vmtest::vz
