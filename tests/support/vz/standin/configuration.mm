// The classes that describe a VM. They hold what they are given, and refuse at once what the framework refuses at once.

#import <Virtualization/Virtualization.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

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
  return NO;
}
VMTEST_STANDIN_OBJECT(VZGenericMachineIdentifier*, machineIdentifier, setMachineIdentifier)
VMTEST_STANDIN_NUMBER(BOOL, isNestedVirtualizationEnabled, setNestedVirtualizationEnabled)
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

@implementation VZDiskImageStorageDeviceAttachment
- (instancetype)initWithURL:(NSURL*)url readOnly:(BOOL)readOnly error:(NSError**)error {
  return [self initWithURL:url
                  readOnly:readOnly
               cachingMode:VZDiskImageCachingModeAutomatic
       synchronizationMode:VZDiskImageSynchronizationModeFull
                     error:error];
}
- (instancetype)initWithURL:(NSURL*)url
                   readOnly:(BOOL)readOnly
                cachingMode:(VZDiskImageCachingMode)cachingMode
        synchronizationMode:(VZDiskImageSynchronizationMode)synchronizationMode
                      error:(NSError**)error {
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

@implementation VZStorageDeviceConfiguration
VMTEST_STANDIN_READ_OBJECT(VZStorageDeviceAttachment*, attachment)
@end

@implementation VZVirtioBlockDeviceConfiguration
- (instancetype)initWithAttachment:(VZStorageDeviceAttachment*)attachment {
  set_object(self, "attachment", attachment);
  return self;
}
VMTEST_STANDIN_OBJECT(NSString*, blockDeviceIdentifier, setBlockDeviceIdentifier)
@end

@implementation VZNVMExpressControllerDeviceConfiguration
- (instancetype)initWithAttachment:(VZStorageDeviceAttachment*)attachment {
  set_object(self, "attachment", attachment);
  return self;
}
@end

@implementation VZUSBMassStorageDeviceConfiguration
- (instancetype)initWithAttachment:(VZStorageDeviceAttachment*)attachment {
  set_object(self, "attachment", attachment);
  return self;
}
@end

@implementation VZUSBControllerConfiguration
@end
@implementation VZXHCIControllerConfiguration
@end

// Network

@implementation VZMACAddress
- (instancetype)initWithString:(NSString*)text {
  const std::string address = to_text(text);
  bool valid = address.size() == 17;
  for (std::size_t i = 0; valid && i < address.size(); ++i) {
    valid = i % 3 == 2 ? address[i] == ':' : std::isxdigit(static_cast<unsigned char>(address[i])) != 0;
  }
  if (!valid) {
    [self release];
    return nil;
  }
  set_object(self, "string", text);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(NSString*, string)
@end

@implementation VZNetworkDeviceAttachment
@end
@implementation VZNATNetworkDeviceAttachment
@end

@implementation VZFileHandleNetworkDeviceAttachment
- (instancetype)initWithFileHandle:(NSFileHandle*)handle {
  set_object(self, "fileHandle", handle);
  set_number(self, "maximumTransmissionUnit", 1500);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(NSFileHandle*, fileHandle)
VMTEST_STANDIN_NUMBER(NSInteger, maximumTransmissionUnit, setMaximumTransmissionUnit)
@end

@implementation VZBridgedNetworkInterface
+ (NSArray<VZBridgedNetworkInterface*>*)networkInterfaces {
  VZBridgedNetworkInterface* const interface = [[[self alloc] init] autorelease];
  set_object(interface, "identifier", to_ns("en0"));
  return [NSArray arrayWithObjects:&interface count:1];
}
VMTEST_STANDIN_READ_OBJECT(NSString*, identifier)
@end

@implementation VZBridgedNetworkDeviceAttachment
- (instancetype)initWithInterface:(VZBridgedNetworkInterface*)interface {
  set_object(self, "interface", interface);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(VZBridgedNetworkInterface*, interface)
@end

@implementation VZNetworkDeviceConfiguration
VMTEST_STANDIN_OBJECT(VZMACAddress*, MACAddress, setMACAddress)
VMTEST_STANDIN_OBJECT(VZNetworkDeviceAttachment*, attachment, setAttachment)
@end
@implementation VZVirtioNetworkDeviceConfiguration
@end

// Serial ports and consoles

@implementation VZSerialPortAttachment
@end

@implementation VZFileSerialPortAttachment
- (instancetype)initWithURL:(NSURL*)url append:(BOOL)append error:(NSError**)error {
  const std::string path = to_text([url path]);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | (append != NO ? O_APPEND : O_TRUNC), 0600);
  if (fd < 0) {
    fail(error, VZErrorInvalidVirtualMachineConfiguration, "The serial port's file cannot be opened.", path);
    [self release];
    return nil;
  }
  ::close(fd);
  set_object(self, "URL", url);
  set_number(self, "append", append);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(NSURL*, URL)
VMTEST_STANDIN_READ_NUMBER(BOOL, append)
@end

@implementation VZFileHandleSerialPortAttachment
- (instancetype)initWithFileHandleForReading:(NSFileHandle*)reading fileHandleForWriting:(NSFileHandle*)writing {
  set_object(self, "fileHandleForReading", reading);
  set_object(self, "fileHandleForWriting", writing);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(NSFileHandle*, fileHandleForReading)
VMTEST_STANDIN_READ_OBJECT(NSFileHandle*, fileHandleForWriting)
@end

@implementation VZSerialPortConfiguration
VMTEST_STANDIN_OBJECT(VZSerialPortAttachment*, attachment, setAttachment)
@end
@implementation VZVirtioConsoleDeviceSerialPortConfiguration
@end
@implementation VZConsolePortConfiguration
VMTEST_STANDIN_OBJECT(VZSerialPortAttachment*, attachment, setAttachment)
@end
@implementation VZVirtioConsolePortConfiguration
VMTEST_STANDIN_OBJECT(NSString*, name, setName)
VMTEST_STANDIN_NUMBER(BOOL, isConsole, setIsConsole)
@end

@implementation VZVirtioConsolePortConfigurationArray
VMTEST_STANDIN_NUMBER(uint32_t, maximumPortCount, setMaximumPortCount)
- (VZVirtioConsolePortConfiguration*)objectAtIndexedSubscript:(NSUInteger)index {
  return (VZVirtioConsolePortConfiguration*)get_object(self, "port" + std::to_string(index));
}
- (void)setObject:(VZVirtioConsolePortConfiguration*)configuration atIndexedSubscript:(NSUInteger)index {
  set_object(self, "port" + std::to_string(index), configuration);
}
@end

@implementation VZConsoleDeviceConfiguration
@end

@implementation VZVirtioConsoleDeviceConfiguration
- (instancetype)init {
  VZVirtioConsolePortConfigurationArray* const ports = [[VZVirtioConsolePortConfigurationArray alloc] init];
  set_object(self, "ports", ports);
  [ports release];
  return self;
}
VMTEST_STANDIN_READ_OBJECT(VZVirtioConsolePortConfigurationArray*, ports)
@end

// Entropy, balloon, vsock

@implementation VZEntropyDeviceConfiguration
@end
@implementation VZVirtioEntropyDeviceConfiguration
@end
@implementation VZMemoryBalloonDeviceConfiguration
@end
@implementation VZVirtioTraditionalMemoryBalloonDeviceConfiguration
@end
@implementation VZSocketDeviceConfiguration
@end
@implementation VZVirtioSocketDeviceConfiguration
@end

// Shared directories

@implementation VZSharedDirectory
- (instancetype)initWithURL:(NSURL*)url readOnly:(BOOL)readOnly {
  set_object(self, "URL", url);
  set_number(self, "isReadOnly", readOnly);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(NSURL*, URL)
VMTEST_STANDIN_READ_NUMBER(BOOL, isReadOnly)
@end

@implementation VZDirectoryShare
@end

@implementation VZSingleDirectoryShare
- (instancetype)initWithDirectory:(VZSharedDirectory*)directory {
  set_object(self, "directory", directory);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(VZSharedDirectory*, directory)
@end

@implementation VZMultipleDirectoryShare
- (instancetype)initWithDirectories:(NSDictionary<NSString*, VZSharedDirectory*>*)directories {
  set_object(self, "directories", directories);
  return self;
}
+ (BOOL)validateName:(NSString*)name error:(NSError**)error {
  const std::string text = to_text(name);
  if (!text.empty() && text != "." && text != ".." && text.find('/') == std::string::npos) return YES;
  return fail(error, VZErrorInvalidVirtualMachineConfiguration, "The name of a shared directory is invalid.", text);
}
@end

@implementation VZLinuxRosettaDirectoryShare
+ (VZLinuxRosettaAvailability)availability {
  // VMTEST_SIM_VZ_ROSETTA: 0 not supported, 1 not installed, 2 installed; as if not supported when it is not set.
  const char* const wanted = std::getenv("VMTEST_SIM_VZ_ROSETTA");
  return static_cast<VZLinuxRosettaAvailability>(wanted == nullptr ? 0 : std::atoi(wanted));  // NOLINT(cert-err34-c)
}
+ (void)installRosettaWithCompletionHandler:(void (^)(NSError*))completionHandler {
  ::setenv("VMTEST_SIM_VZ_ROSETTA", "2", 1);
  completionHandler(nil);
}
- (instancetype)initWithError:(NSError**)error {
  if ([VZLinuxRosettaDirectoryShare availability] == VZLinuxRosettaAvailabilityInstalled) return self;
  fail(error, VZErrorNotSupported, "Rosetta is not available.", "");
  [self release];
  return nil;
}
@end

@implementation VZDirectorySharingDeviceConfiguration
@end

@implementation VZVirtioFileSystemDeviceConfiguration
+ (BOOL)validateTag:(NSString*)tag error:(NSError**)error {
  const std::size_t size = to_text(tag).size();
  if (size > 0 && size <= 36) return YES;
  return fail(error, VZErrorInvalidVirtualMachineConfiguration, "The tag of a shared directory is invalid.", "");
}
- (instancetype)initWithTag:(NSString*)tag {
  set_object(self, "tag", tag);
  return self;
}
VMTEST_STANDIN_READ_OBJECT(NSString*, tag)
VMTEST_STANDIN_OBJECT(VZDirectoryShare*, share, setShare)
@end

// Graphics, sound, input

@implementation VZGraphicsDeviceConfiguration
@end
@implementation VZGraphicsDisplayConfiguration
@end

@implementation VZVirtioGraphicsScanoutConfiguration
- (instancetype)initWithWidthInPixels:(NSInteger)width heightInPixels:(NSInteger)height {
  set_number(self, "widthInPixels", static_cast<double>(width));
  set_number(self, "heightInPixels", static_cast<double>(height));
  return self;
}
VMTEST_STANDIN_READ_NUMBER(NSInteger, widthInPixels)
VMTEST_STANDIN_READ_NUMBER(NSInteger, heightInPixels)
@end

@implementation VZVirtioGraphicsDeviceConfiguration
VMTEST_STANDIN_OBJECT(NSArray*, scanouts, setScanouts)
@end

@implementation VZMacGraphicsDisplayConfiguration
- (instancetype)initWithWidthInPixels:(NSInteger)width heightInPixels:(NSInteger)height pixelsPerInch:(NSInteger)pixelsPerInch {
  set_number(self, "widthInPixels", static_cast<double>(width));
  set_number(self, "heightInPixels", static_cast<double>(height));
  set_number(self, "pixelsPerInch", static_cast<double>(pixelsPerInch));
  return self;
}
@end

@implementation VZMacGraphicsDeviceConfiguration
VMTEST_STANDIN_OBJECT(NSArray*, displays, setDisplays)
@end

@implementation VZAudioDeviceConfiguration
@end
@implementation VZAudioInputStreamSource
@end
@implementation VZHostAudioInputStreamSource
@end
@implementation VZAudioOutputStreamSink
@end
@implementation VZHostAudioOutputStreamSink
@end
@implementation VZVirtioSoundDeviceStreamConfiguration
@end
@implementation VZVirtioSoundDeviceInputStreamConfiguration
VMTEST_STANDIN_OBJECT(VZAudioInputStreamSource*, source, setSource)
@end
@implementation VZVirtioSoundDeviceOutputStreamConfiguration
VMTEST_STANDIN_OBJECT(VZAudioOutputStreamSink*, sink, setSink)
@end
@implementation VZVirtioSoundDeviceConfiguration
VMTEST_STANDIN_OBJECT(NSArray*, streams, setStreams)
@end
@implementation VZKeyboardConfiguration
@end
@implementation VZUSBKeyboardConfiguration
@end
@implementation VZMacKeyboardConfiguration
@end
@implementation VZPointingDeviceConfiguration
@end
@implementation VZUSBScreenCoordinatePointingDeviceConfiguration
@end
@implementation VZMacTrackpadConfiguration
@end
