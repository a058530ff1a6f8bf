"""HTTP/1.1 as dropshot speaks it: requests read, answers written, connections upgraded."""

import asyncio
import email.utils
import http
import json
import re
import urllib.parse
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from .errors import HttpError, bad_request
from .log import Log
from .websocket import WebSocket, accept_key

MAX_HEAD = 64 * 1024
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@dataclass
class Request:
    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    body_left: bool = True
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    async def body(self, limit: int) -> bytes:
        """Raises HttpError 400 when it is longer; the rest is read and dropped, so that the connection stays usable."""
        if (self.header("expect") or "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.body_left = False
        kept, total = [], 0
        async for piece in self._pieces():
            total += len(piece)
            if total <= limit:
                kept.append(piece)
        if total > limit:
            raise bad_request(f"request body exceeded maximum size of {limit} bytes")
        return b"".join(kept)

    async def _pieces(self) -> AsyncIterator[bytes]:
        if (self.header("transfer-encoding") or "").lower() == "chunked":
            while True:
                line = (await self.reader.readline()).split(b";")[0].strip()
                if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", line):
                    raise Malformed("bad chunk size")
                size = int(line, 16)
                if size == 0:
                    while await self.reader.readline() not in (b"\r\n", b"\n", b""):
                        pass
                    return
                yield await self.reader.readexactly(size)
                await self.reader.readexactly(2)
        left = int(self.header("content-length") or 0)
        while left:
            piece = await self.reader.read(min(left, 65536))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece


class Malformed(Exception):
    """Not HTTP: answered by 400 without a body, and the connection ends."""


@dataclass
class Response:
    status: int
    body: bytes | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)


def json_response(status: int, value: object) -> Response:
    return Response(status, json.dumps(value, separators=(",", ":")).encode(), [("content-type", "application/json")])


@dataclass
class Upgrade:
    """Answers 101 and then runs; what goes wrong afterwards shows as a connection that just ends."""

    key: str
    run: Callable[[WebSocket], Awaitable[None]]


Handler = Callable[[Request], Awaitable[Response | Upgrade]]


def websocket_key(request: Request) -> str:
    """Raises HttpError when the request asks for no WebSocket."""

    def words(name: str) -> list[str]:
        return re.split("[, ]", (request.header(name) or "").lower())

    if "upgrade" not in words("connection"):
        raise bad_request("expected connection upgrade")
    if "websocket" not in words("upgrade"):
        raise bad_request("unexpected protocol for upgrade")
    if request.header("sec-websocket-version") != "13":
        raise bad_request("missing or invalid websocket version")
    key = request.header("sec-websocket-key")
    if key is None:
        raise bad_request("missing websocket key")
    return key


def path_segments(path: str) -> list[str]:
    segments = [s for s in path.split("/") if s]
    try:
        if "." in segments or ".." in segments:
            raise bad_request("invalid path encoding")
        return [urllib.parse.unquote_to_bytes(s).decode("utf-8") for s in segments]
    except UnicodeDecodeError as error:
        raise bad_request("invalid path encoding") from error


class Server:
    def __init__(self, handler: Handler, log: Log) -> None:
        self.handler = handler
        self.log = log

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await self._read_head(reader, writer)) is not None:
                if not await self._answer(request):
                    break
        except Malformed as error:
            self.log.warn("malformed request", error=str(error))
            writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _read_head(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial.strip():
                raise Malformed("the connection ended inside a request's head") from error
            return None
        except asyncio.LimitOverrunError as error:
            raise Malformed("the head is too long") from error
        lines = head.decode("latin-1").lstrip("\r\n").split("\r\n")
        parts = lines[0].split(" ")
        if len(parts) != 3 or not TOKEN.fullmatch(parts[0]) or parts[2] not in ("HTTP/1.0", "HTTP/1.1"):
            raise Malformed(f"bad request line {lines[0]!r}")
        headers = []
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not line:
                continue
            if not colon or not TOKEN.fullmatch(name):
                raise Malformed(f"bad header {line!r}")
            headers.append((name.lower(), value.strip(" \t")))
        lengths = {value for name, value in headers if name == "content-length"}
        if len(lengths) > 1 or not all(value.isdigit() for value in lengths):
            raise Malformed("bad content-length")
        target = parts[1]
        if target.startswith(("http://", "https://")):
            target = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
        return Request(parts[0], target, parts[2], headers, reader, writer)

    async def _answer(self, request: Request) -> bool:
        """True when the connection can serve another request."""
        try:
            answer = await self.handler(request)
        except HttpError as error:
            answer = self._refusal(request, error)
        if isinstance(answer, Upgrade):
            await self._upgrade(request, answer)
            return False
        if request.body_left:
            # No handler wanted it; a client that waits for leave to send it is told by the answer not to.
            if request.header("expect") is None:
                try:
                    await request.body(2**62)
                except HttpError:
                    return False
        close = (request.header("connection") or "").lower() == "close" or request.version == "HTTP/1.0"
        close = close or request.header("expect") is not None and request.body_left
        self._write(request, answer, close)
        await request.writer.drain()
        # A refusal has been logged already, with its reason.
        if answer.status < 400:
            self._completed(request, answer.status)
        return not close

    def _refusal(self, request: Request, error: HttpError) -> Response:
        body: dict[str, str] = {"request_id": request.id}
        if error.code is not None:
            body["error_code"] = error.code
        body["message"] = error.message
        self._completed(
            request, error.status, error_message_internal=error.internal, error_message_external=error.message
        )
        return Response(
            error.status, json.dumps(body, indent=2).encode(), [("content-type", "application/json"), *error.headers]
        )

    def _completed(self, request: Request, status: int, **more: str) -> None:
        named = {"req_id": request.id, "method": request.method, "uri": request.target}
        self.log.info("request completed", response_code=status, **named, **more)

    def _write(self, request: Request, response: Response, close: bool) -> None:
        phrase = http.HTTPStatus(response.status).phrase
        lines = [
            f"HTTP/1.1 {response.status} {phrase}",
            f"x-request-id: {request.id}",
            f"date: {email.utils.formatdate(usegmt=True)}",
        ]
        lines += [f"{name}: {value}" for name, value in response.headers]
        if response.status not in (101, 204):
            lines.append(f"content-length: {len(response.body or b'')}")
        if close:
            lines.append("connection: close")
        body = b"" if request.method == "HEAD" else response.body or b""
        request.writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    async def _upgrade(self, request: Request, upgrade: Upgrade) -> None:
        self._write(
            request,
            Response(
                101,
                None,
                [
                    ("connection", "Upgrade"),
                    ("upgrade", "websocket"),
                    ("sec-websocket-accept", accept_key(upgrade.key)),
                ],
            ),
            False,
        )
        self._completed(request, 101)
        try:
            await upgrade.run(WebSocket(request.reader, request.writer))
        except Exception as error:  # noqa: BLE001: the server logs whatever a channel ends by
            self.log.error(f"Error returned from handler: {error!r}", req_id=request.id)
