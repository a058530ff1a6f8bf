// VZVirtualMachineConfiguration: what the framework refuses of a configuration as a whole.

#import <Virtualization/Virtualization.h>

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <thread>

#include "standin.h"

using namespace vmtest::vz::standin;  // NOLINT(google-build-using-namespace)

namespace {

constexpr uint64_t kMib = 1U << 20;

bool is_there(NSURL* url) { return url != nil && ::access(to_text([url path]).c_str(), R_OK) == 0; }

/// Why the boot loader does not do; empty when it does.
std::string check_boot_loader(VZVirtualMachineConfiguration* configuration) {
  VZBootLoader* const loader = [configuration bootLoader];
  const bool mac_platform = [[configuration platform] isKindOfClass:[VZMacPlatformConfiguration class]];
  if (loader == nil) return "No boot loader is set.";
  if ([loader isKindOfClass:[VZMacOSBootLoader class]]) return mac_platform ? "" : "The boot loader needs the Mac platform.";
  if (mac_platform) return "The Mac platform needs the macOS boot loader.";
  if ([loader isKindOfClass:[VZEFIBootLoader class]]) {
    VZEFIVariableStore* const store = [(VZEFIBootLoader*)loader variableStore];
    if (store == nil) return "The EFI boot loader has no variable store.";
    return is_there([store URL]) ? "" : "The EFI variable store does not exist.";
  }
  VZLinuxBootLoader* const linux = (VZLinuxBootLoader*)loader;
  if (!is_there([linux kernelURL])) return "The kernel does not exist: " + to_text([[linux kernelURL] path]);
  NSURL* const initramfs = [linux initialRamdiskURL];
  if (initramfs != nil && !is_there(initramfs)) return "The initial RAM disk does not exist: " + to_text([initramfs path]);
  return "";
}

std::string check_network(VZNetworkDeviceConfiguration* device) {
  VZNetworkDeviceAttachment* const attachment = [device attachment];
  if (attachment == nil) return "A network device has no attachment.";
  if ([attachment isKindOfClass:[VZBridgedNetworkDeviceAttachment class]]) {
    return "Bridged networking needs the entitlement com.apple.vm.networking.";
  }
  if ([attachment isKindOfClass:[VZFileHandleNetworkDeviceAttachment class]]) {
    VZFileHandleNetworkDeviceAttachment* const frames = (VZFileHandleNetworkDeviceAttachment*)attachment;
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    if (::getpeername([[frames fileHandle] fileDescriptor], reinterpret_cast<sockaddr*>(&peer), &size) != 0) {
      return "The file handle of a network device is no connected datagram socket.";
    }
    const NSInteger mtu = [frames maximumTransmissionUnit];
    if (mtu < 1500 || mtu > 65535) return "The maximum transmission unit is out of range.";
  }
  return "";
}

std::string check_share(VZVirtioFileSystemDeviceConfiguration* device) {
  VZDirectoryShare* const share = [device share];
  if (share == nil) return "A directory sharing device has no share.";
  if ([share isKindOfClass:[VZSingleDirectoryShare class]] && !is_there([[(VZSingleDirectoryShare*)share directory] URL])) {
    return "A shared directory does not exist.";
  }
  return "";
}

template <class Check>
std::string check_each(NSArray* devices, const Check& check) {
  for (NSUInteger i = 0; i < [devices count]; ++i) {
    const std::string reason = check([devices objectAtIndex:i]);
    if (!reason.empty()) return reason;
  }
  return "";
}

std::string check_devices(VZVirtualMachineConfiguration* configuration) {
  std::set<std::string> tags;
  std::set<std::string> identifiers;
  std::string reason = check_each([configuration storageDevices], [&](VZStorageDeviceConfiguration* device) -> std::string {
    if ([device attachment] == nil) return "A storage device has no attachment.";
    if (![device isKindOfClass:[VZVirtioBlockDeviceConfiguration class]]) return "";
    NSString* const identifier = [(VZVirtioBlockDeviceConfiguration*)device blockDeviceIdentifier];
    if (identifier == nil) return "";
    if (to_text(identifier).size() > 20) return "A block device's identifier is too long.";
    return identifiers.insert(to_text(identifier)).second ? "" : "Two block devices have one identifier.";
  });
  if (reason.empty()) reason = check_each([configuration networkDevices], check_network);
  if (reason.empty()) {
    reason = check_each([configuration serialPorts], [](VZSerialPortConfiguration* port) -> std::string {
      return [port attachment] == nil ? "A serial port has no attachment." : "";
    });
  }
  if (reason.empty()) {
    reason =
        check_each([configuration directorySharingDevices], [&](VZVirtioFileSystemDeviceConfiguration* device) -> std::string {
          if (!tags.insert(to_text([device tag])).second) return "Two directory sharing devices have one tag.";
          return check_share(device);
        });
  }
  if (reason.empty() && [[configuration socketDevices] count] > 1) reason = "There is more than one socket device.";
  if (reason.empty() && [[configuration memoryBalloonDevices] count] > 1) reason = "There is more than one memory balloon.";
  if (reason.empty() && [[configuration graphicsDevices] count] > 1) reason = "There is more than one graphics device.";
  return reason;
}

}  // namespace

