// The VM and its configuration.
#pragma once

#import <Foundation/Foundation.h>
#import <Virtualization/VZBoot.h>
#import <Virtualization/VZDevices.h>
#import <Virtualization/VZStorage.h>
#import <dispatch/dispatch.h>

typedef enum : NSInteger {
  VZErrorInternal = 1,
  VZErrorInvalidVirtualMachineConfiguration = 2,
  VZErrorInvalidVirtualMachineState = 3,
  VZErrorInvalidVirtualMachineStateTransition = 4,
  VZErrorInvalidDiskImage = 5,
  VZErrorNotSupported = 10,
  VZErrorSave = 11,
  VZErrorRestore = 12,
  VZErrorUSBControllerNotFound = 30001,
  VZErrorDeviceAlreadyAttached = 30002,
  VZErrorDeviceInitializationFailure = 30003,
  VZErrorDeviceNotFound = 30004,
} VZErrorCode;

@interface VZVirtualMachineConfiguration : NSObject
+ (uint64_t)minimumAllowedMemorySize;
+ (uint64_t)maximumAllowedMemorySize;
+ (NSUInteger)minimumAllowedCPUCount;
+ (NSUInteger)maximumAllowedCPUCount;
- (BOOL)validateWithError:(NSError**)error;
- (BOOL)validateSaveRestoreSupportWithError:(NSError**)error;
- (VZBootLoader*)bootLoader;
- (void)setBootLoader:(VZBootLoader*)loader;
- (VZPlatformConfiguration*)platform;
- (void)setPlatform:(VZPlatformConfiguration*)platform;
- (NSUInteger)CPUCount;
- (void)setCPUCount:(NSUInteger)count;
- (uint64_t)memorySize;
- (void)setMemorySize:(uint64_t)bytes;
- (NSArray<VZStorageDeviceConfiguration*>*)storageDevices;
- (void)setStorageDevices:(NSArray<VZStorageDeviceConfiguration*>*)devices;
- (NSArray<VZNetworkDeviceConfiguration*>*)networkDevices;
- (void)setNetworkDevices:(NSArray<VZNetworkDeviceConfiguration*>*)devices;
- (NSArray<VZSerialPortConfiguration*>*)serialPorts;
- (void)setSerialPorts:(NSArray<VZSerialPortConfiguration*>*)ports;
- (NSArray<VZConsoleDeviceConfiguration*>*)consoleDevices;
- (void)setConsoleDevices:(NSArray<VZConsoleDeviceConfiguration*>*)devices;
- (NSArray<VZEntropyDeviceConfiguration*>*)entropyDevices;
- (void)setEntropyDevices:(NSArray<VZEntropyDeviceConfiguration*>*)devices;
- (NSArray<VZMemoryBalloonDeviceConfiguration*>*)memoryBalloonDevices;
- (void)setMemoryBalloonDevices:(NSArray<VZMemoryBalloonDeviceConfiguration*>*)devices;
- (NSArray<VZSocketDeviceConfiguration*>*)socketDevices;
- (void)setSocketDevices:(NSArray<VZSocketDeviceConfiguration*>*)devices;
- (NSArray<VZDirectorySharingDeviceConfiguration*>*)directorySharingDevices;
- (void)setDirectorySharingDevices:(NSArray<VZDirectorySharingDeviceConfiguration*>*)devices;
- (NSArray<VZGraphicsDeviceConfiguration*>*)graphicsDevices;
- (void)setGraphicsDevices:(NSArray<VZGraphicsDeviceConfiguration*>*)devices;
- (NSArray<VZAudioDeviceConfiguration*>*)audioDevices;
- (void)setAudioDevices:(NSArray<VZAudioDeviceConfiguration*>*)devices;
- (NSArray<VZKeyboardConfiguration*>*)keyboards;
- (void)setKeyboards:(NSArray<VZKeyboardConfiguration*>*)keyboards;
- (NSArray<VZPointingDeviceConfiguration*>*)pointingDevices;
- (void)setPointingDevices:(NSArray<VZPointingDeviceConfiguration*>*)devices;
- (NSArray<VZUSBControllerConfiguration*>*)usbControllers;
- (void)setUsbControllers:(NSArray<VZUSBControllerConfiguration*>*)controllers;
@end

typedef enum : NSInteger {
  VZVirtualMachineStateStopped = 0,
  VZVirtualMachineStateRunning = 1,
  VZVirtualMachineStatePaused = 2,
  VZVirtualMachineStateError = 3,
  VZVirtualMachineStateStarting = 4,
  VZVirtualMachineStatePausing = 5,
  VZVirtualMachineStateResuming = 6,
  VZVirtualMachineStateStopping = 7,
  VZVirtualMachineStateSaving = 8,
  VZVirtualMachineStateRestoring = 9,
} VZVirtualMachineState;

@class VZVirtualMachine;

@protocol VZVirtualMachineDelegate <NSObject>
@optional
- (void)guestDidStopVirtualMachine:(VZVirtualMachine*)virtualMachine;
- (void)virtualMachine:(VZVirtualMachine*)virtualMachine didStopWithError:(NSError*)error;
- (void)virtualMachine:(VZVirtualMachine*)virtualMachine
                         networkDevice:(VZNetworkDevice*)networkDevice
    attachmentWasDisconnectedWithError:(NSError*)error;
@end

@interface VZVirtualMachine : NSObject
+ (BOOL)isSupported;
- (instancetype)initWithConfiguration:(VZVirtualMachineConfiguration*)configuration queue:(dispatch_queue_t)queue;
- (VZVirtualMachineState)state;
- (id<VZVirtualMachineDelegate>)delegate;
- (void)setDelegate:(id<VZVirtualMachineDelegate>)delegate;
- (BOOL)canStart;
- (BOOL)canStop;
- (BOOL)canPause;
- (BOOL)canResume;
- (BOOL)canRequestStop;
- (NSArray<VZMemoryBalloonDevice*>*)memoryBalloonDevices;
- (NSArray<VZNetworkDevice*>*)networkDevices;
- (NSArray<VZSocketDevice*>*)socketDevices;
- (NSArray<VZUSBController*>*)usbControllers;
- (void)startWithCompletionHandler:(void (^)(NSError*))completionHandler;
- (void)stopWithCompletionHandler:(void (^)(NSError*))completionHandler;
- (void)pauseWithCompletionHandler:(void (^)(NSError*))completionHandler;
- (void)resumeWithCompletionHandler:(void (^)(NSError*))completionHandler;
- (void)saveMachineStateToURL:(NSURL*)url completionHandler:(void (^)(NSError*))completionHandler;
- (void)restoreMachineStateFromURL:(NSURL*)url completionHandler:(void (^)(NSError*))completionHandler;
- (BOOL)requestStopWithError:(NSError**)error;
@end
