"""HTTP/1.1 on a Unix socket, as narrow as the micro_http server that the real program uses."""

from __future__ import annotations

import array
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_CONNECTIONS = 10
MAX_LINE = 1024
METHODS = ("GET", "PUT", "PATCH")
SERVER_FULL = (
    b"HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n"
    b'{ "error": "Too many open connections" }'
)


class BadRequest(Exception):
    """A request that cannot be parsed."""


@dataclass
class Request:
    method: str
    path: str
    body: bytes | None = None
    fds: list[int] = field(default_factory=list)


@dataclass
class Response:
    status: int
    body: bytes | None = None

    def encode(self, server: str = "Cloud Hypervisor API", kind: str = "application/json") -> bytes:
        lines = [f"HTTP/1.1 {self.status} ", f"Server: {server}", "Connection: keep-alive"]
        if self.status not in (100, 204) or self.body is not None:
            lines += [f"Content-Type: {kind}", f"Content-Length: {len(self.body or b'')}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + (self.body or b"")


Handler = Callable[[Request], Response]


class _Connection:
    def __init__(self, sock: socket.socket, max_payload: int) -> None:
        self.sock = sock
        self.max_payload = max_payload
        self.buffer = b""
        self.fds: list[int] = []

    def _receive(self) -> None:
        size = array.array("i").itemsize
        data, ancillary, _, _ = self.sock.recvmsg(65536, socket.CMSG_SPACE(64 * size))
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % size])
                self.fds += fds
        if not data:
            raise EOFError
        self.buffer += data

    def _line(self) -> str:
        while b"\r\n" not in self.buffer:
            if len(self.buffer) >= MAX_LINE:
                raise BadRequest("Invalid request.")
            self._receive()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line.decode("utf-8", "replace")

    def read(self) -> Request:
        method, path = self._request_line(self._line())
        length = 0
        expect = False
        while line := self._line():
            name, colon, value = line.partition(":")
            if not colon:
                raise BadRequest(f"Invalid header. Reason: Header is incorrectly formatted. Key: {line}")
            match name.strip().lower(), value.strip():
                case "content-length", digits:
                    if not digits.isascii() or not digits.isdigit():
                        raise BadRequest(f"Invalid header. Reason: Invalid value. Key:Content-Length; Value: {digits}")
                    length = int(digits)
                case "transfer-encoding", encoding if encoding != "identity":
                    raise BadRequest(
                        f"Invalid header. Reason: Unsupported value. Key:Transfer-Encoding; Value:{encoding}"
                    )
                case "expect", "100-continue":
                    expect = True
        body = None
        if length:
            if length > self.max_payload:
                raise BadRequest(
                    f"Request payload with size {length} is larger than the limit of {self.max_payload} "
                    "allowed by server."
                )
            if expect:
                self.sock.sendall(Response(100).encode())
            while len(self.buffer) < length:
                self._receive()
            body, self.buffer = self.buffer[:length], self.buffer[length:]
        fds, self.fds = self.fds, []
        return Request(method, path, body, fds)

    def _request_line(self, line: str) -> tuple[str, str]:
        method, _, rest = line.partition(" ")
        uri, _, version = rest.partition(" ")
        if method not in METHODS:
            raise BadRequest("Invalid HTTP Method: Unsupported HTTP method.")
        if not uri:
            raise BadRequest("Invalid URI: Empty URI not allowed.")
        if version not in ("HTTP/1.0", "HTTP/1.1"):
            raise BadRequest("Invalid HTTP Version: Unsupported HTTP version.")
        if uri.startswith("http://"):
            uri = "/" + uri.removeprefix("http://").partition("/")[2]
        return method, uri


class HttpServer:
    """Serves each connection from a thread of its own; the handler decides what runs in which order."""

    def __init__(self, listener: socket.socket, handler: Handler, max_payload: int) -> None:
        self._listener = listener
        self._handler = handler
        self._max_payload = max_payload
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._idle = threading.Condition(self._lock)
        self._answering = 0
        self._stopping = False

    def start(self) -> None:
        threading.Thread(target=self._accept, name="http-server", daemon=True).start()

    def stop(self) -> None:
        """Lets replies that are being written go out, then ends."""
        with self._idle:
            self._stopping = True
            self._idle.wait_for(lambda: self._answering == 0, timeout=5)
            for sock in self._connections:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                full = len(self._connections) >= MAX_CONNECTIONS
                if not full and not self._stopping:
                    self._connections.add(sock)
            if full or self._stopping:
                sock.sendall(SERVER_FULL)
                sock.close()
                continue
            threading.Thread(target=self._serve, args=(sock,), name="http-connection", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        connection = _Connection(sock, self._max_payload)
        try:
            while True:
                try:
                    request = connection.read()
                except BadRequest as error:
                    text = f'{{ "error": "{error}\nAll previous unanswered requests will be dropped." }}'
                    sock.sendall(Response(400, text.encode()).encode("Firecracker API", "text/plain"))
                    return
                with self._lock:
                    if self._stopping:
                        return
                    self._answering += 1
                try:
                    sock.sendall(self._handler(request).encode())
                finally:
                    for fd in request.fds:
                        os.close(fd)
                    with self._idle:
                        self._answering -= 1
                        self._idle.notify_all()
        except (EOFError, OSError):
            pass
        finally:
            with self._lock:
                self._connections.discard(sock)
            sock.close()
