// The classes that describe a VM's devices other than its disks. They hold what they are given, and refuse at once what the
// framework refuses at once.

#import <Virtualization/Virtualization.h>

#include <fcntl.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <string>

#include "standin.h"

using namespace vmtest::vz::standin;  // NOLINT(google-build-using-namespace)

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
VMTEST_STANDIN_NUMBER_SINCE(13, 0, NSInteger, maximumTransmissionUnit, setMaximumTransmissionUnit)
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
  require_class("VZMultipleDirectoryShare");
  const std::string text = to_text(name);
  if (!text.empty() && text != "." && text != ".." && text.find('/') == std::string::npos) return YES;
  return fail(error, VZErrorInvalidVirtualMachineConfiguration, "The name of a shared directory is invalid.", text);
}
@end

@implementation VZLinuxRosettaDirectoryShare
+ (VZLinuxRosettaAvailability)availability {
  require_class("VZLinuxRosettaDirectoryShare");
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
  require_class("VZVirtioFileSystemDeviceConfiguration");
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
