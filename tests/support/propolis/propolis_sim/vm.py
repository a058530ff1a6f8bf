"""The one VM that a server has: made once, run, stopped, and then only remembered."""

import asyncio
import base64
import os
import socket
from pathlib import Path
from typing import Any

from .addresses import parse_address
from .console import Console
from .errors import HttpError, InitError, internal_error, not_created
from .hypervisor import Hypervisor
from .log import Log
from .machine import Assembly
from .spec import Machine
from .states import Publisher, RequestQueue
from .versions import HEADER


class ActiveVm:
    """A VM that has its machine, from the end of its making until it has halted."""

    def __init__(self, log: Log, hypervisor: Hypervisor, console: Console, publisher: Publisher) -> None:
        self.log = log
        self.hypervisor = hypervisor
        self.console = console
        self.publisher = publisher
        self.queue = RequestQueue()
        self._guest_events: list[str] = []
        self._wake = asyncio.Event()

    def on_event(self, event: str) -> None:
        if event not in self._guest_events:
            self._guest_events.append(event)
            self._wake.set()

    def put_state(self, requested: str) -> None:
        """Raises Denied."""
        if self.queue.submit(requested):
            self._wake.set()

    async def run(self) -> str:
        """The state driver: returns the last state to publish once the VM has ended."""
        while True:
            # A guest's own events go first.
            if self._guest_events:
                final = await self._handle_guest(self._guest_events.pop(0))
            elif (request := self.queue.take()) is not None:
                final = await self._handle_request(request)
            else:
                self._wake.clear()
                await self._wake.wait()
                continue
            if final is not None:
                return final

    async def _handle_guest(self, event: str) -> str | None:
        self.log.info("state driver handling guest event", event=event)
        if event == "reset":
            self.publisher.update("Rebooting")
            self.publisher.update("Running")
            return None
        if event == "halt":
            await self._halt()
            self.queue.stopped()
            return "Destroyed"
        # The hypervisor died. On illumos server and hypervisor are one process; here the server is left to tell of it.
        self.queue.failed()
        await self.hypervisor.kill()
        return "Failed"

    async def _handle_request(self, request: str) -> str | None:
        self.log.info("state driver handling request", request=request)
        try:
            if request == "Run":
                self.publisher.update("Starting")
                await self.hypervisor.execute("cont")
                self.publisher.update("Running")
                self.queue.started(True)
            elif request == "Reboot":
                self.publisher.update("Rebooting")
                await self.hypervisor.execute("system_reset")
                self.publisher.update("Running")
                self.queue.rebooted()
            else:
                await self._halt()
                self.queue.stopped()
                return "Destroyed"
        except RuntimeError as error:
            self.log.error("the hypervisor did not do as it was told", error=str(error))
            self.queue.failed()
            await self.hypervisor.kill()
            return "Failed"
        return None

    async def _halt(self) -> None:
        self.publisher.update("Stopping")
        await self.hypervisor.kill()
        self.publisher.update("Stopped")


class Vm:
    """The phases: NoVm, WaitingForInit, Active, Rundown, RundownComplete."""

    def __init__(self, bootrom: Path, log: Log) -> None:
        self.bootrom = bootrom
        self.log = log
        self.phase = "NoVm"
        self.properties: dict[str, Any] = {}
        self.spec: dict[str, Any] | None = None
        self.publisher: Publisher | None = None
        self._active: ActiveVm | None = None
        self._driver: asyncio.Task[None] | None = None

    def active(self) -> ActiveVm:
        if self._active is None:
            raise not_created()
        return self._active

    def watched(self) -> Publisher:
        if self.publisher is None:
            raise not_created()
        return self.publisher

    async def ensure(
        self,
        properties: dict[str, Any],
        spec: dict[str, Any] | None,
        machine: Machine | None,
        migration: dict[str, Any] | None,
    ) -> None:
        if self.phase in ("WaitingForInit", "Active", "Rundown"):
            raise HttpError(409, "instance already initialized", "AlreadyInitialized")
        if self.publisher is not None:
            self.publisher.close()
        migration_in = None if migration is None else {"id": migration["migration_id"], "state": "Sync"}
        publisher = Publisher("Creating" if migration is None else "Migrating", migration_in)
        self.phase, self.properties, self.spec, self.publisher = "WaitingForInit", properties, spec, publisher
        try:
            if migration is not None:
                await self._migrate_in(migration)
            assert machine is not None
            self._active = await self._create(machine, properties, publisher)
        except InitError as error:
            # Whoever waits for a later generation of this VM goes on waiting: nobody has closed it.
            publisher.update("Failed")
            self.phase = "RundownComplete"
            raise internal_error(f"VM initialization failed: {error}") from error
        self.phase = "Active"
        self._driver = asyncio.create_task(self._drive(self._active))

    async def _migrate_in(self, migration: dict[str, Any]) -> None:
        """A migration begins by asking its source. There is none that this server could understand; one that does not
        answer is waited for, as long as it likes."""
        source = migration["src_addr"]
        request = [
            f"GET /instance/migrate/{migration['migration_id']}/start HTTP/1.1",
            f"Host: {source}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            f"{HEADER}: 1.0.0",
        ]
        try:
            reader, writer = await asyncio.open_connection(*parse_address(source))
            try:
                writer.write(("\r\n".join(request) + "\r\n\r\n").encode())
                answer = (await reader.readline()).decode(errors="replace").strip()
            finally:
                writer.close()
        except (OSError, ValueError) as error:
            raise InitError(f"couldn't establish migration connection to source instance: {error}") from error
        raise InitError(f"{source} answered {answer!r}, but live migration is not simulated")

    async def _create(self, machine: Machine, properties: dict[str, Any], publisher: Publisher) -> ActiveVm:
        console_here, console_there = socket.socketpair()
        control_here, control_there = socket.socketpair()
        theirs = [console_there.detach(), control_there.detach()]
        console = Console(self.log)
        events: list[ActiveVm] = []
        hypervisor = Hypervisor(self.log, lambda event: events[0].on_event(event) if events else None)
        active = ActiveVm(self.log, hypervisor, console, publisher)
        assembly = Assembly(machine, self.log)
        try:
            command = assembly.assemble(properties, self.bootrom, *theirs)
        except InitError:
            # What was opened until then closes with this attempt.
            for descriptor in {*theirs, *assembly.command.descriptors}:
                socket.close(descriptor)
            console_here.close()
            control_here.close()
            raise
        await console.attach(console_here)
        try:
            await hypervisor.start(command, control_here)
        except InitError:
            await console.stop()
            raise
        events.append(active)
        return active

    async def _drive(self, active: ActiveVm) -> None:
        final = await active.run()
        self.phase, self._active = "Rundown", None
        await active.console.stop()
        self.phase = "RundownComplete"
        active.publisher.update(final)
        active.publisher.close()
