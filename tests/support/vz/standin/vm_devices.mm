// The devices of a running VM.

#import <Virtualization/Virtualization.h>

#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "standin.h"
#include "vm_core.h"
#include "vm_description.h"
#include "vmtest/error.h"
#include "vmtest/host/socket.h"

using namespace vmtest::vz::standin;  // NOLINT(google-build-using-namespace)

/// The vsock port that leads to the guest agent.
static constexpr uint32_t kAgentPort = 5252;

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

void vmtest::vz::standin::connect_from_guest(VZSocketDevice* device, uint32_t port) {
  auto* const listener = (VZVirtioSocketListener*)get_object(device, "listener" + std::to_string(port));
  if (listener == nil) return;
  auto [ours, theirs] = make_socket_pair();
  VZVirtioSocketConnection* const connection = [[[VZVirtioSocketConnection alloc] init] autorelease];
  set_number(connection, "destinationPort", port);
  set_number(connection, "sourcePort", 1025);
  set_number(connection, "fileDescriptor", theirs.release());
  const BOOL taken = [[listener delegate] listener:listener
                         shouldAcceptNewConnection:connection
                                  fromSocketDevice:(VZVirtioSocketDevice*)device];
  if (taken != NO) write_all(ours.get(), "hello from the guest\n");
}
