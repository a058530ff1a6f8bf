"""What the tests share: a guest that only halts, a running simulator, and a client of its API."""

from __future__ import annotations

import array
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloud_hypervisor_sim.qemu import die_with_parent

FOLDER = Path(__file__).resolve().parent
PROGRAM = FOLDER / "cloud-hypervisor"
DEADLINE = 30.0

# mov $0x3f8, %dx; mov $'!', %al; out %al, (%dx); out %al, $0xe9; then hlt for ever, with interrupts off.
SPEAK_AND_HALT = bytes.fromhex("66baf803 b021 ee e6e9 fa f4 ebfd")
HALT = bytes.fromhex("fa f4 ebfd")
# mov $0xfe, %al; out %al, $0x64: the reset line of the keyboard controller.
RESET = bytes.fromhex("b0fe e664 f4 ebfd")
LOAD_ADDRESS = 0x100000


# The chipset's power management block: its base is read from its configuration space, its control register
# gets the sleep-enable bit with the type that stands for S5.
POWER_OFF = bytes.fromhex(
    "66baf80c b840f80080 ef"  # mov $0xcf8, %dx; mov $0x8000f840, %eax; out
    "66bafc0c ed"  # mov $0xcfc, %dx; in
    "2580ff0000 83c004 89c2"  # and $0xff80, %eax; add $4, %eax; mov %eax, %edx
    "66b80020 66ef"  # mov $0x2000, %ax; out
    "f4ebfd"
)


def write_elf(path: Path, code: bytes) -> Path:
    """A 32-bit ELF file with the PVH note, which is all that a direct boot needs."""
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", LOAD_ADDRESS)
    header_size, entry_size = 52, 32
    note_offset = header_size + 2 * entry_size
    code_offset = 0x1000
    ident = b"\x7fELF" + bytes([1, 1, 1]) + bytes(9)
    header = ident + struct.pack(
        "<HHIIIIIHHHHHH", 2, 3, 1, LOAD_ADDRESS, header_size, 0, 0, header_size, entry_size, 2, 40, 0, 0
    )
    load = struct.pack("<8I", 1, code_offset, LOAD_ADDRESS, LOAD_ADDRESS, len(code), len(code), 5, 0x1000)
    notes = struct.pack("<8I", 4, note_offset, 0, 0, len(note), len(note), 4, 4)
    data = header + load + notes + note
    path.write_bytes(data.ljust(code_offset, b"\0") + code)
    return path


def wait_for(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)


class ApiConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=DEADLINE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


class Simulator:
    """One process, with its API connection and event stream."""

    def __init__(self, folder: Path, *options: str, api: bool = True, name: str = "", **environment: str) -> None:
        self.folder = folder
        self.socket = str(folder / f"api{name}")
        self.event_file = folder / f"events{name}"
        arguments = [str(PROGRAM), "--event-monitor", f"path={self.event_file}"]
        if api:
            arguments += ["--api-socket", self.socket]
        self.errors = folder / f"stderr{name}"
        with self.errors.open("wb") as errors, (folder / f"stdout{name}").open("wb") as output:
            self.process = subprocess.Popen(
                [*arguments, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=os.environ | environment,
                close_fds=False,
                preexec_fn=die_with_parent(os.getpid()),
            )
        self._connection: ApiConnection | None = None
        if api:
            wait_for(self.reachable, f"API socket; {self.error_text()}")

    def reachable(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"ended with {self.process.returncode}: {self.error_text()}")
        connection = ApiConnection(self.socket)
        try:
            connection.connect()
        except OSError:
            connection.close()
            return False
        self._connection = connection
        return True

    def error_text(self) -> str:
        return self.errors.read_text()

    def request(self, method: str, path: str, body: Any = None, raw: bytes | None = None) -> tuple[int, Any]:
        assert self._connection is not None
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        self._connection.request(method, f"/api/v1/{path}", data)
        response = self._connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else None

    def put(self, path: str, body: Any = None) -> tuple[int, Any]:
        return self.request("PUT", path, body)

    def get(self, path: str) -> tuple[int, Any]:
        return self.request("GET", path)

    def put_with_fds(self, path: str, body: Any, fds: list[int]) -> tuple[int, Any]:
        """Descriptors travel beside the bytes of the request."""
        connection = ApiConnection(self.socket)
        connection.connect()
        data = json.dumps(body).encode()
        head = f"PUT /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        connection.sock.sendmsg([head + data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        response = http.client.HTTPResponse(connection.sock, method="PUT")
        response.begin()
        text = response.read()
        connection.close()
        return response.status, json.loads(text) if text else None

    def events(self) -> list[str]:
        return [f"{event['source']} {event['event']}" for event in self.event_records()]

    def event_records(self) -> list[dict[str, Any]]:
        decoder = json.JSONDecoder()
        text = self.event_file.read_text() if self.event_file.exists() else ""
        records = []
        position = 0
        while position < len(text.rstrip()):
            try:
                record, position = decoder.raw_decode(text, position)
            except ValueError:
                break
            records.append(record)
            while position < len(text) and text[position].isspace():
                position += 1
        return records

    def wait_event(self, event: str, count: int = 1) -> None:
        wait_for(lambda: self.events().count(event) >= count, f"{event}, have {self.events()}")

    def qemu_pids(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return [int(pid) for pid in children.read_text().split()]
        except OSError:
            return []

    def wait(self, seconds: float = DEADLINE) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise


class SimulatorTest(unittest.TestCase):
    """A folder and a kernel for each test; simulators end with it."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vmtest-ch-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.kernel = write_elf(self.folder / "halt.elf", HALT)

    def start(self, *options: str, **environment: str) -> Simulator:
        simulator = Simulator(self.folder, *options, **environment)  # type: ignore[arg-type]
        self.addCleanup(simulator.close)
        return simulator

    def config(self, **more: Any) -> dict[str, Any]:
        base: dict[str, Any] = {
            "payload": {"kernel": str(self.kernel)},
            "memory": {"size": 64 << 20},
            "console": {"mode": "Off"},
        }
        return base | more

    def started_vm(self, *options: str, config: dict[str, Any] | None = None, **environment: str) -> Simulator:
        simulator = self.start(*options, **environment)
        self.assertAnswer(204, simulator.put("vm.create", config or self.config()))
        self.assertAnswer(204, simulator.put("vm.boot"))
        return simulator

    def assertAnswer(self, status: int, answer: tuple[int, Any], *chain: str) -> Any:
        """The status, and the words of the chain behind the outermost one."""
        self.assertEqual(answer[0], status, answer)
        if chain:
            self.assertIsInstance(answer[1], list, answer)
            self.assertEqual(tuple(answer[1][-len(chain) :]), chain)
        return answer[1]

    def make_disk(self, name: str, size: int = 1 << 20) -> str:
        path = self.folder / name
        with path.open("wb") as file:
            file.truncate(size)
        return str(path)
