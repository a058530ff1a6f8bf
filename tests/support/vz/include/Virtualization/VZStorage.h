// Disks.
#pragma once

#import <Foundation/Foundation.h>

typedef enum : NSInteger {
  VZDiskImageCachingModeAutomatic = 0,
  VZDiskImageCachingModeUncached = 1,
  VZDiskImageCachingModeCached = 2,
} VZDiskImageCachingMode;

typedef enum : NSInteger {
  VZDiskImageSynchronizationModeFull = 1,
  VZDiskImageSynchronizationModeFsync = 2,
  VZDiskImageSynchronizationModeNone = 3,
} VZDiskImageSynchronizationMode;

typedef enum : NSInteger {
  VZDiskSynchronizationModeFull = 0,
  VZDiskSynchronizationModeNone = 1,
} VZDiskSynchronizationMode;

@interface VZStorageDeviceAttachment : NSObject
@end

@interface VZDiskImageStorageDeviceAttachment : VZStorageDeviceAttachment
- (instancetype)initWithURL:(NSURL*)url readOnly:(BOOL)readOnly error:(NSError**)error;
- (instancetype)initWithURL:(NSURL*)url
                   readOnly:(BOOL)readOnly
                cachingMode:(VZDiskImageCachingMode)cachingMode
        synchronizationMode:(VZDiskImageSynchronizationMode)synchronizationMode
                      error:(NSError**)error;
- (NSURL*)URL;
- (BOOL)isReadOnly;
- (VZDiskImageCachingMode)cachingMode;
- (VZDiskImageSynchronizationMode)synchronizationMode;
@end

@interface VZDiskBlockDeviceStorageDeviceAttachment : VZStorageDeviceAttachment
- (instancetype)initWithFileHandle:(NSFileHandle*)handle
                          readOnly:(BOOL)readOnly
               synchronizationMode:(VZDiskSynchronizationMode)synchronizationMode
                             error:(NSError**)error;
- (NSFileHandle*)fileHandle;
- (BOOL)isReadOnly;
@end

@interface VZNetworkBlockDeviceStorageDeviceAttachment : VZStorageDeviceAttachment
- (instancetype)initWithURL:(NSURL*)url
                    timeout:(NSTimeInterval)timeout
             forcedReadOnly:(BOOL)forcedReadOnly
        synchronizationMode:(VZDiskSynchronizationMode)synchronizationMode
                      error:(NSError**)error;
- (NSURL*)URL;
- (BOOL)isForcedReadOnly;
@end

@interface VZStorageDeviceConfiguration : NSObject
- (VZStorageDeviceAttachment*)attachment;
@end

@interface VZVirtioBlockDeviceConfiguration : VZStorageDeviceConfiguration
- (instancetype)initWithAttachment:(VZStorageDeviceAttachment*)attachment;
- (NSString*)blockDeviceIdentifier;
- (void)setBlockDeviceIdentifier:(NSString*)identifier;
@end

@interface VZNVMExpressControllerDeviceConfiguration : VZStorageDeviceConfiguration
- (instancetype)initWithAttachment:(VZStorageDeviceAttachment*)attachment;
@end

@protocol VZUSBDeviceConfiguration <NSObject>
@end

@interface VZUSBMassStorageDeviceConfiguration : VZStorageDeviceConfiguration <VZUSBDeviceConfiguration>
- (instancetype)initWithAttachment:(VZStorageDeviceAttachment*)attachment;
@end

@interface VZUSBControllerConfiguration : NSObject
@end

@interface VZXHCIControllerConfiguration : VZUSBControllerConfiguration
@end

@protocol VZUSBDevice <NSObject>
@end

@interface VZStorageDevice : NSObject
@end

@interface VZUSBMassStorageDevice : VZStorageDevice <VZUSBDevice>
- (instancetype)initWithConfiguration:(VZUSBMassStorageDeviceConfiguration*)configuration;
@end

@interface VZUSBController : NSObject
- (void)attachDevice:(id<VZUSBDevice>)device completionHandler:(void (^)(NSError*))completionHandler;
- (void)detachDevice:(id<VZUSBDevice>)device completionHandler:(void (^)(NSError*))completionHandler;
@end
