"""What of a running VM can grow and shrink: vCPUs, memory, zones and the balloon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import machine
from .faults import Fault, Kind
from .qmp import QmpError

if TYPE_CHECKING:
    from .vm import Config, Vm

DIMM_STEP = 128 << 20
DIMM_LIMIT = 8


def _below_boot_size(desired: int, boot: int) -> Fault:
    return Fault("Memory manager error", f"Invalid resize request: desired_size = {desired} below boot size = {boot}")


class Sizes:
    """Belongs to one VM."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._config = vm.config
        self._layout = vm.layout
        self._vcpus = vm.layout.boot_vcpus + len(vm.layout.hotplugged_cpus)
        self._pending_cpus: set[str] = set()
        self._cpu_was_removed = False

    def resize(self, vcpus: int | None, ram: int | None, balloon: int | None) -> None:
        self._vm.events.emit("vm", "resizing")
        if vcpus is not None:
            self._resize_vcpus(vcpus)
            self._config["cpus"]["boot_vcpus"] = vcpus
        if ram is not None:
            self._resize_ram(ram)
        if balloon is not None:
            if self._config["balloon"] is None:
                raise Fault("Error from device manager", "Missing virtio-balloon, can't proceed as expected")
            self.set_balloon(balloon)
            self._config["balloon"]["size"] = balloon
        self._vm.events.emit("vm", "resized")

    def _cpu_slots(self) -> list[dict[str, Any]]:
        keys = ("socket-id", "die-id", "core-id", "thread-id")
        slots = self._vm.command("query-hotpluggable-cpus")
        return sorted(slots, key=lambda slot: [slot["props"].get(key, 0) for key in keys])

    def _settle_pending_cpus(self, slots: list[dict[str, Any]]) -> None:
        present = {slot["qom-path"] for slot in slots if "qom-path" in slot}
        self._cpu_was_removed |= bool(self._pending_cpus - present)
        self._pending_cpus &= present
        for path in self._pending_cpus:
            self._ask_for_cpu(path)
        kept = [slot["props"] for slot in slots if "qom-path" in slot]
        self._layout.hotplugged_cpus = [
            item for item in self._layout.hotplugged_cpus if {k: v for k, v in item.items() if k != "driver"} in kept
        ]

    def _ask_for_cpu(self, path: str) -> None:
        """QEMU refuses while no guest has taken over ACPI; the removal stays pending all the same."""
        assert self._vm.qemu is not None
        try:
            self._vm.qemu.qmp.execute("device_del", {"id": path})
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
        if desired > self._config["cpus"]["max_vcpus"]:
            raise Fault("Error from CPU manager", "Requested vCPUs exceed maximum")
        if desired > self._vcpus and self._cpu_was_removed:
            # QEMU 7.2's TCG keeps a listener of the removed vCPU, and dies when the machine changes next.
            raise Fault("Error from CPU manager", "simulator: QEMU cannot add a vCPU after one was removed")
        if desired > self._vcpus:
            free = [slot for slot in slots if "qom-path" not in slot]
            for slot in free[: desired - self._vcpus]:
                item = {"driver": slot["type"]} | slot["props"]
                self._vm.command("device_add", {"id": f"cpu-{os.urandom(4).hex()}"} | item)
                self._layout.hotplugged_cpus.append(item)
        else:
            present = [slot for slot in slots if "qom-path" in slot]
            for slot in present[desired:]:
                self._pending_cpus.add(slot["qom-path"])
                self._ask_for_cpu(slot["qom-path"])
        self._vcpus = desired

    def _resize_ram(self, desired: int) -> None:
        memory = self._config["memory"]
        if memory["zones"]:
            raise Fault(
                "Memory manager error",
                "Impossible to resize guest memory if it is backed by user defined memory regions",
            )
        boot = self._layout.boot_memory
        if memory["hotplug_method"] == "VirtioMem":
            if desired < boot:
                raise _below_boot_size(desired, boot)
            self._set_virtio_mem("mem0", memory["hotplug_size"], desired - boot)
            memory["hotplugged_size"] = desired - memory["size"] if desired > memory["size"] else None
            return
        current = boot + sum(self._layout.dimms)
        if desired > current:
            self._add_dimm(desired - current, memory)
        memory["size"] = desired

    def _add_dimm(self, size: int, memory: Config) -> None:
        outer = "Memory manager error"
        if len(self._layout.dimms) >= DIMM_LIMIT:
            raise Fault(outer, "No ACPI slot available")
        if size % DIMM_STEP:
            raise Fault(outer, "The requested hotplug memory addition is not a valid size")
        if sum(self._layout.dimms) + size > (memory["hotplug_size"] or 0):
            raise Fault(outer, "Not enough space in the hotplug RAM region")
        name = f"dimm{len(self._layout.dimms)}"
        self._vm.command("object-add", machine.memory_backend(f"{name}-mem", size, memory))
        self._vm.command("device_add", {"driver": "pc-dimm", "id": name, "memdev": f"{name}-mem"})
        self._layout.dimms.append(size)

    def _set_virtio_mem(self, name: str, limit: int | None, size: int) -> None:
        if not limit:
            raise Fault("Memory manager error", "No virtio-mem resizing handler found")
        if size > limit:
            raise Fault(
                "Memory manager error", "Failed to virtio-mem resize", "Failed to resize: the requested size is too big"
            )
        self._vm.command(
            "qom-set", {"path": f"/machine/peripheral/{name}", "property": "requested-size", "value": size}
        )

    def resize_zone(self, zone_id: str, desired: int) -> None:
        zones = self._config["memory"]["zones"] or []
        zone = next((zone for zone in zones if zone["id"] == zone_id), None)
        if zone is None:
            raise Fault("Failed resizing a memory zone")
        if desired < zone["size"]:
            raise _below_boot_size(desired, zone["size"])
        names = {source["id"]: name for name, source in machine.virtio_mems(self._config)}
        self._set_virtio_mem(names.get(zone_id, ""), zone["hotplug_size"], desired - zone["size"])
        zone["hotplugged_size"] = desired - zone["size"]

    def set_balloon(self, size: int) -> None:
        # The device counts what it leaves to the guest.
        total = self._layout.boot_memory + sum(self._layout.dimms)
        self._vm.command("balloon", {"value": total - size})

    def balloon_size(self) -> int:
        if self._config["balloon"] is None:
            return 0
        total = self._layout.boot_memory + sum(self._layout.dimms)
        return max(0, total - self._vm.command("query-balloon")["actual"])

    def plugged_memory(self) -> int:
        devices = self._vm.command("query-memory-devices")
        return sum(item["data"]["size"] for item in devices if item["type"] == "virtio-mem")
