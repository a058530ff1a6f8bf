"""Devices that can be added and removed: what each needs of the host, and how QEMU is told of it."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import tap
from .disks import Disk
from .faults import Fault, io_error_text
from .qmp import QmpClient
from .vsock import AGENT_PORT_NAME, VsockBridge

PMEM_ALIGNMENT = 2 << 20
PREFIXES = {
    "disks": "_disk",
    "net": "_net",
    "generic_vhost_user": "_generic_vhost_user",
    "fs": "_fs",
    "pmem": "_pmem",
    "vsock": "_vsock",
    "vdpa": "_vdpa",
    "devices": "_vfio",
    "user_devices": "_vfio_user",
}


@dataclass
class Chardev:
    """A connected or listening socket that QEMU gets by descriptor, or a path that it connects to."""

    name: str
    path: str | None = None
    sock: socket.socket | None = None
    server: bool = False

    def cold(self) -> tuple[list[str], list[int]]:
        if self.path is not None:
            return ["-chardev", f"socket,id={self.name},path={self.path.replace(',', ',,')}"], []
        assert self.sock is not None
        tail = ",server=on,wait=off" if self.server else ""
        return ["-chardev", f"socket,id={self.name},fd={self.sock.fileno()}{tail}"], [self.sock.fileno()]

    def hot(self, qmp: QmpClient) -> None:
        if self.path is not None:
            address: dict[str, Any] = {"type": "unix", "data": {"path": self.path}}
        else:
            assert self.sock is not None
            qmp.execute("getfd", {"fdname": self.name}, fds=[self.sock.fileno()])
            address = {"type": "fd", "data": {"str": self.name}}
        data: dict[str, Any] = {"addr": address, "server": self.server}
        if self.server:
            data["wait"] = False
        qmp.execute("chardev-add", {"id": self.name, "backend": {"type": "socket", "data": data}})


@dataclass
class Plug:
    """One device at one port."""

    device_id: str
    kind: str
    name: str
    objects: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    netdev: tap.Tap | None = None
    chardev: Chardev | None = None
    devices: list[dict[str, Any]] = field(default_factory=list)
    release: list[Callable[[], None]] = field(default_factory=list)
    disk: Disk | None = None
    vsock: VsockBridge | None = None
    bdf: str = ""
    removing: bool = False

    def cold(self) -> tuple[list[str], list[int]]:
        """Command line arguments and inherited descriptors."""
        args: list[str] = []
        fds: list[int] = []
        for item in self.objects:
            args += ["-object", json.dumps(item)]
        for item in self.blocks:
            args += ["-blockdev", json.dumps(item)]
        if self.netdev is not None:
            args += ["-netdev", json.dumps(self._netdev([str(fd) for fd in self.netdev.fds]))]
            fds += self.netdev.fds
        if self.chardev is not None:
            more, inherited = self.chardev.cold()
            args += more
            fds += inherited
        for item in self.devices:
            args += ["-device", json.dumps(item)]
        return args, fds

    def _netdev(self, names: list[str]) -> dict[str, Any]:
        fds = {"fd": names[0]} if len(names) == 1 else {"fds": ":".join(names)}
        return {"type": "tap", "id": f"{self.name}-net", "vhost": False} | fds

    def hot(self, qmp: QmpClient) -> None:
        """Plugs the device into the running machine; undone if a step fails."""
        done: list[tuple[str, dict[str, Any]]] = []
        try:
            for item in self.objects:
                qmp.execute("object-add", item)
                done.append(("object-del", {"id": item["id"]}))
            for item in self.blocks:
                qmp.execute("blockdev-add", item)
                done.append(("blockdev-del", {"node-name": item["node-name"]}))
            if self.netdev is not None:
                names = [f"{self.name}-fd{index}" for index in range(len(self.netdev.fds))]
                for name, fd in zip(names, self.netdev.fds, strict=True):
                    qmp.execute("getfd", {"fdname": name}, fds=[fd])
                qmp.execute("netdev_add", self._netdev(names))
                done.append(("netdev_del", {"id": f"{self.name}-net"}))
            if self.chardev is not None:
                self.chardev.hot(qmp)
                done.append(("chardev-remove", {"id": self.chardev.name}))
            for item in self.devices:
                qmp.execute("device_add", item)
        except Exception:
            for command, arguments in reversed(done):
                qmp.execute(command, arguments)
            raise

    def clean_up(self, qmp: QmpClient) -> None:
        """After the guest has ejected the device."""
        if self.chardev is not None:
            qmp.execute("chardev-remove", {"id": self.chardev.name})
        if self.netdev is not None:
            qmp.execute("netdev_del", {"id": f"{self.name}-net"})
        for item in reversed(self.blocks):
            qmp.execute("blockdev-del", {"node-name": item["node-name"]})
        for item in reversed(self.objects):
            qmp.execute("object-del", {"id": item["id"]})

    def close(self) -> None:
        for action in self.release:
            action()
        self.release = []


def _virtio(driver: str, name: str, port: str, **properties: Any) -> dict[str, Any]:
    return {"driver": driver, "id": name, "bus": port} | properties


def _disk(config: dict[str, Any], plug: Plug, port: str) -> None:
    if config["vhost_user"]:
        _connectable(config["vhost_socket"], "Cannot create vhost-user-blk device")
        plug.chardev = Chardev(f"{plug.name}-char", path=config["vhost_socket"])
        plug.devices.append(
            _virtio("vhost-user-blk-pci", plug.name, port, chardev=plug.chardev.name)
            | {"num-queues": config["num_queues"], "queue-size": config["queue_size"]}
        )
        return
    disk = Disk(config)
    plug.disk = disk
    plug.release.append(disk.close)
    group = disk.throttle_group(plug.name)
    if group is not None:
        plug.objects.append(group)
    plug.blocks = disk.block_nodes(plug.name)
    device = _virtio("virtio-blk-pci", plug.name, port, drive=plug.blocks[-1]["node-name"])
    device |= {"num-queues": config["num_queues"], "queue-size": max(4, min(1024, config["queue_size"]))}
    if config["serial"] is not None:
        device["serial"] = config["serial"]
    plug.devices.append(device)


def _net(config: dict[str, Any], plug: Plug, port: str) -> None:
    if config["mac"] is None:
        config["mac"] = ":".join(f"{byte:02x}" for byte in bytes([0x2E]) + os.urandom(5))
    device = _virtio("virtio-net-pci", plug.name, port, mac=config["mac"], netdev=f"{plug.name}-net", romfile="")
    if config["mtu"] is not None:
        device["host_mtu"] = config["mtu"]
    if config["num_queues"] > 2:
        device |= {"mq": True, "vectors": config["num_queues"] + 2}
    for key, features in (
        ("offload_tso", ("host_tso4", "host_tso6", "guest_tso4", "guest_tso6")),
        ("offload_ufo", ("host_ufo", "guest_ufo")),
        ("offload_csum", ("csum", "guest_csum")),
    ):
        if not config[key]:
            device |= dict.fromkeys(features, False)
    plug.devices.append(device)
    if config["vhost_user"]:
        _connectable(config["vhost_socket"], "Cannot create vhost-user-net device")
        raise Fault("Error from device manager", "Cannot create vhost-user-net device", "Get features failed")
    plug.netdev = tap.open_tap(config)
    plug.release.append(plug.netdev.close)


def _connectable(path: str, what: str) -> None:
    """A vhost-user back end must be there before the device is."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.settimeout(5)
            # Only the file is looked at: a back end serves one connection, and that is QEMU's.
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise OSError(111, "")
        except OSError as error:
            raise Fault(
                "Error from device manager", what, "Connection to socket failed", io_error_text(error)
            ) from None


