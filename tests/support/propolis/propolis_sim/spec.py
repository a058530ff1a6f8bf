"""From an instance spec to a machine: the rules that the schema cannot say."""

from dataclasses import dataclass, field
from typing import Any

from .errors import SpecError
from .openapi import SchemaError, is_uuid

STORAGE_BACKENDS = ("crucible_storage_backend", "file_storage_backend", "blob_storage_backend")
# Only servers of special builds have these.
COMPILED_OUT = {
    "soft_npu_pci_port": "falcon",
    "soft_npu_port": "falcon",
    "soft_npu_p9": "falcon",
    "p9fs": "falcon",
    "migration_failure_injector": "failure-injection",
}


@dataclass(frozen=True)
class PciPath:
    bus: int
    device: int
    function: int

    def __str__(self) -> str:
        return f"PciPath {{ bus: {self.bus}, device: {self.device}, function: {self.function} }}"


@dataclass
class Disk:
    name: str
    kind: str  # virtio_disk or nvme_disk
    path: PciPath
    backend_kind: str
    backend: dict[str, Any]
    serial_number: bytes = b""


@dataclass
class Nic:
    name: str
    path: PciPath
    vnic: str


@dataclass
class Bridge:
    path: PciPath
    downstream_bus: int


@dataclass
class Machine:
    cpus: int
    memory_mb: int
    cpuid: dict[str, Any] | None = None
    hypervisor_interface: str = "bhyve"
    smbios: dict[str, Any] | None = None
    disks: dict[str, Disk] = field(default_factory=dict)
    nics: list[Nic] = field(default_factory=list)
    bridges: list[Bridge] = field(default_factory=list)
    serial_ports: list[str] = field(default_factory=list)
    pvpanic: bool = False
    boot_order: list[str] | None = None
    vsock: tuple[PciPath, int] | None = None


def spec_key(name: str) -> tuple[bool, str]:
    """The server keeps components ordered, those named by a UUID first; which error comes first depends on it."""
    return (not is_uuid(name), name)


def check_pci_paths(spec: dict[str, Any]) -> None:
    """Part of reading the body, so a violation is an error of the JSON and not of the spec."""
    for name, component in spec["components"].items():
        path = component["component"].get("pci_path")
        for part, count in (("device", 32), ("function", 8)) if path else ():
            if path[part] >= count:
                raise SchemaError(
                    f"init.value.spec.components.{name}.component.pci_path",
                    f"PCI {part} {path[part]} outside range of 0-{count - 1}",
                )


def check_cpuid(entries: list[dict[str, Any]]) -> None:
    """A leaf has one entry, or one for each of its subleaves."""
    seen: set[tuple[int, int | None]] = set()
    for entry in entries:
        leaf, subleaf = entry["leaf"], entry.get("subleaf")
        problem = ""
        if not (0 <= leaf <= 0xFFFF or 0x8000_0000 <= leaf <= 0x8000_FFFF):
            problem = f"leaf {leaf:x} not in standard or extended range"
        elif subleaf is None and any(other == leaf and sub is not None for other, sub in seen):
            problem = f"leaf {leaf:x} has entries with subleaves"
        elif subleaf is not None and (leaf, None) in seen:
            problem = f"leaf {leaf:x} has an entry with no subleaves"
        elif (leaf, subleaf) in seen:
            shown = "None" if subleaf is None else f"Some({subleaf})"
            problem = f"duplicate leaf and subleaf ({leaf:x}, {shown})"
        if problem:
            raise SpecError(f"instance spec's CPUID entries are invalid: {problem}")
        seen.add((leaf, subleaf))


