#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "vmtest/error.h"
#include "vmtest/qemu_driver.h"
#include "vmtest/supervisor.h"

namespace vmtest::testing {

/// The process of a VM's hypervisor, by its supervisor's word.
inline pid_t hypervisor_of(const VmHandle& vm) {
  const auto processes = SupervisorConnection::connect(vm.supervisor_socket())->status().processes;
  if (processes.size() != 1)
    throw Error("VM \"" + vm.name + "\" has " + std::to_string(processes.size()) + " processes, not one");
  return processes.begin()->second;
}

/// QEMU's driver, with something done at moments that a test cannot hit from outside.
class AlteredQemu final : public Driver, private TemplateFacet {
 public:
  using VmAct = std::function<void(const VmHandle& vm)>;
  /// Before a VM is frozen to become a template.
  VmAct before_save = nullptr;
  /// When a VM's process runs, for a fork: when its guest runs on, before anything is said to it.
  std::function<void(const VmHandle& vm, const MachineConfig& machine)> after_start = nullptr;
  /// Stands for the writing of a running VM's state.
  std::function<std::chrono::microseconds(TemplateFacet& facet, const VmHandle& vm, const std::filesystem::path& state_file,
                                          const std::map<std::string, std::filesystem::path>& overlays, const Deadline& deadline)>
      instead_of_checkpoint = nullptr;

  DriverKind kind() const override { return qemu_.kind(); }
  std::optional<std::string> unavailable_reason() const override { return qemu_.unavailable_reason(); }
  DiskNeeds disk_needs() const override { return qemu_.disk_needs(); }
  Support support(Capability capability) const override { return qemu_.support(capability); }
  VmHandle prepare(const PrepareRequest& request) override { return qemu_.prepare(request); }
  VmHandle start(const VmHandle& vm, const MachineConfig& machine) override {
    VmHandle started = qemu_.start(vm, machine);
    if (after_start) after_start(started, machine);
    return started;
  }
  VmHandle stop(const VmHandle& vm, std::chrono::milliseconds timeout) override { return qemu_.stop(vm, timeout); }
  VmHandle suspend(const VmHandle& vm) override { return qemu_.suspend(vm); }
  VmHandle resume(const VmHandle& vm) override { return qemu_.resume(vm); }
  void destroy(const VmHandle& vm) override { qemu_.destroy(vm); }
  VmState state(const VmHandle& vm) override { return qemu_.state(vm); }
  std::string guest_ip(const VmHandle& vm) override { return qemu_.guest_ip(vm); }
  ConsoleEndpoint console_endpoint(const VmHandle& vm) const override { return qemu_.console_endpoint(vm); }
  std::optional<VmExit> wait_exit(const VmHandle& vm, std::chrono::milliseconds timeout) override {
    return qemu_.wait_exit(vm, timeout);
  }
  TemplateFacet* templates() override { return this; }
  HotplugFacet* hotplug() override { return qemu_.hotplug(); }
  MigrationFacet* migration() override { return qemu_.migration(); }
  ResizeFacet* resizing() override { return qemu_.resizing(); }
  InspectionFacet* inspection() override { return qemu_.inspection(); }

 private:
  bool shares_memory() const override { return true; }
  std::optional<std::string> obstacle(const MachineConfig& machine) const override { return facet().obstacle(machine); }
  std::string fingerprint(const MachineConfig& machine) const override {
    // As the router puts it: the same templates as others have.
    return std::string(to_string(kind())) + "\n" + facet().fingerprint(machine);
  }
  void save(const VmHandle& vm, const std::filesystem::path& state_file, const Deadline& deadline) override {
    if (before_save) before_save(vm);
    facet().save(vm, state_file, deadline);
  }
  std::chrono::microseconds checkpoint(const VmHandle& vm, const std::filesystem::path& state_file,
                                       const std::map<std::string, std::filesystem::path>& overlays,
                                       const Deadline& deadline) override {
    if (instead_of_checkpoint) return instead_of_checkpoint(facet(), vm, state_file, overlays, deadline);
    return facet().checkpoint(vm, state_file, overlays, deadline);
  }
  FileDescriptor connect_agent(const VmHandle& vm, const Deadline& deadline) override {
    return facet().connect_agent(vm, deadline);
  }
  TemplateFacet& facet() const { return *qemu_.templates(); }

  mutable QemuDriver qemu_;
};

}  // namespace vmtest::testing
