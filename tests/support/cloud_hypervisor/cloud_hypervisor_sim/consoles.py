"""Serial port and console back ends: what is made when a VM is created, and what carries bytes once it runs."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections import deque
from typing import Any

from .faults import Fault, io_error_text

MAX_BUFFER = 1 << 20
FLUSH_SECONDS = 1.0


class _OutputBuffer:
    """Keeps the newest bytes while nobody takes them."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._size)

    def add(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        while self._size > MAX_BUFFER:
            surplus = self._size - MAX_BUFFER
            first = self._chunks.popleft()
            self._size -= len(first)
            if len(first) > surplus:
                self._chunks.appendleft(first[surplus:])
                self._size += len(first) - surplus

    def drain_to(self, fd: int) -> None:
        while self._chunks:
            written = os.write(fd, self._chunks[0])
            self._size -= written
            first = self._chunks.popleft()
            if written < len(first):
                self._chunks.appendleft(first[written:])


class _Relay:
    """Carries bytes between QEMU's character device and a terminal, a PTY or the client of a socket."""

    def __init__(
        self,
        guest: socket.socket,
        listener: socket.socket | None = None,
        reader: int | None = None,
        writer: int | None = None,
    ) -> None:
        self._guest = guest
        self._listener = listener
        self._client: socket.socket | None = None
        self._reader = reader
        self._writer = writer
        self._buffer = _OutputBuffer()
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The guest's last words still go out, then everything is closed."""
        os.close(self._stop_write)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            while self._step():
                pass
        finally:
            self._flush()
            self._drop_client()
            self._guest.close()
            os.close(self._stop_read)

    def _step(self) -> bool:
        poll = select.poll()
        poll.register(self._guest, select.POLLIN)
        poll.register(self._stop_read, select.POLLHUP)
        if self._listener is not None:
            poll.register(self._listener, select.POLLIN)
        if self._reader is not None:
            poll.register(self._reader, select.POLLIN)
        if self._writer is not None and self._buffer:
            mask = select.POLLOUT | (select.POLLIN if self._writer == self._reader else 0)
            poll.register(self._writer, mask)
        ready = dict(poll.poll())
        if self._guest.fileno() in ready and not self._from_guest():
            return False
        if self._stop_read in ready:
            return False
        if self._listener is not None and self._listener.fileno() in ready:
            self._accept()
            return True
        if self._reader in ready and ready[self._reader] & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._to_guest()
        if self._writer is not None and self._buffer:
            self._write()
        return True

    def _from_guest(self) -> bool:
        try:
            data = self._guest.recv(65536)
        except OSError:
            data = b""
        self._buffer.add(data)
        return bool(data)

    def _to_guest(self) -> None:
        assert self._reader is not None
        try:
            data = os.read(self._reader, 4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            try:
                self._guest.sendall(data)
            except OSError:
                pass
        elif self._client is not None:
            self._drop_client()
        else:
            self._reader = None

    def _write(self) -> None:
        assert self._writer is not None
        try:
            self._buffer.drain_to(self._writer)
        except BlockingIOError:
            pass
        except OSError:
            if self._client is not None:
                self._drop_client()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            self._listener = None
            return
        self._drop_client()
        client.setblocking(False)
        self._client = client
        self._reader = self._writer = client.fileno()

    def _drop_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = self._reader = self._writer = None

    def _flush(self) -> None:
        deadline = time.monotonic() + FLUSH_SECONDS
        while self._from_guest_now():
            pass
        while self._writer is not None and self._buffer and time.monotonic() < deadline:
            select.select([], [self._writer], [], max(0, deadline - time.monotonic()))
            self._write()

    def _from_guest_now(self) -> bool:
        try:
            return bool(select.select([self._guest], [], [], 0)[0]) and self._from_guest()
        except (OSError, ValueError):
            return False


class Console:
    """One back end; `attach` gives the arguments of QEMU's character device and the descriptors it inherits."""

    def __init__(self, config: dict[str, Any], allow_socket: bool) -> None:
        self.mode: str = config["mode"]
        self._path: str | None = None
        self._listener: socket.socket | None = None
        self._pty: tuple[int, int] | None = None
        self._relay: _Relay | None = None
        self._guest_end: socket.socket | None = None
        outer = ("Error creating console devices", "Error creating console device")
        try:
            if self.mode == "File":
                self._path = config["file"]
                os.close(os.open(config["file"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666))
            elif self.mode == "Pty":
                self._pty = os.openpty()
                os.set_blocking(self._pty[0], False)
                _raw(self._pty[1])
                config["file"] = os.ttyname(self._pty[1])
            elif self.mode == "Socket":
                if not allow_socket:
                    raise Fault(outer[0], "No socket option support for console device")
                self._listener = socket.socket(socket.AF_UNIX)
                self._listener.bind(config["socket"])
                self._path = config["socket"]
                self._listener.listen(128)
        except OSError as error:
            self.close()
            raise Fault(*outer, io_error_text(error)) from None

    def attach(self, name: str) -> tuple[list[str], list[int]]:
        """Nothing is attached when the console is off."""
        if self.mode == "Null":
            return ["-chardev", f"null,id={name}"], []
        if self.mode == "File":
            assert self._path is not None
            return ["-chardev", f"file,id={name},append=on,path={self._path.replace(',', ',,')}"], []
        ours, theirs = socket.socketpair()
        self._guest_end = theirs
        if self.mode == "Socket":
            self._relay = _Relay(ours, listener=self._listener)
        elif self.mode == "Pty":
            assert self._pty is not None
            self._relay = _Relay(ours, reader=self._pty[0], writer=self._pty[0])
        else:
            stdin = sys.__stdin__.fileno() if sys.__stdin__ is not None and os.isatty(0) else None
            self._relay = _Relay(ours, reader=stdin, writer=1)
        return ["-chardev", f"socket,id={name},fd={theirs.fileno()}"], [theirs.fileno()]

    def started(self) -> None:
        """QEMU has inherited its end."""
        if self._guest_end is not None:
            self._guest_end.close()
            self._guest_end = None

    def close(self) -> None:
        self.started()
        if self._relay is not None:
            self._relay.close()
            self._relay = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            if self._path is not None:
                try:
                    os.unlink(self._path)
                except OSError:
                    pass
        if self._pty is not None:
            for fd in self._pty:
                os.close(fd)
            self._pty = None


def _raw(fd: int) -> None:
    import termios
    import tty

    tty.setraw(fd, termios.TCSANOW)


class Consoles:
    """The console, the serial port and the debug console of one VM."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.all: dict[str, Console] = {}
        try:
            for key in ("console", "serial", "debug_console"):
                self.all[key] = Console(config[key], allow_socket=key == "serial")
        except Fault:
            self.close()
            raise

    def started(self) -> None:
        for console in self.all.values():
            console.started()

    def close(self) -> None:
        for console in self.all.values():
            console.close()
