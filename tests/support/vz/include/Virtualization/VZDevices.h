// Devices that are no disks.
#pragma once

#import <Foundation/Foundation.h>

// Network

@interface VZMACAddress : NSObject
- (instancetype)initWithString:(NSString*)text;
- (NSString*)string;
@end

@interface VZNetworkDeviceAttachment : NSObject
@end

@interface VZNATNetworkDeviceAttachment : VZNetworkDeviceAttachment
@end

@interface VZFileHandleNetworkDeviceAttachment : VZNetworkDeviceAttachment
- (instancetype)initWithFileHandle:(NSFileHandle*)handle;
- (NSFileHandle*)fileHandle;
- (NSInteger)maximumTransmissionUnit;
- (void)setMaximumTransmissionUnit:(NSInteger)bytes;
@end

@interface VZBridgedNetworkInterface : NSObject
+ (NSArray<VZBridgedNetworkInterface*>*)networkInterfaces;
- (NSString*)identifier;
@end

@interface VZBridgedNetworkDeviceAttachment : VZNetworkDeviceAttachment
- (instancetype)initWithInterface:(VZBridgedNetworkInterface*)interface;
- (VZBridgedNetworkInterface*)interface;
@end

@interface VZNetworkDeviceConfiguration : NSObject
- (VZMACAddress*)MACAddress;
- (void)setMACAddress:(VZMACAddress*)address;
- (VZNetworkDeviceAttachment*)attachment;
- (void)setAttachment:(VZNetworkDeviceAttachment*)attachment;
@end

@interface VZVirtioNetworkDeviceConfiguration : VZNetworkDeviceConfiguration
@end

@interface VZNetworkDevice : NSObject
@end

// Serial ports and consoles

@interface VZSerialPortAttachment : NSObject
@end

@interface VZFileSerialPortAttachment : VZSerialPortAttachment
- (instancetype)initWithURL:(NSURL*)url append:(BOOL)append error:(NSError**)error;
- (NSURL*)URL;
- (BOOL)append;
@end

@interface VZFileHandleSerialPortAttachment : VZSerialPortAttachment
- (instancetype)initWithFileHandleForReading:(NSFileHandle*)reading fileHandleForWriting:(NSFileHandle*)writing;
- (NSFileHandle*)fileHandleForReading;
- (NSFileHandle*)fileHandleForWriting;
@end

@interface VZSerialPortConfiguration : NSObject
- (VZSerialPortAttachment*)attachment;
- (void)setAttachment:(VZSerialPortAttachment*)attachment;
@end

@interface VZVirtioConsoleDeviceSerialPortConfiguration : VZSerialPortConfiguration
@end

@interface VZConsolePortConfiguration : NSObject
- (VZSerialPortAttachment*)attachment;
- (void)setAttachment:(VZSerialPortAttachment*)attachment;
@end

@interface VZVirtioConsolePortConfiguration : VZConsolePortConfiguration
- (NSString*)name;
- (void)setName:(NSString*)name;
- (BOOL)isConsole;
- (void)setIsConsole:(BOOL)isConsole;
@end

@interface VZVirtioConsolePortConfigurationArray : NSObject
- (uint32_t)maximumPortCount;
- (void)setMaximumPortCount:(uint32_t)count;
- (VZVirtioConsolePortConfiguration*)objectAtIndexedSubscript:(NSUInteger)index;
- (void)setObject:(VZVirtioConsolePortConfiguration*)configuration atIndexedSubscript:(NSUInteger)index;
@end

@interface VZConsoleDeviceConfiguration : NSObject
@end

@interface VZVirtioConsoleDeviceConfiguration : VZConsoleDeviceConfiguration
- (VZVirtioConsolePortConfigurationArray*)ports;
@end

// Entropy, balloon

@interface VZEntropyDeviceConfiguration : NSObject
@end

@interface VZVirtioEntropyDeviceConfiguration : VZEntropyDeviceConfiguration
@end

@interface VZMemoryBalloonDeviceConfiguration : NSObject
@end

@interface VZVirtioTraditionalMemoryBalloonDeviceConfiguration : VZMemoryBalloonDeviceConfiguration
@end

@interface VZMemoryBalloonDevice : NSObject
@end

@interface VZVirtioTraditionalMemoryBalloonDevice : VZMemoryBalloonDevice
- (uint64_t)targetVirtualMachineMemorySize;
- (void)setTargetVirtualMachineMemorySize:(uint64_t)bytes;
@end

// Vsock

@interface VZSocketDeviceConfiguration : NSObject
@end

@interface VZVirtioSocketDeviceConfiguration : VZSocketDeviceConfiguration
@end

@interface VZSocketDevice : NSObject
@end

@class VZVirtioSocketDevice;
@class VZVirtioSocketListener;

@interface VZVirtioSocketConnection : NSObject
- (uint32_t)destinationPort;
- (uint32_t)sourcePort;
- (int)fileDescriptor;
- (void)close;
@end

@protocol VZVirtioSocketListenerDelegate <NSObject>
@optional
- (BOOL)listener:(VZVirtioSocketListener*)listener
    shouldAcceptNewConnection:(VZVirtioSocketConnection*)connection
             fromSocketDevice:(VZVirtioSocketDevice*)socketDevice;
@end

