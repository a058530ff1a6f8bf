#pragma once

#include <map>
#include <memory>
#include <string>

#include "vmtest/deadline.h"
#include "vmtest/supervised_driver.h"

namespace vmtest {

namespace vz_driver {
class VzVm;
}

/// Drives Apple's Virtualization.framework by a helper process, vmtest-vz-helper, which is VMTEST_VZ_HELPER or stands beside this
/// program or where it was built or installed: guests of a Mac's own processor, macOS 12 or newer. What the Mac's system and
/// processor offer decides what the driver does (`vmtest-vz-helper --capabilities`). Disks are raw and stand alone. A card is on
/// the framework's NAT, where the guest gets an address by DHCP that the host reaches. A boot by UEFI takes the framework's own
/// firmware (macOS 13).
///
/// Files in the VM's work folder: handle.json, command_line.txt, vm.json (what the helper was asked to create), console.log,
/// events.jsonl, vz-helper.log, machine-identifier, variable-store (the firmware's). Sockets in its runtime folder: api.sock,
/// console.sock, vsock.sock.
class VzDriver final : public SupervisedDriver, private TemplateFacet, private HotplugFacet {
 public:
  VzDriver() : SupervisedDriver(DriverKind::Vz) {}

  [[nodiscard]] std::optional<std::string> unavailable_reason() const override;
  [[nodiscard]] DiskNeeds disk_needs() const override;
  [[nodiscard]] Support support(Capability capability) const override;
  [[nodiscard]] ConsoleEndpoint console_endpoint(const VmHandle& vm) const override;
  [[nodiscard]] bool has_own_firmware() const override { return true; }
  [[nodiscard]] TemplateFacet* templates() override { return support(Capability::Snapshot).supported() ? this : nullptr; }
  [[nodiscard]] HotplugFacet* hotplug() override { return support(Capability::DiskHotplug).supported() ? this : nullptr; }

 private:
  [[nodiscard]] std::unique_ptr<SupervisedVm> make_vm(const VmHandle& vm, std::shared_ptr<SupervisorConnection> supervisor,
                                                      Owner owner) const override;
  [[nodiscard]] HostSide take_host_side(const PrepareRequest& request) const override;
  [[nodiscard]] std::shared_ptr<vz_driver::VzVm> require_vz(const VmHandle& vm, const char* wanted) const;

  // Saved states, memory included, which are read into the VM that continues.
  [[nodiscard]] bool shares_memory() const override { return false; }
  [[nodiscard]] std::optional<std::string> obstacle(const MachineConfig& machine) const override;
  [[nodiscard]] std::string fingerprint(const MachineConfig& machine) const override;
  void save(const VmHandle& vm, const std::filesystem::path& state_file, const Deadline& deadline) override;
  std::chrono::microseconds checkpoint(const VmHandle& vm, const std::filesystem::path& state_file,
                                       const std::map<std::string, std::filesystem::path>& overlays,
                                       const Deadline& deadline) override;
  [[nodiscard]] FileDescriptor connect_agent(const VmHandle& vm, const Deadline& deadline) override;

  // Disks by USB.
  void attach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) override;
  [[nodiscard]] bool shows_serial_numbers(const VmHandle& /*vm*/) const override { return false; }
  [[nodiscard]] PluggedNic attach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) override;
  void detach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) override;
  void detach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) override;
};

}  // namespace vmtest
