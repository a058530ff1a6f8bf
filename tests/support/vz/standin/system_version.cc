#include "system_version.h"

#include <cstdlib>
#include <map>
#include <string_view>

namespace vmtest::vz::standin {
namespace {

/// With which system the classes came, by Apple's documentation of each. Those that are not here came with macOS 11, or are made
/// by the framework itself.
const std::map<std::string_view, long>& systems() {
  static const std::map<std::string_view, long> known = {
      {"VZGenericPlatformConfiguration", 12},
      {"VZHostAudioInputStreamSource", 12},
      {"VZHostAudioOutputStreamSink", 12},
      {"VZMacAuxiliaryStorage", 12},
      {"VZMacGraphicsDeviceConfiguration", 12},
      {"VZMacGraphicsDisplayConfiguration", 12},
      {"VZMacHardwareModel", 12},
      {"VZMacMachineIdentifier", 12},
      {"VZMacOSBootLoader", 12},
      {"VZMacPlatformConfiguration", 12},
      {"VZMultipleDirectoryShare", 12},
      {"VZSharedDirectory", 12},
      {"VZSingleDirectoryShare", 12},
      {"VZUSBKeyboardConfiguration", 12},
      {"VZUSBScreenCoordinatePointingDeviceConfiguration", 12},
      {"VZVirtioFileSystemDeviceConfiguration", 12},
      {"VZVirtioSoundDeviceConfiguration", 12},
      {"VZVirtioSoundDeviceInputStreamConfiguration", 12},
      {"VZVirtioSoundDeviceOutputStreamConfiguration", 12},
      {"VZEFIBootLoader", 13},
      {"VZEFIVariableStore", 13},
      {"VZGenericMachineIdentifier", 13},
      {"VZLinuxRosettaDirectoryShare", 13},
      {"VZMacTrackpadConfiguration", 13},
      {"VZUSBMassStorageDeviceConfiguration", 13},
      {"VZVirtioConsoleDeviceConfiguration", 13},
      {"VZVirtioConsolePortConfiguration", 13},
      {"VZVirtioGraphicsDeviceConfiguration", 13},
      {"VZVirtioGraphicsScanoutConfiguration", 13},
      {"VZDiskBlockDeviceStorageDeviceAttachment", 14},
      {"VZMacKeyboardConfiguration", 14},
      {"VZNVMExpressControllerDeviceConfiguration", 14},
      {"VZNetworkBlockDeviceStorageDeviceAttachment", 14},
      {"VZUSBMassStorageDevice", 15},
      {"VZXHCIControllerConfiguration", 15},
  };
  return known;
}

}  // namespace

SystemVersion simulated_system() {
  const char* const wanted = std::getenv("VMTEST_SIM_VZ_OS_VERSION");
  if (wanted == nullptr) return {15, 0};
  char* end = nullptr;
  const long major = std::strtol(wanted, &end, 10);
  if (end == wanted || *end != '.') misuse("VMTEST_SIM_VZ_OS_VERSION must be like 15.0");
  return {major, std::strtol(end + 1, nullptr, 10)};
}

void require_system(const char* what, long major, long minor) {
  const SystemVersion system = simulated_system();
  if (system.major > major || (system.major == major && system.minor >= minor)) return;
  misuse(std::string(what) + " came with macOS " + std::to_string(major) + "." + std::to_string(minor) + "; this is macOS " +
         std::to_string(system.major) + "." + std::to_string(system.minor));
}

void require_class(const char* name) {
  const auto found = systems().find(name);
  if (found != systems().end()) require_system(name, found->second, 0);
}

}  // namespace vmtest::vz::standin