@interface VZVirtioSocketListener : NSObject
- (id<VZVirtioSocketListenerDelegate>)delegate;
- (void)setDelegate:(id<VZVirtioSocketListenerDelegate>)delegate;
@end

@interface VZVirtioSocketDevice : VZSocketDevice
- (void)setSocketListener:(VZVirtioSocketListener*)listener forPort:(uint32_t)port;
- (void)removeSocketListenerForPort:(uint32_t)port;
- (void)connectToPort:(uint32_t)port completionHandler:(void (^)(VZVirtioSocketConnection*, NSError*))completionHandler;
@end

// Shared directories

@interface VZSharedDirectory : NSObject
- (instancetype)initWithURL:(NSURL*)url readOnly:(BOOL)readOnly;
- (NSURL*)URL;
- (BOOL)isReadOnly;
@end

@interface VZDirectoryShare : NSObject
@end

@interface VZSingleDirectoryShare : VZDirectoryShare
- (instancetype)initWithDirectory:(VZSharedDirectory*)directory;
- (VZSharedDirectory*)directory;
@end

@interface VZMultipleDirectoryShare : VZDirectoryShare
- (instancetype)initWithDirectories:(NSDictionary<NSString*, VZSharedDirectory*>*)directories;
+ (BOOL)validateName:(NSString*)name error:(NSError**)error;
@end

typedef enum : NSInteger {
  VZLinuxRosettaAvailabilityNotSupported = 0,
  VZLinuxRosettaAvailabilityNotInstalled = 1,
  VZLinuxRosettaAvailabilityInstalled = 2,
} VZLinuxRosettaAvailability;

@interface VZLinuxRosettaDirectoryShare : VZDirectoryShare
- (instancetype)initWithError:(NSError**)error;
+ (VZLinuxRosettaAvailability)availability;
+ (void)installRosettaWithCompletionHandler:(void (^)(NSError*))completionHandler;
@end

@interface VZDirectorySharingDeviceConfiguration : NSObject
@end

@interface VZVirtioFileSystemDeviceConfiguration : VZDirectorySharingDeviceConfiguration
+ (BOOL)validateTag:(NSString*)tag error:(NSError**)error;
- (instancetype)initWithTag:(NSString*)tag;
- (NSString*)tag;
- (VZDirectoryShare*)share;
- (void)setShare:(VZDirectoryShare*)share;
@end

// Graphics, sound, input

@interface VZGraphicsDeviceConfiguration : NSObject
@end

@interface VZGraphicsDisplayConfiguration : NSObject
@end

@interface VZVirtioGraphicsScanoutConfiguration : VZGraphicsDisplayConfiguration
- (instancetype)initWithWidthInPixels:(NSInteger)width heightInPixels:(NSInteger)height;
- (NSInteger)widthInPixels;
- (NSInteger)heightInPixels;
@end

@interface VZVirtioGraphicsDeviceConfiguration : VZGraphicsDeviceConfiguration
- (NSArray<VZVirtioGraphicsScanoutConfiguration*>*)scanouts;
- (void)setScanouts:(NSArray<VZVirtioGraphicsScanoutConfiguration*>*)scanouts;
@end

@interface VZMacGraphicsDisplayConfiguration : VZGraphicsDisplayConfiguration
- (instancetype)initWithWidthInPixels:(NSInteger)width heightInPixels:(NSInteger)height pixelsPerInch:(NSInteger)pixelsPerInch;
@end

@interface VZMacGraphicsDeviceConfiguration : VZGraphicsDeviceConfiguration
- (NSArray<VZMacGraphicsDisplayConfiguration*>*)displays;
- (void)setDisplays:(NSArray<VZMacGraphicsDisplayConfiguration*>*)displays;
@end

@interface VZAudioDeviceConfiguration : NSObject
@end

@interface VZAudioInputStreamSource : NSObject
@end

@interface VZHostAudioInputStreamSource : VZAudioInputStreamSource
@end

@interface VZAudioOutputStreamSink : NSObject
@end

@interface VZHostAudioOutputStreamSink : VZAudioOutputStreamSink
@end

@interface VZVirtioSoundDeviceStreamConfiguration : NSObject
@end

@interface VZVirtioSoundDeviceInputStreamConfiguration : VZVirtioSoundDeviceStreamConfiguration
- (VZAudioInputStreamSource*)source;
- (void)setSource:(VZAudioInputStreamSource*)source;
@end

@interface VZVirtioSoundDeviceOutputStreamConfiguration : VZVirtioSoundDeviceStreamConfiguration
- (VZAudioOutputStreamSink*)sink;
- (void)setSink:(VZAudioOutputStreamSink*)sink;
@end

@interface VZVirtioSoundDeviceConfiguration : VZAudioDeviceConfiguration
- (NSArray<VZVirtioSoundDeviceStreamConfiguration*>*)streams;
- (void)setStreams:(NSArray<VZVirtioSoundDeviceStreamConfiguration*>*)streams;
@end

@interface VZKeyboardConfiguration : NSObject
@end

@interface VZUSBKeyboardConfiguration : VZKeyboardConfiguration
@end

@interface VZMacKeyboardConfiguration : VZKeyboardConfiguration
@end

@interface VZPointingDeviceConfiguration : NSObject
@end

@interface VZUSBScreenCoordinatePointingDeviceConfiguration : VZPointingDeviceConfiguration
@end

@interface VZMacTrackpadConfiguration : VZPointingDeviceConfiguration
@end
