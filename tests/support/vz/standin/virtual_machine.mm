// VZVirtualMachine and the devices of a running VM: the framework's states and refusals around a QEMU.

#import <Virtualization/Virtualization.h>

#include <Block.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "qemu_process.h"
#include "standin.h"
#include "vm_description.h"
#include "vmtest/error.h"

using namespace vmtest::vz::standin;  // NOLINT(google-build-using-namespace)

namespace {

using Completion = void (^)(NSError*);

/// The port that stands for the guest agent's.
constexpr uint32_t kAgentPort = 5252;

struct VmCore {
  dispatch_queue_t queue = nullptr;
  VZVirtualMachineConfiguration* configuration = nil;
  /// Not owned, as delegates are not.
  id<VZVirtualMachineDelegate> delegate = nil;
  VZVirtualMachineState state = VZVirtualMachineStateStopped;
  std::shared_ptr<QemuProcess> qemu;
  /// Which QEMU it is: what an earlier one says is no news.
  unsigned generation = 0;
  std::map<NSObject*, std::string> usb_names;
  unsigned usb_count = 0;
  uint64_t balloon_bytes = 0;

  ~VmCore() { [configuration release]; }
};

VmCore& core_of(NSObject* machine) { return *static_cast<VmCore*>(state_of(machine).core.get()); }

/// The core of a VM whose methods are called where they may be called.
VmCore& checked(NSObject* machine, const char* what) {
  VmCore& core = core_of(machine);
  if (!on_queue(core.queue)) misuse(std::string(what) + " is called off the VM's queue");
  return core;
}

NSError* wrong_state(const char* what) {
  return make_error(VZErrorInvalidVirtualMachineStateTransition, "Invalid virtual machine state transition.",
                    std::string("Transition from the current state by ") + what + " is invalid.");
}

/// Calls a handler on the queue, later, as the framework does.
void answer(VmCore& core, Completion handler, NSError* error) {
  dispatch_async(core.queue, ^{
    handler(error);
  });
}

NSError* failure(NSInteger code, const char* description, const std::exception& error) {
  return make_error(dynamic_cast<const vmtest::Unsupported*>(&error) != nullptr ? VZErrorNotSupported : code, description,
                    error.what());
}

/// A machine without the guest's end, whose state says how it went.
void take_end(VZVirtualMachine* machine, unsigned generation, const std::string& why) {
  VmCore& core = core_of(machine);
  if (core.generation != generation || !core.qemu) return;
  core.qemu.reset();
  core.state = why.empty() ? VZVirtualMachineStateStopped : VZVirtualMachineStateError;
  const id<VZVirtualMachineDelegate> delegate = core.delegate;
  if (delegate == nil) return;
  if (why.empty()) {
    [delegate guestDidStopVirtualMachine:machine];
  } else {
    [delegate virtualMachine:machine
            didStopWithError:make_error(VZErrorInternal,
                                        "Internal virtualization error. The virtual machine stopped unexpectedly.", why)];
  }
}

/// Starts QEMU. On the queue, whose thread QEMU does not outlive.
void launch(VZVirtualMachine* machine, const std::vector<std::string>& more) {
  VmCore& core = core_of(machine);
  VmDescription description = describe(core.configuration);
  description.arguments.insert(description.arguments.end(), more.begin(), more.end());
  const unsigned generation = ++core.generation;
  const dispatch_queue_t queue = core.queue;
  // Not owned: QEMU ends with the machine, and its last word comes before that or never.
  __unsafe_unretained VZVirtualMachine* const borrowed = machine;
  std::shared_ptr<void> alive = state_of(machine).core;
  const std::weak_ptr<void> watched = alive;
  core.qemu = std::make_shared<QemuProcess>(
      QemuProcess::Options{.arguments = description.arguments,
                           .descriptors = description.descriptors,
                           .ends = std::move(description.ends),
                           .monitor = std::move(description.monitor),
                           .agent = std::move(description.agent),
                           .commands = std::move(description.commands),
                           .on_end = [queue, borrowed, watched, generation](const std::string& why) {
                             dispatch_async(queue, ^{
                               if (!watched.expired()) take_end(borrowed, generation, why);
                             });
                           }});
  core.usb_names.clear();
  core.balloon_bytes = [core.configuration memorySize];
}

}  // namespace

// Devices of a running VM

@implementation VZMemoryBalloonDevice
@end

@implementation VZVirtioTraditionalMemoryBalloonDevice
- (uint64_t)targetVirtualMachineMemorySize {
  VmCore& core = checked(get_object(self, "machine"), "targetVirtualMachineMemorySize");
  return core.qemu ? core.balloon_bytes : [core.configuration memorySize];
}
- (void)setTargetVirtualMachineMemorySize:(uint64_t)bytes {
  VmCore& core = checked(get_object(self, "machine"), "setTargetVirtualMachineMemorySize:");
  if (!core.qemu) return;
  core.qemu->set_balloon(bytes);
  core.balloon_bytes = bytes;
}
@end

