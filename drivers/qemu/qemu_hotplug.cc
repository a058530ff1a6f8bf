// Disks and network cards that come and go while the guest runs, on the PCIe root ports the machine was started with. The guest's
// kernel is told by ACPI.

#include <nlohmann/json.hpp>
#include <utility>

#include "qemu_command_line.h"
#include "qemu_vm.h"
#include "state_rules.h"
#include "supervised/host_side.h"
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

/// Gives back what the supervisor keeps of a card on a TAP.
void release_tap(SupervisorConnection& supervisor, const NicConfig& nic) {
  supervisor.release(held_tap(nic));
  if (!nic.host_address.empty()) supervisor.release(held_network(nic));
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

void add_card(QmpClient& qemu, const json& netdev, const json& device, const Deadline& deadline) {
  qemu.execute("netdev_add", netdev, deadline);
  add_device(qemu, device, {"netdev_del", {{"id", netdev.at("id")}}}, deadline);
}

/// On a TAP of that name, or one that is made. The supervisor keeps it for a later start.
PluggedNic add_card_on_tap(SupervisorConnection& supervisor, QmpClient& qemu, const NicConfig& nic, const json& device,
                           const Deadline& deadline) {
  PluggedNetwork network;
  TapDevice tap;
  if (nic.tap_name.empty()) {
    network = take_plugged_network(nic);
    tap = make_tap(network.card.nic.tap_name);
    configure_interface(tap.name, network.card.gateway, kTapPrefixLength);
  } else {
    network.card.nic = nic;
    tap = open_tap(nic.tap_name);
  }
  const PluggedNic& card = network.card;
  // First the supervisor: what QEMU has alone would be lost at its next start.
  supervisor.hold(held_tap(card.nic), tap.descriptor.get());
  try {
    if (network.claim) supervisor.hold(held_network(card.nic), network.claim.get());
    const std::string name = held_tap(card.nic);
    qemu.pass_descriptor(name, tap.descriptor.get(), deadline);
    add_card(qemu, {{"type", "tap"}, {"id", device.at("netdev")}, {"fd", name}}, device, deadline);
  } catch (...) {
    try {
      release_tap(supervisor, card.nic);
      qemu.execute("closefd", {{"fdname", held_tap(card.nic)}}, deadline);
    } catch (const std::exception&) {  // QEMU may have taken it already, and closed it
    }
    throw;
  }
  return card;
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

PluggedNic QemuDriver::attach_nic(const VmHandle& vm, const NicConfig& nic, const Deadline& deadline) {
  require_mac(nic.mac_address);
  const auto target = require_qemu(vm, "be given a network card");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be given a network card");
  return with_context("cannot plug network card " + nic.mac_address + " into VM \"" + vm.name + "\"", [&] {
    const std::string bus = bus_of(nic.hotplug_port);
    const auto qemu = target->qmp(deadline);
    const json device = {{"driver", "virtio-net-pci"},
                         {"id", hotplug_nic(*nic.hotplug_port)},
                         {"netdev", hotplug_netdev(*nic.hotplug_port)},
                         {"mac", nic.mac_address},
                         {"romfile", ""},
                         {"bus", bus}};
    if (nic.kind == NicKind::Tap) return add_card_on_tap(target->supervisor(), *qemu, nic, device, deadline);
    add_card(*qemu, {{"type", "user"}, {"id", device.at("netdev")}, {"restrict", nic.kind == NicKind::Isolated}}, device,
             deadline);
    return PluggedNic{nic};
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
    if (nic.kind == NicKind::Tap) release_tap(target->supervisor(), nic);
  });
}

}  // namespace vmtest
