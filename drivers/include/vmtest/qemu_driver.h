#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "vmtest/deadline.h"
#include "vmtest/driver.h"

namespace vmtest {

/// Drives QEMU by its machine protocol: KVM or emulation, x86_64 and aarch64 guests. A VM that this object prepared is owned
/// by it, by one connection to the VM's supervisor: when the object or its process goes, the VM goes. Handles of VMs that
/// others own are served as well, by a connection per call. Needs QEMU 7.1 or newer.
///
/// Files in the VM's work folder: handle.json, command_line.txt, console.log, qemu.log. Sockets in its runtime folder:
/// qmp.sock, qmp-cli.sock (for people and tools), console.sock, agent.sock, vnc.sock.
class QemuDriver final : public Driver, private TemplateFacet, private HotplugFacet {
 public:
  QemuDriver();
  ~QemuDriver() override;

  [[nodiscard]] DriverKind kind() const override { return DriverKind::Qemu; }
  [[nodiscard]] std::optional<std::string> unavailable_reason() const override;
  [[nodiscard]] DiskNeeds disk_needs() const override;
  [[nodiscard]] Support support(Capability capability) const override;

  [[nodiscard]] VmHandle prepare(const PrepareRequest& request) override;
  VmHandle start(const VmHandle& vm, const MachineConfig& machine) override;
  /// ACPI's power button while most of `timeout` lasts, SIGTERM near its end, SIGKILL at its end; zero kills at once. Beyond
  /// it only the kernel's own clean-up of the killed process is waited for.
  VmHandle stop(const VmHandle& vm, std::chrono::milliseconds timeout) override;
  VmHandle suspend(const VmHandle& vm) override;
  VmHandle resume(const VmHandle& vm) override;
  void destroy(const VmHandle& vm) override;
  [[nodiscard]] VmState state(const VmHandle& vm) override;
  [[nodiscard]] std::string guest_ip(const VmHandle& vm) override;
  [[nodiscard]] ConsoleEndpoint console_endpoint(const VmHandle& vm) const override;
  [[nodiscard]] std::optional<VmExit> wait_exit(const VmHandle& vm, std::chrono::milliseconds timeout) override;
  [[nodiscard]] TemplateFacet* templates() override { return this; }
  [[nodiscard]] HotplugFacet* hotplug() override { return this; }

 private:
  class Machine;

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
  void attach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) override;
  void detach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) override;
  void detach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) override;

  /// The VM if this object owns it, else one connected to for the call; none when nobody runs it any more.
  std::shared_ptr<Machine> find(const VmHandle& vm) const;
  /// The same; throws Error when there is none.
  std::shared_ptr<Machine> require(const VmHandle& vm, const char* wanted) const;
  static VmState state_for_stop(Machine& machine, const Deadline& deadline);

  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Machine>> machines_;
};

}  // namespace vmtest
