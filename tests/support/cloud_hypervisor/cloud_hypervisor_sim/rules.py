"""What a VM configuration must satisfy before a VM is made of it, and the words of each refusal."""

from __future__ import annotations

from typing import Any

from . import shapes
from .faults import Fault, Kind, invalid

MAX_VCPUS = 8192
MAX_PCI_SEGMENTS = 96
NEEDS_SHARED = "Using vhost-user requires using shared memory or huge pages"

Config = dict[str, Any]


def backed_by_shared_memory(config: Config) -> bool:
    memory = config["memory"]
    if memory["shared"] or memory["hugepages"]:
        return True
    if memory["size"] == 0:
        return all(zone["shared"] or zone["hugepages"] for zone in memory["zones"] or [])
    return False


def total_memory(config: Config) -> int:
    memory = config["memory"]
    return memory["size"] + sum(zone["size"] for zone in memory["zones"] or []) + hotplugged_memory(config)


def hotplugged_memory(config: Config) -> int:
    memory = config["memory"]
    zones = sum(zone["hotplugged_size"] or 0 for zone in memory["zones"] or [])
    return (memory["hotplugged_size"] or 0) + zones


class _Identifiers:
    def __init__(self, old_wording: bool) -> None:
        self.seen: set[str] = set()
        self.wrong = "is not invalid" if old_wording else "is not valid"

    def add(self, identifier: str | None) -> None:
        if identifier is None:
            return
        if identifier.startswith("__"):
            raise invalid(f"Identifier {identifier} {self.wrong}")
        if identifier in self.seen:
            raise invalid(f"Identifier {identifier} is not unique", kind=Kind.CONFLICT)
        self.seen.add(identifier)


def _segments(config: Config) -> int:
    return config["platform"]["num_pci_segments"] if config["platform"] else 1


def _check_place(config: Config, device: Config) -> None:
    segment = device["pci_segment"]
    if segment >= _segments(config):
        raise invalid(f"Invalid PCI segment id: {segment}")
    platform = config["platform"]
    if platform and segment in (platform["iommu_segments"] or []) and not device["iommu"]:
        raise invalid(f"Device is on an IOMMU PCI segment ({segment}) but not placed behind IOMMU")
    slot = device["pci_device_id"]
    if slot is None:
        return
    if slot >= 32:
        raise invalid(f"Given PCI device ID ({slot}) is out of the supported range of 0..32")
    if slot == 0 and segment == 0:
        raise invalid(f"Given PCI device ID ({slot}) is reserved")


def _power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _check_queue_size(size: int) -> None:
    if not _power_of_two(size):
        raise invalid(f"Queue size must be a power of 2 no greater than 32768: {size}")


def _check_queues(queues: int, vcpus: int, shown: int | None = None) -> None:
    if queues > vcpus:
        raise invalid(f"Queue count ({shown or queues}) must not exceed boot vCPUs ({vcpus})")


def _check_no_iommu(device: Config) -> None:
    if device["iommu"]:
        raise invalid("Device does not support being placed behind IOMMU")


def _check_payload(config: Config) -> None:
    payload = config["payload"] or {}
    firmware, kernel = payload.get("firmware"), payload.get("kernel")
    wrong = "Payload configuration is not bootable"
    if firmware and kernel:
        raise invalid(wrong, "Specifying a kernel is not supported when a firmware is provided")
    if not firmware and not kernel:
        raise invalid(wrong, "No bootitem provided: neither firmware nor kernel")
    if firmware:
        payload["cmdline"] = payload["initramfs"] = None


def _check_cpus(config: Config) -> None:
    cpus = config["cpus"]
    if cpus["max_vcpus"] < cpus["boot_vcpus"]:
        raise invalid(f"Max CPUs ({cpus['max_vcpus']}) lower than boot CPUs ({cpus['boot_vcpus']})")
    if cpus["max_vcpus"] > MAX_VCPUS:
        raise invalid(f"Too many CPUs: specified {cpus['max_vcpus']} but {MAX_VCPUS} is the limit")


