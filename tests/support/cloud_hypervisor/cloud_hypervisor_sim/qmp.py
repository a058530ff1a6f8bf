"""A small QMP client over a connected socket, with events handed to a callback."""

from __future__ import annotations

import array
import json
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any


class QmpError(Exception):
    """A command that QEMU refused, or a connection that ended."""


class QmpClient:
    """Commands from any thread; `on_event` is called on the reader's thread, with None when QEMU is gone."""

    def __init__(self, sock: socket.socket, on_event: Callable[[dict[str, Any] | None], None]) -> None:
        self._sock = sock
        self._on_event = on_event
        self._lock = threading.Lock()
        self._next_id = 0
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._closed = False
        self._greeting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="qmp", daemon=True)
        self._reader.start()

    def negotiate(self, timeout: float) -> None:
        try:
            greeting = self._greeting.get(timeout=timeout)
        except queue.Empty:
            raise QmpError("QEMU did not answer in time") from None
        if "QMP" not in greeting:
            raise QmpError("QEMU ended before it answered")
        self.execute("qmp_capabilities", timeout=timeout)

    def execute(
        self, command: str, arguments: dict[str, Any] | None = None, fds: list[int] | None = None, timeout: float = 60
    ) -> Any:
        reply: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        with self._lock:
            if self._closed:
                raise QmpError("QEMU is gone")
            self._next_id += 1
            number = self._next_id
            self._waiting[number] = reply
            message: dict[str, Any] = {"execute": command, "id": number}
            if arguments:
                message["arguments"] = arguments
            data = json.dumps(message).encode() + b"\n"
            try:
                if fds:
                    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                    sent = self._sock.sendmsg([data], ancillary)
                    data = data[sent:]
                self._sock.sendall(data)
            except OSError as error:
                self._waiting.pop(number, None)
                raise QmpError(f"QEMU is gone: {error}") from None
        try:
            answer = reply.get(timeout=timeout)
        except queue.Empty:
            self._waiting.pop(number, None)
            raise QmpError(f"QEMU did not answer {command} in {timeout} s") from None
        if "error" in answer:
            raise QmpError(answer["error"].get("desc", "unknown error"))
        return answer["return"]

    def close(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        if threading.current_thread() is not self._reader:
            self._reader.join(timeout=5)
        self._sock.close()

    def _read(self) -> None:
        buffer = b""
        try:
            while data := self._sock.recv(65536):
                buffer += data
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    if line.strip():
                        self._dispatch(json.loads(line))
        except (OSError, ValueError):
            pass
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, {}
        self._greeting.put({})
        for reply in waiting.values():
            reply.put({"error": {"desc": "QEMU ended"}})
        self._on_event(None)

    def _dispatch(self, message: dict[str, Any]) -> None:
        if "QMP" in message:
            self._greeting.put(message)
        elif "event" in message:
            self._on_event(message)
        else:
            reply = self._waiting.pop(message.get("id", 0), None)
            if reply is not None:
                reply.put(message)
