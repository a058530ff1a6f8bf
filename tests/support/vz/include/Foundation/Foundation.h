// What the VZ helper uses of Foundation, declared anew for checks and for tests on Linux. Properties are declared as the
// methods they are.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef VMTEST_STANDIN
// GCC's runtime has its own.
#include <objc/objc.h>
#undef nil
#else
typedef signed char BOOL;
#define YES ((BOOL)1)
#define NO ((BOOL)0)
#endif
#ifdef __cplusplus
#define nil nullptr
#else
#define nil ((void*)0)
#endif

typedef long NSInteger;
typedef unsigned long NSUInteger;
typedef double NSTimeInterval;

typedef struct {
  NSInteger majorVersion;
  NSInteger minorVersion;
  NSInteger patchVersion;
} NSOperatingSystemVersion;

@protocol NSObject
- (instancetype)retain;
- (oneway void)release;
- (instancetype)autorelease;
- (BOOL)isKindOfClass:(Class)aClass;
- (BOOL)isEqual:(id)object;
@end

@interface NSObject <NSObject> {
  Class isa;
#ifdef VMTEST_STANDIN
  // Fragile instance variables: subclasses cannot add their own outside of the declarations.
  struct StandinState* state_;
#endif
}
+ (instancetype)alloc;
+ (instancetype)new;
+ (Class)class;
- (instancetype)init;
- (void)dealloc;
@end

@interface NSString : NSObject
+ (instancetype)stringWithUTF8String:(const char*)text;
- (const char*)UTF8String;
@end

@interface NSArray<ObjectType> : NSObject
+ (instancetype)arrayWithObjects:(const ObjectType*)objects count:(NSUInteger)count;
- (NSUInteger)count;
- (ObjectType)objectAtIndex:(NSUInteger)index;
@end

@interface NSDictionary<KeyType, ObjectType> : NSObject
+ (instancetype)dictionaryWithObjects:(const ObjectType*)objects forKeys:(const KeyType*)keys count:(NSUInteger)count;
- (NSUInteger)count;
- (ObjectType)objectForKey:(KeyType)key;
@end

@interface NSURL : NSObject
+ (instancetype)fileURLWithPath:(NSString*)path;
+ (instancetype)URLWithString:(NSString*)text;
- (NSString*)path;
- (NSString*)absoluteString;
@end

@interface NSData : NSObject
+ (instancetype)dataWithBytes:(const void*)bytes length:(NSUInteger)length;
- (const void*)bytes;
- (NSUInteger)length;
@end

extern NSString* const NSUnderlyingErrorKey;

@interface NSError : NSObject
- (NSString*)domain;
- (NSInteger)code;
- (NSString*)localizedDescription;
- (NSString*)localizedFailureReason;
- (NSDictionary*)userInfo;
@end

@interface NSFileHandle : NSObject
- (instancetype)initWithFileDescriptor:(int)descriptor closeOnDealloc:(BOOL)close;
- (int)fileDescriptor;
@end

@interface NSProcessInfo : NSObject
+ (NSProcessInfo*)processInfo;
- (NSOperatingSystemVersion)operatingSystemVersion;
@end
