// The classes that describe how a VM boots, its platform and its disks. They hold what they are given, and refuse at once what
// the framework refuses at once.

#import <Virtualization/Virtualization.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "standin.h"

using namespace vmtest::vz::standin;  // NOLINT(google-build-using-namespace)

// Boot loaders and platforms

@implementation VZBootLoader
@end

@implementation VZLinuxBootLoader
- (instancetype)initWithKernelURL:(NSURL*)url {
  set_object(self, "kernelURL", url);
  set_object(self, "commandLine", to_ns(""));
  return self;
}
VMTEST_STANDIN_READ_OBJECT(NSURL*, kernelURL)
VMTEST_STANDIN_OBJECT(NSString*, commandLine, setCommandLine)
VMTEST_STANDIN_OBJECT(NSURL*, initialRamdiskURL, setInitialRamdiskURL)
@end

@implementation VZEFIVariableStore
- (instancetype)initWithURL:(NSURL*)url {
  set_object(self, "URL", url);
  return self;
}
- (instancetype)initCreatingVariableStoreAtURL:(NSURL*)url
                                       options:(VZEFIVariableStoreInitializationOptions)options
                                         error:(NSError**)error {
  (void)options;
  std::error_code failure;
  // Debian's ovmf.
  std::filesystem::copy_file("/usr/share/OVMF/OVMF_VARS_4M.fd", to_text([url path]), failure);
  if (failure) {
    fail(error, VZErrorInternal, "The EFI variable store cannot be made.", failure.message());
    [self release];
    return nil;
  }
  std::filesystem::permissions(to_text([url path]), std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  return [self initWithURL:url];
}
VMTEST_STANDIN_READ_OBJECT(NSURL*, URL)
@end

@implementation VZEFIBootLoader
VMTEST_STANDIN_OBJECT(VZEFIVariableStore*, variableStore, setVariableStore)
@end

@implementation VZMacOSBootLoader
@end

@implementation VZPlatformConfiguration
@end

/// What identifiers and models are made of here.
static constexpr const char* kIdentifierMark = "vmtest-machine-";

@implementation VZGenericMachineIdentifier
- (instancetype)init {
  static int made = 0;
  const std::string text = kIdentifierMark + std::to_string(::getpid()) + "-" + std::to_string(++made);
  set_object(self, "dataRepresentation", [NSData dataWithBytes:text.data() length:text.size()]);
  return self;
}
- (instancetype)initWithDataRepresentation:(NSData*)data {
  const std::string text(static_cast<const char*>([data bytes]), [data length]);
  if (text.rfind(kIdentifierMark, 0) != 0) {
    [self release];
    return nil;
  }
  set_object(self, "dataRepresentation", data);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(NSData*, dataRepresentation)
@end

@implementation VZGenericPlatformConfiguration
+ (BOOL)isNestedVirtualizationSupported {
  require_system("isNestedVirtualizationSupported", 15, 0);
  return NO;
}
VMTEST_STANDIN_OBJECT_SINCE(13, 0, VZGenericMachineIdentifier*, machineIdentifier, setMachineIdentifier)
VMTEST_STANDIN_NUMBER_SINCE(15, 0, BOOL, isNestedVirtualizationEnabled, setNestedVirtualizationEnabled)
@end

@implementation VZMacHardwareModel
- (instancetype)initWithDataRepresentation:(NSData*)data {
  if ([data length] == 0) {
    [self release];
    return nil;
  }
  set_object(self, "dataRepresentation", data);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(NSData*, dataRepresentation)
- (BOOL)isSupported {
  return YES;
}
@end

@implementation VZMacMachineIdentifier
- (instancetype)initWithDataRepresentation:(NSData*)data {
  if ([data length] == 0) {
    [self release];
    return nil;
  }
  set_object(self, "dataRepresentation", data);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(NSData*, dataRepresentation)
@end

@implementation VZMacAuxiliaryStorage
- (instancetype)initWithURL:(NSURL*)url {
  require_system("VZMacAuxiliaryStorage's initWithURL:", 13, 0);
  set_object(self, "URL", url);
  return self;
}
- (instancetype)initWithContentsOfURL:(NSURL*)url {
  set_object(self, "URL", url);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(NSURL*, URL)
@end

@implementation VZMacPlatformConfiguration
VMTEST_STANDIN_OBJECT(VZMacHardwareModel*, hardwareModel, setHardwareModel)
VMTEST_STANDIN_OBJECT(VZMacMachineIdentifier*, machineIdentifier, setMachineIdentifier)
VMTEST_STANDIN_OBJECT(VZMacAuxiliaryStorage*, auxiliaryStorage, setAuxiliaryStorage)
@end

// Disks

@implementation VZStorageDeviceAttachment
@end

/// What both initialisers of an image's attachment do.
static id init_image(VZDiskImageStorageDeviceAttachment* self, NSURL* url, BOOL readOnly, VZDiskImageCachingMode cachingMode,
                     VZDiskImageSynchronizationMode synchronizationMode, NSError** error) {
  const std::string path = to_text([url path]);
  struct stat info {};
  std::string reason;
  if (::stat(path.c_str(), &info) != 0) {
    reason = "The file does not exist.";
  } else if (!S_ISREG(info.st_mode)) {
    reason = "It is no regular file.";
  } else if (::access(path.c_str(), readOnly != NO ? R_OK : R_OK | W_OK) != 0) {
    reason = "The file cannot be opened.";
  } else if (info.st_size == 0 || info.st_size % 512 != 0) {
    reason = "Its size is no multiple of 512 bytes.";
  }
  if (!reason.empty()) {
    fail(error, VZErrorInvalidDiskImage, "The disk image cannot be used.", reason);
    [self release];
    return nil;
  }
  set_object(self, "URL", url);
  set_number(self, "isReadOnly", readOnly);
  set_number(self, "cachingMode", cachingMode);
  set_number(self, "synchronizationMode", synchronizationMode);
  return self;
}

@implementation VZDiskImageStorageDeviceAttachment
- (instancetype)initWithURL:(NSURL*)url readOnly:(BOOL)readOnly error:(NSError**)error {
  return init_image(self, url, readOnly, VZDiskImageCachingModeAutomatic, VZDiskImageSynchronizationModeFull, error);
}
- (instancetype)initWithURL:(NSURL*)url
                   readOnly:(BOOL)readOnly
                cachingMode:(VZDiskImageCachingMode)cachingMode
        synchronizationMode:(VZDiskImageSynchronizationMode)synchronizationMode
                      error:(NSError**)error {
  require_system("initWithURL:readOnly:cachingMode:synchronizationMode:error:", 12, 0);
  return init_image(self, url, readOnly, cachingMode, synchronizationMode, error);
}
VMTEST_STANDIN_READ_OBJECT(NSURL*, URL)
VMTEST_STANDIN_READ_NUMBER(BOOL, isReadOnly)
VMTEST_STANDIN_READ_NUMBER(VZDiskImageCachingMode, cachingMode)
VMTEST_STANDIN_READ_NUMBER(VZDiskImageSynchronizationMode, synchronizationMode)
@end

@implementation VZDiskBlockDeviceStorageDeviceAttachment
- (instancetype)initWithFileHandle:(NSFileHandle*)handle
                          readOnly:(BOOL)readOnly
               synchronizationMode:(VZDiskSynchronizationMode)synchronizationMode
                             error:(NSError**)error {
  struct stat info {};
  if (::fstat([handle fileDescriptor], &info) != 0 || !S_ISBLK(info.st_mode)) {
    fail(error, VZErrorInvalidDiskImage, "The block device cannot be used.", "It is no block device.");
    [self release];
    return nil;
  }
  set_object(self, "fileHandle", handle);
  set_number(self, "isReadOnly", readOnly);
  set_number(self, "synchronizationMode", synchronizationMode);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(NSFileHandle*, fileHandle)
VMTEST_STANDIN_READ_NUMBER(BOOL, isReadOnly)
@end

@implementation VZNetworkBlockDeviceStorageDeviceAttachment
- (instancetype)initWithURL:(NSURL*)url
                    timeout:(NSTimeInterval)timeout
             forcedReadOnly:(BOOL)forcedReadOnly
        synchronizationMode:(VZDiskSynchronizationMode)synchronizationMode
                      error:(NSError**)error {
  (void)timeout;
  const std::string text = to_text([url absoluteString]);
  if (text.rfind("nbd", 0) != 0) {
    fail(error, VZErrorInvalidDiskImage, "The network block device cannot be used.", "The URL is not valid.");
    [self release];
    return nil;
  }
  set_object(self, "URL", url);
  set_number(self, "isForcedReadOnly", forcedReadOnly);
  set_number(self, "synchronizationMode", synchronizationMode);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(NSURL*, URL)
VMTEST_STANDIN_READ_NUMBER(BOOL, isForcedReadOnly)
@end

/// VMTEST_SIM_VZ_DISK_LOG: a file that gets a line for each disk of an image, for tests of what the framework is asked for: the
/// device's class, the file, and the attachment's modes as the framework's numbers.
static void log_disk(const char* device, VZStorageDeviceAttachment* attachment) {
  const char* const log = std::getenv("VMTEST_SIM_VZ_DISK_LOG");
  if (log == nullptr || [attachment isKindOfClass:[VZDiskImageStorageDeviceAttachment class]] == NO) return;
  auto* const image = (VZDiskImageStorageDeviceAttachment*)attachment;
  std::ofstream(log, std::ios::app) << device << " " << to_text([[image URL] path]) << " caching "
                                    << static_cast<long>([image cachingMode]) << " synchronization "
                                    << static_cast<long>([image synchronizationMode])
                                    << ([image isReadOnly] != NO ? " read-only\n" : "\n");
}

@implementation VZStorageDeviceConfiguration
VMTEST_STANDIN_READ_OBJECT(VZStorageDeviceAttachment*, attachment)
@end

@implementation VZVirtioBlockDeviceConfiguration
- (instancetype)initWithAttachment:(VZStorageDeviceAttachment*)attachment {
  log_disk("VZVirtioBlockDeviceConfiguration", attachment);
  set_object(self, "attachment", attachment);
  return self;
}
VMTEST_STANDIN_OBJECT_SINCE(12, 3, NSString*, blockDeviceIdentifier, setBlockDeviceIdentifier)
@end

@implementation VZNVMExpressControllerDeviceConfiguration
- (instancetype)initWithAttachment:(VZStorageDeviceAttachment*)attachment {
  log_disk("VZNVMExpressControllerDeviceConfiguration", attachment);
  set_object(self, "attachment", attachment);
  return self;
}
@end

@implementation VZUSBMassStorageDeviceConfiguration
- (instancetype)initWithAttachment:(VZStorageDeviceAttachment*)attachment {
  log_disk("VZUSBMassStorageDeviceConfiguration", attachment);
  set_object(self, "attachment", attachment);
  return self;
}
@end

@implementation VZUSBControllerConfiguration
@end
@implementation VZXHCIControllerConfiguration
@end
