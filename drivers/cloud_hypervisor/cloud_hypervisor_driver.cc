#include "vmtest/cloud_hypervisor_driver.h"

#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "companions/companions.h"
#include "file_identity.h"
#include "network/vsock.h"
#include "protocol.h"
#include "state_rules.h"
#include "supervised/host_side.h"
#include "vm.h"
#include "vm_config.h"
#include "vmtest/error.h"
#include "vmtest/types.h"

namespace vmtest {

using cloud_hypervisor::ApiVm;
namespace fs = std::filesystem;

namespace {

constexpr std::chrono::milliseconds kAgentPoll{10};

DriverKind kind_of(CloudHypervisorDriver::Mode mode) {
  return mode == CloudHypervisorDriver::Mode::Api ? DriverKind::CloudHypervisor : DriverKind::CloudHypervisorCli;
}

}  // namespace

CloudHypervisorDriver::CloudHypervisorDriver(Mode mode) : SupervisedDriver(kind_of(mode)), mode_(mode) {}

std::optional<std::string> CloudHypervisorDriver::unavailable_reason() const {
  try {
    (void)cloud_hypervisor::find_cloud_hypervisor();
    return std::nullopt;
  } catch (const Error& error) {
    return error.what();
  }
}

DiskNeeds CloudHypervisorDriver::disk_needs() const { return {{DiskFormat::Qcow2, DiskFormat::Raw}, true}; }

ConsoleEndpoint CloudHypervisorDriver::console_endpoint(const VmHandle& vm) const {
  return {ConsoleEndpoint::Kind::UnixSocket, vm.runtime_dir / supervisor::kConsoleSocket, vm.work_dir / supervisor::kConsoleLog};
}

std::unique_ptr<SupervisedVm> CloudHypervisorDriver::make_vm(const VmHandle& vm, std::shared_ptr<SupervisorConnection> supervisor,
                                                             Owner owner) const {
  if (mode_ == Mode::Api) return std::make_unique<ApiVm>(vm, std::move(supervisor), owner);
  return std::make_unique<cloud_hypervisor::CommandLineVm>(vm, std::move(supervisor), owner);
}

HostSide CloudHypervisorDriver::take_host_side(const PrepareRequest& request) const { return take_tap_networks(request); }

fs::path CloudHypervisorDriver::longest_socket() const {
  return cloud_hypervisor::path_like(mode_ == Mode::Api ? cloud_hypervisor::kMigrationSocket : cloud_hypervisor::kSerialSocket);
}

std::shared_ptr<ApiVm> CloudHypervisorDriver::require_api(const VmHandle& vm, const char* wanted) const {
  return std::static_pointer_cast<ApiVm>(require(vm, wanted));
}

std::optional<std::string> CloudHypervisorDriver::obstacle(const MachineConfig& machine) const {
  if (!machine.extra_arguments.empty())
    return "extra arguments for Cloud Hypervisor may bring devices whose state cannot be saved";
  for (const NicConfig& nic : machine.nics) {
    if (!nic.host_address.empty())
      return "a card that was plugged in has a TAP of its own, which cannot be another VM's too; detach it";
    if (!nic.tap_name.empty())
      return "a TAP of the host's may be part of a larger network, where its MAC address would be there twice";
  }
  return companion_obstacle(machine);
}

std::string CloudHypervisorDriver::fingerprint(const MachineConfig& machine) const {
  MachineConfig general = machine;
  for (DiskConfig& disk : general.disks) disk.path = "/" + disk.id;
  for (NicConfig& nic : general.nics) nic.mac_address.clear();
  if (general.uefi) general.uefi->variables.clear();
  general.restore_from.clear();
  cloud_hypervisor::Paths paths{"/"};
  if (machine.boot == BootMode::Uefi && !machine.uefi) paths.firmware = cloud_hypervisor::find_firmware();
  std::string text = to_json(cloud_hypervisor::vm_config(general, paths)).dump() + "\n";
  text += identity_of_file(fs::canonical(cloud_hypervisor::find_cloud_hypervisor())) + identity_of_processor();
  if (machine.uefi) text += identity_of_file(machine.uefi->code);
  if (!paths.firmware.empty()) text += identity_of_file(paths.firmware);
  if (!machine.kernel.empty()) text += identity_of_file(machine.kernel);
  if (!machine.initramfs.empty()) text += identity_of_file(machine.initramfs);
  return text;
}

void CloudHypervisorDriver::save(const VmHandle& vm, const fs::path& state_file, const Deadline& deadline) {
  const auto target = require_api(vm, "be frozen");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running, VmState::Suspended}, "be frozen");
  with_context("cannot freeze VM \"" + vm.name + "\"", [&] { target->freeze(state_file, deadline); });
}

