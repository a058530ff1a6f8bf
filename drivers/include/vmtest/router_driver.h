#pragma once

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmtest/driver.h"

namespace vmtest {

/// The driver that picks a driver: one for new VMs, and for each call on a VM the one that its handle is tagged with. A call for
/// a driver that is not among its own throws Error naming it.
///
/// What it says of itself (kind, support, disk needs) is what the chosen driver says. Facets are the exception: they are there
/// when any of its drivers has them, since a VM may be of any; support() says what new VMs can do.
class RouterDriver final : public Driver,
                           private TemplateFacet,
                           private HotplugFacet,
                           private MigrationFacet,
                           private ResizeFacet,
                           private InspectionFacet,
                           private GuestFacet {
 public:
  /// All drivers of this platform, the usual one first. VMTEST_DRIVER names the one for new VMs; else it is the first that can
  /// run VMs here. Throws Error for a name that is no driver's, or not one of this platform.
  RouterDriver();
  /// Drivers in order of preference, `wish` among them or empty.
  RouterDriver(std::vector<std::unique_ptr<Driver>> drivers, std::optional<DriverKind> wish);
  ~RouterDriver() override;

  /// A router that knows the Noop driver alone, whatever VMTEST_DRIVER says.
  [[nodiscard]] static std::unique_ptr<RouterDriver> noop_only();

  [[nodiscard]] DriverKind kind() const override { return chosen_->kind(); }
  [[nodiscard]] std::optional<std::string> unavailable_reason() const override { return chosen_->unavailable_reason(); }
  [[nodiscard]] DiskNeeds disk_needs() const override { return chosen_->disk_needs(); }
  [[nodiscard]] Support support(Capability capability) const override { return chosen_->support(capability); }

  [[nodiscard]] bool has_own_firmware() const override { return chosen_->has_own_firmware(); }
  [[nodiscard]] VmHandle prepare(const PrepareRequest& request) override { return chosen_->prepare(request); }
  VmHandle start(const VmHandle& vm, const MachineConfig& machine) override { return driver_of(vm).start(vm, machine); }
  [[nodiscard]] std::vector<Step> start_steps(const VmHandle& vm) const override { return driver_of(vm).start_steps(vm); }
  VmHandle stop(const VmHandle& vm, std::chrono::milliseconds timeout) override { return driver_of(vm).stop(vm, timeout); }
  VmHandle suspend(const VmHandle& vm) override { return driver_of(vm).suspend(vm); }
  VmHandle resume(const VmHandle& vm) override { return driver_of(vm).resume(vm); }
  void destroy(const VmHandle& vm) override { driver_of(vm).destroy(vm); }
  [[nodiscard]] VmState state(const VmHandle& vm) override { return driver_of(vm).state(vm); }
  [[nodiscard]] std::string guest_ip(const VmHandle& vm) override { return driver_of(vm).guest_ip(vm); }
  [[nodiscard]] ConsoleEndpoint console_endpoint(const VmHandle& vm) const override { return driver_of(vm).console_endpoint(vm); }
  [[nodiscard]] std::optional<VmExit> wait_exit(const VmHandle& vm, std::chrono::milliseconds timeout) override {
    return driver_of(vm).wait_exit(vm, timeout);
  }

  // There when a driver has them. Calls on a VM go to its own driver, and throw Unsupported naming it when it has none such; what
  // is planned (TemplateFacet::obstacle, fingerprint) is planned for the chosen one.
  [[nodiscard]] TemplateFacet* templates() override { return has(&Driver::templates) ? this : nullptr; }
  [[nodiscard]] HotplugFacet* hotplug() override { return has(&Driver::hotplug) ? this : nullptr; }
  [[nodiscard]] MigrationFacet* migration() override { return has(&Driver::migration) ? this : nullptr; }
  [[nodiscard]] ResizeFacet* resizing() override { return has(&Driver::resizing) ? this : nullptr; }
  [[nodiscard]] InspectionFacet* inspection() override { return has(&Driver::inspection) ? this : nullptr; }
  [[nodiscard]] GuestFacet* guests() override { return has(&Driver::guests) ? this : nullptr; }

  /// The driver of a handle. Throws Error when it is not among this router's.
  [[nodiscard]] Driver& driver_of(const VmHandle& vm) const;

 private:
  void choose(std::optional<DriverKind> wish);
  /// Whether a driver has that facet.
  template <typename Facet>
  [[nodiscard]] bool has(Facet* (Driver::*facet)()) const {
    return std::any_of(drivers_.begin(), drivers_.end(), [&](const auto& driver) { return ((*driver).*facet)() != nullptr; });
  }
  [[nodiscard]] bool shares_memory() const override;
  [[nodiscard]] std::optional<std::string> obstacle(const MachineConfig& machine) const override;
  [[nodiscard]] std::string fingerprint(const MachineConfig& machine) const override;
  void save(const VmHandle& vm, const std::filesystem::path& state_file, const Deadline& deadline) override;
  std::chrono::microseconds checkpoint(const VmHandle& vm, const std::filesystem::path& state_file,
                                       const std::map<std::string, std::filesystem::path>& overlays,
                                       const Deadline& deadline) override;
  [[nodiscard]] FileDescriptor connect_agent(const VmHandle& vm, const Deadline& deadline) override;
  void attach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) override;
  [[nodiscard]] bool shows_serial_numbers(const VmHandle& vm) const override;
  [[nodiscard]] PluggedNic attach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) override;
  void detach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) override;
  void detach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) override;
  MigrationReport migrate(const VmHandle& vm, const MachineConfig& machine, const Deadline& deadline) override;
  void resize_vcpus(const VmHandle& vm, unsigned vcpus, const Deadline& deadline) override;
  void resize_memory(const VmHandle& vm, unsigned memory_mib, const Deadline& deadline) override;
  void resize_disk(const VmHandle& vm, const std::string& disk, std::uint64_t size_mib, const Deadline& deadline) override;
  [[nodiscard]] MachineSize size(const VmHandle& vm, const Deadline& deadline) override;
  [[nodiscard]] std::vector<Counter> counters(const VmHandle& vm, const Deadline& deadline) override;
  void inject_nmi(const VmHandle& vm, const Deadline& deadline) override;
  void dump_memory(const VmHandle& vm, const std::filesystem::path& file, const Deadline& deadline) override;
  [[nodiscard]] std::unique_ptr<Guest> connect_guest(const VmHandle& vm) override;

  std::vector<std::unique_ptr<Driver>> drivers_;
  Driver* chosen_ = nullptr;
};

}  // namespace vmtest
