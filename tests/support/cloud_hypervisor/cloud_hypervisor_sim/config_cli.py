"""Turns the values of the command line's options into the configuration that the API would have carried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import shapes
from .cli import Arguments
from .faults import Fault
from .options import (
    OptionError,
    OptionParser,
    dequote,
    integer,
    integer_list,
    one_of,
    string_list,
    to_size,
    to_toggle,
    tuple_list,
)

PCI_KEYS = ("id", "pci_segment", "pci_device_id")
PCI_KEYS_IOMMU = (*PCI_KEYS, "iommu")
LIMIT_KEYS = ("bw_size", "bw_one_time_burst", "bw_refill_time", "ops_size", "ops_one_time_burst", "ops_refill_time")

u8, u16, u32, u64, i32 = integer(8), integer(16), integer(32), integer(64), integer(32, signed=True)
text = dequote


def _ip(value: str) -> str:
    return shapes.load("ip", dequote(value))


def _mac(value: str) -> str:
    return shapes.load("mac", dequote(value))


def _strict(conversion: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(value: str) -> Any:
        try:
            return conversion(value)
        except shapes.ShapeError:
            raise ValueError(value) from None

    return convert


CONVERSIONS: dict[str, dict[str, Callable[[str], Any]]] = {
    "memory": {
        "size": to_size,
        "mergeable": to_toggle,
        "hotplug_method": one_of({"acpi": "Acpi", "virtio-mem": "VirtioMem"}),
        "hotplug_size": to_size,
        "hotplugged_size": to_size,
        "shared": to_toggle,
        "hugepages": to_toggle,
        "hugepage_size": to_size,
        "prefault": to_toggle,
        "reserve": to_toggle,
        "thp": to_toggle,
    },
    "memory-zone": {
        "id": text,
        "size": to_size,
        "file": text,
        "shared": to_toggle,
        "hugepages": to_toggle,
        "hugepage_size": to_size,
        "host_numa_node": u32,
        "hotplug_size": to_size,
        "hotplugged_size": to_size,
        "prefault": to_toggle,
        "reserve": to_toggle,
        "mergeable": to_toggle,
    },
    "disk": {
        "path": text,
        "readonly": to_toggle,
        "direct": to_toggle,
        "queue_size": u16,
        "num_queues": u64,
        "vhost_user": to_toggle,
        "socket": text,
        "_disable_io_uring": to_toggle,
        "_disable_aio": to_toggle,
        "serial": text,
        "rate_limit_group": text,
        "queue_affinity": tuple_list(u16, integer_list()),
        "backing_files": to_toggle,
        "sparse": to_toggle,
        "image_type": one_of({"raw": "Raw", "qcow2": "Qcow2", "vhd": "FixedVhd", "vhdx": "Vhdx"}),
        "lock_granularity": one_of({"byte-range": "ByteRange", "full": "Full"}),
    },
    "net": {
        "tap": text,
        "ip": _strict(_ip),
        "mask": _strict(_ip),
        "mac": _strict(_mac),
        "host_mac": _strict(_mac),
        "offload_tso": to_toggle,
        "offload_ufo": to_toggle,
        "offload_csum": to_toggle,
        "mtu": u16,
        "queue_size": u16,
        "num_queues": u64,
        "vhost_user": to_toggle,
        "socket": text,
        "vhost_mode": one_of({"client": "Client", "server": "Server"}),
        "fd": integer_list(31),
    },
    "rng": {"src": text},
    "rtc": {},
    "balloon": {"size": to_size, "deflate_on_oom": to_toggle, "free_page_reporting": to_toggle},
    "fs": {"tag": text, "queue_size": u16, "num_queues": u64, "socket": text},
    "generic-vhost-user": {"device_type": u32, "queue_sizes": integer_list(16), "socket": text},
    "pmem": {"size": to_size, "file": text, "discard_writes": to_toggle},
    "device": {"path": text, "fd": i32, "x_nv_gpudirect_clique": u8, "x_exclude_mmap_bars": integer_list()},
    "user-device": {"socket": text},
    "vdpa": {"path": text, "num_queues": u64},
    "vsock": {"cid": u32, "socket": text},
    "tpm": {"socket": text},
    "landlock-rules": {"path": text, "access": text},
    "pci-segment": {"pci_segment": u16, "mmio32_aperture_weight": u32, "mmio64_aperture_weight": u32},
    "numa": {
        "guest_numa_id": u32,
        "cpus": integer_list(32),
        "distances": tuple_list(u64, u64),
        "device_id": text,
        "memory_zones": string_list,
        "pci_segments": integer_list(16),
    },
    "platform": {
        "num_pci_segments": u16,
        "iommu_segments": integer_list(16),
        "iommu_address_width": u8,
        "serial_number": text,
        "uuid": text,
        "oem_strings": string_list,
        "iommufd": to_toggle,
        "iommufd_fd": i32,
        "vfio_p2p_dma": to_toggle,
        "system_manufacturer": text,
        "system_product_name": text,
        "system_version": text,
        "system_serial_number": text,
        "system_uuid": text,
        "system_sku_number": text,
        "system_family": text,
        "chassis_asset_tag": text,
    },
    "cpus": {
        "boot": u32,
        "max": u32,
        "topology": text,
        "kvm_hyperv": to_toggle,
        "max_phys_bits": u8,
        "affinity": tuple_list(u32, integer_list()),
        "features": string_list,
        "nested": to_toggle,
        "core_scheduling": one_of({"vm": "Vm", "vcpu": "Vcpu", "off": "Off"}),
        "profile": one_of({"host": "Host"}),
    },
    "restore": {
        "source_url": text,
        "prefault": to_toggle,
        "memory_restore_mode": one_of({"copy": "Copy", "ondemand": "OnDemand"}),
        "net_fds": tuple_list(text, integer_list()),
        "resume": to_toggle,
        "zone_updates": tuple_list(text, u32),
    },
}

PCI_CONVERSIONS = {"id": text, "iommu": to_toggle, "pci_segment": u16, "pci_device_id": u8}
LIMIT_CONVERSIONS: dict[str, Callable[[str], Any]] = dict.fromkeys(LIMIT_KEYS, u64)

# Options whose device sits on the PCI bus, with the keys of its place there.
PLACED: dict[str, tuple[str, ...]] = {
    option: PCI_KEYS if option in ("fs", "generic-vhost-user", "user-device") else PCI_KEYS_IOMMU
    for option in (
        *("disk", "net", "rng", "rtc", "balloon", "pmem", "device", "vdpa", "vsock"),
        *("fs", "generic-vhost-user", "user-device"),
    )
}
LIMITED = ("disk", "net")

MISSING = {
    "fs": {"tag": "tag missing", "socket": "socket missing"},
    "pmem": {"file": "file missing"},
    "vsock": {"socket": "socket missing", "cid": "cid missing"},
    "user-device": {"socket": "socket missing"},
    "vdpa": {"path": "path missing"},
    "tpm": {"socket": "path missing"},
    "memory-zone": {"id": "id missing"},
    "generic-vhost-user": {
        "socket": "socket missing",
        "queue_sizes": "queue size missing",
        "device_type": "device_type missing",
    },
    "landlock-rules": {"path": "path/access field missing", "access": "path/access field missing"},
    "restore": {"source_url": "source_url missing"},
}

RENAMED = {
    "disk": {
        "socket": "vhost_socket",
        "_disable_io_uring": "disable_io_uring",
        "_disable_aio": "disable_aio",
    },
    "net": {"socket": "vhost_socket", "fd": "fds"},
    "platform": {
        "iommu_address_width": "iommu_address_width_bits",
        "serial_number": "system_serial_number",
        "uuid": "system_uuid",
    },
}


def _parse(option: str, value: str) -> dict[str, Any]:
    """The keys that were given, converted; raises the chain of the real program."""
    conversions = dict(CONVERSIONS[option])
    if option in PLACED:
        conversions |= {key: PCI_CONVERSIONS[key] for key in PLACED[option]}
    if option in LIMITED:
        conversions |= LIMIT_CONVERSIONS
    if option == "memory":
        # Accepted on the command line since the first versions, and unused.
        conversions["file"] = text
    try:
        parser = OptionParser(conversions).parse(value)
        for key, missing in MISSING.get(option, {}).items():
            if parser.get(key) is None:
                raise Fault(f"Error parsing --{option}: {missing}")
        given = {key: parser.convert(key, conversion) for key, conversion in conversions.items()}
    except OptionError as error:
        raise Fault(f"Error parsing --{option}", str(error)) from None
    given.pop("file", None) if option == "memory" else None
    given = {RENAMED.get(option, {}).get(key, key): item for key, item in given.items() if item is not None}
    return given


def _take_limits(given: dict[str, Any]) -> dict[str, Any] | None:
    buckets: dict[str, Any] = {}
    for name, prefix in (("bandwidth", "bw"), ("ops", "ops")):
        size, burst, refill = (given.pop(f"{prefix}_{key}", 0) for key in ("size", "one_time_burst", "refill_time"))
        buckets[name] = {"size": size, "one_time_burst": burst, "refill_time": refill} if size and refill else None
    return buckets if any(buckets.values()) else None


def _device(option: str, shape: str, value: str) -> dict[str, Any]:
    given = _parse(option, value)
    if option in LIMITED:
        limits = _take_limits(given)
        if limits:
            given["rate_limiter_config"] = limits
    if "queue_affinity" in given:
        given["queue_affinity"] = [{"queue_index": key, "host_cpus": cpus} for key, cpus in given["queue_affinity"]]
    if option == "disk" and "vhost_socket" in given:
        given.pop("image_type", None)
    if option == "fs" and len(given["tag"].encode()) > 36:
        raise Fault("Error parsing --fs: max tag length is 36")
    if option == "balloon":
        given.setdefault("size", 0)
    if option == "rng":
        given.setdefault("src", "/dev/urandom")
    if option == "landlock-rules" and len(given["access"]) > 2:
        raise Fault("Error parsing --landlock-rules", f"Invalid value: {given['access']}")
    if option == "generic-vhost-user" and given["device_type"] in (22, 23):
        raise Fault(
            f'Error parsing --generic-vhost-user: device with device_type "{given["device_type"]}" '
            "cannot be implemented via vhost-user"
        )
    return shapes.load(shape, given)


def _cpus(value: str) -> dict[str, Any]:
    given = _parse("cpus", value)
    given.pop("profile", None)
    for feature in given.get("features", []):
        if feature != "amx":
            raise Fault(f"Invalid feature in --cpus features list: {feature}")
    given["features"] = {"amx": bool(given.get("features"))}
    given["boot_vcpus"] = given.pop("boot", 1)
    given["max_vcpus"] = given.pop("max", given["boot_vcpus"])
    if "topology" in given:
        parts = given["topology"].split(":")
        keys = ("threads_per_core", "cores_per_die", "dies_per_package", "packages")
        try:
            given["topology"] = dict(zip(keys, (u16(part) for part in parts), strict=True))
        except ValueError:
            raise Fault("Error parsing --cpus", f"Unable to convert {':'.join(parts)} for topology") from None
    if "affinity" in given:
        given["affinity"] = [{"vcpu": vcpu, "host_cpus": cpus} for vcpu, cpus in given["affinity"]]
    return shapes.load("CpusConfig", given)


def _memory(value: str, zones: list[str] | None) -> dict[str, Any]:
    given = _parse("memory", value)
    given.setdefault("size", 512 << 20)
    if zones is not None:
        given["zones"] = []
        for zone in zones:
            parsed = _parse("memory-zone", zone)
            parsed.setdefault("size", 512 << 20)
            parsed.setdefault("mergeable", given.get("mergeable", False))
            given["zones"].append(parsed)
    return shapes.load("MemoryConfig", given)


def _console(option: str, shape: str, value: str) -> dict[str, Any]:
    flags = ("off", "pty", "tty", "null")
    keys = {"serial": ("file", "socket"), "console": ("file", "socket"), "debug-console": ("file", "iobase")}[option]
    placed = PCI_KEYS_IOMMU if option == "console" else ()
    try:
        parser = OptionParser((*keys, *placed), flags).parse(value)
        given = {key: parser.convert(key, PCI_CONVERSIONS[key]) for key in placed if parser.get(key)}
    except OptionError as error:
        raise Fault(f"Error parsing --{'console' if option == 'debug-console' else option}", str(error)) from None
    for flag in flags:
        if parser.is_set(flag):
            given["mode"] = flag.capitalize()
            break
    else:
        for key, wrong in (
            ("file", "Path missing when using file console mode"),
            ("socket", "Path missing when using socket console mode"),
        ):
            if parser.is_set(key):
                if parser.get(key) is None:
                    raise Fault("Error validating configuration", wrong)
                given["mode"] = key.capitalize()
                given[key] = parser.get(key)
                break
        else:
            raise Fault("Error parsing --console: invalid console mode given")
    if option == "debug-console" and parser.get("iobase"):
        given["iobase"] = _io_port(str(parser.get("iobase")))
    return shapes.load(shape, given)


def _io_port(value: str) -> int:
    try:
        if not value.startswith("0x"):
            raise ValueError(value)
        port = int(value[2:], 16)
        if port > 0xFFFF:
            raise ValueError(value)
    except ValueError:
        raise Fault(
            "Error validating configuration",
            f"The IO port was not properly provided in hex or a `0x` prefix is missing: {value}",
        ) from None
    return port


def _numa(value: str) -> dict[str, Any]:
    given = _parse("numa", value)
    if "guest_numa_id" not in given:
        raise Fault("Error parsing --numa", "Invalid value: guest_numa_id is required for all NUMA nodes")
    if "device_id" in given and ("cpus" in given or "memory_zones" in given):
        raise Fault(
            "Error parsing --numa",
            "Invalid value: device_id in numa config cannot be used with cpus or memory zones",
        )
    if "distances" in given:
        given["distances"] = [{"destination": to & 0xFFFFFFFF, "distance": by & 0xFF} for to, by in given["distances"]]
    return shapes.load("NumaConfig", given)


def _rate_limit_group(value: str) -> dict[str, Any]:
    try:
        parser = OptionParser((*LIMIT_KEYS, "id")).parse(value)
        given = {key: parser.convert(key, u64) for key in LIMIT_KEYS if parser.get(key)}
    except OptionError as error:
        raise Fault("Error parsing --rate-limit-group", str(error)) from None
    limits = _take_limits(given) or {"bandwidth": None, "ops": None}
    return shapes.load("RateLimitGroupConfig", {"id": parser.get("id") or "", "rate_limiter_config": limits})


LISTS = (
    ("disk", "disks", "DiskConfig"),
    ("net", "net", "NetConfig"),
    ("fs", "fs", "FsConfig"),
    ("generic-vhost-user", "generic_vhost_user", "GenericVhostUserConfig"),
    ("pmem", "pmem", "PmemConfig"),
    ("device", "devices", "DeviceConfig"),
    ("user-device", "user_devices", "UserDeviceConfig"),
    ("vdpa", "vdpa", "VdpaConfig"),
    ("pci-segment", "pci_segments", "PciSegmentConfig"),
    ("landlock-rules", "landlock_rules", "LandlockConfig"),
)
SINGLES = (
    ("balloon", "balloon", "BalloonConfig"),
    ("rtc", "rtc", "RtcConfig"),
    ("vsock", "vsock", "VsockConfig"),
    ("tpm", "tpm", "TpmConfig"),
    ("platform", "platform", "PlatformConfig"),
)


def vm_config(arguments: Arguments) -> dict[str, Any]:
    """The whole configuration of a command line that has a payload."""
    config: dict[str, Any] = {}
    groups = arguments.many("rate-limit-group")
    if groups is not None:
        config["rate_limit_groups"] = [_rate_limit_group(value) for value in groups]
    for option, key, shape in LISTS:
        values = arguments.many(option)
        if values is not None:
            config[key] = [_device(option, shape, value) for value in values]
    config["rng"] = _device("rng", "RngConfig", arguments.one("rng") or "")
    for option, key, shape in SINGLES:
        if option in arguments:
            config[key] = _device(option, shape, arguments.one(option) or "")
    config["console"] = _console("console", "ConsoleConfig", arguments.one("console") or "")
    config["serial"] = _console("serial", "SerialConfig", arguments.one("serial") or "")
    config["debug_console"] = _console("debug-console", "DebugConsoleConfig", arguments.one("debug-console") or "")
    config["cpus"] = _cpus(arguments.one("cpus") or "")
    config["memory"] = _memory(arguments.one("memory") or "", arguments.many("memory-zone"))
    numa = arguments.many("numa")
    if numa is not None:
        config["numa"] = [_numa(value) for value in numa]
    config["payload"] = {key: arguments.one(key) for key in ("firmware", "kernel", "cmdline", "initramfs")}
    for flag, key in (("pvpanic", "pvpanic"), ("watchdog", "watchdog"), ("landlock", "landlock_enable")):
        config[key] = flag in arguments
    return shapes.load("VmConfig", config)


def restore_config(value: str) -> dict[str, Any]:
    given = _parse("restore", value)
    if "net_fds" in given:
        given["net_fds"] = [{"id": key, "num_fds": len(fds), "fds": fds} for key, fds in given["net_fds"]]
    if "zone_updates" in given:
        given["zone_updates"] = [{"id": key, "host_numa_node": node} for key, node in given["zone_updates"]]
    return shapes.load("RestoreConfig", given)
