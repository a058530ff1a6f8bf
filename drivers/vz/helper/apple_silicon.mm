#include <chrono>

#include "apple_silicon.h"
#include "completion.h"
#include "foundation.h"

namespace vmtest::vz {
namespace {

/// Rosetta comes over the network.
constexpr std::chrono::minutes kInstallTime{10};

}  // namespace

std::string architecture() { return "arm64"; }

HostFacts::Rosetta rosetta() {
  switch ([VZLinuxRosettaDirectoryShare availability]) {
    case VZLinuxRosettaAvailabilityNotSupported:
      return HostFacts::Rosetta::NotSupported;
    case VZLinuxRosettaAvailabilityNotInstalled:
      return HostFacts::Rosetta::NotInstalled;
    case VZLinuxRosettaAvailabilityInstalled:
      return HostFacts::Rosetta::Installed;
  }
  return HostFacts::Rosetta::NotSupported;
}

Handle<VZBootLoader*> make_macos_boot_loader() { return adopt<VZBootLoader*>([[VZMacOSBootLoader alloc] init]); }

Handle<VZPlatformConfiguration*> make_mac_platform(const Platform& platform, const OsVersion& version) {
  const auto model = adopt([[VZMacHardwareModel alloc] initWithDataRepresentation:read_data(platform.hardware_model)]);
  if (!model) throw ApiError(kBadRequest, "platform.hardware_model: no hardware model is in " + platform.hardware_model);
  if (![model.get() isSupported]) throw ApiError(kNotOffered, "platform.hardware_model: this host does not support that model");
  const auto identifier =
      adopt([[VZMacMachineIdentifier alloc] initWithDataRepresentation:read_data(platform.machine_identifier)]);
  if (!identifier) {
    throw ApiError(kBadRequest, "platform.machine_identifier: no machine identifier is in " + platform.machine_identifier);
  }
  // The one initialiser took the other's place.
  NSURL* const url = file_url(platform.auxiliary_storage);
  const auto storage = version < OsVersion{13, 0} ? adopt([[VZMacAuxiliaryStorage alloc] initWithContentsOfURL:url])
                                                  : adopt([[VZMacAuxiliaryStorage alloc] initWithURL:url]);
  const auto configuration = adopt([[VZMacPlatformConfiguration alloc] init]);
  [configuration.get() setHardwareModel:model.get()];
  [configuration.get() setMachineIdentifier:identifier.get()];
  [configuration.get() setAuxiliaryStorage:storage.get()];
  return Handle<VZPlatformConfiguration*>::share(configuration.get());
}

Handle<VZDirectoryShare*> make_rosetta_share(const Share& share) {
  if (share.install && rosetta() == HostFacts::Rosetta::NotInstalled) {
    const auto completion = std::make_shared<Completion>();
    [VZLinuxRosettaDirectoryShare installRosettaWithCompletionHandler:^(NSError* error) {
      completion->finish(error);
    }];
    completion->wait("Rosetta's installation", kInstallTime);
  }
  NSError* error = nil;
  auto directory = adopt<VZDirectoryShare*>([[VZLinuxRosettaDirectoryShare alloc] initWithError:&error]);
  if (!directory) throw api_error(error, "the share '" + share.tag + "' of Rosetta");
  return directory;
}

Handle<VZGraphicsDeviceConfiguration*> make_mac_graphics(const Graphics& graphics) {
  const auto display = adopt([[VZMacGraphicsDisplayConfiguration alloc] initWithWidthInPixels:graphics.width
                                                                               heightInPixels:graphics.height
                                                                                pixelsPerInch:graphics.pixels_per_inch]);
  const auto device = adopt([[VZMacGraphicsDeviceConfiguration alloc] init]);
  [device.get() setDisplays:to_ns_array<id>(display.get())];
  return Handle<VZGraphicsDeviceConfiguration*>::share(device.get());
}

Handle<VZKeyboardConfiguration*> make_mac_keyboard() {
  return adopt<VZKeyboardConfiguration*>([[VZMacKeyboardConfiguration alloc] init]);
}

Handle<VZPointingDeviceConfiguration*> make_mac_trackpad() {
  return adopt<VZPointingDeviceConfiguration*>([[VZMacTrackpadConfiguration alloc] init]);
}

bool can_save(VZVirtualMachineConfiguration* configuration, NSError** error) {
  return [configuration validateSaveRestoreSupportWithError:error];
}

void save_state(VZVirtualMachine* machine, NSURL* url, void (^finished)(NSError*)) {
  [machine saveMachineStateToURL:url completionHandler:finished];
}

void restore_state(VZVirtualMachine* machine, NSURL* url, void (^finished)(NSError*)) {
  [machine restoreMachineStateFromURL:url completionHandler:finished];
}

}  // namespace vmtest::vz
