#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vmtest/capability.h"
#include "vmtest/guest_facet.h"
#include "vmtest/hotplug_facet.h"
#include "vmtest/inspection_facet.h"
#include "vmtest/machine_config.h"
#include "vmtest/migration_facet.h"
#include "vmtest/resize_facet.h"
#include "vmtest/step.h"
#include "vmtest/template_facet.h"
#include "vmtest/vm_exit.h"
#include "vmtest/vm_handle.h"

namespace vmtest {

/// Where a person or a program can talk to the guest's serial console.
struct ConsoleEndpoint {
  enum class Kind { None, UnixSocket, WebSocket };
  Kind kind = Kind::None;
  /// Path of the socket or URL.
  std::string address;
  /// File that receives everything the guest prints, readable while it runs; empty when there is none.
  std::filesystem::path log;
};

/// What kinds of disk file a driver takes.
struct DiskNeeds {
  std::vector<DiskFormat> formats;
  /// Whether an overlay with a backing file may be given.
  bool backing_files = false;
};

/// Drives one kind of hypervisor. Implementations keep a connection per VM that this process owns; every call but the
/// constructor may be made by several threads at once, for different VMs. Calls that need another state than the VM is in
/// throw Error and change nothing. No call waits beyond the time it was given or a documented constant.
class Driver {
 public:
  virtual ~Driver() = default;
  Driver() = default;
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  [[nodiscard]] virtual DriverKind kind() const = 0;
  /// Why VMs cannot be run by this driver on this host, with the mend; empty when they can.
  [[nodiscard]] virtual std::optional<std::string> unavailable_reason() const = 0;
  [[nodiscard]] virtual DiskNeeds disk_needs() const = 0;
  [[nodiscard]] virtual Support support(Capability capability) const = 0;

  /// Makes the VM known: folders, ports, supervisor. Nothing is running yet. On failure nothing is left.
  [[nodiscard]] virtual VmHandle prepare(const PrepareRequest& request) = 0;
  /// Prepared or Stopped -> Running. The machine must be complete by now: its disks exist. Returns when the hypervisor
  /// runs the guest; throws Error with the hypervisor's own words when it refuses.
  virtual VmHandle start(const VmHandle& vm, const MachineConfig& machine) = 0;
  /// How far the last start() by this object got, and when: "process" with the hypervisor's process running, "monitor" with the
  /// hypervisor answering. Empty when the driver does not tell, or another process started the VM.
  [[nodiscard]] virtual std::vector<Step> start_steps(const VmHandle&) const { return {}; }
  /// Asks the guest to power off, then ends the hypervisor: ACPI, SIGTERM, SIGKILL within `timeout`. Running, Suspended or
  /// Failed -> Stopped.
  virtual VmHandle stop(const VmHandle& vm, std::chrono::milliseconds timeout) = 0;
  /// Running -> Suspended: vCPUs stand still, memory stays.
  virtual VmHandle suspend(const VmHandle& vm) = 0;
  /// Suspended -> Running.
  virtual VmHandle resume(const VmHandle& vm) = 0;
  /// Ends the hypervisor at once and removes everything of the VM. Any state -> Destroyed; does nothing the second time. Throws
  /// Error when something of it stays on the host; the VM is destroyed all the same.
  virtual void destroy(const VmHandle& vm) = 0;
  /// The true state, asked of the hypervisor. Throws Timeout when that does not answer, Error when it runs and its answer makes
  /// no sense: stop() and destroy() end it all the same.
  [[nodiscard]] virtual VmState state(const VmHandle& vm) = 0;
  /// The guest's address as the host reaches it (127.0.0.1 on a user-mode network). Throws Error when it is not known yet.
  [[nodiscard]] virtual std::string guest_ip(const VmHandle& vm) = 0;
  [[nodiscard]] virtual ConsoleEndpoint console_endpoint(const VmHandle& vm) const = 0;

  /// Whether a boot by UEFI takes firmware that the driver has itself, with its variables where it has any: MachineConfig::uefi
  /// is left out then.
  [[nodiscard]] virtual bool has_own_firmware() const { return false; }

  /// Waits up to `timeout` for the hypervisor's end and returns how it ended; empty while it runs.
  [[nodiscard]] virtual std::optional<VmExit> wait_exit(const VmHandle& vm, std::chrono::milliseconds timeout) = 0;

  /// Freezing and forking VMs; null when this driver does not. Owned by the driver.
  [[nodiscard]] virtual TemplateFacet* templates() { return nullptr; }
  /// Devices that come and go; null when this driver has none such. Owned by the driver.
  [[nodiscard]] virtual HotplugFacet* hotplug() { return nullptr; }
  /// Moving guests into another process of the hypervisor while they run; null when this driver does not. Owned by the driver.
  [[nodiscard]] virtual MigrationFacet* migration() { return nullptr; }
  /// VMs that grow and shrink; null when this driver's do not. Owned by the driver.
  [[nodiscard]] virtual ResizeFacet* resizing() { return nullptr; }
  /// Counters, interrupts, dumps; null when this driver has none such. Owned by the driver.
  [[nodiscard]] virtual InspectionFacet* inspection() { return nullptr; }
  /// A way into the guests; null when that is SSH. Owned by the driver.
  [[nodiscard]] virtual GuestFacet* guests() { return nullptr; }
};

}  // namespace vmtest