def _check_topology(config: Config) -> None:
    topology = config["cpus"]["topology"]
    if topology is None:
        return
    parts = list(topology.values())
    if 0 in parts:
        raise invalid("No part of the CPU topology can be zero")
    if topology["threads_per_core"] > 2:
        raise invalid("CPU topology supports at most 2 threads per core")
    total = 1
    for part in parts:
        total *= part
    if total != config["cpus"]["max_vcpus"]:
        raise invalid("Product of CPU topology parts does not match maximum vCPU")


def _check_disk(config: Config, disk: Config) -> None:
    limited = disk["rate_limiter_config"] is not None
    grouped = disk["rate_limit_group"] is not None
    if disk["vhost_socket"] is not None and disk["path"] is not None:
        raise invalid("Disk path and vhost socket both provided")
    if disk["vhost_user"] and not backed_by_shared_memory(config):
        raise invalid(NEEDS_SHARED)
    if disk["vhost_user"] and disk["vhost_socket"] is None:
        raise invalid("No socket provided when using vhost-user")
    if disk["vhost_user"] and (limited or grouped):
        raise invalid("Rate limiting is not supported with vhost-user")
    groups = [group["id"] for group in config["rate_limit_groups"] or []]
    if grouped and disk["rate_limit_group"] not in groups:
        raise invalid("Invalid rate-limiter group")
    _check_place(config, disk)
    _check_queues(disk["num_queues"], config["cpus"]["boot_vcpus"])
    _check_queue_size(disk["queue_size"])
    if disk["queue_size"] <= 2:
        raise invalid(f"Block queue size must be greater than 2: {disk['queue_size']}")
    if disk["vhost_user"]:
        _check_no_iommu(disk)
    if limited and grouped:
        raise invalid("Invalid rate-limiter group")
    serial = disk["serial"]
    if serial is not None and len(serial.encode()) > 20:
        raise invalid(f"Block device serial length ({len(serial.encode())}) exceeds maximum allowed length (20)")