def _fs(config: dict[str, Any], plug: Plug, port: str) -> None:
    _connectable(config["socket"], "Cannot create virtio-fs device")
    plug.chardev = Chardev(f"{plug.name}-char", path=config["socket"])
    device = _virtio("vhost-user-fs-pci", plug.name, port, chardev=plug.chardev.name, tag=config["tag"])
    plug.devices.append(device | {"queue-size": config["queue_size"], "num-request-queues": config["num_queues"]})


def _pmem(config: dict[str, Any], plug: Plug, port: str) -> None:
    path = config["file"]
    if os.path.isdir(path):
        if config["size"] is None:
            raise Fault("Error from device manager", "Trying to use a directory for pmem but no size specified")
        size = config["size"]
    else:
        try:
            fd = os.open(path, os.O_RDONLY if config["discard_writes"] else os.O_RDWR)
        except OSError as error:
            raise Fault(
                "Error from device manager", "Cannot open persistent memory file", io_error_text(error)
            ) from None
        size = config["size"] or os.lseek(fd, 0, os.SEEK_END)
        os.close(fd)
    if size % PMEM_ALIGNMENT or not size:
        raise Fault("Error from device manager", "Trying to use a size that is not multiple of 2MiB")
    backend = {"qom-type": "memory-backend-file", "id": f"{plug.name}-mem", "mem-path": path, "size": size}
    backend |= {"share": not config["discard_writes"], "readonly": False}
    plug.objects.append(backend)
    plug.devices.append(_virtio("virtio-pmem-pci", plug.name, port, memdev=f"{plug.name}-mem"))


