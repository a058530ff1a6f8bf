"""What the outside sees of an instance's state, and which changes it may ask for."""

import asyncio
import copy
from typing import Any

# Every state the interface has, in its own order. Repairing is never published by the server.
STATES = (
    "Creating",
    "Starting",
    "Running",
    "Stopping",
    "Stopped",
    "Rebooting",
    "Migrating",
    "Repairing",
    "Failed",
    "Destroyed",
)


class Publisher:
    """The current state with its generation, which waiters can wait to pass."""

    def __init__(self, state: str, migration_in: dict[str, Any] | None) -> None:
        self.generation = 1
        self.state = state
        self.migration: dict[str, Any] = {"migration_in": migration_in, "migration_out": None}
        self.closed = False
        self._changed = asyncio.Event()

    def update(self, state: str) -> None:
        assert state in STATES
        self.state = state
        self.generation += 1
        self._wake()

    def close(self) -> None:
        """No generation will follow; who waits for one is told so."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def snapshot(self) -> dict[str, Any]:
        return {"gen": self.generation, "state": self.state, "migration": copy.deepcopy(self.migration)}

    async def reach(self, generation: int) -> dict[str, Any] | None:
        """The state once it has that generation; None when it never will."""
        while self.generation < generation:
            if self.closed:
                return None
            await self._changed.wait()
        return self.snapshot()


class Denied(Exception):
    """A change of state that is forbidden now."""


class RequestQueue:
    """Requests from outside, admitted or refused the moment they come in, carried out one after another."""

    def __init__(self) -> None:
        self.state = "NotStarted"  # NotStarted, StartPending, Running, Stopped, Failed
        self.awaiting_stop = False
        self.awaiting_reboot = False
        self._pending: list[str] = []

    def submit(self, request: str) -> bool:
        """True when there is something new to do, False when the request changes nothing. Raises Denied."""
        if not self._is_new(request):
            return False
        if request == "Run":
            self.state = "StartPending"
        elif request == "Reboot":
            self.awaiting_reboot = True
        else:
            self.awaiting_stop = True
        self._pending.append(request)
        return True

    def _is_new(self, request: str) -> bool:
        if self.state in ("Stopped", "Failed"):
            if request == "Stop":
                return False
            raise Denied(
                "Instance has already halted"
                if self.state == "Stopped"
                else "Instance failed to start or halted due to a failure"
            )
        if request == "Stop":
            return not self.awaiting_stop
        if self.awaiting_stop:
            raise Denied("Instance is preparing to stop")
        if request == "Run":
            return self.state == "NotStarted"
        if self.state == "NotStarted":
            raise Denied("Operation requires an active instance")
        if self.state == "StartPending":
            raise Denied("Instance is currently starting")
        return not self.awaiting_reboot

    def take(self) -> str | None:
        return self._pending.pop(0) if self._pending else None

    def check_active(self) -> None:
        """For requests that are about a component: they need only a VM that has not ended."""
        if self.state in ("Stopped", "Failed"):
            self._is_new("Run")

    def started(self, succeeded: bool) -> None:
        self.state = "Running" if succeeded else "Failed"

    def rebooted(self) -> None:
        self.awaiting_reboot = False

    def stopped(self) -> None:
        self.awaiting_stop = False
        self.state = "Stopped"

    def failed(self) -> None:
        self.awaiting_stop = False
        self.state = "Failed"
