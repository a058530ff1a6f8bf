"""Live migration between two of these programs: configuration first, then QEMU's own stream on a second connection."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import log, shapes
from .events import EventMonitor
from .faults import Fault, io_error_text
from .machine import Layout
from .snapshot import RECEIVE, SEND, update_zones
from .vm import PAUSED, RUNNING, Config, Vm

if TYPE_CHECKING:
    from .vmm import Vmm

MAX_CONNECTIONS = 128
LINE_LIMIT = 4 << 20
ACCEPT_TIMEOUT = 60.0


class Aborted(Fault):
    """The reception ended because a step of it failed here."""


def send_fault(*chain: str) -> Fault:
    return Fault(SEND, *chain)


def receive_fault(*chain: str) -> Fault:
    return Fault(RECEIVE, *chain)


def _tcp_error(address: str) -> str | None:
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        if not bracket:
            return "Missing closing ']' for bracketed IPv6 address"
        if not rest.startswith(":"):
            return "Missing port separator after bracketed host"
        port = rest[1:]
    else:
        host, colon, port = address.rpartition(":")
        if not colon:
            return "Missing TCP port"
    if not host:
        return "Host must not be empty"
    if not port:
        return "Port must not be empty"
    if not re.fullmatch(r"\+?[0-9]+", port) or int(port) > 0xFFFF:
        return f"Invalid TCP port: {port}"
    return None


def check_receive(request: Config) -> None:
    outer = "Invalid receive migration configuration"
    url = request["receiver_url"]
    if url.startswith("tcp:"):
        error = _tcp_error(url.removeprefix("tcp:"))
        if error:
            wanted = "Expected receiver_url in the form of either `tcp:<host>:<port>` or `unix:<path>:`"
            raise receive_fault(outer, wanted, error)
    elif url.startswith("unix:") and url != "unix:":
        if request["tls_dir"] is not None:
            raise receive_fault(outer, "UNIX sockets and TLS encryption cannot be used at the same time")
    else:
        raise receive_fault(outer, "Expected receiver_url to either use `tcp` or `unix` prefix")
    _check_tls(request, receive_fault, outer, "Invalid TLS configuration for receive-migration")
    names = [update["id"] for update in request["zone_updates"]]
    if len(set(names)) != len(names):
        raise receive_fault(outer, "More than one update was defined for at least one memory zone")
    if "" in names:
        raise receive_fault(outer, "One or more memory zone updates contained an empty ID")


def check_send(request: Config) -> None:
    outer = "Invalid send migration configuration"

    def wrong(text: str) -> Fault:
        return send_fault(outer, f"Error validating send migration parameters: {text}")

    url = request["destination_url"]
    if url.startswith("tcp:"):
        error = _tcp_error(url.removeprefix("tcp:"))
        if error:
            text = "destination_url must use tcp:<host>:<port> or unix:<path>."
            raise send_fault(outer, f"Error validating send migration parameters: {text}", error)
    elif url.startswith("unix:") and url != "unix:":
        if request["connections"] > 1:
            raise wrong("UNIX sockets and connections option cannot be used at the same time.")
        if request["tls_dir"] is not None:
            raise wrong("UNIX sockets and TLS encryption cannot be used at the same time.")
    else:
        raise wrong("destination_url must use tcp:<host>:<port> or unix:<path>.")
    if request["connections"] > MAX_CONNECTIONS:
        raise wrong(f"connections must not exceed {MAX_CONNECTIONS}.")
    if request["local"] and not url.startswith("unix:"):
        raise wrong("local option is only supported with UNIX sockets.")
    if request["preserve_source"] and not request["local"]:
        raise wrong("preserve_source option is only supported with the local option.")
    _check_tls(request, send_fault, outer, "Invalid TLS configuration for send-migration")
    if request["memory_mode"] == "Postcopy":
        if request["local"]:
            raise wrong("memory_mode=postcopy and local options are mutually exclusive.")
        if request["connections"] > 1:
            raise wrong("memory_mode=postcopy currently requires a single connection (connections=1).")


def _check_tls(request: Config, fault: Callable[..., Fault], *outer: str) -> None:
    if request["tls_dir"] is not None:
        raise fault(*outer, "TLS is not offered by this stand-in")


def _address(url: str) -> tuple[int, Any]:
    if url.startswith("tcp:"):
        host, _, port = url.removeprefix("tcp:").rpartition(":")
        host = host.strip("[]")
        return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, int(port))
    return socket.AF_UNIX, url.removeprefix("unix:")


class _Channel:
    """Lines of JSON, one request and one answer at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._file = sock.makefile("rb")

    def send(self, message: dict[str, Any]) -> None:
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        line = self._file.readline(LINE_LIMIT)
        if not line.endswith(b"\n"):
            raise EOFError
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError(line)
        return message

    def request(self, message: dict[str, Any], failure: str) -> None:
        try:
            self.send(message)
            answer = self.receive()
        except (OSError, EOFError, ValueError):
            raise send_fault(failure) from None
        if answer.get("response") != "ok":
            raise send_fault(failure)

    def close(self) -> None:
        self._file.close()
        self.sock.close()


