"""The QEMU machine that stands for one VM: its command line as a function of the configuration and its layout."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass, field
from typing import Any

from . import rules
from .consoles import Consoles
from .faults import Fault, io_error_text
from .plugs import Plug

SPARE_PORTS = 8
MEMORY_SLOTS = 16
FUNCTIONS = 8
FIRST_PORT_SLOT = 0x10
# Room for pmem devices that are added later: they live in the same address range as memory that is added.
PMEM_ROOM = 4 << 30

DIRECT_BOOT_FIRMWARE = "qboot.rom"

KINDS = ("disks", "net", "generic_vhost_user", "fs", "pmem", "vsock", "vdpa", "devices", "user_devices")

Config = dict[str, Any]


@dataclass
class Layout:
    """What a restored or migrated machine must have in the same place."""

    ports: dict[str, int] = field(default_factory=dict)
    port_count: int = 0
    dimms: list[int] = field(default_factory=list)
    boot_memory: int = 0
    boot_vcpus: int = 0
    hotplugged_cpus: list[dict[str, Any]] = field(default_factory=list)
    bdfs: dict[str, str] = field(default_factory=dict)

    def free_port(self) -> int | None:
        used = set(self.ports.values())
        return next((port for port in range(self.port_count) if port not in used), None)


def fresh_layout(config: Config) -> Layout:
    """Every removable device at a port of its own, in the order the guest shall find them, and some to spare."""
    layout = Layout(boot_memory=rules.total_memory(config) - rules.hotplugged_memory(config))
    layout.boot_vcpus = config["cpus"]["boot_vcpus"]
    for kind in KINDS:
        for device in devices_of(config, kind):
            layout.ports[device["id"]] = len(layout.ports)
    layout.port_count = len(layout.ports) + SPARE_PORTS
    return layout


def devices_of(config: Config, kind: str) -> list[Config]:
    value = config[kind]
    if value is None:
        return []
    return [value] if kind == "vsock" else value


def _elf_has_pvh_note(file: Any) -> bool:
    """A PT_NOTE of the owner Xen with type 18, the 32-bit entry point."""
    header = file.read(64)
    wide = header[4] == 2
    if wide:
        offset, size, count = *struct.unpack_from("<Q", header, 32), *struct.unpack_from("<HH", header, 54)
    else:
        offset, size, count = *struct.unpack_from("<I", header, 28), *struct.unpack_from("<HH", header, 42)
    for index in range(count):
        file.seek(offset + index * size)
        entry = file.read(size)
        if struct.unpack_from("<I", entry)[0] != 4:
            continue
        start, length = (
            (struct.unpack_from("<Q", entry, 8)[0], struct.unpack_from("<Q", entry, 32)[0])
            if wide
            else (struct.unpack_from("<I", entry, 4)[0], struct.unpack_from("<I", entry, 16)[0])
        )
        file.seek(start)
        notes = file.read(length)
        position = 0
        while position + 12 <= len(notes):
            name_size, data_size, kind = struct.unpack_from("<III", notes, position)
            name = notes[position + 12 : position + 12 + name_size].rstrip(b"\0")
            if name == b"Xen" and kind == 18:
                return True
            position += 12 + (name_size + 3 & ~3) + (data_size + 3 & ~3)
    return False


def check_kernel(path: str) -> None:
    """An ELF file with a PVH entry, or a bzImage; nothing else boots."""
    try:
        with open(path, "rb") as file:
            head = file.read(0x210)
            file.seek(0)
            if head[:4] == b"\x7fELF":
                if not _elf_has_pvh_note(file):
                    raise Fault("Kernel lacks PVH header")
            elif head[0x202:0x206] != b"HdrS":
                raise Fault("Cannot load the kernel into memory", "Invalid bzImage binary")
    except OSError as error:
        raise Fault("Cannot open kernel file", io_error_text(error)) from None
    except (struct.error, IndexError):
        raise Fault("Cannot load the kernel into memory", "Unable to read ELF header") from None


def _firmware_arguments(path: str) -> list[str]:
    """An ELF firmware boots as a kernel does; a firmware volume is the machine's flash."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise Fault("Error manipulating firmware file", io_error_text(error)) from None
    if head[:4] == b"\x7fELF":
        check_kernel(path)
        return ["-bios", DIRECT_BOOT_FIRMWARE, "-kernel", path]
    if head[40:44] != b"_FVH":
        raise Fault("Cannot load the kernel into memory", "Invalid bzImage binary")
    if size > 16 << 20:
        raise Fault("Firmware too big")
    # As flash without a variable store behind it: what the firmware remembers ends with the VM, as in the real program.
    node = {"driver": "file", "filename": path, "node-name": "firmware", "read-only": True, "locking": "off"}
    return ["-blockdev", json.dumps(node), "-machine", "pflash0=firmware"]


