"""Disk images: type detection, backing files, advisory locks, and the block nodes that QEMU opens."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from typing import Any

from .faults import Fault, io_error_text
from .log import warn

SHOWN = {"FixedVhd": "vhd", "Qcow2": "qcow2", "Raw": "raw", "Vhdx": "vhdx"}
DRIVERS = {"FixedVhd": "vpc", "Qcow2": "qcow2", "Raw": "raw", "Vhdx": "vhdx"}
SECTOR = 512


def _disk_fault(*chain: str) -> Fault:
    return Fault("Error from device manager", "Cannot open disk path", *chain)


def detect_type(fd: int) -> str:
    head = os.pread(fd, 8, 0)
    if head[:4] == b"QFI\xfb":
        return "Qcow2"
    size = os.fstat(fd).st_size
    if size >= SECTOR:
        footer = os.pread(fd, SECTOR, size - SECTOR)
        if footer[:8] == b"conectix" and struct.unpack_from(">I", footer, 60)[0] == 2:
            return "FixedVhd"
    return "Vhdx" if head == b"vhdxfile" else "Raw"


def backing_file(fd: int) -> str | None:
    """The name in a qcow2 header."""
    offset, size = struct.unpack(">QI", os.pread(fd, 12, 8))
    return os.pread(fd, size, offset).decode("utf-8", "surrogateescape") if offset else None


class Disk:
    """An opened image; the lock is held by this descriptor."""

    def __init__(self, config: dict[str, Any]) -> None:
        path = config["path"]
        if path is None:
            raise Fault("Error from device manager", "No disk path was specified when one was expected")
        self.config = config
        self.path: str = path
        self.readonly: bool = config["readonly"]
        flags = (os.O_RDONLY if self.readonly else os.O_RDWR) | (os.O_DIRECT if config["direct"] else 0)
        try:
            self.fd = os.open(path, flags | os.O_CLOEXEC)
        except OSError as error:
            raise _disk_fault(f"I/O error (path={path} op=open)", io_error_text(error)) from None
        try:
            if stat.S_ISDIR(os.fstat(self.fd).st_mode):
                raise _disk_fault("I/O error (op=detect_image_type)", "Is a directory (os error 21)")
            self._settle_type()
        except BaseException:
            os.close(self.fd)
            raise

    def _settle_type(self) -> None:
        probe = self.fd
        if self.config["direct"]:
            probe = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            detected = detect_type(probe)
            backing = backing_file(probe) if detected == "Qcow2" else None
        finally:
            if probe != self.fd:
                os.close(probe)
        if backing is not None and not self.config["backing_files"]:
            raise _disk_fault(f"Unsupported feature (path={self.path})", "Backing file support is disabled")
        self.protect_first_sector = False
        wanted = self.config["image_type"]
        if wanted == "Unknown":
            warn(
                "DEPRECATION: auto-detection of disk image type is deprecated and will be removed in a future "
                f"release. Please specify image type explicitly. ({self.path}: {SHOWN[detected]})"
            )
            self.protect_first_sector = detected in ("Raw", "FixedVhd")
            if detected == "Qcow2" and self.config["backing_files"]:
                warn("QCOW2 image type autodetected. Disabling backing files")
                self.config["backing_files"] = False
            self.config["image_type"] = detected
        elif wanted != detected:
            raise Fault(
                "Error from device manager",
                "Disk image type does not match expected type: "
                f"specified = {SHOWN[wanted]}, detected = {SHOWN[detected]}",
            )
        self.type: str = detected
        self.backing = backing

    def _flock(self, kind: int) -> None:
        length = os.lseek(self.fd, 0, os.SEEK_END) if self.config["lock_granularity"] == "ByteRange" else 0
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, length, 0))

    def lock(self) -> None:
        try:
            self._flock(fcntl.F_RDLCK if self.readonly else fcntl.F_WRLCK)
        except OSError:
            kind = "Read" if self.readonly else "Write"
            raise Fault(
                "Cannot lock images of all block devices",
                f"Failed to get {kind} lock for disk image: {self.path}",
                "The file is already locked",
            ) from None

    def unlock(self) -> None:
        self._flock(fcntl.F_UNLCK)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def block_nodes(self, name: str) -> list[dict[str, Any]]:
        """From the file up to the node that the device uses, which is the last one."""
        cache = {"direct": self.config["direct"], "no-flush": False}
        common = {"read-only": self.readonly, "cache": cache, "discard": "unmap"}
        driver = "host_device" if stat.S_ISBLK(os.fstat(self.fd).st_mode) else "file"
        # The lock is ours to hold, as it is the real program's.
        nodes: list[dict[str, Any]] = [
            {"driver": driver, "filename": self.path, "locking": "off", "node-name": f"{name}-file"} | common
        ]
        if self.protect_first_sector and not self.readonly:
            rule = {"event": "none", "iotype": "write", "sector": 0, "errno": 5}
            nodes.append(
                {
                    "driver": "blkdebug",
                    "node-name": f"{name}-sector0",
                    "image": nodes[-1]["node-name"],
                    "inject-error": [rule],
                }
            )
        top: dict[str, Any] = {"driver": DRIVERS[self.type], "node-name": f"{name}-format"}
        top |= {"file": nodes[-1]["node-name"]} | common
        if self.type == "Qcow2" and self.backing is None:
            top["backing"] = None
        nodes.append(top)
        limits = self._limits()
        if limits:
            throttle = {"driver": "throttle", "node-name": f"{name}-throttle", "file": f"{name}-format"}
            nodes.append(throttle | {"throttle-group": f"{name}-limits"})
        return nodes

    def _limits(self) -> dict[str, int]:
        config = self.config["rate_limiter_config"]
        limits: dict[str, int] = {}
        for bucket, key in (("bandwidth", "bps-total"), ("ops", "iops-total")):
            given = (config or {}).get(bucket)
            if given and given["size"] and given["refill_time"]:
                limits[key] = max(1, given["size"] * 1000 // given["refill_time"])
        return limits

    def throttle_group(self, name: str) -> dict[str, Any] | None:
        limits = self._limits()
        return {"qom-type": "throttle-group", "id": f"{name}-limits", "limits": limits} if limits else None
