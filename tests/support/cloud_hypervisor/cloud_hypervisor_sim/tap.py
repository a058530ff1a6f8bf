"""TAP interfaces: opened or made as the real program does, for QEMU to use by descriptor."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from typing import Any

from .faults import Fault, io_error_text

TUNSETIFF = 0x400454CA
TUNGETIFF = 0x800454D2
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_MULTI_QUEUE = 0x0100
IFF_UP = 0x1
IFF_RUNNING = 0x40
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCSIFADDR = 0x8916
SIOCSIFNETMASK = 0x891C
SIOCSIFHWADDR = 0x8924
SIOCSIFMTU = 0x8922
MAX_NAME = 15


def _fault(*chain: str) -> Fault:
    return Fault("Error from device manager", "Cannot create virtio-net device", *chain)


def _request(name: str, rest: bytes = b"") -> bytes:
    return struct.pack("16s24s", name.encode(), rest)


def _open(name: str, pairs: int) -> tuple[int, str]:
    outer = ("Failed to open taps", "Open tap device failed")
    if len(name.encode()) > MAX_NAME:
        raise _fault(*outer, f"Interface name too long (max length is {MAX_NAME}): {name}")
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _fault(*outer, "Couldn't open /dev/net/tun", io_error_text(error)) from None
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if pairs > 1 else 0)
    try:
        answer = fcntl.ioctl(fd, TUNSETIFF, _request(name, struct.pack("H", flags)))
    except OSError as error:
        os.close(fd)
        raise _fault(*outer, "Unable to configure tap interface", io_error_text(error)) from None
    return fd, answer[:16].split(b"\0")[0].decode()


def name_of(fd: int) -> str | None:
    """The interface behind a TAP descriptor; None if it is none."""
    try:
        answer = fcntl.ioctl(fd, TUNGETIFF, bytes(40))
    except OSError:
        return None
    return answer[:16].split(b"\0")[0].decode()


def _set(name: str, what: str, request: int, payload: bytes, family: int = socket.AF_INET) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, request, _request(name, payload))
        except OSError as error:
            raise _fault("Failed to open taps", what, f"Ioctl failed ({request})", io_error_text(error)) from None


def _enable(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        flags = struct.unpack_from("H", fcntl.ioctl(sock, SIOCGIFFLAGS, _request(name)), 16)[0]
        fcntl.ioctl(sock, SIOCSIFFLAGS, _request(name, struct.pack("H", flags | IFF_UP | IFF_RUNNING)))


def _address(address: str) -> bytes:
    return struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton(address))


def _check_queues(name: str, pairs: int) -> None:
    try:
        with open(f"/sys/class/net/{name}/tun_flags", encoding="ascii") as file:
            flags = int(file.read().strip(), 16)
    except FileNotFoundError:
        return
    multiqueue = bool(flags & IFF_MULTI_QUEUE)
    if multiqueue and pairs == 1:
        raise _fault("Failed to open taps", "Error related to the multiqueue support (no support device side)")
    if not multiqueue and pairs > 1:
        raise _fault("Failed to open taps", "Error related to the multiqueue support (no support TAP side)")


class Tap:
    """The descriptors of one interface, one per queue pair."""

    def __init__(self, fds: list[int], name: str | None) -> None:
        self.fds = fds
        self.name = name

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []


def open_tap(net: dict[str, Any]) -> Tap:
    """By descriptor, by name (made if it is not there), or a new interface."""
    if net["fds"] is not None and net["tap"] is None:
        return _inherited(net["fds"])
    pairs = net["num_queues"] // 2
    name = net["tap"]
    existed = name is not None and os.path.exists(f"/sys/class/net/{name}")
    if name is not None:
        _check_queues(name, pairs)
    fd, name = _open(name or "vmtap%d", pairs)
    tap = Tap([fd], name)
    try:
        if not existed and net["ip"] is not None and ":" not in net["ip"]:
            _set(name, "Setting tap IP and/or netmask failed", SIOCSIFADDR, _address(net["ip"]))
            _set(name, "Setting tap IP and/or netmask failed", SIOCSIFNETMASK, _address(net["mask"]))
        if net["host_mac"] is not None:
            payload = struct.pack("H6s", 1, bytes.fromhex(net["host_mac"].replace(":", "")))
            _set(name, "Setting MAC address failed", SIOCSIFHWADDR, payload)
        if net["mtu"] is not None:
            _set(name, "Setting MTU failed", SIOCSIFMTU, struct.pack("i", net["mtu"]))
        _enable(name)
        for _ in range(pairs - 1):
            tap.fds.append(_open(name, pairs)[0])
    except OSError as error:
        tap.close()
        raise _fault("Failed to open taps", "Enabling tap interface failed", io_error_text(error)) from None
    except Fault:
        tap.close()
        raise
    return tap


def _inherited(fds: list[int]) -> Tap:
    copies: list[int] = []
    for fd in fds:
        try:
            copies.append(os.dup(fd))
        except OSError as error:
            Tap(copies, None).close()
            assert error.errno == errno.EBADF
            raise _fault("Error calling dup() on tap fd", io_error_text(error)) from None
    name = name_of(copies[0])
    if name is None:
        Tap(copies, None).close()
        raise _fault("Using existing tap", "Unable to retrieve features")
    return Tap(copies, name)


def statistics(name: str | None) -> dict[str, int]:
    """What the guest sent and received: the host's view turned around."""
    counters = {}
    for ours, theirs in (("rx", "tx"), ("tx", "rx")):
        for unit, file in (("bytes", "bytes"), ("frames", "packets")):
            try:
                with open(f"/sys/class/net/{name}/statistics/{theirs}_{file}", encoding="ascii") as stream:
                    counters[f"{ours}_{unit}"] = int(stream.read())
            except OSError:
                counters[f"{ours}_{unit}"] = 0
    return counters
