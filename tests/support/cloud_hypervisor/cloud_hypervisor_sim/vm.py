"""One VM: its devices, its QEMU process, and what can be asked of it while it exists."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from . import machine, plugs, rules, tap
from .consoles import Consoles
from .events import EventMonitor
from .faults import Fault, Kind, io_error_text, unknown_device
from .machine import Layout
from .qemu import Qemu
from .qmp import QmpError

Config = dict[str, Any]

CREATED = "Created"
RUNNING = "Running"
PAUSED = "Paused"
SHUTDOWN = "Shutdown"
TRANSITIONS = {
    CREATED: {RUNNING, PAUSED, SHUTDOWN, "BreakPoint"},
    RUNNING: {PAUSED, SHUTDOWN, "BreakPoint"},
    SHUTDOWN: {RUNNING},
    PAUSED: {RUNNING, SHUTDOWN},
    "BreakPoint": {CREATED, RUNNING},
}
DIMM_STEP = 128 << 20
DIMM_LIMIT = 8
MIGRATION_TIMEOUT = 600.0
UNUSED_LATENCY = (1 << 64) - 1
OnEvent = Callable[[dict[str, Any] | None], None]


class Vm:
    """Created from a configuration that it may complete; `close` gives back everything it holds."""

    def __init__(
        self,
        config: Config,
        consoles: Consoles,
        events: EventMonitor,
        on_event: OnEvent,
        layout: Layout | None = None,
        old_wording: bool = False,
    ) -> None:
        self.config = config
        self.consoles = consoles
        self.events = events
        self.state = CREATED
        self.qemu: Qemu | None = None
        self.plugs: dict[str, plugs.Plug] = {}
        self._on_event = on_event
        self._saved_memory: int | None = None
        self._pending_cpus: set[str] = set()
        self._cpu_was_removed = False
        self._name_counter = 0
        rules.validate(config, old_wording)
        self._name_devices()
        self.layout = layout or machine.fresh_layout(config)
        self._vcpus = self.layout.boot_vcpus + len(self.layout.hotplugged_cpus)
        try:
            for kind in machine.KINDS:
                for device in machine.devices_of(config, kind):
                    self.plugs[device["id"]] = plugs.make(kind, device, self.layout.ports[device["id"]])
        except BaseException:
            self.close()
            raise

    # Names ------------------------------------------------------------------------------------------------------

    def _known_ids(self) -> set[str]:
        given = {device["id"] for kind in machine.KINDS for device in machine.devices_of(self.config, kind)}
        return {device_id for device_id in given if device_id} | set(self.plugs)

    def _next_name(self, kind: str) -> str:
        known = self._known_ids()
        while True:
            name = f"{plugs.PREFIXES[kind]}{self._name_counter}"
            self._name_counter += 1
            if name not in known:
                return name

    def _name_devices(self) -> None:
        for kind in ("disks", "net", "generic_vhost_user", "fs", "pmem", "vsock", "vdpa", "devices", "user_devices"):
            self._name_kind(kind)

    def _name_kind(self, kind: str) -> None:
        for device in machine.devices_of(self.config, kind):
            if device["id"] is None:
                device["id"] = self._next_name(kind)

    # Life cycle -------------------------------------------------------------------------------------------------

    def check_transition(self, state: str) -> None:
        if state not in TRANSITIONS[self.state]:
            raise Fault(f"invalid VM state transition: {self.state} to {state}")

    def _check_migratable_transition(self, state: str, verb: str) -> None:
        if state not in TRANSITIONS[self.state]:
            raise Fault(
                f"Cannot {verb} VM",
                f"Failed to {verb} migratable component",
                f"Invalid transition: InvalidStateTransition({self.state}, {state})",
            )

    def start_qemu(self, incoming: bool = False, paused: bool = False) -> None:
        args, fds = machine.command_line(
            self.config, self.layout, list(self.plugs.values()), self.consoles, incoming
        )
        if paused:
            args.append("-S")
        self.qemu = Qemu(args, fds, self._on_event)
        self.consoles.started()
        self._apply_affinity()

    def boot(self) -> None:
        self.check_transition(RUNNING)
        try:
            self.lock_disks()
        except Fault as fault:
            raise fault.within("Error locking disk images: Another instance likely holds a lock") from None
        self.start_qemu()
        balloon = self.config["balloon"]
        if balloon and balloon["size"]:
            self._set_balloon(balloon["size"])
        self.state = RUNNING

    def lock_disks(self) -> None:
        for plug in self.plugs.values():
            if plug.disk is not None:
                plug.disk.lock()

    def unlock_disks(self) -> None:
        for plug in self.plugs.values():
            if plug.disk is not None:
                plug.disk.unlock()

    def shutdown(self) -> None:
        self.check_transition(SHUTDOWN)
        self.state = SHUTDOWN
        self.close()

    def close(self) -> None:
        if self.qemu is not None:
            self.qemu.quit()
        self.consoles.close()
        for plug in self.plugs.values():
            plug.close()
        self.plugs = {}
        self._forget_saved_memory()

    def command(self, name: str, arguments: dict[str, Any] | None = None, **options: Any) -> Any:
        if self.qemu is None:
            raise Fault("VM is not running")
        try:
            return self.qemu.qmp.execute(name, arguments, **options)
        except QmpError as error:
            raise Fault("Error from device manager", f"{name}: {error}") from None

    def pause(self) -> None:
        self.events.emit("vm", "pausing")
        self._check_migratable_transition(PAUSED, "pause")
        self.command("stop")
        self.state = PAUSED
        self.events.emit("vm", "paused")

    def resume(self) -> None:
        self.events.emit("vm", "resuming")
        self._check_migratable_transition(RUNNING, "resume")
        self.command("cont")
        self._forget_saved_memory()
        self.state = RUNNING
        self.events.emit("vm", "resumed")

    def power_button(self) -> None:
        self.command("system_powerdown")

    def nmi(self) -> None:
        self.command("inject-nmi")

    def _apply_affinity(self) -> None:
        wanted = {item["vcpu"]: item["host_cpus"] for item in self.config["cpus"]["affinity"] or []}
        if not wanted:
            return
        for cpu in self.command("query-cpus-fast"):
            host_cpus = wanted.get(cpu["cpu-index"])
            if host_cpus:
                try:
                    os.sched_setaffinity(cpu["thread-id"], host_cpus)
                except OSError as error:
                    raise Fault("Error from CPU manager", "Error setting CPU affinity", io_error_text(error)) from None

    # Devices ----------------------------------------------------------------------------------------------------

    def add_device(self, kind: str, device: Config) -> dict[str, str]:
        device_id = device["id"]
        if device_id is not None and device_id in self.plugs:
            raise Fault("Error from device manager", f"Invalid identifier as it is not unique: {device_id}")
        port = self.layout.free_port()
        if port is None:
            raise Fault("Error from device manager", "Failed to find an available PCI device ID")
        if device_id is None:
            device_id = device["id"] = self._next_name(kind)
        plug = plugs.make(kind, device, port)
        try:
            if plug.disk is not None:
                try:
                    plug.disk.lock()
                except Fault as fault:
                    raise fault.within("Error from device manager") from None
            assert self.qemu is not None
            try:
                plug.hot(self.qemu.qmp)
            except QmpError as error:
                raise Fault("Error from device manager", "Cannot add PCI device", str(error)) from None
        except BaseException:
            plug.close()
            raise
        self.plugs[device_id] = plug
        self.layout.ports[device_id] = port
        return {"id": device_id, "bdf": self.find_bdf(plug)}

    def remove_device(self, device_id: str) -> None:
        plug = self.plugs.get(device_id)
        if plug is None:
            if device_id in self._fixed_ids():
                shown = self._fixed_ids()[device_id]
                raise Fault(
                    "Error from device manager", f"Not allowed to remove this type of device from the VM: {shown}"
                )
            raise unknown_device(device_id)
        plug.bdf = self.find_bdf(plug)
        plug.removing = True
        if plug.disk is not None:
            plug.disk.unlock()
        self.command("device_del", {"id": plug.name})
        rules.remove_device(self.config, device_id)

    def _fixed_ids(self) -> dict[str, str]:
        """Devices that stay for good, and their type."""
        ids = {self.config["rng"]["id"] or "__rng": "rng"}
        if self.config["console"]["mode"] != "Off":
            ids[self.config["console"]["id"] or "__console"] = "console"
        if self.config["balloon"]:
            ids[self.config["balloon"]["id"] or "__balloon"] = "balloon"
        if self.config["watchdog"]:
            ids["__watchdog"] = "watchdog"
        return ids

    def ejected(self, name: str) -> None:
        """The guest let go of a device."""
        plug = next((plug for plug in self.plugs.values() if plug.name == name), None)
        if plug is None:
            return
        assert self.qemu is not None
        plug.clean_up(self.qemu.qmp)
        plug.close()
        del self.plugs[plug.device_id]
        del self.layout.ports[plug.device_id]
        rules.remove_device(self.config, plug.device_id)
        self.events.emit("vm", "device-removed", id=plug.device_id, bdf=plug.bdf or self._assumed_bdf(plug))

    def guest_port_changed(self, name: str, opened: bool) -> None:
        for plug in self.plugs.values():
            if plug.vsock is not None and name == f"{plug.name}-port":
                plug.vsock.guest_port_changed(opened)

    def _assumed_bdf(self, plug: plugs.Plug) -> str:
        return f"0000:{self.layout.ports.get(plug.device_id, 0) + 1:02x}:00.0"

    def find_bdf(self, plug: plugs.Plug) -> str:
        """Where the guest finds the device; assumed while the firmware has not numbered the buses."""

        def search(buses: list[dict[str, Any]]) -> str | None:
            for bus in buses:
                for device in bus["devices"]:
                    if device.get("qdev_id") == plug.name and device["bus"]:
                        return f"0000:{device['bus']:02x}:{device['slot']:02x}.{device['function']}"
                    below = device.get("pci_bridge", {})
                    found = search([below["bus"] | {"devices": below.get("devices", [])}] if below else [])
                    if found:
                        return found
            return None

        return search(self.command("query-pci")) or self._assumed_bdf(plug)

    def device_tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for device_id in self._fixed_ids():
            tree[device_id] = {"id": device_id, "resources": [], "children": []}
        for device_id, plug in self.plugs.items():
            node = {"id": device_id, "resources": [], "children": [], "pci_bdf": self.find_bdf(plug)}
            tree[device_id] = node
        return tree

    def resize_disk(self, device_id: str, size: int) -> None:
        plug = self.plugs.get(device_id)
        if plug is None or plug.disk is None:
            raise unknown_device(device_id)
        outer = ("Error from device manager", "Disk resize error")
        if size % 512:
            raise Fault(*outer, "Disk image size is not a multiple of 512")
        if plug.disk.type not in ("Raw", "Qcow2"):
            raise Fault(*outer, "Disk resize failed", "Unsupported feature (op=resize)")
        if plug.disk.backing is not None:
            raise Fault(*outer, "Disk resize failed", "I/O error (op=resize)", "Resize not supported with backing file")
        try:
            self.command("block_resize", {"node-name": plug.blocks[-1]["node-name"], "size": size})
        except Fault as fault:
            raise Fault(*outer, "Disk resize failed", fault.chain[-1]) from None

    def counters(self) -> dict[str, dict[str, int]]:
        counters: dict[str, dict[str, int]] = {}
        by_name = {}
        for entry in self.command("query-blockstats"):
            by_name[entry.get("qdev", "").split("/")[3:4][0] if entry.get("qdev") else ""] = entry["stats"]
        for device_id, plug in self.plugs.items():
            if plug.disk is not None and plug.name in by_name:
                counters[device_id] = _disk_counters(by_name[plug.name])
            elif plug.netdev is not None:
                counters[device_id] = tap.statistics(plug.netdev.name)
        return counters

    # Size -------------------------------------------------------------------------------------------------------

    def resize(self, vcpus: int | None, ram: int | None, balloon: int | None) -> None:
        self.events.emit("vm", "resizing")
        if vcpus is not None:
            self._resize_vcpus(vcpus)
            self.config["cpus"]["boot_vcpus"] = vcpus
        if ram is not None:
            self._resize_ram(ram)
        if balloon is not None:
            if self.config["balloon"] is None:
                raise Fault("Error from device manager", "Missing virtio-balloon, can't proceed as expected")
            self._set_balloon(balloon)
            self.config["balloon"]["size"] = balloon
        self.events.emit("vm", "resized")

    def _cpu_slots(self) -> list[dict[str, Any]]:
        keys = ("socket-id", "die-id", "core-id", "thread-id")
        slots = self.command("query-hotpluggable-cpus")
        return sorted(slots, key=lambda slot: [slot["props"].get(key, 0) for key in keys])

    def _settle_pending_cpus(self, slots: list[dict[str, Any]]) -> None:
        present = {slot["qom-path"] for slot in slots if "qom-path" in slot}
        self._cpu_was_removed |= bool(self._pending_cpus - present)
        self._pending_cpus &= present
        for path in self._pending_cpus:
            self._ask_for_cpu(path)
        kept = [slot["props"] for slot in slots if "qom-path" in slot]
        self.layout.hotplugged_cpus = [
            item for item in self.layout.hotplugged_cpus if {k: v for k, v in item.items() if k != "driver"} in kept
        ]

    def _ask_for_cpu(self, path: str) -> None:
        """QEMU refuses while no guest has taken over ACPI; the removal stays pending all the same."""
        assert self.qemu is not None
        try:
            self.qemu.qmp.execute("device_del", {"id": path})
        except QmpError:
            pass

    def _resize_vcpus(self, desired: int) -> None:
        if desired == self._vcpus:
            return
        if desired < 1:
            raise Fault("Error from CPU manager", "Requested zero vCPUs")
        slots = self._cpu_slots()
        self._settle_pending_cpus(slots)
        if self._pending_cpus:
            raise Fault("Error from CPU manager", "Still pending removed vCPU", kind=Kind.PENDING)
        if desired > self.config["cpus"]["max_vcpus"]:
            raise Fault("Error from CPU manager", "Requested vCPUs exceed maximum")
        if desired > self._vcpus and self._cpu_was_removed:
            # QEMU 7.2's TCG keeps a listener of the removed vCPU, and dies when the machine changes next.
            raise Fault("Error from CPU manager", "simulator: QEMU cannot add a vCPU after one was removed")
        if desired > self._vcpus:
            free = [slot for slot in slots if "qom-path" not in slot]
            for slot in free[: desired - self._vcpus]:
                item = {"driver": slot["type"]} | slot["props"]
                self.command("device_add", {"id": f"cpu-{os.urandom(4).hex()}"} | item)
                self.layout.hotplugged_cpus.append(item)
        else:
            present = [slot for slot in slots if "qom-path" in slot]
            for slot in present[desired:]:
                self._pending_cpus.add(slot["qom-path"])
                self._ask_for_cpu(slot["qom-path"])
        self._vcpus = desired

    def _resize_ram(self, desired: int) -> None:
        memory = self.config["memory"]
        if memory["zones"]:
            raise Fault(
                "Memory manager error",
                "Impossible to resize guest memory if it is backed by user defined memory regions",
            )
        boot = self.layout.boot_memory
        if memory["hotplug_method"] == "VirtioMem":
            if desired < boot:
                raise _below_boot_size(desired, boot)
            self._set_virtio_mem("mem0", memory["hotplug_size"], desired - boot)
            memory["hotplugged_size"] = desired - memory["size"] if desired > memory["size"] else None
            return
        current = boot + sum(self.layout.dimms)
        if desired > current:
            self._add_dimm(desired - current, memory)
        memory["size"] = desired

    def _add_dimm(self, size: int, memory: Config) -> None:
        outer = "Memory manager error"
        if len(self.layout.dimms) >= DIMM_LIMIT:
            raise Fault(outer, "No ACPI slot available")
        if size % DIMM_STEP:
            raise Fault(outer, "The requested hotplug memory addition is not a valid size")
        if sum(self.layout.dimms) + size > (memory["hotplug_size"] or 0):
            raise Fault(outer, "Not enough space in the hotplug RAM region")
        name = f"dimm{len(self.layout.dimms)}"
        self.command("object-add", machine.memory_backend(f"{name}-mem", size, memory))
        self.command("device_add", {"driver": "pc-dimm", "id": name, "memdev": f"{name}-mem"})
        self.layout.dimms.append(size)

    def _set_virtio_mem(self, name: str, limit: int | None, size: int) -> None:
        if not limit:
            raise Fault("Memory manager error", "No virtio-mem resizing handler found")
        if size > limit:
            raise Fault(
                "Memory manager error", "Failed to virtio-mem resize", "Failed to resize: the requested size is too big"
            )
        self.command("qom-set", {"path": f"/machine/peripheral/{name}", "property": "requested-size", "value": size})

    def resize_zone(self, zone_id: str, desired: int) -> None:
        zones = self.config["memory"]["zones"] or []
        zone = next((zone for zone in zones if zone["id"] == zone_id), None)
        if zone is None:
            raise Fault("Failed resizing a memory zone")
        if desired < zone["size"]:
            raise _below_boot_size(desired, zone["size"])
        names = {source["id"]: name for name, source in machine.virtio_mems(self.config)}
        self._set_virtio_mem(names.get(zone_id, ""), zone["hotplug_size"], desired - zone["size"])
        zone["hotplugged_size"] = desired - zone["size"]

    def _set_balloon(self, size: int) -> None:
        # The device counts what it leaves to the guest.
        total = self.layout.boot_memory + sum(self.layout.dimms)
        self.command("balloon", {"value": total - size})

    def balloon_size(self) -> int:
        if self.config["balloon"] is None:
            return 0
        total = self.layout.boot_memory + sum(self.layout.dimms)
        return max(0, total - self.command("query-balloon")["actual"])

    def plugged_memory(self) -> int:
        devices = self.command("query-memory-devices")
        return sum(item["data"]["size"] for item in devices if item["type"] == "virtio-mem")

    # State on disk and on the wire ------------------------------------------------------------------------------

    def layout_data(self) -> dict[str, Any]:
        return asdict(self.layout)

    def write_memory(self, fd: int) -> None:
        """Writes memory and devices; QEMU does that once for each pause, so the result is kept for another time."""
        if self._saved_memory is not None:
            _copy(self._saved_memory, fd)
            return
        self.migrate(fd, MIGRATION_TIMEOUT)
        self._saved_memory = os.dup(fd)

    def send_memory(self, fd: int, timeout: float) -> None:
        if self._saved_memory is not None:
            _copy(self._saved_memory, fd)
        else:
            self.migrate(fd, timeout)

    def migrate(self, fd: int, timeout: float) -> None:
        self.command("migrate-set-parameters", {"max-bandwidth": 1 << 40, "downtime-limit": 300})
        self.command("getfd", {"fdname": "migration"}, fds=[fd])
        self.command("migrate", {"uri": "fd:migration"})
        self._wait_migration(timeout)

    def receive_memory(self, fd: int) -> None:
        self.command("getfd", {"fdname": "migration"}, fds=[fd])
        self.command("migrate-incoming", {"uri": "fd:migration"})
        self._wait_migration(MIGRATION_TIMEOUT)

    def _wait_migration(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        pause = 0.002
        while True:
            status = self.command("query-migrate")
            match status.get("status"):
                case "completed":
                    return
                case "failed" | "cancelled":
                    raise Fault(status.get("error-desc", "the memory could not be carried over"))
            if time.monotonic() > deadline:
                self.command("migrate_cancel")
                raise Fault("Timed out")
            time.sleep(pause)
            pause = min(0.05, pause * 2)

    def _forget_saved_memory(self) -> None:
        if self._saved_memory is not None:
            os.close(self._saved_memory)
            self._saved_memory = None


def _below_boot_size(desired: int, boot: int) -> Fault:
    return Fault(
        "Memory manager error", f"Invalid resize request: desired_size = {desired} below boot size = {boot}"
    )


def _disk_counters(stats: dict[str, Any]) -> dict[str, int]:
    counters = {}
    for ours, theirs in (("read", "rd"), ("write", "wr")):
        operations = stats[f"{theirs}_operations"]
        counters[f"{ours}_bytes"] = stats[f"{theirs}_bytes"]
        counters[f"{ours}_ops"] = operations
        # QEMU keeps a sum of times only: the average stands for all three.
        average = stats[f"{theirs}_total_time_ns"] // operations // 1000 if operations else 0
        counters[f"{ours}_latency_avg"] = average
        counters[f"{ours}_latency_max"] = average
        counters[f"{ours}_latency_min"] = average if operations else UNUSED_LATENCY
    return counters


def _copy(source: int, target: int) -> None:
    size = os.fstat(source).st_size
    offset = 0
    while offset < size:
        data = os.pread(source, 1 << 20, offset)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
        offset += len(data)