def _connect(url: str) -> socket.socket:
    family, address = _address(url)
    sock = socket.socket(family)
    try:
        sock.connect(address)
    except OSError as error:
        sock.close()
        kind = "UNIX" if family == socket.AF_UNIX else "TCP"
        raise send_fault(f"Error connecting to {kind} socket", io_error_text(error)) from None
    return sock


class Outgoing:
    """One migration, in a thread of its own; the VM belongs to it until it is done."""

    def __init__(
        self, vm: Vm, request: Config, vm_info: dict[str, Any], events: EventMonitor, done: Callable[[], None]
    ) -> None:
        self.vm = vm
        self.vm_info = vm_info
        self.failure: Fault | None = None
        self.preserve_source: bool = request["preserve_source"]
        self._request = request
        self._events = events
        self._done = done
        self._initial_state = vm.state
        self._thread = threading.Thread(target=self._run, name="migration", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        self._thread.join()

    def abort(self) -> None:
        """The program ends; the peer sees its connection end."""
        if self.vm.qemu is not None:
            self.vm.qemu.kill()
        self._thread.join(timeout=5)

    def resume_after_failure(self) -> None:
        """A failure may leave the guest stopped, and its locks given away."""
        self.vm.lock_disks()
        if self._initial_state == RUNNING:
            if self.vm.state == PAUSED:
                self.vm.resume()
            else:
                self.vm.command("cont")

    def _run(self) -> None:
        self._events.emit("vm", "migration-started")
        try:
            self._send()
            self._events.emit("vm", "migration-finished")
        except Fault as fault:
            self.failure = fault
            self._events.emit("vm", "migration-failed")
        except Exception as error:
            self.failure = send_fault(repr(error))
            self._events.emit("vm", "migration-failed")
        self._done()

    def _send(self) -> None:
        vm, request = self.vm, self._request
        url = request["destination_url"]
        channel = _Channel(_connect(url))
        try:
            channel.request({"command": "start"}, "Error starting migration")
            config = {"config": shapes.dump("VmConfig", vm.config), "layout": vm.layout_data()}
            channel.request({"command": "config"} | config, "Error during config migration")
            if request["local"] and vm.state != PAUSED:
                vm.pause()
            stream = _connect(url)
            try:
                vm.send_memory(stream.fileno(), float(request["timeout_s"]))
            except Fault as fault:
                raise send_fault("Error sending memory", fault.chain[-1]) from None
            finally:
                stream.close()
            if self._initial_state == RUNNING and vm.state == RUNNING:
                self._events.emit("vm", "pausing")
                vm.state = PAUSED
                self._events.emit("vm", "paused")
            if not self.preserve_source:
                vm.unlock_disks()
            channel.request({"command": "state"}, "Error during state migration")
            complete = "complete" if self._initial_state == RUNNING else "complete-paused"
            channel.request({"command": complete}, "Error completing migration")
            if request["memory_mode"] == "Postcopy":
                self._events.emit("vm", "postcopy-migration-completed")
        finally:
            channel.close()


def _listen(url: str) -> socket.socket:
    family, address = _address(url)
    listener = socket.socket(family)
    try:
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(8)
    except OSError as error:
        listener.close()
        kind = "UNIX" if family == socket.AF_UNIX else "TCP"
        raise receive_fault(f"Error binding to {kind} socket", io_error_text(error)) from None
    return listener


def receive(vmm: Vmm, request: Config) -> None:
    """Blocks the whole program until a sender has come and gone, as the real one does."""
    listener = _listen(request["receiver_url"])
    try:
        vmm.events.emit("vm", "migration-receive-ready")
        sock, _ = listener.accept()
        vmm.events.emit("vm", "migration-receive-started")
        incoming = _Incoming(vmm, request, listener, _Channel(sock))
        try:
            incoming.run()
        finally:
            incoming.channel.close()
    finally:
        listener.close()


class _Incoming:
    def __init__(self, vmm: Vmm, request: Config, listener: socket.socket, channel: _Channel) -> None:
        self.channel = channel
        self._vmm = vmm
        self._request = request
        self._listener = listener
        self._vm: Vm | None = None

    def run(self) -> None:
        steps = {
            "start": lambda message: None,
            "config": self._config,
            "state": self._state,
            "complete": lambda message: self._complete(resume=True),
            "complete-paused": lambda message: self._complete(resume=False),
        }
        order = iter((("start",), ("config",), ("state",), ("complete", "complete-paused")))
        for expected in order:
            try:
                message = self.channel.receive()
            except (OSError, EOFError, ValueError):
                self._vmm.abandon(self._vm)
                raise Fault("Socket error", "failed to fill whole buffer") from None
            command = message.get("command")
            try:
                if command not in expected:
                    raise receive_fault(f"Can't handle command {command} in current receive state")
                steps[command](message)
                self.channel.send({"response": "ok"})
                if command == "config":
                    self._memory()
            except (Fault, OSError) as error:
                self._fail(error)
        self._vmm.events.emit("vm", "migration-receive-finished")

    def _fail(self, cause: Exception) -> None:
        log.error(f"Migration aborted: {cause}")
        try:
            self.channel.send({"response": "error"})
        except OSError:
            pass
        self._vmm.events.emit("vm", "migration-receive-failed")
        self._vmm.abandon(self._vm)
        raise Aborted("Failed to complete migration for migratable component", "Migration was aborted") from None

    def _config(self, message: dict[str, Any]) -> None:
        try:
            config = shapes.load("VmConfig", message["config"])
            layout = Layout(**message["layout"])
        except (KeyError, TypeError, shapes.ShapeError) as error:
            raise receive_fault("Error deserialising config", str(error)) from None
        for net in config["net"] or []:
            if net["fds"] is not None:
                # The numbers are another process' own.
                net["fds"] = [-1] * len(net["fds"])
        update_zones(self._request["zone_updates"], config)
        self._vm = self._vmm.adopt(config, layout)
        self._vm.start_qemu(incoming=True, paused=True)

    def _memory(self) -> None:
        assert self._vm is not None
        self._listener.settimeout(ACCEPT_TIMEOUT)
        stream, _ = self._listener.accept()
        stream.settimeout(None)
        try:
            self._vm.receive_memory(stream.fileno())
        finally:
            stream.close()

    def _state(self, message: dict[str, Any]) -> None:
        del message
        assert self._vm is not None
        self._vm.events.emit("vm", "restoring")
        self._vm.lock_disks()
        self._vm.state = PAUSED
        self._vmm.vm = self._vm
        self._vm.events.emit("vm", "restored")

    def _complete(self, resume: bool) -> None:
        assert self._vm is not None
        if resume:
            self._vm.resume()
