#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "vmtest/deadline.h"
#include "vmtest/supervised_driver.h"

namespace vmtest {

namespace cloud_hypervisor {
class ApiVm;
}

/// Drives Cloud Hypervisor (https://www.cloudhypervisor.org), v51 or newer: its program is VMTEST_CLOUD_HYPERVISOR, else
/// `cloud-hypervisor` in PATH. x86_64 and aarch64 guests by KVM. It has no network of its own: a card is on a TAP, which it
/// makes. A boot by UEFI takes the firmware that VMTEST_CLOUD_HYPERVISOR_FIRMWARE names, one made for it: CLOUDHV.fd.
///
/// By its API (DriverKind::CloudHypervisor) it does everything below; by its command line alone (CloudHypervisorCli) a VM starts
/// and ends, and the guest is told of neither: there is no power button, no pause, no snapshot, no device that comes later.
///
/// Files in the VM's work folder: handle.json, command_line.txt, console.log, events.json (its event monitor),
/// cloud-hypervisor.log; by the API vm.json (what it was asked to create). Sockets in its runtime folder: api.sock, console.sock,
/// vsock.sock.
class CloudHypervisorDriver final : public SupervisedDriver,
                                    private TemplateFacet,
                                    private HotplugFacet,
                                    private ResizeFacet,
                                    private InspectionFacet,
                                    private MigrationFacet {
 public:
  enum class Mode { Api, CommandLine };
  explicit CloudHypervisorDriver(Mode mode = Mode::Api);

  [[nodiscard]] std::optional<std::string> unavailable_reason() const override;
  [[nodiscard]] DiskNeeds disk_needs() const override;
  [[nodiscard]] Support support(Capability capability) const override;
  [[nodiscard]] ConsoleEndpoint console_endpoint(const VmHandle& vm) const override;
  [[nodiscard]] bool has_own_firmware() const override { return true; }
  [[nodiscard]] TemplateFacet* templates() override { return mode_ == Mode::Api ? this : nullptr; }
  [[nodiscard]] HotplugFacet* hotplug() override { return mode_ == Mode::Api ? this : nullptr; }
  [[nodiscard]] ResizeFacet* resizing() override { return mode_ == Mode::Api ? this : nullptr; }
  [[nodiscard]] InspectionFacet* inspection() override { return mode_ == Mode::Api ? this : nullptr; }
  [[nodiscard]] MigrationFacet* migration() override { return mode_ == Mode::Api ? this : nullptr; }

 private:
  [[nodiscard]] std::unique_ptr<SupervisedVm> make_vm(const VmHandle& vm, std::shared_ptr<SupervisorConnection> supervisor,
                                                      Owner owner) const override;
  [[nodiscard]] HostSide take_host_side(const PrepareRequest& request) const override;
  [[nodiscard]] std::filesystem::path longest_socket() const override;
  [[nodiscard]] std::shared_ptr<cloud_hypervisor::ApiVm> require_api(const VmHandle& vm, const char* wanted) const;

  // Snapshots: state and memory are read into each fork.
  [[nodiscard]] bool shares_memory() const override { return false; }
  [[nodiscard]] std::optional<std::string> obstacle(const MachineConfig& machine) const override;
  [[nodiscard]] std::string fingerprint(const MachineConfig& machine) const override;
  void save(const VmHandle& vm, const std::filesystem::path& state_file, const Deadline& deadline) override;
  std::chrono::microseconds checkpoint(const VmHandle& vm, const std::filesystem::path& state_file,
                                       const std::map<std::string, std::filesystem::path>& overlays,
                                       const Deadline& deadline) override;
  [[nodiscard]] FileDescriptor connect_agent(const VmHandle& vm, const Deadline& deadline) override;

  void attach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) override;
  [[nodiscard]] PluggedNic attach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) override;
  void detach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) override;
  void detach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) override;

  void resize_vcpus(const VmHandle& vm, unsigned vcpus, const Deadline& deadline) override;
  void resize_memory(const VmHandle& vm, unsigned memory_mib, const Deadline& deadline) override;
  void resize_disk(const VmHandle& vm, const std::string& disk, std::uint64_t size_mib, const Deadline& deadline) override;
  [[nodiscard]] MachineSize size(const VmHandle& vm, const Deadline& deadline) override;

  [[nodiscard]] std::vector<Counter> counters(const VmHandle& vm, const Deadline& deadline) override;
  void inject_nmi(const VmHandle& vm, const Deadline& deadline) override;
  void dump_memory(const VmHandle& vm, const std::filesystem::path& file, const Deadline& deadline) override;

  MigrationReport migrate(const VmHandle& vm, const MachineConfig& machine, const Deadline& deadline) override;

  const Mode mode_;
};

}  // namespace vmtest
