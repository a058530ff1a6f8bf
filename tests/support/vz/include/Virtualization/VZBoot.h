// Boot loaders and platforms.
#pragma once

#import <Foundation/Foundation.h>

@interface VZBootLoader : NSObject
@end

@interface VZLinuxBootLoader : VZBootLoader
- (instancetype)initWithKernelURL:(NSURL*)url;
- (NSURL*)kernelURL;
- (NSString*)commandLine;
- (void)setCommandLine:(NSString*)text;
- (NSURL*)initialRamdiskURL;
- (void)setInitialRamdiskURL:(NSURL*)url;
@end

typedef NSUInteger VZEFIVariableStoreInitializationOptions;

@interface VZEFIVariableStore : NSObject
- (instancetype)initWithURL:(NSURL*)url;
- (instancetype)initCreatingVariableStoreAtURL:(NSURL*)url
                                       options:(VZEFIVariableStoreInitializationOptions)options
                                         error:(NSError**)error;
- (NSURL*)URL;
@end

@interface VZEFIBootLoader : VZBootLoader
- (VZEFIVariableStore*)variableStore;
- (void)setVariableStore:(VZEFIVariableStore*)store;
@end

@interface VZMacOSBootLoader : VZBootLoader
@end

@interface VZPlatformConfiguration : NSObject
@end

@interface VZGenericMachineIdentifier : NSObject
- (instancetype)initWithDataRepresentation:(NSData*)data;
- (NSData*)dataRepresentation;
@end

@interface VZGenericPlatformConfiguration : VZPlatformConfiguration
+ (BOOL)isNestedVirtualizationSupported;
- (VZGenericMachineIdentifier*)machineIdentifier;
- (void)setMachineIdentifier:(VZGenericMachineIdentifier*)identifier;
- (BOOL)isNestedVirtualizationEnabled;
- (void)setNestedVirtualizationEnabled:(BOOL)enabled;
@end

@interface VZMacHardwareModel : NSObject
- (instancetype)initWithDataRepresentation:(NSData*)data;
- (NSData*)dataRepresentation;
- (BOOL)isSupported;
@end

@interface VZMacMachineIdentifier : NSObject
- (instancetype)initWithDataRepresentation:(NSData*)data;
- (NSData*)dataRepresentation;
@end

@interface VZMacAuxiliaryStorage : NSObject
- (instancetype)initWithURL:(NSURL*)url;
- (instancetype)initWithContentsOfURL:(NSURL*)url;
- (NSURL*)URL;
@end

@interface VZMacPlatformConfiguration : VZPlatformConfiguration
- (VZMacHardwareModel*)hardwareModel;
- (void)setHardwareModel:(VZMacHardwareModel*)model;
- (VZMacMachineIdentifier*)machineIdentifier;
- (void)setMachineIdentifier:(VZMacMachineIdentifier*)identifier;
- (VZMacAuxiliaryStorage*)auxiliaryStorage;
- (void)setAuxiliaryStorage:(VZMacAuxiliaryStorage*)storage;
@end