@implementation VZNetworkDevice
@end
@implementation VZStorageDevice
@end

@implementation VZUSBMassStorageDevice
- (instancetype)initWithConfiguration:(VZUSBMassStorageDeviceConfiguration*)configuration {
  set_object(self, "configuration", configuration);
  return self;
}
@end

@implementation VZUSBController
- (void)attachDevice:(id<VZUSBDevice>)device completionHandler:(Completion)completionHandler {
  VmCore& core = checked(get_object(self, "machine"), "attachDevice:");
  NSObject* const disk = (NSObject*)device;
  if (core.state != VZVirtualMachineStateRunning) return answer(core, completionHandler, wrong_state("attaching a device"));
  if (core.usb_names.count(disk) != 0) {
    return answer(core, completionHandler, make_error(VZErrorDeviceAlreadyAttached, "The device is already attached.", ""));
  }
  const std::string name = "hotplug" + std::to_string(++core.usb_count);
  try {
    auto* const configuration = (VZUSBMassStorageDeviceConfiguration*)get_object(disk, "configuration");
    nlohmann::json node = nlohmann::json::object();
    for (const auto& [key, value] : block_node([configuration attachment], name)) {
      nlohmann::json* place = &node;
      for (std::size_t start = 0, dot = 0; dot != std::string::npos; start = dot + 1) {
        dot = key.find('.', start);
        place = &(*place)[key.substr(start, dot == std::string::npos ? dot : dot - start)];
      }
      *place = value == "on" ? nlohmann::json(true) : value == "off" ? nlohmann::json(false) : nlohmann::json(value);
    }
    core.qemu->attach_usb(name, node);
    core.usb_names[disk] = name;
    answer(core, completionHandler, nil);
  } catch (const std::exception& error) {
    answer(core, completionHandler, failure(VZErrorDeviceInitializationFailure, "The device cannot be initialized.", error));
  }
}
- (void)detachDevice:(id<VZUSBDevice>)device completionHandler:(Completion)completionHandler {
  VmCore& core = checked(get_object(self, "machine"), "detachDevice:");
  const auto found = core.usb_names.find((NSObject*)device);
  if (found == core.usb_names.end()) {
    return answer(core, completionHandler, make_error(VZErrorDeviceNotFound, "The device is not attached.", ""));
  }
  try {
    core.qemu->detach_usb(found->second);
    core.usb_names.erase(found);
    answer(core, completionHandler, nil);
  } catch (const std::exception& error) {
    answer(core, completionHandler, failure(VZErrorInternal, "The device cannot be detached.", error));
  }
}
@end

@implementation VZSocketDevice
@end

@implementation VZVirtioSocketListener
- (id<VZVirtioSocketListenerDelegate>)delegate {
  return static_cast<id<VZVirtioSocketListenerDelegate>>(state_->core.get() == nullptr ? nil
                                                                                       : *static_cast<id*>(state_->core.get()));
}
- (void)setDelegate:(id<VZVirtioSocketListenerDelegate>)delegate {
  // Not owned.
  state_->core = std::make_shared<id>(delegate);
}
@end

@implementation VZVirtioSocketConnection
VMTEST_STANDIN_READ_NUMBER(uint32_t, destinationPort)
VMTEST_STANDIN_READ_NUMBER(uint32_t, sourcePort)
VMTEST_STANDIN_READ_NUMBER(int, fileDescriptor)
- (void)close {
  if ([self fileDescriptor] >= 0) ::close([self fileDescriptor]);
  set_number(self, "fileDescriptor", -1);
}
- (void)dealloc {
  [self close];
  [super dealloc];
}
@end

@implementation VZVirtioSocketDevice
- (void)setSocketListener:(VZVirtioSocketListener*)listener forPort:(uint32_t)port {
  (void)checked(get_object(self, "machine"), "setSocketListener:");
  set_object(self, "listener" + std::to_string(port), listener);
}
- (void)removeSocketListenerForPort:(uint32_t)port {
  (void)checked(get_object(self, "machine"), "removeSocketListenerForPort:");
  set_object(self, "listener" + std::to_string(port), nil);
}
- (void)connectToPort:(uint32_t)port completionHandler:(void (^)(VZVirtioSocketConnection*, NSError*))completionHandler {
  VmCore& core = checked(get_object(self, "machine"), "connectToPort:");
  VZVirtioSocketConnection* connection = nil;
  NSError* error = nil;
  try {
    if (!core.qemu) throw vmtest::Error("the VM does not run");
    if (port != kAgentPort) throw vmtest::Error("nobody listens on that port");
    vmtest::FileDescriptor stream = core.qemu->connect_agent();
    connection = [[[VZVirtioSocketConnection alloc] init] autorelease];
    set_number(connection, "destinationPort", port);
    set_number(connection, "sourcePort", 1024);
    set_number(connection, "fileDescriptor", stream.release());
  } catch (const std::exception& reason) {
    error = make_error(VZErrorInternal, "The connection to the guest's port failed.", reason.what());
  }
  dispatch_async(core.queue, ^{
    completionHandler(connection, error);
  });
}
@end

