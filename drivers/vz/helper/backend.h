#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "host_facts.h"
#include "vm_config.h"

namespace vmtest::vz {

/// What the framework says of a VM at one moment.
struct VmInfo {
  /// "Stopped", "Running", "Paused", "Error", "Starting", "Pausing", "Resuming", "Stopping", "Saving" or "Restoring".
  std::string state;
  bool can_start = false;
  bool can_stop = false;
  bool can_pause = false;
  bool can_resume = false;
  bool can_request_stop = false;
  /// Why such a VM cannot be saved and restored; empty when it can.
  std::optional<std::string> cannot_save = {};
  /// The memory the balloon leaves to the guest.
  std::optional<std::uint64_t> balloon_mib = {};
  /// Disks attached while it ran.
  std::vector<std::string> usb_disks = {};
};

/// Hears what a VM does by itself. Called on the VM's queue: must not call the VM.
class VmListener {
 public:
  virtual ~VmListener() = default;
  virtual void guest_stopped() = 0;
  virtual void stopped_with_error(const std::vector<std::string>& chain) = 0;
  /// `nic` is its index in the configuration.
  virtual void network_disconnected(std::size_t nic, const std::vector<std::string>& chain) = 0;
};

/// A VM. Calls may be made by several threads at once; each is decided by the state at the moment it reaches the VM's queue.
/// All throw ApiError: 409 in a state that does not allow them, 500 with the framework's reasons, 501, 504.
/// Destroying it ends the guest at once.
class VirtualMachine {
 public:
  virtual ~VirtualMachine() = default;
  [[nodiscard]] virtual VmInfo info() = 0;
  virtual void boot() = 0;
  virtual void pause() = 0;
  virtual void resume() = 0;
  /// Asks the guest to stop; returns at once.
  virtual void request_stop() = 0;
  virtual void stop() = 0;
  virtual void save(const std::string& path) = 0;
  virtual void restore(const std::string& path) = 0;
  virtual void set_balloon(std::uint64_t mib) = 0;
  virtual void attach_usb_disk(const Disk& disk) = 0;
  virtual void detach_usb_disk(const std::string& id) = 0;
};

/// The framework.
class Hypervisor {
 public:
  virtual ~Hypervisor() = default;
  [[nodiscard]] virtual HostFacts facts() = 0;
  /// Makes and validates a VM. The listener is borrowed and outlives it.
  [[nodiscard]] virtual std::unique_ptr<VirtualMachine> create(const VmConfig& config, VmListener& listener) = 0;
};

}  // namespace vmtest::vz
