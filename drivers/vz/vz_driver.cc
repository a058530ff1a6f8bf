#include "vmtest/vz_driver.h"

#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "file_identity.h"
#include "network/vsock.h"
#include "state_rules.h"
#include "supervised/host_side.h"
#include "vmtest/error.h"
#include "vz/capabilities.h"
#include "vz/vm.h"
#include "vz/vm_config.h"

namespace vmtest {

using vz_driver::VzVm;
namespace fs = std::filesystem;

namespace {

constexpr std::chrono::milliseconds kAgentPoll{10};

}  // namespace

std::optional<std::string> VzDriver::unavailable_reason() const {
  try {
    return vz_driver::host_capabilities(vz_driver::find_helper()).why_not("linux-boot");
  } catch (const std::exception& error) {
    return error.what();
  }
}

DiskNeeds VzDriver::disk_needs() const { return {{DiskFormat::Raw}, false}; }

ConsoleEndpoint VzDriver::console_endpoint(const VmHandle& vm) const {
  return {ConsoleEndpoint::Kind::UnixSocket, vm.runtime_dir / vz_driver::kConsoleSocket, vm.work_dir / vz_driver::kConsoleLog};
}

std::unique_ptr<SupervisedVm> VzDriver::make_vm(const VmHandle& vm, std::shared_ptr<SupervisorConnection> supervisor,
                                                Owner owner) const {
  return std::make_unique<VzVm>(vm, std::move(supervisor), owner);
}

HostSide VzDriver::take_host_side(const PrepareRequest& request) const {
  if (request.ssh_port) {
    throw Unsupported(
        "no port of the host leads to a guest on the framework's NAT, which has an address of its own; leave ssh_port "
        "out");
  }
  MachineConfig machine;
  machine.kernel = "/";
  machine.nics = request.nics;
  (void)vz_driver::vm_config(machine, {}, vz_driver::Identifier::Missing);  // throws for cards that cannot be
  return {};
}

std::shared_ptr<VzVm> VzDriver::require_vz(const VmHandle& vm, const char* wanted) const {
  return std::static_pointer_cast<VzVm>(require(vm, wanted));
}

std::optional<std::string> VzDriver::obstacle(const MachineConfig& machine) const {
  if (const Support support = this->support(Capability::Snapshot); !support.supported()) return support.why;
  if (!machine.nics.empty()) {
    return "the framework's NAT is one network for all VMs of the host, where a fork would have its template's MAC address";
  }
  return std::nullopt;
}

std::string VzDriver::fingerprint(const MachineConfig& machine) const {
  MachineConfig general = machine;
  for (DiskConfig& disk : general.disks) disk.path = "/" + disk.id;
  for (NicConfig& nic : general.nics) nic.mac_address.clear();
  general.restore_from.clear();
  const fs::path helper = vz_driver::find_helper();
  std::string text = vz_driver::vm_config(general, {"/", "/"}, vz_driver::Identifier::Offered).dump() + "\n";
  text += vz_driver::host_capabilities(helper).os + "\n" + identity_of_file(fs::canonical(helper)) + identity_of_processor();
  if (!machine.kernel.empty()) text += identity_of_file(machine.kernel);
  if (!machine.initramfs.empty()) text += identity_of_file(machine.initramfs);
  return text;
}

void VzDriver::save(const VmHandle& vm, const fs::path& state_file, const Deadline& deadline) {
  const auto target = require_vz(vm, "be frozen");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running, VmState::Suspended}, "be frozen");
  with_context("cannot freeze VM \"" + vm.name + "\"", [&] { target->freeze(state_file, deadline); });
}

std::chrono::microseconds VzDriver::checkpoint(const VmHandle& vm, const fs::path& state_file,
                                               const std::map<std::string, fs::path>& overlays, const Deadline& deadline) {
  const auto target = require_vz(vm, "be checkpointed");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running, VmState::Suspended}, "be checkpointed");
  return with_context("cannot checkpoint VM \"" + vm.name + "\"", [&] {
    if (!overlays.empty()) throw Unsupported("a raw disk cannot be an overlay of what it was");
    return target->checkpoint(state_file, deadline);
  });
}

FileDescriptor VzDriver::connect_agent(const VmHandle& vm, const Deadline& deadline) {
  return with_context("the guest agent of VM \"" + vm.name + "\" cannot be reached", [&] {
    for (;;) {
      try {
        return connect_vsock(vm.runtime_dir / vz_driver::kVsockSocket, vz_driver::kAgentPort, deadline);
      } catch (const Timeout&) {
        throw;
      } catch (const Error&) {  // it may listen a moment later
        if (deadline.expired()) throw;
      }
      std::this_thread::sleep_for(kAgentPoll);
    }
  });
}

void VzDriver::attach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) {
  const auto target = require_vz(vm, "be given a disk");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be given a disk");
  with_context("cannot plug disk \"" + disk.id + "\" into VM \"" + vm.name + "\"", [&] {
    if (!disk.serial.empty()) {
      throw Unsupported("a USB disk of Virtualization.framework's shows the guest no serial number to be found by");
    }
    target->api().attach_usb_disk(vz_driver::usb_disk(disk), deadline);
  });
}

PluggedNic VzDriver::attach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline&) {
  throw Unsupported("cannot plug network card " + nic.mac_address + " into VM \"" + vm.name +
                    "\": Virtualization.framework plugs in USB disks only");
}

void VzDriver::detach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) {
  const auto target = require_vz(vm, "give a disk away");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "give a disk away");
  with_context("cannot take disk \"" + disk.id + "\" from VM \"" + vm.name + "\"",
               [&] { target->api().detach_usb_disk(disk.id, deadline); });
}

void VzDriver::detach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline&) {
  throw Unsupported("cannot take network card " + nic.mac_address + " from VM \"" + vm.name +
                    "\": Virtualization.framework gives USB disks away only");
}

}  // namespace vmtest
