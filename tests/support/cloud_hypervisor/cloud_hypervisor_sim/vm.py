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
from .faults import Fault, io_error_text, unknown_device
from .machine import Layout
from .qemu import Qemu
from .qmp import QmpError
from .sizes import Sizes

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
        self._activated: set[str] = set()
        self._name_counter = 0
        rules.validate(config, old_wording)
        self._name_devices()
        self.layout = layout or machine.fresh_layout(config)
        self.sizes = Sizes(self)
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
        args, fds = machine.command_line(self.config, self.layout, list(self.plugs.values()), self.consoles, incoming)
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
            self.sizes.set_balloon(balloon["size"])
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
        for net in self.config["net"] or []:
            if net["id"] == device_id:
                # What came with the request ends with the device.
                for fd in net["fds"] or []:
                    os.close(fd)
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

    def id_of(self, name: str) -> str | None:
        """The identifier of the virtio device that QEMU knows by this name."""
        config = self.config
        fixed = {
            "rng0": config["rng"]["id"] or "__rng",
            "console-bus": config["console"]["id"] or "__console",
            "balloon0": (config["balloon"] or {}).get("id") or "__balloon",
        }
        if name in fixed:
            return fixed[name]
        return next((plug.device_id for plug in self.plugs.values() if plug.name == name), None)

    def report_activations(self) -> bool:
        """Tells of virtio devices that the guest's drivers have taken since the last look; false when none is left."""
        waiting = False
        for device in self.command("x-query-virtio"):
            name = device["path"].split("/")[3]
            device_id = self.id_of(name)
            if device_id is None or device_id in self._activated:
                continue
            status = self.command("x-query-virtio-status", {"path": device["path"]})["status"]["statuses"]
            if any("DRIVER_OK" in text for text in status):
                self._activated.add(device_id)
                self.events.emit("virtio-device", "activated", id=device_id)
            else:
                waiting = True
        return waiting

    def ejected(self, name: str) -> None:
        """The guest let go of a device."""
        plug = next((plug for plug in self.plugs.values() if plug.name == name), None)
        if plug is None:
            return
        assert self.qemu is not None
        plug.clean_up(self.qemu.qmp)
        plug.close()
        del self.plugs[plug.device_id]
        self._activated.discard(plug.device_id)
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