class Builder:
    def __init__(self, spec: dict[str, Any]) -> None:
        board = spec["board"]
        self.components: dict[str, dict[str, Any]] = spec["components"]
        self.machine = Machine(
            board["cpus"],
            board["memory_mb"],
            board.get("cpuid"),
            board.get("guest_hv_interface", {}).get("type", "bhyve"),
            spec.get("smbios"),
        )
        self.names: set[str] = set()
        self.paths: set[PciPath] = set()

    def build(self) -> Machine:
        if self.machine.cpuid is not None:
            check_cpuid(self.machine.cpuid["entries"])
        ordered = sorted(self.components, key=spec_key)
        backends = {n for n in ordered if self.components[n]["type"].endswith("_backend")}
        unused = set(backends)
        boot_settings = None
        sockets = []
        for name in ordered:
            kind, component = self.components[name]["type"], self.components[name]["component"]
            if kind in ("virtio_disk", "nvme_disk"):
                self._disk(name, kind, component, unused)
            elif kind == "virtio_nic":
                self._nic(name, component, unused)
            elif kind == "serial_port":
                self._serial_port(name, component["num"])
            elif kind == "pci_pci_bridge":
                self._use(name)
                self.machine.bridges.append(Bridge(self._attach(component), component["downstream_bus"]))
            elif kind == "qemu_pvpanic":
                self._only_one("pvpanic", "pvpanic device", kind, name)
                self.machine.pvpanic = component["enable_isa"]
            elif kind == "boot_settings":
                boot_settings = component  # of several the last stands, and only that one is looked at
            elif kind == "virtio_socket":
                sockets.append((name, component))
            elif kind in COMPILED_OUT:
                raise SpecError(f"support for component {name} compiled out via {COMPILED_OUT[kind]}")
        if boot_settings is not None:
            self._boot_settings(boot_settings)
        for kinds in (STORAGE_BACKENDS, ("virtio_network_backend",), ("dlpi_network_backend",)):
            for name in ordered:
                if name in unused and self.components[name]["type"] in kinds:
                    raise SpecError(f"backend {name} not used by any device")
        # Of several the first stands.
        for name, component in sockets[:1]:
            self._use(name)
            self.machine.vsock = (self._attach(component), component["guest_cid"])
        return self.machine

    def _use(self, name: str) -> None:
        if name in self.names:
            raise SpecError(f"a component with name {name} already exists")
        self.names.add(name)

    def _attach(self, component: dict[str, Any]) -> PciPath:
        raw = component["pci_path"]
        path = PciPath(raw["bus"], raw["device"], raw["function"])
        if path in self.paths:
            raise SpecError(f"a PCI device is already attached at {path}")
        self.paths.add(path)
        return path

    def _only_one(self, what: str, words: str, kind: str, name: str) -> None:
        """Of components that a machine has once, the first by name stands."""
        first = next(n for n in sorted(self.components, key=spec_key) if self.components[n]["type"] == kind)
        if first != name:
            raise SpecError(f"{words} already specified")
        self._use(name)

    def _take_backend(
        self, name: str, component: dict[str, Any], kinds: tuple[str, ...], word: str, unused: set[str]
    ) -> dict[str, Any]:
        backend = component["backend_id"]
        if backend not in unused or self.components[backend]["type"] not in kinds:
            raise SpecError(f"{word} backend {backend} not found for device {name}")
        unused.remove(backend)
        self._use(name)
        self._use(backend)
        return self.components[backend]

    def _disk(self, name: str, kind: str, component: dict[str, Any], unused: set[str]) -> None:
        backend = self._take_backend(name, component, STORAGE_BACKENDS, "storage", unused)
        self.machine.disks[name] = Disk(
            name,
            kind,
            self._attach(component),
            backend["type"],
            backend["component"],
            bytes(component.get("serial_number", [])),
        )

    def _nic(self, name: str, component: dict[str, Any], unused: set[str]) -> None:
        backend = self._take_backend(name, component, ("virtio_network_backend",), "network", unused)
        self.machine.nics.append(Nic(name, self._attach(component), backend["component"]["vnic_name"]))

    def _serial_port(self, name: str, number: str) -> None:
        if number in self.machine.serial_ports:
            raise SpecError(f"serial port {number.capitalize()} is already specified")
        self._use(name)
        self.machine.serial_ports.append(number)

    def _boot_settings(self, component: dict[str, Any]) -> None:
        for entry in component["order"]:
            if entry["id"] not in self.machine.disks:
                raise SpecError(f"boot option {entry['id']} is not an attached device")
        self.machine.boot_order = [entry["id"] for entry in component["order"]]


def build_machine(spec: dict[str, Any]) -> Machine:
    return Builder(spec).build()
