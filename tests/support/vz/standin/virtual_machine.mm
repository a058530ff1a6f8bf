// VZVirtualMachine: the framework's states and refusals around a QEMU.

#import <Virtualization/Virtualization.h>

#include <Block.h>
#include <fcntl.h>

#include <cstdlib>

#include <memory>
#include <thread>

#include "standin.h"
#include "vm_core.h"
#include "vm_description.h"
#include "vmtest/error.h"

using namespace vmtest::vz::standin;  // NOLINT(google-build-using-namespace)

namespace {

/// A machine without the guest's end, whose state says how it went.
void take_end(VZVirtualMachine* machine, unsigned generation, const std::string& why) {
  VmCore& core = core_of(machine);
  if (core.generation != generation || !core.qemu) return;
  if (core.state == VZVirtualMachineStateRestoring) return;  // who restores is told, and nobody else
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

/// What tests want to happen to a VM that has just started.
void report_what_is_wanted(VZVirtualMachine* machine) {
  // VMTEST_SIM_VZ_DISCONNECT_NIC: the index of a network device whose attachment is reported as disconnected.
  const char* const nic = std::getenv("VMTEST_SIM_VZ_DISCONNECT_NIC");
  if (nic != nullptr) {
    [core_of(machine).delegate virtualMachine:machine
                                networkDevice:[[machine networkDevices] objectAtIndex:std::strtoul(nic, nullptr, 10)]
           attachmentWasDisconnectedWithError:make_error(7, "The network device was disconnected.", "A test wants it.")];
  }
  // VMTEST_SIM_VZ_GUEST_CONNECTS: a vsock port of the host that the guest connects to, to say hello.
  const char* const port = std::getenv("VMTEST_SIM_VZ_GUEST_CONNECTS");
  if (port != nullptr) {
    connect_from_guest([[machine socketDevices] objectAtIndex:0], static_cast<uint32_t>(std::strtoul(port, nullptr, 10)));
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
                           .networks = std::move(description.networks),
                           .commands = std::move(description.commands),
                           .on_end = [queue, borrowed, watched, generation](const std::string& why) {
                             // A block that captures a reference keeps no copy.
                             const std::string reason = why;
                             dispatch_async(queue, ^{
                               if (!watched.expired()) take_end(borrowed, generation, reason);
                             });
                           }});
  core.usb_names.clear();
  core.balloon_bytes = [core.configuration memorySize];
}

}  // namespace

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
  require_system("canStop", 12, 0);
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
  require_system("usbControllers", 15, 0);
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
      report_what_is_wanted(self);
      completionHandler(nil);
    } catch (const std::exception& error) {
      later.qemu.reset();
      later.state = VZVirtualMachineStateError;
      completionHandler(failure(VZErrorInternal, "Internal virtualization error. The virtual machine failed to start.", error));
    }
  });
}

- (void)stopWithCompletionHandler:(Completion)completionHandler {
  require_system("stopWithCompletionHandler:", 12, 0);
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
  require_system("saveMachineStateToURL:completionHandler:", 14, 0);
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
  require_system("restoreMachineStateFromURL:completionHandler:", 14, 0);
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
