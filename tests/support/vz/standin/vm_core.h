#pragma once

#import <Virtualization/Virtualization.h>

#include <exception>
#include <map>
#include <memory>
#include <string>

#include "qemu_process.h"
#include "standin.h"

namespace vmtest::vz::standin {

using Completion = void (^)(NSError*);

/// What a VZVirtualMachine of the stand-in is.
struct VmCore {
  VmCore() = default;
  VmCore(const VmCore&) = delete;
  VmCore& operator=(const VmCore&) = delete;
  ~VmCore() { [configuration release]; }

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
};

[[nodiscard]] VmCore& core_of(NSObject* machine);
/// The core of a VM one of whose methods, or of its devices', is called where it may be called: on the queue.
VmCore& checked(NSObject* machine, const char* what);
/// Calls a handler on the queue, later, as the framework does.
void answer(VmCore& core, Completion handler, NSError* error);
[[nodiscard]] NSError* wrong_state(const char* what);
/// An error that an exception was the reason of.
[[nodiscard]] NSError* failure(NSInteger code, const char* description, const std::exception& error);
/// A connection of the guest to a port of the host, on which it says hello when it is taken.
void connect_from_guest(VZSocketDevice* device, uint32_t port);

}  // namespace vmtest::vz::standin
