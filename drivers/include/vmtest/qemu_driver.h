#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "vmtest/deadline.h"
#include "vmtest/supervised_driver.h"

namespace vmtest {

class QemuVm;

/// Drives QEMU by its machine protocol: KVM or emulation, x86_64 and aarch64 guests. Needs QEMU 7.1 or newer.
///
/// Files in the VM's work folder: handle.json, command_line.txt, console.log, qemu.log. Sockets in its runtime folder:
/// qmp.sock, qmp-cli.sock (for people and tools), console.sock, agent.sock, vnc.sock.
class QemuDriver final : public SupervisedDriver,
                         private TemplateFacet,
                         private HotplugFacet,
                         private ResizeFacet,
                         private InspectionFacet,
                         private MigrationFacet {
 public:
  QemuDriver() : SupervisedDriver(DriverKind::Qemu) {}

  [[nodiscard]] std::optional<std::string> unavailable_reason() const override;
  [[nodiscard]] DiskNeeds disk_needs() const override;
  [[nodiscard]] Support support(Capability capability) const override;
  [[nodiscard]] ConsoleEndpoint console_endpoint(const VmHandle& vm) const override;
  [[nodiscard]] TemplateFacet* templates() override { return this; }
  [[nodiscard]] HotplugFacet* hotplug() override { return this; }
  [[nodiscard]] MigrationFacet* migration() override { return this; }
  [[nodiscard]] ResizeFacet* resizing() override { return this; }
  [[nodiscard]] InspectionFacet* inspection() override { return this; }

 private:
  [[nodiscard]] std::unique_ptr<SupervisedVm> make_vm(const VmHandle& vm, std::shared_ptr<SupervisorConnection> supervisor,
                                                      Owner owner) const override;
  [[nodiscard]] HostSide take_host_side(const PrepareRequest& request) const override;
  [[nodiscard]] std::shared_ptr<QemuVm> require_qemu(const VmHandle& vm, const char* wanted) const;

  // Memory by a file that forks map privately, device state by migration that leaves shared memory out (x-ignore-shared).
  [[nodiscard]] bool shares_memory() const override { return true; }
  [[nodiscard]] std::optional<std::string> obstacle(const MachineConfig& machine) const override;
  [[nodiscard]] std::string fingerprint(const MachineConfig& machine) const override;
  void save(const VmHandle& vm, const std::filesystem::path& state_file, const Deadline& deadline) override;
  std::chrono::microseconds checkpoint(const VmHandle& vm, const std::filesystem::path& state_file,
                                       const std::map<std::string, std::filesystem::path>& overlays,
                                       const Deadline& deadline) override;
  [[nodiscard]] FileDescriptor connect_agent(const VmHandle& vm, const Deadline& deadline) override;

  // Devices on PCIe root ports that the machine was started with.
  void attach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) override;
  [[nodiscard]] PluggedNic attach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) override;
  void detach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) override;
  void detach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) override;

  // A second QEMU by the supervisor's side of the first, and QEMU's own migration between them.
  MigrationReport migrate(const VmHandle& vm, const MachineConfig& machine, const Deadline& deadline) override;
  // vCPUs by device_add, memory by a virtio-mem device, disks by block_resize.
  void resize_vcpus(const VmHandle& vm, unsigned vcpus, const Deadline& deadline) override;
  void resize_memory(const VmHandle& vm, unsigned memory_mib, const Deadline& deadline) override;
  void resize_disk(const VmHandle& vm, const std::string& disk, std::uint64_t size_mib, const Deadline& deadline) override;
  [[nodiscard]] MachineSize size(const VmHandle& vm, const Deadline& deadline) override;

  [[nodiscard]] std::vector<Counter> counters(const VmHandle& vm, const Deadline& deadline) override;
  void inject_nmi(const VmHandle& vm, const Deadline& deadline) override;
  void dump_memory(const VmHandle& vm, const std::filesystem::path& file, const Deadline& deadline) override;
};

}  // namespace vmtest
