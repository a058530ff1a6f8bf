#include "vz_machine.h"

#include <chrono>
#include <cstdio>
#include <memory>

#include "apple_silicon.h"
#include "autorelease.h"
#include "boot.h"
#include "completion.h"
#include "devices.h"
#include "foundation.h"
#include "host_features.h"
#include "network.h"
#include "storage.h"

@interface VmtestVmDelegate : NSObject <VZVirtualMachineDelegate> {
 @public
  vmtest::vz::VmListener* listener_;
}
@end

@implementation VmtestVmDelegate
- (void)guestDidStopVirtualMachine:(VZVirtualMachine*)virtualMachine {
  (void)virtualMachine;
  listener_->guest_stopped();
}
- (void)virtualMachine:(VZVirtualMachine*)virtualMachine didStopWithError:(NSError*)error {
  (void)virtualMachine;
  listener_->stopped_with_error(vmtest::vz::error_chain(error));
}
- (void)virtualMachine:(VZVirtualMachine*)virtualMachine
                         networkDevice:(VZNetworkDevice*)networkDevice
    attachmentWasDisconnectedWithError:(NSError*)error {
  NSArray* const devices = [virtualMachine networkDevices];
  NSUInteger index = 0;
  while (index < [devices count] && [devices objectAtIndex:index] != networkDevice) ++index;
  listener_->network_disconnected(index, vmtest::vz::error_chain(error));
}
@end