@implementation VZVirtualMachineConfiguration
+ (uint64_t)minimumAllowedMemorySize {
  return 4 * kMib;
}
+ (uint64_t)maximumAllowedMemorySize {
  return 16384 * kMib;
}
+ (NSUInteger)minimumAllowedCPUCount {
  return 1;
}
+ (NSUInteger)maximumAllowedCPUCount {
  return std::max(2U, std::thread::hardware_concurrency());
}
- (BOOL)validateWithError:(NSError**)error {
  std::string reason = check_boot_loader(self);
  if (reason.empty() && ([self CPUCount] < [VZVirtualMachineConfiguration minimumAllowedCPUCount] ||
                         [self CPUCount] > [VZVirtualMachineConfiguration maximumAllowedCPUCount])) {
    reason = "The number of CPUs is out of range.";
  }
  if (reason.empty() &&
      ([self memorySize] % kMib != 0 || [self memorySize] < [VZVirtualMachineConfiguration minimumAllowedMemorySize] ||
       [self memorySize] > [VZVirtualMachineConfiguration maximumAllowedMemorySize])) {
    reason = "The memory size is out of range or no multiple of a mebibyte.";
  }
  VZPlatformConfiguration* const platform = [self platform];
  if (reason.empty() && [platform isKindOfClass:[VZGenericPlatformConfiguration class]] &&
      [(VZGenericPlatformConfiguration*)platform isNestedVirtualizationEnabled] != NO) {
    reason = "Nested virtualization is not supported.";
  }
  if (reason.empty()) reason = check_devices(self);
  if (reason.empty()) return YES;
  return fail(error, VZErrorInvalidVirtualMachineConfiguration, "Invalid virtual machine configuration.", reason);
}
- (BOOL)validateSaveRestoreSupportWithError:(NSError**)error {
  require_system("validateSaveRestoreSupportWithError:", 14, 0);
  std::string reason;
  if ([[self directorySharingDevices] count] != 0) reason = "It has a directory sharing device.";
  if (reason.empty()) {
    // QEMU's device cannot be saved, whatever the framework's can.
    reason = check_each([self storageDevices], [](VZStorageDeviceConfiguration* device) -> std::string {
      return [device isKindOfClass:[VZNVMExpressControllerDeviceConfiguration class]] ? "It has an NVM Express controller." : "";
    });
  }
  if (reason.empty()) return YES;
  return fail(error, VZErrorNotSupported, "The virtual machine cannot be saved.", reason);
}
VMTEST_STANDIN_OBJECT(VZBootLoader*, bootLoader, setBootLoader)
VMTEST_STANDIN_OBJECT_SINCE(12, 0, VZPlatformConfiguration*, platform, setPlatform)
VMTEST_STANDIN_NUMBER(NSUInteger, CPUCount, setCPUCount)
VMTEST_STANDIN_NUMBER(uint64_t, memorySize, setMemorySize)
VMTEST_STANDIN_OBJECT(NSArray*, storageDevices, setStorageDevices)
VMTEST_STANDIN_OBJECT(NSArray*, networkDevices, setNetworkDevices)
VMTEST_STANDIN_OBJECT(NSArray*, serialPorts, setSerialPorts)
VMTEST_STANDIN_OBJECT_SINCE(13, 0, NSArray*, consoleDevices, setConsoleDevices)
VMTEST_STANDIN_OBJECT(NSArray*, entropyDevices, setEntropyDevices)
VMTEST_STANDIN_OBJECT(NSArray*, memoryBalloonDevices, setMemoryBalloonDevices)
VMTEST_STANDIN_OBJECT(NSArray*, socketDevices, setSocketDevices)
VMTEST_STANDIN_OBJECT_SINCE(12, 0, NSArray*, directorySharingDevices, setDirectorySharingDevices)
VMTEST_STANDIN_OBJECT_SINCE(12, 0, NSArray*, graphicsDevices, setGraphicsDevices)
VMTEST_STANDIN_OBJECT_SINCE(12, 0, NSArray*, audioDevices, setAudioDevices)
VMTEST_STANDIN_OBJECT_SINCE(12, 0, NSArray*, keyboards, setKeyboards)
VMTEST_STANDIN_OBJECT_SINCE(12, 0, NSArray*, pointingDevices, setPointingDevices)
VMTEST_STANDIN_OBJECT_SINCE(15, 0, NSArray*, usbControllers, setUsbControllers)
@end