std::chrono::microseconds CloudHypervisorDriver::checkpoint(const VmHandle& vm, const fs::path& state_file,
                                                            const std::map<std::string, fs::path>& overlays,
                                                            const Deadline& deadline) {
  const auto target = require_api(vm, "be checkpointed");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running, VmState::Suspended}, "be checkpointed");
  return with_context("cannot checkpoint VM \"" + vm.name + "\"",
                      [&] { return target->checkpoint(state_file, overlays, deadline); });
}

FileDescriptor CloudHypervisorDriver::connect_agent(const VmHandle& vm, const Deadline& deadline) {
  return with_context("the guest agent of VM \"" + vm.name + "\" cannot be reached", [&] {
    for (;;) {
      try {
        return connect_vsock(vm.runtime_dir / cloud_hypervisor::kVsockSocket, cloud_hypervisor::kAgentPort, deadline);
      } catch (const Timeout&) {
        throw;
      } catch (const Error&) {  // it may listen a moment later
        if (deadline.expired()) throw;
      }
      std::this_thread::sleep_for(kAgentPoll);
    }
  });
}

void CloudHypervisorDriver::attach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) {
  const auto target = require_api(vm, "be given a disk");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be given a disk");
  with_context("cannot plug disk \"" + disk.id + "\" into VM \"" + vm.name + "\"",
               [&] { (void)target->api().add_disk(cloud_hypervisor::disk_config(disk), deadline); });
}

PluggedNic CloudHypervisorDriver::attach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) {
  const auto target = require_api(vm, "be given a network card");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be given a network card");
  return with_context("cannot plug network card " + nic.mac_address + " into VM \"" + vm.name + "\"", [&] {
    if (!nic.hotplug_port) throw Error("the device names no port to plug it into");
    if (nic.kind != NicKind::Tap || !nic.tap_name.empty()) {
      (void)target->api().add_net(cloud_hypervisor::net_config(nic, 0), deadline);
      return PluggedNic{nic};
    }
    PluggedNetwork network = take_plugged_network(nic);
    // It makes the TAP itself, under a name of its own.
    network.card.nic.tap_name.clear();
    const NicConfig& card = network.card.nic;
    target->supervisor().hold(held_network(card), network.claim.get());
    try {
      (void)target->api().add_net(cloud_hypervisor::net_config(card, 0), deadline);
    } catch (...) {
      target->supervisor().release(held_network(card));
      throw;
    }
    return network.card;
  });
}

void CloudHypervisorDriver::detach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) {
  const auto target = require_api(vm, "give a disk away");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "give a disk away");
  with_context("cannot take disk \"" + disk.id + "\" from VM \"" + vm.name + "\"",
               [&] { target->remove_device(disk.id, deadline); });
}

void CloudHypervisorDriver::detach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) {
  const auto target = require_api(vm, "give a network card away");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "give a network card away");
  with_context("cannot take network card " + nic.mac_address + " from VM \"" + vm.name + "\"", [&] {
    target->remove_device(cloud_hypervisor::net_config(nic, 0).id, deadline);
    if (!nic.host_address.empty()) target->supervisor().release(held_network(nic));
  });
}

}  // namespace vmtest