namespace vmtest::vz {
namespace {

constexpr std::uint64_t kMib = 1U << 20;
/// Of calls that the framework ends by itself. Generous: emulation and busy hosts are slow, and the caller has a deadline of
/// its own.
constexpr std::chrono::seconds kCallTime{120};
/// Of calls that write or read the guest's memory.
constexpr std::chrono::seconds kStateTime{900};
/// When the VM goes, so does its process soon.
constexpr std::chrono::seconds kEndTime{10};

const char* name_of(VZVirtualMachineState state) {
  switch (state) {
    case VZVirtualMachineStateStopped:
      return "Stopped";
    case VZVirtualMachineStateRunning:
      return "Running";
    case VZVirtualMachineStatePaused:
      return "Paused";
    case VZVirtualMachineStateError:
      return "Error";
    case VZVirtualMachineStateStarting:
      return "Starting";
    case VZVirtualMachineStatePausing:
      return "Pausing";
    case VZVirtualMachineStateResuming:
      return "Resuming";
    case VZVirtualMachineStateStopping:
      return "Stopping";
    case VZVirtualMachineStateSaving:
      return "Saving";
    case VZVirtualMachineStateRestoring:
      return "Restoring";
  }
  return "Unknown";
}

/// Starts something on the queue and waits off it for the completion handler.
template <class Start>
void run(SerialQueue& queue, const char* what, std::chrono::seconds timeout, const Start& start) {
  const auto completion = std::make_shared<Completion>();
  queue.sync([&] {
    start(^(NSError* error) {
      completion->finish(error);
    });
  });
  completion->wait(what, timeout);
}

using Finished = void (^)(NSError*);

}  // namespace

VzMachine::VzMachine(const VmConfig& config, const HostFacts& host, SerialQueue& queue, VmListener& listener)
    : config_(config), host_(host), queue_(queue), listener_(listener) {
  with_pool([&] {
    make_configuration();
    make_machine();
  });
}

void VzMachine::make_configuration() {
  configuration_ = adopt([[VZVirtualMachineConfiguration alloc] init]);
  VZVirtualMachineConfiguration* const configuration = configuration_.get();
  [configuration setBootLoader:make_boot_loader(config_.boot_loader).get()];
  if (const auto platform = make_platform(config_.platform, host_.version)) [configuration setPlatform:platform.get()];
  [configuration setCPUCount:config_.cpus];
  [configuration setMemorySize:config_.memory_mib * kMib];
  std::vector<Handle<VZStorageDeviceConfiguration*>> disks;
  for (const Disk& disk : config_.disks) disks.push_back(make_storage_device(disk, host_.version));
  [configuration setStorageDevices:to_ns_array(disks)];
  std::vector<Handle<VZNetworkDeviceConfiguration*>> nics;
  for (const Nic& nic : config_.nics) nics.push_back(make_network_device(nic, datagrams_));
  [configuration setNetworkDevices:to_ns_array(nics)];
  add_ports(configuration, config_, relays_);
  add_shares(configuration, config_);
  add_other_devices(configuration, config_);
  NSError* error = nil;
  if (![configuration validateWithError:&error]) throw api_error(error, "the framework does not take the configuration");
}

void VzMachine::make_machine() {
  delegate_ = adopt([[VmtestVmDelegate alloc] init]);
  delegate_.get()->listener_ = &listener_;
  queue_.sync([&] {
    machine_ = adopt([[VZVirtualMachine alloc] initWithConfiguration:configuration_.get() queue:queue_.get()]);
    [machine_.get() setDelegate:delegate_.get()];
  });
  if (config_.vsock) vsock_ = std::make_unique<VsockDevice>(*config_.vsock, machine_.get(), queue_);
}

VzMachine::~VzMachine() {
  try {
    // What comes from the end that is made here is no news.
    queue_.sync([&] { [machine_.get() setDelegate:nil]; });
    bool running = false;
    queue_.sync([&] { running = !missing_reason(Feature::ForcedStop, host_) && [machine_.get() canStop]; });
    if (running) {
      run(queue_, "stopping", kEndTime, [&](Finished finished) { [machine_.get() stopWithCompletionHandler:finished]; });
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "vmtest-vz-helper: the VM could not be stopped, only dropped: %s\n", error.what());
  }
  vsock_.reset();
  // The VM's last reference goes on the queue, as all that concerns it.
  queue_.sync([&] {
    usb_disks_->clear();
    machine_ = {};
  });
}

void VzMachine::require_state(bool can, const char* needed) {
  if (can) return;
  throw ApiError(kConflict, std::string("the VM is ") + name_of([machine_.get() state]) + "; " + needed);
}

void VzMachine::require_saving() {
  require(Feature::SaveRestore, host_);
  NSError* error = nil;
  if (!can_save(configuration_.get(), &error)) throw api_error(error, "a VM of this configuration cannot be saved");
}

VmInfo VzMachine::info() {
  VmInfo info;
  queue_.sync([&] {
    VZVirtualMachine* const machine = machine_.get();
    info.state = name_of([machine state]);
    info.can_start = [machine canStart];
    info.can_stop = !missing_reason(Feature::ForcedStop, host_) && [machine canStop];
    info.can_pause = [machine canPause];
    info.can_resume = [machine canResume];
    info.can_request_stop = [machine canRequestStop];
    if (config_.balloon) {
      auto* const balloon = (VZVirtioTraditionalMemoryBalloonDevice*)[[machine memoryBalloonDevices] objectAtIndex:0];
      info.balloon_mib = [balloon targetVirtualMachineMemorySize] / kMib;
    }
    const bool on = info.state != "Stopped" && info.state != "Error";
    for (const auto& entry : *usb_disks_) {
      if (on) info.usb_disks.push_back(entry.first);
    }
    NSError* error = nil;
    info.cannot_save = missing_reason(Feature::SaveRestore, host_);
    if (!info.cannot_save && !can_save(configuration_.get(), &error)) info.cannot_save = error_chain(error).front();
  });
  return info;
}

void VzMachine::boot() {
  run(queue_, "starting", kCallTime, [&](Finished finished) {
    require_state([machine_.get() canStart], "vm.boot needs Stopped or Error");
    // A machine that starts anew has the devices of its configuration.
    usb_disks_->clear();
    [machine_.get() startWithCompletionHandler:finished];
  });
}

void VzMachine::pause() {
  run(queue_, "pausing", kCallTime, [&](Finished finished) {
    require_state([machine_.get() canPause], "vm.pause needs Running");
    [machine_.get() pauseWithCompletionHandler:finished];
  });
}

void VzMachine::resume() {
  run(queue_, "resuming", kCallTime, [&](Finished finished) {
    require_state([machine_.get() canResume], "vm.resume needs Paused");
    [machine_.get() resumeWithCompletionHandler:finished];
  });
}

void VzMachine::request_stop() {
  queue_.sync([&] {
    require_state([machine_.get() canRequestStop], "vm.power-button needs Running");
    NSError* error = nil;
    if (![machine_.get() requestStopWithError:&error]) throw api_error(error);
  });
}

void VzMachine::stop() {
  require(Feature::ForcedStop, host_);
  run(queue_, "stopping", kCallTime, [&](Finished finished) {
    require_state([machine_.get() canStop], "vm.stop needs Running or Paused");
    [machine_.get() stopWithCompletionHandler:finished];
  });
}

void VzMachine::save(const std::string& path) {
  run(queue_, "saving", kStateTime, [&](Finished finished) {
    require_saving();
    require_state([machine_.get() state] == VZVirtualMachineStatePaused, "vm.save needs Paused");
    save_state(machine_.get(), file_url(path), finished);
  });
}

void VzMachine::restore(const std::string& path) {
  run(queue_, "restoring", kStateTime, [&](Finished finished) {
    require_saving();
    require_state([machine_.get() state] == VZVirtualMachineStateStopped, "vm.restore needs Stopped");
    restore_state(machine_.get(), file_url(path), finished);
  });
}

void VzMachine::set_balloon(std::uint64_t mib) {
  if (!config_.balloon) throw ApiError(kConflict, "the VM has no balloon; its configuration says whether it has one");
  if (mib > config_.memory_mib) {
    throw ApiError(kBadRequest, "memory_mib: the VM has " + std::to_string(config_.memory_mib) + ", not " + std::to_string(mib));
  }
  queue_.sync([&] {
    require_state([machine_.get() state] == VZVirtualMachineStateRunning, "vm.set-balloon needs Running");
    auto* const balloon = (VZVirtioTraditionalMemoryBalloonDevice*)[[machine_.get() memoryBalloonDevices] objectAtIndex:0];
    [balloon setTargetVirtualMachineMemorySize:mib * kMib];
  });
}

VZUSBController* VzMachine::usb_controller() {
  if (!config_.usb_controller)
    throw ApiError(kConflict, "the VM has no USB controller; its configuration says whether it has one");
  require_state([machine_.get() state] == VZVirtualMachineStateRunning, "USB disks come and go while it is Running");
  return [[machine_.get() usbControllers] objectAtIndex:0];
}

void VzMachine::attach_usb_disk(const Disk& disk) {
  run(queue_, "attaching", kCallTime, [&](Finished finished) {
    VZUSBController* const controller = usb_controller();
    if (usb_disks_->count(disk.id) != 0) throw ApiError(kConflict, "the disk '" + disk.id + "' is attached already");
    const Handle<VZUSBMassStorageDevice*> device = make_usb_device(disk, host_.version);
    // Taken before it is there, so that of two calls with one name the second is refused.
    (*usb_disks_)[disk.id] = device;
    const auto disks = usb_disks_;
    const std::string id = disk.id;
    [controller attachDevice:device.get()
           completionHandler:^(NSError* error) {
             if (error != nil) disks->erase(id);
             finished(error);
           }];
  });
}

void VzMachine::detach_usb_disk(const std::string& id) {
  run(queue_, "detaching", kCallTime, [&](Finished finished) {
    VZUSBController* const controller = usb_controller();
    const auto found = usb_disks_->find(id);
    if (found == usb_disks_->end()) throw ApiError(kNotFound, "no disk '" + id + "' was attached");
    const auto disks = usb_disks_;
    const std::string name = id;
    [controller detachDevice:found->second.get()
           completionHandler:^(NSError* error) {
             if (error == nil) disks->erase(name);
             finished(error);
           }];
  });
}

}  // namespace vmtest::vz
