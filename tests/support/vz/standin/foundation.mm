// Foundation's classes as far as the helper uses them, over GCC's Objective-C runtime.

#include <fcntl.h>
#include <objc/runtime.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "standin.h"

@interface NSAutoreleasePool : NSObject
- (void)drain;
@end

namespace vmtest::vz::standin {
namespace {

/// Objects to release, one list a pool.
thread_local std::vector<std::vector<id>> pools;

/// VMTEST_SIM_VZ_OBJECT_LOG: a file that gets a line "+ CLASS" for each object made and "- CLASS" for each that is gone, for
/// tests of who holds what.
void log_object(char sign, const char* name) {
  static const int log = [] {
    const char* const path = std::getenv("VMTEST_SIM_VZ_OBJECT_LOG");
    return path == nullptr ? -1 : ::open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  }();
  if (log < 0) return;
  const std::string line = std::string(1, sign) + " " + name + "\n";
  if (::write(log, line.data(), line.size()) < 0) misuse("the log of objects cannot be written");
}

id add_to_pool(id object) {
  if (pools.empty()) misuse("an object is autoreleased where there is no pool");
  pools.back().push_back(object);
  return object;
}

}  // namespace

void misuse(const std::string& what) {
  std::fprintf(stderr, "Virtualization.framework's stand-in: %s\n", what.c_str());
  std::abort();
}

StandinState& state_of(NSObject* object) {
  // The second word of every object.
  return *reinterpret_cast<StandinState**>(object)[1];
}

id get_object(NSObject* object, const std::string& name) {
  const auto found = state_of(object).objects.find(name);
  return found == state_of(object).objects.end() ? nil : found->second;
}

void set_object(NSObject* object, const std::string& name, id value) {
  id& place = state_of(object).objects[name];
  const id old = place;
  place = [value retain];
  [old release];
}

double get_number(NSObject* object, const std::string& name) {
  const auto found = state_of(object).numbers.find(name);
  return found == state_of(object).numbers.end() ? 0 : found->second;
}

void set_number(NSObject* object, const std::string& name, double value) { state_of(object).numbers[name] = value; }

NSString* to_ns(const std::string& text) { return [NSString stringWithUTF8String:text.c_str()]; }
std::string to_text(NSString* text) { return text == nil ? std::string() : std::string([text UTF8String]); }

NSError* make_error(NSInteger code, const std::string& description, const std::string& reason) {
  NSError* const error = [[[NSError alloc] init] autorelease];
  set_object(error, "domain", to_ns("VZErrorDomain"));
  set_number(error, "code", static_cast<double>(code));
  set_object(error, "localizedDescription", to_ns(description));
  if (!reason.empty()) set_object(error, "localizedFailureReason", to_ns(reason));
  return error;
}

BOOL fail(NSError** error, NSInteger code, const std::string& description, const std::string& reason) {
  if (error != nullptr) *error = make_error(code, description, reason);
  return NO;
}

}  // namespace vmtest::vz::standin

using namespace vmtest::vz::standin;  // NOLINT(google-build-using-namespace)

@implementation NSObject
+ (instancetype)alloc {
  require_class(class_getName(self));
  const id object = class_createInstance(self, 0);
  reinterpret_cast<StandinState**>(object)[1] = new StandinState;
  log_object('+', class_getName(self));
  return object;
}
+ (instancetype)new {
  return [[self alloc] init];
}
+ (Class)class {
  return self;
}
- (instancetype)init {
  return self;
}
- (void)dealloc {
  StandinState* const state = state_;
  // What is owned may look at its owner's own state no more.
  const std::map<std::string, id> objects = std::move(state->objects);
  const std::vector<id> elements = std::move(state->elements);
  for (const auto& entry : objects) [entry.second release];
  for (const id element : elements) [element release];
  delete state;
  log_object('-', object_getClassName(self));
  object_dispose(self);
}
- (instancetype)retain {
  ++state_->references;
  return self;
}
- (oneway void)release {
  const long left = --state_->references;
  if (left < 0) misuse("an object is released too often");
  if (left == 0) [self dealloc];
}
- (instancetype)autorelease {
  return add_to_pool(self);
}
- (BOOL)isKindOfClass:(Class)aClass {
  for (Class kind = object_getClass(self); kind != Nil; kind = class_getSuperclass(kind)) {
    if (kind == aClass) return YES;
  }
  return NO;
}
- (BOOL)isEqual:(id)object {
  return object == self;
}
- (BOOL)respondsToSelector:(SEL)selector {
  return class_respondsToSelector(object_getClass(self), selector);
}
@end

