#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "vmtest/driver.h"
#include "vmtest/error.h"
#include "vmtest/guest.h"

namespace vmtest::testing {

/// A guest that answers every command with a name.
class ToyGuest final : public Guest {
 public:
  explicit ToyGuest(std::string name) : name_(std::move(name)) {}
  [[nodiscard]] CommandResult exec(const GuestCommand&) override { return {.exit_code = 0, .out = name_}; }
  [[nodiscard]] std::unique_ptr<GuestProcess> spawn(const GuestCommand&) override { throw Unsupported("it has no processes"); }
  void push(const std::filesystem::path&, const std::string&) override { throw Unsupported("it has no files"); }
  void pull(const std::string&, const std::filesystem::path&) override { throw Unsupported("it has no files"); }
  [[nodiscard]] std::unique_ptr<PortForward> forward(std::uint16_t, const std::string&) override {
    throw Unsupported("it has no ports");
  }

 private:
  std::string name_;
};

/// A driver of any kind, with one VM in memory, which it takes every handle for: with all facets or with none. It keeps account
/// of what was done to the VM, and answers with its own name wherever it can.
class ToyDriver final : public Driver,
                        private TemplateFacet,
                        private HotplugFacet,
                        private MigrationFacet,
                        private ResizeFacet,
                        private InspectionFacet,
                        private GuestFacet {
 public:
  enum class Facets { All, None };
  using Done = std::vector<std::string>;

  explicit ToyDriver(DriverKind kind, Facets facets = Facets::All) : kind_(kind), facets_(facets) {}

  /// What was done to its VM, in order.
  [[nodiscard]] const Done& done() const { return done_; }
  [[nodiscard]] std::string name() const { return std::string(to_string(kind_)); }
  [[nodiscard]] VmHandle handle() const {
    VmHandle vm;
    vm.id = "toy";
    vm.name = "web";
    vm.driver = kind_;
    return vm;
  }

  [[nodiscard]] DriverKind kind() const override { return kind_; }
  [[nodiscard]] std::optional<std::string> unavailable_reason() const override { return std::nullopt; }
  [[nodiscard]] DiskNeeds disk_needs() const override { return {{DiskFormat::Raw}, kind_ == DriverKind::Qemu}; }
  [[nodiscard]] Support support(Capability) const override { return {Support::Kind::NotOffered, name() + " is a toy"}; }
  [[nodiscard]] bool has_own_firmware() const override { return kind_ == DriverKind::Qemu; }

  [[nodiscard]] VmHandle prepare(const PrepareRequest& request) override {
    note("prepare " + request.name);
    return handle();
  }
  VmHandle start(const VmHandle&, const MachineConfig& machine) override {
    note("start with " + std::to_string(machine.vcpus) + " vCPUs");
    return in(VmState::Running);
  }
  [[nodiscard]] std::vector<Step> start_steps(const VmHandle&) const override { return {Step{to_string(kind_), {}}}; }
  VmHandle stop(const VmHandle&, std::chrono::milliseconds timeout) override {
    note("stop within " + std::to_string(timeout.count()) + " ms");
    return in(VmState::Stopped);
  }
  VmHandle suspend(const VmHandle&) override {
    note("suspend");
    return in(VmState::Suspended);
  }
  VmHandle resume(const VmHandle&) override {
    note("resume");
    return in(VmState::Running);
  }
  void destroy(const VmHandle&) override {
    note("destroy");
    (void)in(VmState::Destroyed);
  }
  [[nodiscard]] VmState state(const VmHandle&) override { return state_; }
  [[nodiscard]] std::string guest_ip(const VmHandle&) override { return "address of " + name(); }
  [[nodiscard]] ConsoleEndpoint console_endpoint(const VmHandle&) const override {
    return {ConsoleEndpoint::Kind::UnixSocket, "console of " + name(), ""};
  }
  [[nodiscard]] std::optional<VmExit> wait_exit(const VmHandle&, std::chrono::milliseconds timeout) override {
    return VmExit{name() + " was waited for, " + std::to_string(timeout.count()) + " ms", "", true};
  }

  [[nodiscard]] TemplateFacet* templates() override { return facet<TemplateFacet>(); }
  [[nodiscard]] HotplugFacet* hotplug() override { return facet<HotplugFacet>(); }
  [[nodiscard]] MigrationFacet* migration() override { return facet<MigrationFacet>(); }
  [[nodiscard]] ResizeFacet* resizing() override { return facet<ResizeFacet>(); }
  [[nodiscard]] InspectionFacet* inspection() override { return facet<InspectionFacet>(); }
  [[nodiscard]] GuestFacet* guests() override { return facet<GuestFacet>(); }

 private:
  template <typename Facet>
  [[nodiscard]] Facet* facet() {
    return facets_ == Facets::All ? static_cast<Facet*>(this) : nullptr;
  }
  void note(const std::string& what) { done_.push_back(what); }
  VmHandle in(VmState state) {
    state_ = state;
    VmHandle vm = handle();
    vm.gateway = "as " + name() + " has it";
    return vm;
  }

  [[nodiscard]] bool shares_memory() const override { return kind_ == DriverKind::Qemu; }
  [[nodiscard]] std::optional<std::string> obstacle(const MachineConfig&) const override { return "obstacle of " + name(); }
  [[nodiscard]] std::string fingerprint(const MachineConfig&) const override { return "fingerprint of " + name(); }
  void save(const VmHandle&, const std::filesystem::path& state_file, const Deadline&) override {
    note("save " + state_file.string());
    (void)in(VmState::Stopped);
  }
  std::chrono::microseconds checkpoint(const VmHandle&, const std::filesystem::path& state_file,
                                       const std::map<std::string, std::filesystem::path>& overlays, const Deadline&) override {
    std::string what = "checkpoint " + state_file.string();
    for (const auto& [disk, overlay] : overlays) what += " " + disk + " on " + overlay.string();
    note(what);
    return std::chrono::microseconds(7);
  }
  [[nodiscard]] FileDescriptor connect_agent(const VmHandle&, const Deadline&) override {
    note("connect_agent");
    return {};
  }
  void attach_disk(const VmHandle&, const DiskConfig& disk, const Deadline&) override { note("attach disk " + disk.id); }
  [[nodiscard]] bool shows_serial_numbers(const VmHandle&) const override { return kind_ == DriverKind::Qemu; }
  [[nodiscard]] PluggedNic attach_nic(const VmHandle&, const NicConfig& nic, const Deadline&) override {
    note("attach card " + nic.mac_address);
    return {.nic = nic, .gateway = "gateway of " + name()};
  }
  void detach_disk(const VmHandle&, const DiskConfig& disk, const Deadline&) override { note("detach disk " + disk.id); }
  void detach_nic(const VmHandle&, const NicConfig& nic, const Deadline&) override { note("detach card " + nic.mac_address); }
  MigrationReport migrate(const VmHandle&, const MachineConfig& machine, const Deadline&) override {
    note("migrate with " + std::to_string(machine.vcpus) + " vCPUs");
    return {.total = std::chrono::milliseconds(7)};
  }
  void resize_vcpus(const VmHandle&, unsigned vcpus, const Deadline&) override { size_.vcpus = vcpus; }
  void resize_memory(const VmHandle&, unsigned memory_mib, const Deadline&) override { size_.memory_mib = memory_mib; }
  void resize_disk(const VmHandle&, const std::string& disk, std::uint64_t size_mib, const Deadline&) override {
    note("resize disk " + disk + " to " + std::to_string(size_mib));
  }
  [[nodiscard]] MachineSize size(const VmHandle&, const Deadline&) override { return size_; }
  [[nodiscard]] std::vector<Counter> counters(const VmHandle&, const Deadline&) override { return {{name(), "read_bytes", 7}}; }
  void inject_nmi(const VmHandle&, const Deadline&) override { note("inject_nmi"); }
  void dump_memory(const VmHandle&, const std::filesystem::path& file, const Deadline&) override {
    note("dump " + file.string());
  }
  [[nodiscard]] std::unique_ptr<Guest> connect_guest(const VmHandle&) override { return std::make_unique<ToyGuest>(name()); }

  const DriverKind kind_;
  const Facets facets_;
  VmState state_ = VmState::Prepared;
  MachineSize size_ = {1, 64};
  Done done_;
};

}  // namespace vmtest::testing
