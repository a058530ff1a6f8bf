"""The configuration structures of the API: fields, types and defaults, read and written as the real program does."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class ShapeError(Exception):
    """A JSON value that the structure does not accept."""


@dataclass(frozen=True)
class Required:
    type: str


@dataclass(frozen=True)
class Optional:
    """Absent from the reply when it is not set."""

    type: str


@dataclass(frozen=True)
class Default:
    type: str
    value: Any
    hidden: bool = False


Field = Required | Optional | Default
Shape = dict[str, Field]

PCI: Shape = {
    "id": Optional("string"),
    "iommu": Default("bool", False, hidden=True),
    "pci_segment": Default("u16", 0),
    "pci_device_id": Optional("u8"),
}

CONSOLE: Shape = {"file": Optional("string"), "mode": Required("ConsoleMode"), "socket": Optional("string")}

ENUMS: dict[str, tuple[str, ...]] = {
    "ConsoleMode": ("Off", "Pty", "Tty", "File", "Socket", "Null"),
    "CoreScheduling": ("Vm", "Vcpu", "Off"),
    "HotplugMethod": ("Acpi", "VirtioMem"),
    "VhostMode": ("Client", "Server"),
    "ImageType": ("FixedVhd", "Qcow2", "Raw", "Vhdx", "Unknown"),
    "LockGranularity": ("ByteRange", "Full"),
    "MemoryRestoreMode": ("Copy", "OnDemand"),
    "MigrationMode": ("Precopy", "Postcopy"),
    "TimeoutStrategy": ("Cancel", "Ignore"),
    "CpuProfile": ("Host",),
}

SHAPES: dict[str, Shape] = {
    "CpuAffinity": {"vcpu": Required("u32"), "host_cpus": Required("[u64]")},
    "CpuFeatures": {"amx": Default("bool", False)},
    "CpuTopology": {
        "threads_per_core": Required("u16"),
        "cores_per_die": Required("u16"),
        "dies_per_package": Required("u16"),
        "packages": Required("u16"),
    },
    "CpusConfig": {
        "boot_vcpus": Required("u32"),
        "max_vcpus": Required("u32"),
        "topology": Optional("CpuTopology"),
        "kvm_hyperv": Default("bool", False),
        "max_phys_bits": Default("u8", 46),
        "affinity": Optional("[CpuAffinity]"),
        "features": Default("CpuFeatures", {"amx": False}),
        "nested": Default("bool", True),
        "core_scheduling": Default("CoreScheduling", "Vm"),
    },
    "MemoryZoneConfig": {
        "id": Required("string"),
        "size": Required("u64"),
        "file": Optional("string"),
        "shared": Default("bool", False),
        "hugepages": Default("bool", False),
        "hugepage_size": Optional("u64"),
        "host_numa_node": Optional("u32"),
        "hotplug_size": Optional("u64"),
        "hotplugged_size": Optional("u64"),
        "prefault": Default("bool", False),
        "reserve": Default("bool", False),
        "mergeable": Default("bool", False),
    },
    "MemoryConfig": {
        "size": Required("u64"),
        "mergeable": Default("bool", False),
        "hotplug_method": Default("HotplugMethod", "Acpi"),
        "hotplug_size": Optional("u64"),
        "hotplugged_size": Optional("u64"),
        "shared": Default("bool", False),
        "hugepages": Default("bool", False),
        "hugepage_size": Optional("u64"),
        "prefault": Default("bool", False),
        "reserve": Default("bool", False),
        "zones": Optional("[MemoryZoneConfig]"),
        "thp": Default("bool", True),
    },
    "PayloadConfig": {
        "firmware": Optional("string"),
        "kernel": Optional("string"),
        "cmdline": Optional("string"),
        "initramfs": Optional("string"),
    },
    "TokenBucket": {
        "size": Required("u64"),
        "one_time_burst": Default("u64?", None),
        "refill_time": Required("u64"),
    },
    "RateLimiterConfig": {"bandwidth": Default("TokenBucket?", None), "ops": Default("TokenBucket?", None)},
    "RateLimitGroupConfig": {
        "id": Default("string", ""),
        "rate_limiter_config": Default("RateLimiterConfig", {"bandwidth": None, "ops": None}),
    },
    "VirtQueueAffinity": {"queue_index": Required("u16"), "host_cpus": Required("[u64]")},
    "DiskConfig": PCI
    | {
        "path": Optional("string"),
        "readonly": Default("bool", False),
        "direct": Default("bool", False),
        "num_queues": Default("u64", 1),
        "queue_size": Default("u16", 128),
        "vhost_user": Default("bool", False),
        "vhost_socket": Optional("string"),
        "rate_limit_group": Optional("string"),
        "rate_limiter_config": Optional("RateLimiterConfig"),
        "disable_io_uring": Default("bool", False),
        "disable_aio": Default("bool", False),
        "serial": Optional("string"),
        "queue_affinity": Optional("[VirtQueueAffinity]"),
        "backing_files": Default("bool", False),
        "sparse": Default("bool", True),
        "image_type": Default("ImageType", "Unknown"),
        "lock_granularity": Default("LockGranularity", "ByteRange"),
    },
    "NetConfig": PCI
    | {
        "tap": Optional("string"),
        "ip": Optional("ip"),
        "mask": Optional("ip"),
        "mac": Optional("mac"),
        "host_mac": Optional("mac"),
        "mtu": Optional("u16"),
        "num_queues": Default("u64", 2),
        "queue_size": Default("u16", 256),
        "vhost_user": Default("bool", False),
        "vhost_socket": Optional("string"),
        "vhost_mode": Default("VhostMode", "Client"),
        "fds": Optional("[i32]"),
        "rate_limiter_config": Optional("RateLimiterConfig"),
        "offload_tso": Default("bool", True),
        "offload_ufo": Default("bool", True),
        "offload_csum": Default("bool", True),
    },
    "RngConfig": PCI | {"src": Required("string")},
    "RtcConfig": dict(PCI),
    "BalloonConfig": PCI
    | {
        "size": Required("u64"),
        "deflate_on_oom": Default("bool", False),
        "free_page_reporting": Default("bool", False),
    },
    "FsConfig": PCI
    | {
        "tag": Required("string"),
        "socket": Required("string"),
        "num_queues": Default("u64", 1),
        "queue_size": Default("u16", 1024),
    },
    "GenericVhostUserConfig": PCI
    | {"socket": Required("string"), "queue_sizes": Required("[u16]"), "device_type": Required("u32")},
    "PmemConfig": PCI | {"file": Required("string"), "size": Optional("u64"), "discard_writes": Default("bool", False)},
    "ConsoleConfig": CONSOLE | PCI,
    "SerialConfig": dict(CONSOLE),
    "DebugConsoleConfig": {
        "file": Optional("string"),
        "mode": Required("ConsoleMode"),
        "iobase": Optional("u16"),
    },
    "DeviceConfig": PCI
    | {
        "path": Optional("string"),
        "fd": Optional("i32"),
        "x_nv_gpudirect_clique": Optional("u8"),
        "x_exclude_mmap_bars": Default("[u64]", [], hidden=True),
    },
    "UserDeviceConfig": PCI | {"socket": Required("string")},
    "VdpaConfig": PCI | {"path": Required("string"), "num_queues": Default("u64", 1)},
    "VsockConfig": PCI | {"cid": Required("u32"), "socket": Required("string")},
    "NumaDistance": {"destination": Default("u32", 0), "distance": Default("u8", 0)},
    "NumaConfig": {
        "guest_numa_id": Required("u32"),
        "cpus": Optional("[u32]"),
        "distances": Optional("[NumaDistance]"),
        "memory_zones": Optional("[string]"),
        "pci_segments": Optional("[u16]"),
        "device_id": Optional("string"),
    },
    "PciSegmentConfig": {
        "pci_segment": Default("u16", 0),
        "mmio32_aperture_weight": Default("u32", 1),
        "mmio64_aperture_weight": Default("u32", 1),
    },
    "PlatformConfig": {
        "num_pci_segments": Default("u16", 1),
        "iommu_segments": Optional("[u16]"),
        "iommu_address_width_bits": Default("u8", 64),
        "system_serial_number": Optional("string"),
        "system_uuid": Optional("string"),
        "oem_strings": Optional("[string]"),
        "system_manufacturer": Optional("string"),
        "system_product_name": Optional("string"),
        "system_version": Optional("string"),
        "system_family": Optional("string"),
        "system_sku_number": Optional("string"),
        "chassis_asset_tag": Optional("string"),
        "iommufd": Default("bool", False),
        "iommufd_fd": Optional("i32"),
        "vfio_p2p_dma": Default("bool", True),
    },
    "TpmConfig": {"socket": Required("string")},
    "LandlockConfig": {"path": Required("string"), "access": Required("string")},
    "VmConfig": {
        "cpus": Default("CpusConfig", {"boot_vcpus": 1, "max_vcpus": 1}),
        "memory": Default("MemoryConfig", {"size": 512 << 20}),
        "payload": Optional("PayloadConfig"),
        "rate_limit_groups": Optional("[RateLimitGroupConfig]"),
        "disks": Optional("[DiskConfig]"),
        "net": Optional("[NetConfig]"),
        "rng": Default("RngConfig", {"src": "/dev/urandom"}),
        "balloon": Optional("BalloonConfig"),
        "generic_vhost_user": Optional("[GenericVhostUserConfig]"),
        "fs": Optional("[FsConfig]"),
        "pmem": Optional("[PmemConfig]"),
        "serial": Default("SerialConfig", {"mode": "Null"}),
        "console": Default("ConsoleConfig", {"mode": "Tty"}),
        "debug_console": Default("DebugConsoleConfig", {"mode": "Off", "iobase": 0xE9}),
        "devices": Optional("[DeviceConfig]"),
        "user_devices": Optional("[UserDeviceConfig]"),
        "vdpa": Optional("[VdpaConfig]"),
        "vsock": Optional("VsockConfig"),
        "pvpanic": Default("bool", False),
        "iommu": Default("bool", False),
        "numa": Optional("[NumaConfig]"),
        "watchdog": Default("bool", False),
        "rtc": Optional("RtcConfig"),
        "pci_segments": Optional("[PciSegmentConfig]"),
        "platform": Optional("PlatformConfig"),
        "tpm": Optional("TpmConfig"),
        "landlock_enable": Default("bool", False),
        "landlock_rules": Optional("[LandlockConfig]"),
    },
    "VmResize": {
        "desired_vcpus": Optional("u32"),
        "desired_ram": Optional("u64"),
        "desired_balloon": Optional("u64"),
    },
    "VmResizeDisk": {"id": Required("string"), "desired_size": Required("u64")},
    "VmResizeZone": {"id": Required("string"), "desired_ram": Required("u64")},
    "VmRemoveDevice": {"id": Required("string")},
    "VmSnapshotConfig": {"destination_url": Required("string")},
    "VmCoredumpData": {"destination_url": Required("string")},
    "VmMemoryZoneUpdateData": {"id": Required("string"), "host_numa_node": Required("u32")},
    "RestoredNetConfig": {"id": Required("string"), "num_fds": Default("u64", 0), "fds": Optional("[i32]")},
    "RestoreConfig": {
        "source_url": Required("string"),
        "prefault": Default("bool", False),
        "memory_restore_mode": Default("MemoryRestoreMode", "Copy"),
        "net_fds": Optional("[RestoredNetConfig]"),
        "resume": Default("bool", False),
        "zone_updates": Default("[VmMemoryZoneUpdateData]", []),
    },
    "ReceiveMigrationData": {
        "receiver_url": Required("string"),
        "tls_dir": Optional("string"),
        "memory_mode": Default("MigrationMode", "Precopy"),
        "zone_updates": Default("[VmMemoryZoneUpdateData]", []),
    },
    "SendMigrationData": {
        "destination_url": Required("string"),
        "local": Default("bool", False),
        "preserve_source": Default("bool", False),
        "downtime_ms": Default("nonzero u64", 300),
        "timeout_s": Default("nonzero u64", 3600),
        "timeout_strategy": Default("TimeoutStrategy", "Cancel"),
        "connections": Default("nonzero u32", 1),
        "tls_dir": Optional("string"),
        "memory_mode": Default("MigrationMode", "Precopy"),
    },
}

ALIASES = {"PlatformConfig": {"serial_number": "system_serial_number", "uuid": "system_uuid"}}


def _described(value: Any) -> str:
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    if isinstance(value, str):
        return f'string "{value}"'
    return "sequence" if isinstance(value, list) else "map" if isinstance(value, dict) else "null"


def _load_integer(kind: str, value: Any) -> int:
    name = kind.removeprefix("nonzero ")
    bits = int(name[1:])
    if isinstance(value, bool) or not isinstance(value, int):
        raise ShapeError(f"invalid type: {_described(value)}, expected {kind}")
    low, high = (0, (1 << bits) - 1) if name[0] == "u" else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    if not low <= value <= high or (kind.startswith("nonzero") and value == 0):
        raise ShapeError(f"invalid value: integer `{value}`, expected {kind}")
    return value


def _load_string(value: Any) -> str:
    if not isinstance(value, str):
        raise ShapeError(f"invalid type: {_described(value)}, expected a string")
    return value


def _load_ip(value: Any) -> str:
    try:
        return str(ipaddress.ip_address(_load_string(value)))
    except ValueError:
        raise ShapeError("invalid IP address syntax") from None


def _load_mac(value: Any) -> str:
    text = _load_string(value)
    if not re.fullmatch(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", text):
        raise ShapeError(f"Invalid MAC address: {text}")
    return text.lower()


def _load_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ShapeError(f"invalid type: {_described(value)}, expected a boolean")
    return value


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "string": _load_string,
    "ip": _load_ip,
    "mac": _load_mac,
    "bool": _load_bool,
}


def load(kind: str, value: Any) -> Any:
    """Reads a JSON value as `kind`, with defaults filled in."""
    if kind.endswith("?"):
        return None if value is None else load(kind[:-1], value)
    if kind.startswith("["):
        if not isinstance(value, list):
            raise ShapeError(f"invalid type: {_described(value)}, expected a sequence")
        return [load(kind[1:-1], item) for item in value]
    if kind in SHAPES:
        return _load_object(kind, value)
    if kind in ENUMS:
        if value not in ENUMS[kind]:
            choices = ", ".join(f"`{choice}`" for choice in ENUMS[kind])
            raise ShapeError(f"unknown variant `{value}`, expected one of {choices}")
        return value
    return _SCALARS[kind](value) if kind in _SCALARS else _load_integer(kind, value)


def _load_object(kind: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ShapeError(f"invalid type: {_described(value)}, expected struct {kind}")
    aliases = ALIASES.get(kind, {})
    value = {aliases.get(key, key): item for key, item in value.items()}
    shape = SHAPES[kind]
    for key in value:
        if key not in shape:
            # The real program drops such a field without a word, which hides a caller's spelling mistake.
            raise ShapeError(f"unknown field `{key}` in {kind} (cloud-hypervisor would ignore it)")
    result: dict[str, Any] = {}
    for name, field in shape.items():
        if isinstance(field, Required):
            if name not in value:
                raise ShapeError(f"missing field `{name}`")
            result[name] = load(field.type, value[name])
        elif isinstance(field, Optional):
            item = value.get(name)
            result[name] = None if item is None else load(field.type, item)
        elif name in value:
            result[name] = load(field.type, value[name])
        else:
            result[name] = load(field.type, field.value)
    return result


def dump(kind: str, value: Any) -> Any:
    """Writes a value as the real program serialises it: unset options are left out."""
    if kind.endswith("?"):
        return None if value is None else dump(kind[:-1], value)
    if kind.startswith("["):
        return [dump(kind[1:-1], item) for item in value]
    if kind not in SHAPES:
        return value
    result = {}
    for name, field in SHAPES[kind].items():
        item = value[name]
        if isinstance(field, Optional) and item is None:
            continue
        if isinstance(field, Default) and field.hidden and not item:
            continue
        result[name] = dump(field.type, item)
    return result
