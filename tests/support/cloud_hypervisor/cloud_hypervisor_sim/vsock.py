"""The hybrid vsock socket on the host's side, bridged for the guest agent's port to a virtio-serial port."""

from __future__ import annotations

import os
import select
import socket
import threading

from .faults import Fault, io_error_text

AGENT_PORT = 5252
AGENT_PORT_NAME = "org.vmtest.agent"
COMMAND_LIMIT = 32
FIRST_HOST_PORT = 1 << 30


def _close(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    sock.close()


class VsockBridge:
    """Host clients say `CONNECT <port>`; one at a time is joined to the guest's port."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(path)
            self._listener.listen(64)
        except OSError as error:
            self._listener.close()
            raise Fault(
                "Error from device manager",
                "Cannot create virtio-vsock backend",
                "Error binding to the host-side Unix socket",
                io_error_text(error),
            ) from None
        self.guest_listener = socket.socket(socket.AF_UNIX)
        # An abstract name: nothing to remove, and found by nobody who does not know it.
        self._guest_address = f"\0vmtest-cloud-hypervisor-{os.getpid()}-{os.urandom(8).hex()}"
        self.guest_listener.bind(self._guest_address)
        self.guest_listener.listen(1)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._busy = False
        self._guest_listening = False
        self._next_port = FIRST_HOST_PORT
        self._stopped = False
        threading.Thread(target=self._accept, name="vsock", daemon=True).start()

    def guest_port_changed(self, opened: bool) -> None:
        """Whether a process in the guest has the port open."""
        self._guest_listening = opened

    def close(self) -> None:
        with self._lock:
            self._stopped = True
            for sock in self._open:
                _close(sock)
        _close(self._listener)
        self.guest_listener.close()
        try:
            os.unlink(self._path)
        except OSError:
            pass

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="vsock-client", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            if self._stopped:
                client.close()
                return
            self._open.add(client)
        taken = False
        guest: socket.socket | None = None
        try:
            port = self._read_command(client)
            with self._lock:
                taken = port == AGENT_PORT and self._guest_listening and not self._busy
                if not taken:
                    return
                self._busy = True
                host_port, self._next_port = self._next_port, self._next_port + 1
            guest = socket.socket(socket.AF_UNIX)
            guest.connect(self._guest_address)
            with self._lock:
                self._open.add(guest)
            client.sendall(f"OK {host_port}\n".encode())
            self._carry(client, guest)
        except (OSError, ValueError):
            pass
        finally:
            with self._lock:
                if taken:
                    self._busy = False
                self._open -= {client} if guest is None else {client, guest}
            _close(client)
            if guest is not None:
                _close(guest)

    def _read_command(self, client: socket.socket) -> int:
        """Byte by byte, so that nothing beyond the line is taken from the application."""
        line = b""
        while not line.endswith(b"\n"):
            byte = client.recv(1)
            if not byte or len(line) >= COMMAND_LIMIT:
                raise ValueError(line)
            line += byte
        words = line.decode("ascii").split()
        if len(words) != 2 or words[0].lower() != "connect" or not words[1].isdigit():
            raise ValueError(line)
        return int(words[1])

    def _carry(self, client: socket.socket, guest: socket.socket) -> None:
        peers = {client.fileno(): (client, guest), guest.fileno(): (guest, client)}
        while True:
            ready, _, _ = select.select([client, guest], [], [])
            for sock in ready:
                source, target = peers[sock.fileno()]
                data = source.recv(65536)
                if not data:
                    return
                target.sendall(data)
