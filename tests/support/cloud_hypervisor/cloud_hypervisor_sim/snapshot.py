"""Snapshots: `config.json`, `state.json` and `memory-ranges` in a directory, written and read back."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from . import shapes
from .faults import Fault, Kind, invalid, io_error_text
from .machine import Layout
from .vm import PAUSED, Config, Vm

CONFIG_FILE = "config.json"
STATE_FILE = "state.json"
MEMORY_FILE = "memory-ranges"
FORMAT = 1

SEND = "Failed to send migratable component snapshot"
RECEIVE = "Failed to receive migratable component snapshot"


def _directory(url: str) -> str:
    if not url.startswith("file://"):
        raise Fault(SEND, f"Could not extract path from URL: {url}")
    path = url.removeprefix("file://")
    if not os.path.isdir(path):
        raise Fault(SEND, f'Destination is not a directory: "{path}"')
    return path


def _create(path: str, what: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise Fault("Cannot send VM snapshot", SEND, f"Error creating {what}", io_error_text(error)) from None


def _write(fd: int, data: bytes) -> None:
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def take(vm: Vm, url: str) -> None:
    vm.events.emit("vm", "snapshotting")
    if vm.state != PAUSED:
        raise Fault(
            "Cannot snapshot VM",
            "Failed to snapshot migratable component",
            "Trying to snapshot while VM is running",
        )
    vm.events.emit("vm", "snapshotted")
    try:
        path = _directory(url)
    except Fault as fault:
        raise fault.within("Cannot send VM snapshot") from None
    config_fd = _create(os.path.join(path, CONFIG_FILE), "VM config snapshot file")
    _write(config_fd, json.dumps(shapes.dump("VmConfig", vm.config)).encode())
    state_fd = _create(os.path.join(path, STATE_FILE), "VM state snapshot file")
    try:
        memory_fd = _create(os.path.join(path, MEMORY_FILE), "memory snapshot file")
        try:
            vm.write_memory(memory_fd)
            size = os.fstat(memory_fd).st_size
        except Fault as fault:
            raise Fault("Cannot send VM snapshot", SEND, fault.chain[-1]) from None
        finally:
            os.close(memory_fd)
    except BaseException:
        os.close(state_fd)
        raise
    state = {"format": FORMAT, "memory_size": size, "layout": vm.layout_data()}
    _write(state_fd, json.dumps({"id": "vm", "snapshot_data": state, "snapshots": {}}).encode())


def _read_json(url: str, name: str, what: str) -> Any:
    outer = "Cannot restore VM"
    try:
        path = os.path.join(_directory(url), name)
    except Fault as fault:
        raise fault.within(outer) from None
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise Fault(outer, RECEIVE, f'Error opening VM {what} snapshot file "{path}"', io_error_text(error)) from None
    try:
        return json.loads(data)
    except ValueError as error:
        raise Fault(outer, RECEIVE, f"Error deserialising VM {what} snapshot", str(error)) from None


def read_config(url: str) -> Config:
    value = _read_json(url, CONFIG_FILE, "config")
    try:
        return shapes.load("VmConfig", value)
    except shapes.ShapeError as error:
        raise Fault("Cannot restore VM", RECEIVE, "Error deserialising VM config snapshot", str(error)) from None


def apply_request(request: Config, config: Config) -> None:
    """Checks the restore request against the saved configuration, and puts new descriptors in."""
    if request["memory_restore_mode"] == "OnDemand" and request["prefault"]:
        raise invalid("'prefault' cannot be combined with 'memory_restore_mode=ondemand'")
    given: dict[str, Config] = {}
    for net in request["net_fds"] or []:
        if net["id"] in given:
            raise invalid(f"Identifier {net['id']} is not unique", kind=Kind.CONFLICT)
        given[net["id"]] = net
    for net in config["net"] or []:
        if net["fds"] is None:
            continue
        new = given.get(net["id"])
        if new is None:
            raise invalid(f"Net id {net['id']} is associated with FDs and is required")
        if len(new["fds"] or []) != len(net["fds"]):
            raise invalid(
                f"Number of Net FDs passed for '{net['id']}' during Restore: {len(new['fds'] or [])}. "
                f"Expected: {len(net['fds'])}"
            )
        net["fds"] = new["fds"]
    update_zones(request["zone_updates"], config)


def update_zones(updates: list[Config], config: Config) -> None:
    names = [update["id"] for update in updates]
    if len(set(names)) != len(names):
        raise invalid("Multiple updates for the same zone defined")
    if "" in names:
        raise invalid("At least one memory zone update with an empty ID was defined")
    if updates and config["memory"]["zones"] is None:
        raise Fault("Error applying memory zone updates", "No zones specified in original config")
    zones = {zone["id"]: zone for zone in config["memory"]["zones"] or []}
    for update in updates:
        if update["id"] not in zones:
            raise Fault(
                "Error applying memory zone updates", f'Zone ID "{update["id"]}" wasn\'t contained in original config'
            )
        zones[update["id"]]["host_numa_node"] = update["host_numa_node"]


@dataclass
class Saved:
    """A state that was read and found whole as far as can be told without loading it."""

    memory_path: str
    layout: Layout

    def load_into(self, vm: Vm) -> None:
        vm.start_qemu(incoming=True, paused=True)
        try:
            fd = os.open(self.memory_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _memory_fault("Error opening snapshot file", io_error_text(error)) from None
        try:
            vm.receive_memory(fd)
        except Fault as fault:
            assert vm.qemu is not None
            vm.qemu.kill()
            cause = vm.qemu.last_words or fault.chain[-1]
            raise _memory_fault("Error reading from snapshot file", cause) from None
        finally:
            os.close(fd)


def _memory_fault(*chain: str) -> Fault:
    return Fault("Memory manager error", *chain)


def read_state(url: str) -> Saved:
    value = _read_json(url, STATE_FILE, "state")
    try:
        data = value["snapshot_data"]
        if data["format"] != FORMAT:
            raise ValueError("unknown format")
        layout = Layout(**data["layout"])
        size = data["memory_size"]
    except (KeyError, TypeError, ValueError) as error:
        raise Fault(
            "Cannot restore VM",
            "Failed to restore migratable component",
            "Could not find VM config snapshot section",
            str(error),
        ) from None
    path = os.path.join(url.removeprefix("file://"), MEMORY_FILE)
    try:
        actual = os.stat(path).st_size
    except OSError as error:
        raise _memory_fault("Error opening snapshot file", io_error_text(error)) from None
    if actual != size:
        raise _memory_fault("Error reading from snapshot file", "failed to fill whole buffer")
    return Saved(path, layout)