def _vsock(config: dict[str, Any], plug: Plug, port: str) -> None:
    bridge = VsockBridge(config["socket"])
    plug.vsock = bridge
    plug.release.append(bridge.close)
    plug.chardev = Chardev(f"{plug.name}-char", sock=bridge.guest_listener, server=True)
    plug.devices.append(_virtio("virtio-serial-pci", plug.name, port, max_ports=2))
    plug.devices.append(
        {
            "driver": "virtserialport",
            "id": f"{plug.name}-port",
            "bus": f"{plug.name}.0",
            "nr": 1,
            "chardev": plug.chardev.name,
            "name": AGENT_PORT_NAME,
        }
    )


def _absent(config: dict[str, Any], plug: Plug, port: str) -> None:
    """Devices that this host cannot have: refused as ones that are not there."""
    del port
    if plug.kind == "devices":
        path = config["path"]
        cause = ("Cannot create a VFIO device", "Error opening the VFIO device") if path else ()
        raise Fault(
            "Error from device manager", *(cause or ("No support for device passthrough",)), *_missing(path or "")
        )
    if plug.kind == "vdpa":
        raise Fault(
            "Error from device manager",
            "Cannot create vdpa device",
            "Failed to create vhost-vdpa",
            *_missing(config["path"]),
        )
    if plug.kind == "user_devices":
        raise Fault("Error from device manager", "Failed to create vfio-user client", *_missing(config["socket"]))
    _connectable(config["socket"], "Cannot create generic vhost-user device")
    raise Fault("Error from device manager", "Cannot create generic vhost-user device", "Get features failed")


def _missing(path: str) -> tuple[str, ...]:
    try:
        os.stat(path)
    except OSError as error:
        return (io_error_text(error),)
    return ("Inappropriate ioctl for device (os error 25)",)


MAKERS: dict[str, Callable[[dict[str, Any], Plug, str], None]] = {
    "disks": _disk,
    "net": _net,
    "fs": _fs,
    "pmem": _pmem,
    "vsock": _vsock,
    "devices": _absent,
    "user_devices": _absent,
    "vdpa": _absent,
    "generic_vhost_user": _absent,
}


def make(kind: str, config: dict[str, Any], port: int) -> Plug:
    """Takes what the device needs of the host; `close` gives it back."""
    plug = Plug(config["id"], kind, f"dev{port}")
    try:
        MAKERS[kind](config, plug, f"port{port}")
    except BaseException:
        plug.close()
        raise
    return plug
