#include "vmtest/router_driver.h"

#include <cstdlib>
#include <string_view>
#include <utility>

#include "supervisor_paths.h"
#include "vmtest/cloud_hypervisor_driver.h"
#include "vmtest/error.h"
#include "vmtest/noop_driver.h"
#include "vmtest/propolis_driver.h"
#include "vmtest/qemu_driver.h"
#include "vmtest/vz_driver.h"

namespace vmtest {
namespace {

std::vector<std::unique_ptr<Driver>> drivers_of_this_platform() {
  std::vector<std::unique_ptr<Driver>> drivers;
  // Where it is, it is the usual one.
  if (std::string_view(kSystem) == "Darwin") drivers.push_back(std::make_unique<VzDriver>());
  drivers.push_back(std::make_unique<QemuDriver>());
  for (const auto mode : {CloudHypervisorDriver::Mode::Api, CloudHypervisorDriver::Mode::CommandLine})
    drivers.push_back(std::make_unique<CloudHypervisorDriver>(mode));
  drivers.push_back(std::make_unique<PropolisDriver>());
  if (std::string_view(kSystem) != "Darwin") drivers.push_back(std::make_unique<VzDriver>());
  // The last resort of nobody: it runs nothing, and is used only when it is asked for.
  drivers.push_back(std::make_unique<NoopDriver>());
  return drivers;
}

std::string names_of(const std::vector<std::unique_ptr<Driver>>& drivers) {
  std::string names;
  for (const auto& driver : drivers) names += (names.empty() ? "" : ", ") + std::string(to_string(driver->kind()));
  return names;
}

std::optional<DriverKind> wish_of_environment(const std::vector<std::unique_ptr<Driver>>& drivers) {
  const char* text = std::getenv("VMTEST_DRIVER");
  if (text == nullptr || *text == '\0') return std::nullopt;
  const auto kind = parse_driver_kind(text);
  if (!kind) throw Error(std::string("VMTEST_DRIVER=") + text + " is no driver; this platform has " + names_of(drivers));
  return kind;
}

/// A facet of a VM's own driver, which another one's having it does not promise.
template <typename Facet>
Facet& require_facet(Facet* facet, const Driver& driver, const char* what) {
  if (facet != nullptr) return *facet;
  throw Unsupported("the driver " + std::string(to_string(driver.kind())) + " cannot " + what);
}

TemplateFacet& templates_of(Driver& driver) { return require_facet(driver.templates(), driver, "freeze and fork VMs"); }
HotplugFacet& hotplug_of(Driver& driver) { return require_facet(driver.hotplug(), driver, "plug devices in"); }
InspectionFacet& inspection_of(Driver& driver) {
  return require_facet(driver.inspection(), driver, "look into a VM from outside");
}
ResizeFacet& resizing_of(Driver& driver) { return require_facet(driver.resizing(), driver, "resize a VM while it runs"); }

}  // namespace

RouterDriver::RouterDriver() : drivers_(drivers_of_this_platform()) { choose(wish_of_environment(drivers_)); }

RouterDriver::RouterDriver(std::vector<std::unique_ptr<Driver>> drivers, std::optional<DriverKind> wish)
    : drivers_(std::move(drivers)) {
  choose(wish);
}

RouterDriver::~RouterDriver() = default;

std::unique_ptr<RouterDriver> RouterDriver::noop_only() {
  std::vector<std::unique_ptr<Driver>> drivers;
  drivers.push_back(std::make_unique<NoopDriver>());
  return std::make_unique<RouterDriver>(std::move(drivers), DriverKind::Noop);
}

void RouterDriver::choose(std::optional<DriverKind> wish) {
  if (drivers_.empty()) throw Error("a router needs a driver to route to");
  for (const auto& driver : drivers_) {
    const bool fits = wish ? driver->kind() == *wish : driver->kind() != DriverKind::Noop && !driver->unavailable_reason();
    if (!fits) continue;
    chosen_ = driver.get();
    return;
  }
  if (wish) {
    throw Error("there is no driver " + std::string(to_string(*wish)) + " on this platform, which has " + names_of(drivers_));
  }
  chosen_ = drivers_.front().get();  // it says why it cannot
}

Driver& RouterDriver::driver_of(const VmHandle& vm) const {
  for (const auto& driver : drivers_) {
    if (driver->kind() == vm.driver) return *driver;
  }
  throw Error("VM \"" + vm.name + "\" belongs to the driver " + std::string(to_string(vm.driver)) + "; this platform has " +
              names_of(drivers_));
}

bool RouterDriver::shares_memory() const { return templates_of(*chosen_).shares_memory(); }
std::optional<std::string> RouterDriver::obstacle(const MachineConfig& machine) const {
  const TemplateFacet* const facet = chosen_->templates();
  return facet == nullptr ? "the driver " + std::string(to_string(chosen_->kind())) + " cannot fork" : facet->obstacle(machine);
}
std::string RouterDriver::fingerprint(const MachineConfig& machine) const {
  return std::string(to_string(chosen_->kind())) + "\n" + templates_of(*chosen_).fingerprint(machine);
}
void RouterDriver::save(const VmHandle& vm, const std::filesystem::path& state_file, const Deadline& deadline) {
  templates_of(driver_of(vm)).save(vm, state_file, deadline);
}
std::chrono::microseconds RouterDriver::checkpoint(const VmHandle& vm, const std::filesystem::path& state_file,
                                                   const std::map<std::string, std::filesystem::path>& overlays,
                                                   const Deadline& deadline) {
  return templates_of(driver_of(vm)).checkpoint(vm, state_file, overlays, deadline);
}
FileDescriptor RouterDriver::connect_agent(const VmHandle& vm, const Deadline& deadline) {
  return templates_of(driver_of(vm)).connect_agent(vm, deadline);
}
void RouterDriver::attach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) {
  hotplug_of(driver_of(vm)).attach_disk(vm, disk, deadline);
}
bool RouterDriver::shows_serial_numbers(const VmHandle& vm) const { return hotplug_of(driver_of(vm)).shows_serial_numbers(vm); }
PluggedNic RouterDriver::attach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) {
  return hotplug_of(driver_of(vm)).attach_nic(vm, nic, deadline);
}
void RouterDriver::detach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) {
  hotplug_of(driver_of(vm)).detach_disk(vm, disk, deadline);
}
void RouterDriver::detach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) {
  hotplug_of(driver_of(vm)).detach_nic(vm, nic, deadline);
}
MigrationReport RouterDriver::migrate(const VmHandle& vm, const MachineConfig& machine, const Deadline& deadline) {
  Driver& driver = driver_of(vm);
  return require_facet(driver.migration(), driver, "migrate VMs").migrate(vm, machine, deadline);
}
void RouterDriver::resize_vcpus(const VmHandle& vm, unsigned vcpus, const Deadline& deadline) {
  resizing_of(driver_of(vm)).resize_vcpus(vm, vcpus, deadline);
}
void RouterDriver::resize_memory(const VmHandle& vm, unsigned memory_mib, const Deadline& deadline) {
  resizing_of(driver_of(vm)).resize_memory(vm, memory_mib, deadline);
}
void RouterDriver::resize_disk(const VmHandle& vm, const std::string& disk, std::uint64_t size_mib, const Deadline& deadline) {
  resizing_of(driver_of(vm)).resize_disk(vm, disk, size_mib, deadline);
}
MachineSize RouterDriver::size(const VmHandle& vm, const Deadline& deadline) {
  return resizing_of(driver_of(vm)).size(vm, deadline);
}
std::vector<Counter> RouterDriver::counters(const VmHandle& vm, const Deadline& deadline) {
  return inspection_of(driver_of(vm)).counters(vm, deadline);
}
void RouterDriver::inject_nmi(const VmHandle& vm, const Deadline& deadline) {
  inspection_of(driver_of(vm)).inject_nmi(vm, deadline);
}
void RouterDriver::dump_memory(const VmHandle& vm, const std::filesystem::path& file, const Deadline& deadline) {
  inspection_of(driver_of(vm)).dump_memory(vm, file, deadline);
}
std::unique_ptr<Guest> RouterDriver::connect_guest(const VmHandle& vm) {
  Driver& driver = driver_of(vm);
  GuestFacet* const facet = driver.guests();
  return facet == nullptr ? nullptr : facet->connect_guest(vm);
}

}  // namespace vmtest
