"""The server's side of a WebSocket (RFC 6455), after the handshake."""

import asyncio
import base64
import hashlib
import struct
from dataclasses import dataclass

ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
GOING_AWAY = 1001
MAX_FRAME = 16 * 1024 * 1024
MAX_MESSAGE = 64 * 1024 * 1024


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode("latin-1") + ACCEPT_SUFFIX).digest()).decode()


class ProtocolError(Exception):
    pass


@dataclass
class Frame:
    final: bool
    opcode: int
    payload: bytes


def unmask(payload: bytes, mask: bytes) -> bytes:
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")


class WebSocket:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._closing = False

    async def send(self, opcode: int, payload: bytes) -> None:
        """Waits until the client has taken enough. Raises OSError when it is gone."""
        if self._closing or self._writer.is_closing():
            raise ConnectionResetError("the WebSocket is closed")
        self._write(opcode, payload)
        await self._writer.drain()

    def _write(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, size)
        elif size < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 127, size)
        self._writer.write(head + payload)

    async def _frame(self) -> Frame:
        first, second = await self._reader.readexactly(2)
        size = second & 0x7F
        if first & 0x70:
            raise ProtocolError("reserved bits are set")
        if not second & 0x80:
            raise ProtocolError("a client's frame is masked, this one is not")
        opcode = first & 0x0F
        if opcode not in (0, TEXT, BINARY, CLOSE, PING, PONG):
            raise ProtocolError(f"unknown opcode {opcode}")
        if opcode >= CLOSE and (size > 125 or not first & 0x80):
            raise ProtocolError("a control frame is short and whole")
        if size == 126:
            size = struct.unpack("!H", await self._reader.readexactly(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", await self._reader.readexactly(8))[0]
        if size > MAX_FRAME:
            raise ProtocolError(f"a frame of {size} bytes is too long")
        mask = await self._reader.readexactly(4)
        return Frame(bool(first & 0x80), opcode, unmask(await self._reader.readexactly(size), mask))

    async def receive(self) -> tuple[int, bytes] | None:
        """The next text or binary message; None when the client has closed or is gone. Answers pings itself."""
        kind, message = 0, b""
        try:
            while True:
                frame = await self._frame()
                if frame.opcode == CLOSE:
                    self.close(frame.payload[:2])
                    return None
                if frame.opcode == PING:
                    await self.send(PONG, frame.payload)
                if frame.opcode in (PING, PONG):
                    continue
                if (frame.opcode == 0) != (kind != 0):
                    raise ProtocolError("a continuation without a start, or a start inside a message")
                kind = kind or frame.opcode
                message += frame.payload
                if len(message) > MAX_MESSAGE:
                    raise ProtocolError("the message is too long")
                if frame.final:
                    if kind == TEXT:
                        message.decode("utf-8")
                    return kind, message
        except (ProtocolError, UnicodeDecodeError) as error:
            self.close(struct.pack("!H", 1007 if isinstance(error, UnicodeDecodeError) else 1002))
            return None
        except (asyncio.IncompleteReadError, OSError):
            return None

    def close(self, payload: bytes = b"") -> None:
        """Says goodbye once; what is already written still goes out."""
        if self._closing or self._writer.is_closing():
            return
        self._closing = True
        self._write(CLOSE, payload)
        self._writer.close()

    def close_with(self, code: int, reason: str) -> None:
        self.close(struct.pack("!H", code) + reason.encode())
