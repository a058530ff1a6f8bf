// Disks and network cards that come and go while the guest runs, on the PCIe root ports the machine was started with. The guest's
// kernel is told by ACPI.

#include <nlohmann/json.hpp>
#include <utility>

#include "qemu_command_line.h"
#include "qemu_vm.h"
#include "state_rules.h"
#include "vmtest/error.h"
#include "vmtest/qemu_driver.h"

namespace vmtest {
namespace {

using nlohmann::json;

std::string node_of(const DiskConfig& disk) { return "disk-" + disk.id; }

std::string bus_of(std::optional<unsigned> port) {
  if (!port) throw Error("the device names no port to plug it into");
  return hotplug_bus(*port);
}

/// Plugs in a device whose other half is there already; takes that away again when it cannot be done.
void add_device(QmpClient& qemu, const json& device, const std::pair<std::string, json>& undo, const Deadline& deadline) {
  try {
    qemu.execute("device_add", device, deadline);
  } catch (...) {
    try {
      qemu.execute(undo.first, undo.second, deadline);
    } catch (const std::exception&) {  // the first error is the one that tells something
    }
    throw;
  }
}

/// Has the guest let go of a device.
void remove_device(QmpClient& qemu, const std::string& id, const Deadline& deadline) {
  qemu.execute("device_del", {{"id", id}}, deadline);
  const auto gone = [&](const QmpEvent& event) { return event.name == "DEVICE_DELETED" && event.data.value("device", "") == id; };
  if (!qemu.wait_event(gone, deadline)) throw Timeout("the guest does not let go of it");
}

}  // namespace

void QemuDriver::attach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) {
  require_valid(disk);
  const auto target = require_qemu(vm, "be given a disk");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be given a disk");
  with_context("cannot plug disk \"" + disk.id + "\" into VM \"" + vm.name + "\"", [&] {
    const auto qemu = target->qmp(deadline);
    json node = {{"driver", to_string(disk.format)},
                 {"node-name", node_of(disk)},
                 {"read-only", disk.read_only},
                 {"file", {{"driver", "file"}, {"filename", disk.path.string()}}}};
    if (!disk.read_only) {
      node["discard"] = "unmap";
      node["cache"] = {{"no-flush", true}};
    }
    json device = {{"driver", "virtio-blk-pci"}, {"id", disk.id}, {"drive", node_of(disk)}, {"bus", bus_of(disk.hotplug_port)}};
    if (!disk.serial.empty()) device["serial"] = disk.serial;
    qemu->execute("blockdev-add", node, deadline);
    add_device(*qemu, device, {"blockdev-del", {{"node-name", node_of(disk)}}}, deadline);
  });
}

void QemuDriver::attach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) {
  require_mac(nic.mac_address);
  const auto target = require_qemu(vm, "be given a network card");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be given a network card");
  with_context("cannot plug network card " + nic.mac_address + " into VM \"" + vm.name + "\"", [&] {
    if (nic.kind == NicKind::Tap) throw Unsupported("a card on a TAP can only be there from the start");
    const std::string bus = bus_of(nic.hotplug_port);
    const std::string netdev = hotplug_netdev(*nic.hotplug_port);
    const auto qemu = target->qmp(deadline);
    qemu->execute("netdev_add", {{"type", "user"}, {"id", netdev}, {"restrict", nic.kind == NicKind::Isolated}}, deadline);
    const json device = {{"driver", "virtio-net-pci"},
                         {"id", hotplug_nic(*nic.hotplug_port)},
                         {"netdev", netdev},
                         {"mac", nic.mac_address},
                         {"romfile", ""},
                         {"bus", bus}};
    add_device(*qemu, device, {"netdev_del", {{"id", netdev}}}, deadline);
  });
}

void QemuDriver::detach_disk(const VmHandle& vm, const DiskConfig& disk, const Deadline& deadline) {
  const auto target = require_qemu(vm, "give a disk away");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "give a disk away");
  with_context("cannot take disk \"" + disk.id + "\" from VM \"" + vm.name + "\"", [&] {
    const auto qemu = target->qmp(deadline);
    remove_device(*qemu, disk.id, deadline);
    // Layers that snapshots put on top went with the device.
    qemu->execute("blockdev-del", {{"node-name", node_of(disk)}}, deadline);
  });
}

void QemuDriver::detach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) {
  const auto target = require_qemu(vm, "give a network card away");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "give a network card away");
  with_context("cannot take network card " + nic.mac_address + " from VM \"" + vm.name + "\"", [&] {
    (void)bus_of(nic.hotplug_port);
    const auto qemu = target->qmp(deadline);
    remove_device(*qemu, hotplug_nic(*nic.hotplug_port), deadline);
    qemu->execute("netdev_del", {{"id", hotplug_netdev(*nic.hotplug_port)}}, deadline);
  });
}

}  // namespace vmtest