// The VM

@implementation VZVirtualMachine
+ (BOOL)isSupported {
  return YES;
}
- (instancetype)initWithConfiguration:(VZVirtualMachineConfiguration*)configuration queue:(dispatch_queue_t)queue {
  NSError* error = nil;
  if (![configuration validateWithError:&error]) misuse("a VM is made of an invalid configuration");
  auto core = std::make_shared<VmCore>();
  core->queue = queue;
  core->configuration = [configuration retain];
  state_->core = core;
  const auto make = [&](NSUInteger count, Class kind) {
    std::vector<id> devices;
    for (NSUInteger i = 0; i < count; ++i) {
      NSObject* const device = [[[kind alloc] init] autorelease];
      devices.push_back(device);
      // Not owned: the device is the machine's.
      state_of(device).objects["machine"] = self;
    }
    return [NSArray arrayWithObjects:devices.data() count:devices.size()];
  };
  set_object(self, "balloons",
             make([[configuration memoryBalloonDevices] count], [VZVirtioTraditionalMemoryBalloonDevice class]));
  set_object(self, "nics", make([[configuration networkDevices] count], [VZNetworkDevice class]));
  set_object(self, "sockets", make([[configuration socketDevices] count], [VZVirtioSocketDevice class]));
  set_object(self, "controllers", make([[configuration usbControllers] count], [VZUSBController class]));
  return self;
}
- (void)dealloc {
  for (const char* const name : {"balloons", "nics", "sockets", "controllers"}) {
    NSArray* const devices = get_object(self, name);
    for (NSUInteger i = 0; i < [devices count]; ++i) state_of([devices objectAtIndex:i]).objects.erase("machine");
  }
  core_of(self).qemu.reset();
  [super dealloc];
}
- (VZVirtualMachineState)state {
  return checked(self, "state").state;
}
- (id<VZVirtualMachineDelegate>)delegate {
  return checked(self, "delegate").delegate;
}
- (void)setDelegate:(id<VZVirtualMachineDelegate>)delegate {
  checked(self, "setDelegate:").delegate = delegate;
}
- (BOOL)canStart {
  const VZVirtualMachineState state = [self state];
  return state == VZVirtualMachineStateStopped || state == VZVirtualMachineStateError;
}
- (BOOL)canStop {
  const VZVirtualMachineState state = [self state];
  return state == VZVirtualMachineStateRunning || state == VZVirtualMachineStatePaused;
}
- (BOOL)canPause {
  return [self state] == VZVirtualMachineStateRunning;
}
- (BOOL)canResume {
  return [self state] == VZVirtualMachineStatePaused;
}
- (BOOL)canRequestStop {
  return [self state] == VZVirtualMachineStateRunning;
}
- (NSArray*)memoryBalloonDevices {
  return (void)checked(self, "memoryBalloonDevices"), get_object(self, "balloons");
}
- (NSArray*)networkDevices {
  return (void)checked(self, "networkDevices"), get_object(self, "nics");
}
- (NSArray*)socketDevices {
  return (void)checked(self, "socketDevices"), get_object(self, "sockets");
}
- (NSArray*)usbControllers {
  return (void)checked(self, "usbControllers"), get_object(self, "controllers");
}

- (void)startWithCompletionHandler:(Completion)completionHandler {
  VmCore& core = checked(self, "startWithCompletionHandler:");
  if (![self canStart]) return answer(core, completionHandler, wrong_state("starting"));
  core.state = VZVirtualMachineStateStarting;
  dispatch_async(core.queue, ^{
    VmCore& later = core_of(self);
    try {
      launch(self, {});
      later.qemu->run();
      later.state = VZVirtualMachineStateRunning;
      completionHandler(nil);
    } catch (const std::exception& error) {
      later.qemu.reset();
      later.state = VZVirtualMachineStateError;
      completionHandler(failure(VZErrorInternal, "Internal virtualization error. The virtual machine failed to start.", error));
    }
  });
}

- (void)stopWithCompletionHandler:(Completion)completionHandler {
  VmCore& core = checked(self, "stopWithCompletionHandler:");
  if (![self canStop]) return answer(core, completionHandler, wrong_state("stopping"));
  core.state = VZVirtualMachineStateStopping;
  dispatch_async(core.queue, ^{
    VmCore& later = core_of(self);
    later.qemu.reset();
    later.state = VZVirtualMachineStateStopped;
    completionHandler(nil);
  });
}

