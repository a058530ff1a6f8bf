#include "api_error.h"
#include "apple_silicon.h"

namespace vmtest::vz {
namespace {

/// Not reached while the configuration is compared with the host's features first.
[[noreturn]] void refuse(const char* what) { throw ApiError(kNotOffered, std::string(what) + " needs Apple silicon"); }

}  // namespace

std::string architecture() { return "x86_64"; }
HostFacts::Rosetta rosetta() { return HostFacts::Rosetta::NotSupported; }
Handle<VZBootLoader*> make_macos_boot_loader() { refuse("boot loader macos"); }
Handle<VZPlatformConfiguration*> make_mac_platform(const Platform& /*platform*/, const OsVersion& /*version*/) {
  refuse("platform mac");
}
Handle<VZDirectoryShare*> make_rosetta_share(const Share& /*share*/) { refuse("a share of Rosetta"); }
Handle<VZGraphicsDeviceConfiguration*> make_mac_graphics(const Graphics& /*graphics*/) { refuse("graphics mac"); }
Handle<VZKeyboardConfiguration*> make_mac_keyboard() { refuse("keyboard mac"); }
Handle<VZPointingDeviceConfiguration*> make_mac_trackpad() { refuse("pointing mac-trackpad"); }
bool can_save(VZVirtualMachineConfiguration* /*configuration*/, NSError** /*error*/) { refuse("saving"); }
void save_state(VZVirtualMachine* /*machine*/, NSURL* /*url*/, void (^/*finished*/)(NSError*)) { refuse("saving"); }
void restore_state(VZVirtualMachine* /*machine*/, NSURL* /*url*/, void (^/*finished*/)(NSError*)) { refuse("restoring"); }

}  // namespace vmtest::vz
