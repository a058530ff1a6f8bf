"""From a machine to QEMU's command line, with the checks that the server makes of the host."""

import base64
import binascii
import fcntl
import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import InitError, panic
from .log import Log
from .spec import Disk, Machine, Nic, PciPath

PAGE_SIZE = 4096
MAX_ROM_SIZE = 2 * 1024 * 1024
PORT_INDEX = {"com1": 0, "com2": 1, "com3": 2, "com4": 3}


@dataclass
class Command:
    argv: list[str]
    # Descriptors that QEMU inherits; whoever starts it closes them afterwards.
    descriptors: list[int] = field(default_factory=list)


def quoted(value: str) -> str:
    """A value inside one of QEMU's comma-separated options."""
    return value.replace(",", ",,")


def placed(path: PciPath) -> str:
    bus = "pci.0" if path.bus == 0 else f"bridge{path.bus}"
    return f"bus={bus},addr={path.device:#x}.{path.function:#x}"


def check_bootrom(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        panic(f"Cannot open bootrom: failed to open bootrom {str(path)!r}: {error.strerror}")
    if size % PAGE_SIZE:
        panic(f"Cannot open bootrom: bootrom {str(path)!r} length {size:x} not aligned to {PAGE_SIZE:x}")
    if size > MAX_ROM_SIZE:
        panic(
            f"attempt to subtract with overflow: bootrom {str(path)!r} has {size} bytes, "
            f"the region for it {MAX_ROM_SIZE}"
        )


class Assembly:
    """Collects the arguments of one machine, in the order in which the server would meet its parts."""

    def __init__(self, machine: Machine, log: Log) -> None:
        self.machine = machine
        self.log = log
        self.command = Command([])

    def add(self, *arguments: str) -> None:
        self.command.argv += arguments

    def assemble(self, properties: dict[str, Any], bootrom: Path, console: int, control: int) -> Command:
        machine = self.machine
        if machine.memory_mb == 0:
            raise InitError("failed to add low memory region: Invalid argument")
        if machine.cpus == 0:
            raise InitError("failed to set max cpus: Invalid argument")
        check_bootrom(bootrom)
        if machine.cpus > (os.cpu_count() or 1):
            raise InitError("spec requested more CPUs than are online!")
        self._refuse_what_is_not_simulated()
        self.add(
            "qemu-system-x86_64",
            "-name",
            f"guest=propolis-{properties['id']}",
            "-nodefaults",
            "-no-user-config",
            "-machine",
            "pc",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-smp",
            str(machine.cpus),
            "-m",
            str(machine.memory_mb),
            "-uuid",
            properties["id"],
            "-bios",
            quoted(str(bootrom)),
            "-vga",
            "none",
            "-device",
            "ramfb",
            "-vnc",
            "none",
            "-S",
            "-no-shutdown",
            "-action",
            "panic=none",
            "-chardev",
            f"socket,id=control,fd={control}",
            "-mon",
            "chardev=control,mode=control",
        )
        self.command.descriptors += [console, control]
        self._smbios()
        self._bridges()
        self._serial_ports(console)
        self._debug_port()
        if machine.pvpanic:
            self.add("-device", "pvpanic")
        for index, nic in enumerate(machine.nics):
            self._nic(index, nic)
        self._vsock()
        for index, disk in enumerate(machine.disks.values()):
            self._disk(index, disk)
        return self.command

    def _refuse_what_is_not_simulated(self) -> None:
        if self.machine.cpuid is not None and self.machine.cpuid["entries"]:
            raise InitError("explicit CPUID entries are not simulated: the guest has all that QEMU can emulate")
        if self.machine.hypervisor_interface != "bhyve":
            raise InitError(f"guest hypervisor interface {self.machine.hypervisor_interface} is not simulated")

    def _smbios(self) -> None:
        given = self.machine.smbios
        if given is not None:
            self.add(
                "-smbios",
                f"type=1,manufacturer={quoted(given['manufacturer'])},product={quoted(given['product_name'])},"
                f"serial={quoted(given['serial_number'])},version={given['version']}",
            )

    def _bridges(self) -> None:
        buses = {0} | {bridge.downstream_bus for bridge in self.machine.bridges}
        if len(buses) != len(self.machine.bridges) + 1:
            raise InitError("a logical PCI bus is downstream of more than one bridge")
        for bridge in self.machine.bridges:
            number = bridge.downstream_bus
            self.add("-device", f"pci-bridge,id=bridge{number},chassis_nr={number},{placed(bridge.path)}")
        used = [d.path for d in self.machine.disks.values()] + [n.path for n in self.machine.nics]
        for path in used + [b.path for b in self.machine.bridges]:
            if path.bus not in buses:
                raise InitError(f"no bridge leads to PCI bus {path.bus}")

    def _serial_ports(self, console: int) -> None:
        if "com1" not in self.machine.serial_ports:
            panic("called `Option::unwrap()` on a `None` value: the spec has no serial port com1")
        for port in self.machine.serial_ports:
            # What a guest writes to the other ports is dropped by the server, too.
            backend = f"socket,id={port},fd={console}" if port == "com1" else f"null,id={port}"
            self.add("-chardev", backend, "-device", f"isa-serial,chardev={port},index={PORT_INDEX[port]}")

    def _debug_port(self) -> None:
        # A file in the working directory, as the server makes it.
        try:
            with open("debug.out", "wb"):
                pass
        except OSError as error:
            raise InitError(f"failed to create firmware debug port logfile: {error.strerror}") from error
        self.add("-chardev", "file,id=debug,path=debug.out", "-device", "isa-debugcon,iobase=0x402,chardev=debug")

    def _nic(self, index: int, nic: Nic) -> None:
        mac = mac_of(nic)
        wanted = os.environ.get("VMTEST_SIM_PROPOLIS_NET")
        if wanted is not None:
            mode, _, port = wanted.partition(":")
            if mode != "user" or not port.isdigit() or not 0 < int(port) < 65536:
                raise InitError(f"VMTEST_SIM_PROPOLIS_NET is user:PORT, not {wanted!r}")
            if len(self.machine.nics) > 1:
                raise InitError("VMTEST_SIM_PROPOLIS_NET=user:PORT serves one network card")
            backend = f"user,id=net{index},hostfwd=tcp:127.0.0.1:{port}-:22"
        elif Path("/sys/class/net", nic.vnic, "tun_flags").exists() and "/" not in nic.vnic:
            backend = f"tap,id=net{index},ifname={quoted(nic.vnic)},script=no,downscript=no"
        else:
            raise InitError(f'failed to create viona device "{nic.name}": no TAP device {nic.vnic!r}')
        self.add(
            "-netdev", backend, "-device", f"virtio-net-pci,netdev=net{index},mac={mac},romfile=,{placed(nic.path)}"
        )

    def _vsock(self) -> None:
        if self.machine.vsock is None:
            return
        path, cid = self.machine.vsock
        if cid <= 2 or cid >> 32:
            raise InitError(f"could not parse guest cid: invalid guest cid {cid}")
        if not os.access("/dev/vhost-vsock", os.R_OK | os.W_OK):
            raise InitError("virtio_socket is simulated by vhost-vsock, and /dev/vhost-vsock cannot be opened here")
        self.add("-device", f"vhost-vsock-pci,guest-cid={cid},{placed(path)}")

    def _disk(self, index: int, disk: Disk) -> None:
        backend = disk.backend
        if disk.backend_kind == "file_storage_backend":
            node = self._file_node(backend)
            block_size = backend["block_size"]
        elif disk.backend_kind == "blob_storage_backend":
            node = self._blob_node(backend)
            block_size = 512
        else:
            raise InitError(f"failed to create Crucible backend for {disk.name}: there is no Crucible here")
        node |= {"node-name": f"disk{index}", "driver": "raw", "read-only": backend["readonly"]}
        self.add("-blockdev", json.dumps(node))
        device = {"virtio_disk": f"virtio-blk-pci,drive=disk{index}", "nvme_disk": self._nvme(index, disk)}[disk.kind]
        sizes = f",logical_block_size={block_size},physical_block_size={block_size}"
        self.add("-device", f"{device}{sizes},{placed(disk.path)}{self._boot_index(disk)}")

    def _nvme(self, index: int, disk: Disk) -> str:
        serial = disk.serial_number.split(b"\0")[0].decode("ascii", "replace").strip() or disk.name[:20]
        return f"nvme,drive=disk{index},serial={quoted(serial)}"

    def _boot_index(self, disk: Disk) -> str:
        order = self.machine.boot_order or []
        if disk.name not in order:
            return ""
        if disk.path.bus != 0:
            raise InitError(f'boot entry "{disk.name}" refers to a device on non-zero PCI bus {disk.path.bus}')
        return f",bootindex={order.index(disk.name)}"

    def _file_node(self, backend: dict[str, Any]) -> dict[str, Any]:
        path = volume_path(backend["path"])
        try:
            status = os.stat(path)
        except OSError as error:
            raise InitError(f"failed to read file backend metadata for {path!r}: {error.strerror}") from error
        if not backend["readonly"] and not status.st_mode & 0o222:
            raise InitError(
                f"failed to create file backend for file {path!r}: " "writeable backend with read-only file not allowed"
            )
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise InitError(f"failed to create file backend for file {path!r}: it is neither a file nor a block device")
        if backend["block_size"] not in (512, 4096):
            raise InitError(f"block size {backend['block_size']} is not simulated, only 512 and 4096")
        driver = "host_device" if stat.S_ISBLK(status.st_mode) else "file"
        return {"file": {"driver": driver, "filename": os.path.abspath(path)}}

    def _blob_node(self, backend: dict[str, Any]) -> dict[str, Any]:
        try:
            content = base64.b64decode(backend["base64"], validate=True)
        except binascii.Error as error:
            raise InitError(f"failed to decode in-memory storage backend contents: {error}") from error
        if not content:
            raise InitError("failed to create in-memory storage backend: size cannot be 0")
        if len(content) % 512:
            raise InitError(
                "failed to create in-memory storage backend: " f"size {len(content)} not multiple of block size 512!"
            )
        # In memory, as the server has it: nothing to remove, whatever ends this process.
        memory = os.memfd_create("blob_storage_backend")
        with open(memory, "wb", closefd=False) as file:
            file.write(content)
        number = len(self.command.descriptors)
        descriptor = memory
        if backend["readonly"]:
            descriptor = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
            os.close(memory)
        self.command.descriptors.append(descriptor)
        self.add("-add-fd", f"fd={descriptor},set={number}")
        return {"file": {"driver": "file", "filename": f"/dev/fdset/{number}", "locking": "off"}}


def volume_path(path: str) -> str:
    """A volume of the stand-in for zfs, where that is in use, is a file in its folder."""
    state = os.environ.get("VMTEST_ILLUMOS_STATE")
    for prefix in ("/dev/zvol/rdsk/", "/dev/zvol/dsk/"):
        if state is not None and path.startswith(prefix) and ".." not in path.split("/"):
            return f"{state}/zvol/rdsk/{path.removeprefix(prefix)}"
    return path


def mac_of(nic: Nic) -> str:
    """The VNIC's own address, as viona takes it: from the stand-in for dladm where that is in use."""
    state = os.environ.get("VMTEST_ILLUMOS_STATE")
    if state is not None:
        try:
            with open(Path(state, "state.json"), encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                vnics = json.load(file)["vnics"]
        except (OSError, ValueError, KeyError) as error:
            raise InitError(
                f'failed to create viona device "{nic.name}": cannot read {state}/state.json: {error}'
            ) from error
        if nic.vnic not in vnics:
            raise InitError(f'failed to create viona device "{nic.name}": no VNIC {nic.vnic!r}')
        return ":".join(f"{int(part, 16):02x}" for part in vnics[nic.vnic]["mac"].split(":"))
    # A TAP has an address of its own, which is the host's side: what stands for a VNIC has the guest's as its alias.
    alias = Path("/sys/class/net", nic.vnic, "ifalias")
    if "/" not in nic.vnic and alias.exists() and re.fullmatch(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\n?", text := alias.read_text()):
        return text.strip()
    digest = hashlib.sha256(nic.vnic.encode()).digest()
    return "02:08:20:" + ":".join(f"{byte:02x}" for byte in digest[:3])