- (void)pauseWithCompletionHandler:(Completion)completionHandler {
  VmCore& core = checked(self, "pauseWithCompletionHandler:");
  if (![self canPause]) return answer(core, completionHandler, wrong_state("pausing"));
  core.state = VZVirtualMachineStatePausing;
  [self change:&QemuProcess::pause to:VZVirtualMachineStatePaused completionHandler:completionHandler];
}

- (void)resumeWithCompletionHandler:(Completion)completionHandler {
  VmCore& core = checked(self, "resumeWithCompletionHandler:");
  if (![self canResume]) return answer(core, completionHandler, wrong_state("resuming"));
  core.state = VZVirtualMachineStateResuming;
  [self change:&QemuProcess::run to:VZVirtualMachineStateRunning completionHandler:completionHandler];
}

- (void)change:(void (QemuProcess::*)())call to:(VZVirtualMachineState)state completionHandler:(Completion)completionHandler {
  dispatch_async(core_of(self).queue, ^{
    VmCore& core = core_of(self);
    try {
      // The guest may have stopped meanwhile.
      if (!core.qemu) throw vmtest::Error("the virtual machine has stopped");
      ((*core.qemu).*call)();
      core.state = state;
      completionHandler(nil);
    } catch (const std::exception& error) {
      completionHandler(failure(VZErrorInternal, "Internal virtualization error.", error));
    }
  });
}

- (void)saveMachineStateToURL:(NSURL*)url completionHandler:(Completion)completionHandler {
  VmCore& core = checked(self, "saveMachineStateToURL:");
  if (core.state != VZVirtualMachineStatePaused) return answer(core, completionHandler, wrong_state("saving"));
  core.state = VZVirtualMachineStateSaving;
  [self move:&QemuProcess::save
                   file:to_text([url path])
                   code:VZErrorSave
            description:"The virtual machine failed to save."
                 failed:VZVirtualMachineStatePaused
      completionHandler:completionHandler];
}

- (void)restoreMachineStateFromURL:(NSURL*)url completionHandler:(Completion)completionHandler {
  VmCore& core = checked(self, "restoreMachineStateFromURL:");
  if (core.state != VZVirtualMachineStateStopped) return answer(core, completionHandler, wrong_state("restoring"));
  try {
    // Before QEMU is started in vain.
    (void)vmtest::open_file(to_text([url path]), O_RDONLY);
    launch(self, {"-incoming", "defer"});
  } catch (const std::exception& error) {
    core.qemu.reset();
    return answer(core, completionHandler, failure(VZErrorRestore, "The virtual machine failed to restore.", error));
  }
  core.state = VZVirtualMachineStateRestoring;
  [self move:&QemuProcess::restore
                   file:to_text([url path])
                   code:VZErrorRestore
            description:"The virtual machine failed to restore."
                 failed:VZVirtualMachineStateStopped
      completionHandler:completionHandler];
}

/// Moves memory by a thread, since the queue is to answer meanwhile.
- (void)move:(void (QemuProcess::*)(const std::string&))call
                 file:(const std::string&)path
                 code:(NSInteger)code
          description:(const char*)description
               failed:(VZVirtualMachineState)failed
    completionHandler:(Completion)completionHandler {
  VmCore& core = core_of(self);
  const auto qemu = core.qemu;
  const unsigned generation = core.generation;
  const Completion handler = Block_copy(completionHandler);
  VZVirtualMachine* const machine = [self retain];
  const dispatch_queue_t queue = core.queue;
  std::thread([=] {
    std::string why;
    try {
      ((*qemu).*call)(path);
    } catch (const std::exception& error) {
      why = *error.what() == '\0' ? "for no reason" : error.what();
    }
    dispatch_async(queue, ^{
      VmCore& later = core_of(machine);
      const bool ours = later.generation == generation && later.qemu;
      if (ours) later.state = why.empty() ? VZVirtualMachineStatePaused : failed;
      if (ours && failed == VZVirtualMachineStateStopped && !why.empty()) later.qemu.reset();
      NSError* const error =
          why.empty() && ours ? nil : make_error(code, description, ours ? why : "The virtual machine has stopped.");
      handler(error);
      Block_release(handler);
      [machine release];
    });
  }).detach();
}

- (BOOL)requestStopWithError:(NSError**)error {
  VmCore& core = checked(self, "requestStopWithError:");
  if (![self canRequestStop]) {
    return fail(error, VZErrorInvalidVirtualMachineState, "Invalid virtual machine state.", "The virtual machine does not run.");
  }
  try {
    core.qemu->power_button();
    return YES;
  } catch (const std::exception& reason) {
    return fail(error, VZErrorInternal, "Internal virtualization error.", reason.what());
  }
}
@end