@implementation NSAutoreleasePool
- (instancetype)init {
  pools.emplace_back();
  return self;
}
- (void)drain {
  // Releasing may autorelease more, which belongs to this pool still.
  while (!pools.back().empty()) {
    const id object = pools.back().back();
    pools.back().pop_back();
    [object release];
  }
  pools.pop_back();
  [self release];
}
@end

@implementation NSString
+ (instancetype)stringWithUTF8String:(const char*)text {
  NSString* const string = [[[self alloc] init] autorelease];
  state_of(string).text = text;
  return string;
}
- (const char*)UTF8String {
  return state_->text.c_str();
}
- (BOOL)isEqual:(id)object {
  return [object isKindOfClass:[NSString class]] && state_of(object).text == state_->text;
}
@end

@implementation NSArray
+ (instancetype)arrayWithObjects:(const id*)objects count:(NSUInteger)count {
  NSArray* const array = [[[self alloc] init] autorelease];
  for (NSUInteger i = 0; i < count; ++i) {
    if (objects[i] == nil) misuse("nil is put into an array");
    state_of(array).elements.push_back([objects[i] retain]);
  }
  return array;
}
- (NSUInteger)count {
  return state_->elements.size();
}
- (id)objectAtIndex:(NSUInteger)index {
  if (index >= state_->elements.size()) misuse("an array has no element of that index");
  return state_->elements[index];
}
@end

@implementation NSDictionary
+ (instancetype)dictionaryWithObjects:(const id*)objects forKeys:(const id*)keys count:(NSUInteger)count {
  NSDictionary* const dictionary = [[[self alloc] init] autorelease];
  for (NSUInteger i = 0; i < count; ++i) {
    if (objects[i] == nil || keys[i] == nil) misuse("nil is put into a dictionary");
    set_object(dictionary, to_text(keys[i]), objects[i]);
  }
  return dictionary;
}
- (NSUInteger)count {
  return state_->objects.size();
}
- (id)objectForKey:(id)key {
  return get_object(self, to_text(key));
}
@end

@implementation NSURL
+ (instancetype)fileURLWithPath:(NSString*)path {
  NSURL* const url = [[[self alloc] init] autorelease];
  state_of(url).text = to_text(path);
  return url;
}
+ (instancetype)URLWithString:(NSString*)text {
  // Blanks are what the real one refuses first.
  if (to_text(text).find(' ') != std::string::npos) return nil;
  return [self fileURLWithPath:text];
}
- (NSString*)path {
  return to_ns(state_->text);
}
- (NSString*)absoluteString {
  return to_ns(state_->text);
}
@end

@implementation NSData
+ (instancetype)dataWithBytes:(const void*)bytes length:(NSUInteger)length {
  NSData* const data = [[[self alloc] init] autorelease];
  state_of(data).text.assign(static_cast<const char*>(bytes), length);
  return data;
}
- (const void*)bytes {
  return state_->text.data();
}
- (NSUInteger)length {
  return state_->text.size();
}
@end

/// The symbol of NSUnderlyingErrorKey, which others take for a constant. An object can be made only once its class is known to
/// the runtime, which is after static variables have their values.
NSString* underlying_error_key __asm__("NSUnderlyingErrorKey") = nil;

@implementation NSError
+ (void)load {
  underlying_error_key = [[NSString alloc] init];
  state_of(underlying_error_key).text = "NSUnderlyingError";
}
VMTEST_STANDIN_READ_OBJECT(NSString*, domain)
VMTEST_STANDIN_READ_NUMBER(NSInteger, code)
VMTEST_STANDIN_READ_OBJECT(NSString*, localizedDescription)
VMTEST_STANDIN_READ_OBJECT(NSString*, localizedFailureReason)
VMTEST_STANDIN_READ_OBJECT(NSDictionary*, userInfo)
@end

@implementation NSFileHandle
- (instancetype)initWithFileDescriptor:(int)descriptor closeOnDealloc:(BOOL)close {
  set_number(self, "descriptor", descriptor);
  set_number(self, "close", close);
  return self;
}
- (int)fileDescriptor {
  return static_cast<int>(get_number(self, "descriptor"));
}
- (void)dealloc {
  if (get_number(self, "close") != 0) ::close([self fileDescriptor]);
  [super dealloc];
}
@end

@implementation NSProcessInfo
+ (NSProcessInfo*)processInfo {
  return [[[self alloc] init] autorelease];
}
- (NSOperatingSystemVersion)operatingSystemVersion {
  const SystemVersion system = simulated_system();
  const NSOperatingSystemVersion version = {system.major, system.minor, 0};
  return version;
}
@end
