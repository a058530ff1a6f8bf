"""QEMU as the hypervisor: one process, one control connection, and it never outlives this one."""

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from typing import Any

from .errors import InitError
from .log import Log
from .machine import Command

# QEMU answers within milliseconds; an overloaded host may need far longer.
START_TIMEOUT_SECONDS = 60.0
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def end_with_parent(parent: int) -> Callable[[], None]:
    """What the child runs before exec; the parent may have died before it got that far."""

    def prepare() -> None:
        if LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(127)

    return prepare


class Hypervisor:
    """A running QEMU with its vCPUs stopped until `resume`."""

    def __init__(self, log: Log, on_event: Callable[[str], None]) -> None:
        self.log = log
        self.on_event = on_event
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = asyncio.Event()
        self.last_words = b""
        self._ids = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._reader_task: asyncio.Task[None] | None = None
        self._passing: socket.socket

    async def start(self, command: Command, control: socket.socket) -> None:
        """Raises InitError with QEMU's own words. `control` is this side of the control connection."""
        self.log.info("starting the guest's hypervisor", argv=command.argv)
        complaints, theirs = os.pipe()
        try:
            self.process = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                pass_fds=command.descriptors,
                preexec_fn=end_with_parent(os.getpid()),
            )
        except OSError as error:
            os.close(complaints)
            raise InitError(f"cannot run {command.argv[0]}: {error.strerror}") from error
        finally:
            os.close(theirs)
            for descriptor in command.descriptors:
                os.close(descriptor)
        loop = asyncio.get_running_loop()
        os.set_blocking(complaints, False)
        self._complaints: int | None = complaints
        loop.add_reader(complaints, self._hear)
        self._pidfd = os.pidfd_open(self.process.pid)
        loop.add_reader(self._pidfd, self._reap)
        self._passing = control.dup()
        reader, self._writer = await asyncio.open_unix_connection(sock=control)
        try:
            await asyncio.wait_for(self._greet(reader), START_TIMEOUT_SECONDS)
        except (TimeoutError, OSError, ValueError, RuntimeError) as error:
            await self.kill()
            words = self.last_words.decode(errors="replace").strip()
            raise InitError(f"the hypervisor did not start: {words or repr(error)}") from error

    async def _greet(self, reader: asyncio.StreamReader) -> None:
        line = await reader.readline()
        if not line:
            raise ValueError("it ended without a greeting")
        if "QMP" not in json.loads(line):
            raise ValueError(f"unexpected greeting {line!r}")
        self._reader_task = asyncio.create_task(self._read(reader))
        # QEMU greets before it makes the devices, and answers when all of them are there.
        await self.execute("qmp_capabilities")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            message = json.loads(line)
            if "event" in message:
                self.log.debug("hypervisor event", event=message)
                self._dispatch(message["event"], message.get("data", {}))
            elif message.get("id") in self._waiting:
                waiter = self._waiting.pop(message["id"])
                if not waiter.done():
                    waiter.set_result(message)
        self._forget_waiters()

    def _dispatch(self, event: str, data: dict[str, Any]) -> None:
        if event == "SHUTDOWN" and data.get("guest"):
            self.on_event("halt")
        elif event == "RESET" and data.get("guest"):
            self.on_event("reset")

    async def execute(self, name: str, **arguments: Any) -> Any:
        """Raises RuntimeError when QEMU refuses or is gone."""
        self._ids += 1
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._ids] = waiter
        if self.ended.is_set():
            self._forget_waiters()
        else:
            self._writer.write(json.dumps({"execute": name, "arguments": arguments, "id": self._ids}).encode() + b"\n")
        answer = await waiter
        if "error" in answer:
            raise RuntimeError(f"{name}: {answer['error']['desc']}")
        return answer["return"]

    async def add_viewer(self, connection: socket.socket) -> None:
        """Hands a client of the screen to QEMU."""
        self._ids += 1
        name = f"viewer{self._ids}"
        request = {"execute": "getfd", "arguments": {"fdname": name}, "id": self._ids}
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._ids] = waiter
        # The socket is shared with the writer, which holds nothing back at this point: requests are a few bytes.
        socket.send_fds(self._passing, [json.dumps(request).encode() + b"\n"], [connection.fileno()])
        answer = await waiter
        if "error" in answer:
            raise RuntimeError(f"getfd: {answer['error']['desc']}")
        await self.execute("add_client", protocol="vnc", fdname=name, skipauth=True)

    def _hear(self) -> None:
        if self._complaints is None:
            return
        try:
            text = os.read(self._complaints, 65536)
        except BlockingIOError:
            return
        if text:
            self.last_words = (self.last_words + text)[-4096:]
            self.log.warn("the hypervisor says", text=text.decode(errors="replace").strip())
        else:
            asyncio.get_running_loop().remove_reader(self._complaints)
            os.close(self._complaints)
            self._complaints = None

    def _reap(self) -> None:
        assert self.process is not None
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        status = self.process.wait()
        self._hear()  # its last words, before anybody asks for them
        self.log.info("the guest's hypervisor has ended", status=status)
        self.ended.set()
        self._forget_waiters()
        self.on_event("gone")

    def _forget_waiters(self) -> None:
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_result({"error": {"desc": "the hypervisor is gone"}})
        self._waiting.clear()

    async def kill(self) -> None:
        """Ends QEMU and returns when it is reaped. What a guest has not flushed is lost, as on a real Stop."""
        if self.process is None:
            return
        if not self.ended.is_set():
            self.process.kill()
        await self.ended.wait()
        self._writer.close()
        self._passing.close()
        if self._reader_task is not None:
            self._reader_task.cancel()