def payload_arguments(config: Config) -> list[str]:
    payload = config["payload"]
    if payload["firmware"]:
        return _firmware_arguments(payload["firmware"])
    check_kernel(payload["kernel"])
    # Nothing but what a direct boot needs, like the real program: the usual BIOS takes longer, and with a TPM it spoils
    # the tables of a PVH kernel.
    args = ["-bios", DIRECT_BOOT_FIRMWARE, "-kernel", payload["kernel"]]
    if payload["initramfs"]:
        try:
            os.close(os.open(payload["initramfs"], os.O_RDONLY))
        except OSError as error:
            raise Fault("Cannot open initramfs file", io_error_text(error)) from None
        args += ["-initrd", payload["initramfs"]]
    if payload["cmdline"]:
        args += ["-append", payload["cmdline"]]
    return args


def _free_huge_pages(size: int) -> int:
    try:
        with open(f"/sys/kernel/mm/hugepages/hugepages-{size >> 10}kB/free_hugepages", encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return 0


def memory_backend(name: str, size: int, memory: Config) -> Config:
    shared = memory["shared"] or memory["hugepages"]
    backend: Config = {"qom-type": "memory-backend-memfd" if shared else "memory-backend-ram"}
    backend |= {"id": name, "size": size, "share": shared, "prealloc": memory["prefault"], "merge": memory["mergeable"]}
    if memory.get("file"):
        backend |= {"qom-type": "memory-backend-file", "mem-path": memory["file"], "share": memory["shared"]}
    if memory["hugepages"]:
        page = memory["hugepage_size"] or 2 << 20
        if _free_huge_pages(page) * page < size:
            raise Fault(
                "Memory manager error", "Mmap backed guest memory error", "Cannot allocate memory (os error 12)"
            )
        backend |= {"hugetlb": True, "hugetlbsize": page}
    return backend


def _memory_arguments(config: Config, layout: Layout) -> list[str]:
    memory = config["memory"]
    zones = memory["zones"] or []
    if memory["size"] == 0 and not zones:
        raise Fault("Memory manager error", "No memory zones found")
    if memory["size"] and zones:
        raise Fault("Memory manager error", "Memory configuration is not valid")
    room = (memory["hotplug_size"] or 0) + sum(zone["hotplug_size"] or 0 for zone in zones)
    limit = layout.boot_memory + room + PMEM_ROOM
    args = ["-m", f"size={layout.boot_memory >> 10}K,slots={MEMORY_SLOTS},maxmem={limit >> 10}K"]
    if zones:
        for zone in zones:
            args += ["-object", json.dumps(memory_backend(f"zone-{zone['id']}", zone["size"], zone))]
        args += _numa_arguments(config)
    else:
        args += ["-object", json.dumps(memory_backend("ram", layout.boot_memory, memory))]
    for index, size in enumerate(layout.dimms):
        args += ["-object", json.dumps(memory_backend(f"dimm{index}-mem", size, memory))]
        args += ["-device", json.dumps({"driver": "pc-dimm", "id": f"dimm{index}", "memdev": f"dimm{index}-mem"})]
    for name, source in virtio_mems(config):
        backend = memory_backend(f"{name}-mem", source["hotplug_size"], source | {"prefault": False})
        device: Config = {"driver": "virtio-mem-pci", "id": name, "memdev": f"{name}-mem", "bus": "pcie.0"}
        device["requested-size"] = source["hotplugged_size"] or 0
        args += ["-object", json.dumps(backend), "-device", json.dumps(device)]
    return args


def virtio_mems(config: Config) -> list[tuple[str, Config]]:
    """Regions that grow by virtio-mem: the memory itself, or each zone."""
    memory = config["memory"]
    if memory["zones"]:
        return [(f"mem{index}", zone) for index, zone in enumerate(memory["zones"]) if zone["hotplug_size"]]
    if memory["hotplug_method"] == "VirtioMem" and memory["hotplug_size"]:
        return [("mem0", memory)]
    return []


def _numa_arguments(config: Config) -> list[str]:
    """One node for each zone, in the order of the zones; a node keeps the CPUs it was given."""
    args: list[str] = []
    owners = {zone: node for node in config["numa"] or [] for zone in node["memory_zones"] or []}
    for index, zone in enumerate(config["memory"]["zones"]):
        cpus = (owners.get(zone["id"]) or {}).get("cpus")
        if cpus is None and index == 0 and not owners:
            cpus = list(range(config["cpus"]["max_vcpus"]))
        ranges = "".join(f",cpus={cpu}" for cpu in cpus or [])
        args += ["-numa", f"node,nodeid={index},memdev=zone-{zone['id']}{ranges}"]
    return args


def _cpu_arguments(config: Config, layout: Layout) -> list[str]:
    cpus = config["cpus"]
    smp = f"cpus={layout.boot_vcpus},maxcpus={cpus['max_vcpus']}"
    topology = cpus["topology"]
    if topology is not None:
        smp += f",sockets={topology['packages']},dies={topology['dies_per_package']}"
        smp += f",cores={topology['cores_per_die']},threads={topology['threads_per_core']}"
    args = ["-cpu", "max", "-smp", smp]
    for index, properties in enumerate(layout.hotplugged_cpus):
        args += ["-device", json.dumps({"id": f"cpu{index}"} | properties)]
    return args


def _smbios_arguments(config: Config) -> list[str]:
    platform = config["platform"]
    if platform is None:
        return []
    names = {
        "manufacturer": "system_manufacturer",
        "product": "system_product_name",
        "version": "system_version",
        "serial": "system_serial_number",
        "uuid": "system_uuid",
        "sku": "system_sku_number",
        "family": "system_family",
    }
    pairs = [f"{key}={platform[name].replace(',', ',,')}" for key, name in names.items() if platform[name]]
    args = ["-smbios", ",".join(["type=1", *pairs])] if pairs else []
    if platform["chassis_asset_tag"]:
        args += ["-smbios", f"type=3,asset={platform['chassis_asset_tag'].replace(',', ',,')}"]
    for text in platform["oem_strings"] or []:
        args += ["-smbios", f"type=11,value={text.replace(',', ',,')}"]
    return args


def _fixed_devices(config: Config) -> list[str]:
    devices: list[Config] = []
    args: list[str] = []
    try:
        os.close(os.open(config["rng"]["src"], os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        raise Fault("Error from device manager", "Cannot create virtio-rng device", io_error_text(error)) from None
    args += ["-object", json.dumps({"qom-type": "rng-random", "id": "rng", "filename": config["rng"]["src"]})]
    devices.append({"driver": "virtio-rng-pci", "id": "rng0", "rng": "rng"})
    balloon = config["balloon"]
    if balloon is not None:
        device = {"driver": "virtio-balloon-pci", "id": "balloon0", "deflate-on-oom": balloon["deflate_on_oom"]}
        devices.append(device | {"free-page-reporting": balloon["free_page_reporting"]})
    if config["watchdog"]:
        devices.append({"driver": "i6300esb", "id": "watchdog0"})
    if config["pvpanic"]:
        devices.append({"driver": "pvpanic-pci", "id": "pvpanic0"})
    for device in devices:
        args += ["-device", json.dumps(device | {"bus": "pcie.0"})]
    if config["tpm"] is not None:
        args += _tpm_arguments(config["tpm"]["socket"])
    return args


def _tpm_arguments(path: str) -> list[str]:
    if not os.path.exists(path):
        raise Fault(
            "Error from device manager",
            "Cannot create tmp device",
            "Failed to create TPM Device : Initialize(Failed to connect to tpm Socket: "
            "No such file or directory (os error 2))",
        )
    return [
        "-chardev",
        f"socket,id=tpm-char,path={path.replace(',', ',,')}",
        "-tpmdev",
        "emulator,id=tpm0,chardev=tpm-char",
        "-device",
        "tpm-crb,tpmdev=tpm0",
    ]


def _console_arguments(config: Config, consoles: Consoles) -> tuple[list[str], list[int]]:
    args: list[str] = []
    fds: list[int] = []
    uses: dict[str, list[Config]] = {
        "console": [
            {"driver": "virtio-serial-pci", "id": "console-bus", "bus": "pcie.0", "max_ports": 1},
            {"driver": "virtconsole", "id": "console0", "bus": "console-bus.0", "chardev": "console"},
        ],
        "serial": [{"driver": "isa-serial", "id": "serial0", "chardev": "serial"}],
        "debug_console": [{"driver": "isa-debugcon", "id": "debug0", "chardev": "debug_console"}],
    }
    for key, devices in uses.items():
        console = consoles.all[key]
        if console.mode == "Off":
            continue
        more, inherited = console.attach(key)
        args += more
        fds += inherited
        if key == "debug_console" and config[key]["iobase"] is not None:
            devices[0]["iobase"] = config[key]["iobase"]
        for device in devices:
            args += ["-device", json.dumps(device)]
    return args, fds


def _ports(layout: Layout) -> list[str]:
    args: list[str] = []
    for port in range(layout.port_count):
        device = {"driver": "pcie-root-port", "id": f"port{port}", "bus": "pcie.0", "chassis": port + 1}
        device |= {"slot": port, "addr": f"{FIRST_PORT_SLOT + port // FUNCTIONS:x}.{port % FUNCTIONS}"}
        args += ["-device", json.dumps(device | {"multifunction": True})]
    return args


def command_line(
    config: Config, layout: Layout, plugs: list[Plug], consoles: Consoles, incoming: bool
) -> tuple[list[str], list[int]]:
    """QEMU's arguments and the descriptors it inherits."""
    machine = "q35,accel=tcg,vmport=off"
    if not config["memory"]["zones"]:
        machine += ",memory-backend=ram"
    args = ["-name", "cloud-hypervisor-guest", "-machine", machine, "-nodefaults", "-no-user-config"]
    args += ["-display", "none", "-vga", "none", "-global", "ICH9-LPC.disable_s3=1"]
    args += ["-action", "reboot=shutdown,shutdown=pause,panic=none,watchdog=reset"]
    args += _cpu_arguments(config, layout) + _memory_arguments(config, layout)
    args += payload_arguments(config) + _smbios_arguments(config) + _ports(layout)
    fds: list[int] = []
    for plug in sorted(plugs, key=lambda plug: layout.ports[plug.device_id]):
        more, inherited = plug.cold()
        args += more
        fds += inherited
    args += _fixed_devices(config)
    more, inherited = _console_arguments(config, consoles)
    args += more
    fds += inherited
    if incoming:
        args += ["-incoming", "defer"]
    return args, fds
