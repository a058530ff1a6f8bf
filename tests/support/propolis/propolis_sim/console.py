"""The guest's first serial port: its history, and the clients that see it live and type into it."""

import asyncio
import socket

from .history import History
from .log import Log
from .websocket import BINARY, GOING_AWAY, WebSocket

CHUNK = 1024


class Console:
    def __init__(self, log: Log) -> None:
        self.log = log
        self.history = History()
        self._clients: set[WebSocket] = set()
        self._pump: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def attach(self, port: socket.socket) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=port)
        self._pump = asyncio.create_task(self._run(reader))

    async def _run(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK):
            self.history.consume(data)
            for client in list(self._clients):
                # A client that does not read holds up the guest's console, as on the server.
                try:
                    await client.send(BINARY, data)
                except OSError:
                    self._clients.discard(client)

    async def serve(self, client: WebSocket, from_start: int | None, most_recent: int | None) -> None:
        """Returns when the client is gone. Raises Expired when the history it wants is not kept."""
        if (from_start is None) != (most_recent is None):
            data, offset = self.history.read(from_start, most_recent)
            while data:
                await client.send(BINARY, data)
                data, offset = self.history.read(offset, None)
        # Nothing has run since the last look at the history, so no byte is missed and none sent twice.
        self._clients.add(client)
        try:
            while (message := await client.receive()) is not None:
                if message[0] == BINARY and self._writer is not None:
                    self._writer.write(message[1])
                    await self._writer.drain()
        finally:
            self._clients.discard(client)

    async def stop(self) -> None:
        """Ends with the VM: the rest of the output goes out first."""
        if self._pump is not None:
            # QEMU is gone, so the pump runs dry; a client that stalls must not hold it.
            await asyncio.wait([self._pump], timeout=1.0)
            self._pump.cancel()
        for client in list(self._clients):
            client.close_with(GOING_AWAY, "VM stopped")
        self._clients.clear()
        if self._writer is not None:
            self._writer.close()
