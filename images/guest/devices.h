#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "guest/files.h"
#include "guest/modules.h"

namespace vmtest::guest {

/// Loads the drivers of all devices the kernel knows now, and of those these drivers bring forth. A SATA controller without any
/// disk is left alone.
void coldplug(ModuleLoader& modules);

/// A message of the kernel about a device (Documentation/ABI, uevent): "add", its modalias if it waits for a driver, its
/// subsystem and its node under /dev if it has one.
struct DeviceEvent {
  std::string action;
  std::string subsystem;
  std::string modalias;
  std::string node;
};

/// Takes a kernel message apart; empty when it is none.
[[nodiscard]] std::optional<DeviceEvent> parse_device_event(std::string_view message);

/// Listens to the kernel's device messages (NETLINK_KOBJECT_UEVENT).
class DeviceListener {
 public:
  /// Throws when the kernel has no such socket.
  DeviceListener();

  /// Readable when an event waits.
  [[nodiscard]] int descriptor() const { return socket_.get(); }
  /// The events that wait, without blocking.
  [[nodiscard]] std::vector<DeviceEvent> take();

 private:
  Descriptor socket_;
};

/// Nodes of all whole disks and optical drives ("/dev/vda"), virtio disks first.
[[nodiscard]] std::vector<std::string> block_devices();
/// The disk with an ext4 file system of that label, or empty.
[[nodiscard]] std::optional<std::string> find_ext4(std::string_view label);

}  // namespace vmtest::guest