def _check_net(config: Config, net: Config) -> None:
    if net["vhost_user"] and not backed_by_shared_memory(config):
        raise invalid(NEEDS_SHARED)
    if net["vhost_user"] and net["vhost_socket"] is None:
        raise invalid("No socket provided when using vhost-user")
    if net["vhost_user"] and net["rate_limiter_config"] is not None:
        raise invalid("Rate limiting is not supported with vhost-user")
    _check_place(config, net)
    queues = net["num_queues"]
    if queues < 2:
        raise invalid(f"Number of queues ({queues}) to virtio_net should be higher than 2")
    fds = net["fds"]
    if fds is not None:
        if len(fds) * 2 != queues:
            raise invalid(
                f"Number of queues ({queues}) to virtio_net does not match the number of FDs ({len(fds) * 2})"
            )
        for fd in fds:
            if fd <= 2:
                raise invalid(f"Reserved fd number (<= 2): {fd}")
    _check_queues(queues // 2, config["cpus"]["boot_vcpus"], queues)
    _check_queue_size(net["queue_size"])
    if net["vhost_user"]:
        _check_no_iommu(net)
    if net["mtu"] is not None and net["mtu"] < 1280:
        raise invalid(f"Provided MTU {net['mtu']} is lower than 1280 (expected by VIRTIO specification)")
    if not net["offload_csum"] and (net["offload_tso"] or net["offload_ufo"]):
        raise invalid('"offload_tso" and "offload_ufo" depend on "offload_csum"')
    if net["mask"] is not None and net["ip"] is None:
        raise invalid("Mask provided without an IP")
    if net["ip"] is not None and net["mask"] is None:
        raise invalid("IP provided without a mask")


def _check_fs(config: Config, fs: Config) -> None:
    _check_queues(fs["num_queues"], config["cpus"]["boot_vcpus"])
    _check_queue_size(fs["queue_size"])
    _check_no_iommu(fs)
    _check_place(config, fs)


def _check_generic_vhost_user(config: Config, device: Config) -> None:
    _check_no_iommu(device)
    for size in device["queue_sizes"]:
        _check_queue_size(size)
    _check_place(config, device)


def _check_huge_pages(memory: Config) -> None:
    size = memory["hugepage_size"]
    if size is None:
        return
    if not memory["hugepages"]:
        raise invalid("Huge page size specified but huge pages not enabled")
    if not _power_of_two(size):
        raise invalid(f"Huge page size is not power of 2: {size}")


def _check_memory(config: Config) -> None:
    both = "Invalid to set both 'mergeable' and 'shared' for memory"
    memory = config["memory"]
    _check_huge_pages(memory)
    if memory["shared"] and memory["mergeable"]:
        raise invalid(both)
    for zone in memory["zones"] or []:
        if zone["shared"] and zone["mergeable"]:
            raise invalid(both)
        _check_huge_pages(zone)


def _check_vfio(config: Config, device: Config, paths: set[str]) -> None:
    path, fd = device["path"], device["fd"]
    if path is not None:
        if path in paths:
            raise invalid(f"Duplicated device path: {path}", kind=Kind.CONFLICT)
        paths.add(path)
    _check_place(config, device)
    if path is None and fd is None:
        raise invalid("VFIO device config must specify `path=` or `fd=`")
    if path is not None and fd is not None:
        raise invalid("VFIO device config must specify at most one of `path=` or `fd=`")
    platform = config["platform"]
    if path is None and not (platform and platform["iommufd_fd"] is not None):
        raise invalid("VFIO device `fd=` requires platform `iommufd_fd=<fd>`")
    if device["x_nv_gpudirect_clique"] is not None and platform and not platform["vfio_p2p_dma"]:
        raise invalid("Device with x_nv_gpudirect_clique requires vfio_p2p_dma=on")
    for bar in device["x_exclude_mmap_bars"]:
        if bar > 5:
            raise invalid(f"Invalid VFIO excluded-mmap BAR index: {bar}")


def _check_numa(config: Config) -> None:
    zones: dict[str, int] = {}
    segments: dict[int, int] = {}
    for node in config["numa"] or []:
        here = node["guest_numa_id"]
        _check_numa_node(node)
        for zone in node["memory_zones"] or []:
            if zone in zones:
                raise invalid(f"Memory zone: {zone} belongs to multiple NUMA nodes: {zones[zone]} and {here}")
            zones[zone] = here
        for segment in node["pci_segments"] or []:
            if segment >= _segments(config):
                raise invalid(f"Invalid PCI segment id: {segment}")
            if segment == 0 and here != 0:
                raise invalid(f"Default PCI segment assigned to non-zero NUMA node {here}")
            if segment in segments:
                raise invalid(f"PCI segment: {segment} belongs to multiple NUMA nodes {segments[segment]} and {here}")
            segments[segment] = here


def _check_numa_node(node: Config) -> None:
    device, cpus, zones = node["device_id"], node["cpus"], node["memory_zones"]

    def wrong(text: str) -> Fault:
        return invalid(f"Invalid NUMA configuration: {text}")

    if device is not None and (cpus is not None or zones is not None):
        raise wrong("device_id in numa config is mutually exclusive with cpus and memory_zones")
    if device is None and cpus is None and zones is None:
        raise wrong("numa config must specify either device_id or cpus/memory_zones")
    if device == "":
        raise wrong("device_id in numa config cannot be empty")
    if cpus is not None and not cpus:
        raise wrong("cpus list in numa config cannot be empty")
    if cpus is None and zones is not None and not zones:
        raise wrong("memory_zones in numa config cannot be empty")


def _check_platform(config: Config) -> None:
    platform = config["platform"]
    if platform is None:
        return
    segments = platform["num_pci_segments"]
    if not 1 <= segments <= MAX_PCI_SEGMENTS:
        raise invalid(f"Number of PCI segments ({segments}) not in range of 1 to {MAX_PCI_SEGMENTS}")
    for segment in platform["iommu_segments"] or []:
        if segment >= segments:
            raise invalid(f"Invalid PCI segment id: {segment}")
    width = platform["iommu_address_width_bits"]
    if width > 64:
        raise invalid(f"IOMMU address width in bits ({width}) should be less than or equal to 64")
    if platform["iommufd_fd"] is not None and not platform["iommufd"]:
        raise invalid("Platform `iommufd_fd=<fd>` requires `iommufd=on`")


def _check_pci_segments(config: Config) -> None:
    for segment in config["pci_segments"] or []:
        if segment["pci_segment"] >= _segments(config):
            raise invalid(f"Invalid PCI segment id: {segment['pci_segment']}")
        if 0 in (segment["mmio32_aperture_weight"], segment["mmio64_aperture_weight"]):
            raise invalid("Invalid PCI segment aperture weight: 0")


def _check_landlock(config: Config) -> None:
    import os

    for rule in config["landlock_rules"] or []:
        if not os.path.exists(rule["path"]):
            raise invalid(f'Path "{rule["path"]}" provided in landlock-rules does not exist')
        if not rule["access"] or set(rule["access"]) - set("rw"):
            raise invalid(f"Invalid landlock access: {rule['access']}")


def validate(config: Config, old_wording: bool = False) -> set[str]:
    """Refuses what the real program refuses, in its order; returns the identifiers that were given."""
    ids = _Identifiers(old_wording)
    _check_payload(config)
    for key in ("console", "serial"):
        if config[key]["mode"] == "File" and config[key]["file"] is None:
            raise invalid("Path missing when using file console mode")
    _check_cpus(config)
    for group in config["rate_limit_groups"] or []:
        if not group["id"] or not any(group["rate_limiter_config"].values()):
            raise invalid("Invalid rate-limiter group")
        ids.add(group["id"])
    for disk in config["disks"] or []:
        _check_disk(config, disk)
        ids.add(disk["id"])
    for net in config["net"] or []:
        _check_net(config, net)
        ids.add(net["id"])
    for key, check in (("fs", _check_fs), ("generic_vhost_user", _check_generic_vhost_user)):
        if config[key] and not backed_by_shared_memory(config):
            raise invalid(NEEDS_SHARED)
        for device in config[key] or []:
            check(config, device)
            ids.add(device["id"])
    for device in (config["pmem"] or []) + [config["rng"], config["rtc"], config["console"]]:
        if device is not None:
            _check_place(config, device)
            ids.add(device["id"])
    _check_topology(config)
    _check_memory(config)
    if config["user_devices"] and not backed_by_shared_memory(config):
        raise invalid("Using user devices requires using shared memory or huge pages")
    for device in config["user_devices"] or []:
        _check_no_iommu(device)
        _check_place(config, device)
        ids.add(device["id"])
    for device in config["vdpa"] or []:
        _check_place(config, device)
        ids.add(device["id"])
    vsock, balloon = config["vsock"], config["balloon"]
    if vsock and vsock["cid"] in (0, 1, 2, 0xFFFFFFFF):
        raise invalid(f"{vsock['cid']} is a special VSOCK CID")
    if balloon:
        _check_place(config, balloon)
        ids.add(balloon["id"])
        ram = total_memory(config)
        if balloon["size"] >= ram:
            raise invalid(f"Balloon size ({balloon['size']}) greater than RAM ({ram})")
    paths: set[str] = set()
    for device in config["devices"] or []:
        _check_vfio(config, device, paths)
        ids.add(device["id"])
    if vsock:
        _check_place(config, vsock)
        ids.add(vsock["id"])
    _check_numa(config)
    for zone in config["memory"]["zones"] or []:
        ids.add(zone["id"])
    _check_pci_segments(config)
    _check_platform(config)
    _check_landlock(config)
    return ids.seen


DEVICE_LISTS = ("devices", "user_devices", "disks", "fs", "generic_vhost_user", "net", "pmem", "vdpa")


def remove_device(config: Config, identifier: str) -> bool:
    """Takes the device out of the configuration; false if none has this identifier."""
    removed = False
    for key in DEVICE_LISTS:
        if config[key] is not None:
            kept = [device for device in config[key] if device["id"] != identifier]
            removed |= len(kept) != len(config[key])
            config[key] = kept
    if config["vsock"] and config["vsock"]["id"] == identifier:
        config["vsock"] = None
        removed = True
    return removed


def copy(config: Config) -> Config:
    return shapes.load("VmConfig", shapes.dump("VmConfig", config))
