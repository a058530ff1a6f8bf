"""Errors as the real program reports them: a chain of messages, outermost first, and what kind of failure it is."""

from __future__ import annotations

import enum
import os


class Kind(enum.Enum):
    """What an HTTP status is derived from."""

    OTHER = "other"
    NOT_CREATED = "not created"
    NO_SUCH_DEVICE = "no such device"
    INVALID_CONFIG = "invalid config"
    CONFLICT = "conflict"
    PENDING = "pending"


class Fault(Exception):
    """A failure with its chain of causes."""

    def __init__(self, *chain: str, kind: Kind = Kind.OTHER) -> None:
        super().__init__(": ".join(chain))
        self.chain = list(chain)
        self.kind = kind

    def within(self, *outer: str) -> Fault:
        """The same failure seen from one layer further out."""
        return Fault(*outer, *self.chain, kind=self.kind)


def io_error_text(error: OSError) -> str:
    """An I/O error in the words of Rust's standard library."""
    if error.errno is None:
        # What Python refuses before it asks the system: a socket's path that is too long.
        return "path must be shorter than SUN_LEN"
    number = error.errno
    return f"{os.strerror(number)} (os error {number})"


def not_created() -> Fault:
    return Fault("VM is not created", kind=Kind.NOT_CREATED)


def missing_config() -> Fault:
    return Fault("VM config is missing", kind=Kind.NOT_CREATED)


def already_created() -> Fault:
    return Fault("VM is already created")


def not_running() -> Fault:
    return Fault("VM is not running")


def migrating() -> Fault:
    return Fault("VM is currently migrating and can't be modified")


def unknown_device(device_id: str) -> Fault:
    return Fault(
        "Error from device manager",
        f"Failed to find device corresponding to the given identifier: {device_id}",
        kind=Kind.NO_SUCH_DEVICE,
    )


def invalid(text: str, *causes: str, kind: Kind = Kind.INVALID_CONFIG) -> Fault:
    """A configuration that does not pass validation."""
    return Fault("Failed to validate config", text, *causes, kind=kind)
