"""What the tests of the simulator share: one running server, and a client that has no code in common with it."""

import base64
import ctypes
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FIRMWARE = Path("/usr/share/ovmf/OVMF.fd")
DEADLINE_SECONDS = 60.0
BINARY, TEXT, CLOSE, PING, PONG = 0x2, 0x1, 0x8, 0x9, 0xA


def wait_for(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """The first true value of `condition`. Fails with `what` when there is none in time."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)


PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent ends. For the moment between fork and exec, or a program's beginning."""
    if LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


class Reply:
    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Simulator:
    """One propolis-server, in a folder of its own."""

    def __init__(self, firmware: Path = FIRMWARE, more: list[str] | None = None, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="propolis-sim-")
        self.folder = Path(self._folder.name)
        self.log_path = self.folder / "log"
        parent = os.getpid()
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [HERE / "propolis-server", "run", firmware, "127.0.0.1:0", *(more or [])],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
                # A test that is killed leaves no server.
                preexec_fn=lambda: die_with(parent),
            )
        listening = wait_for(lambda: self.logged("listening") or self.process.poll() is not None, "the server listens")
        if not isinstance(listening, list):
            raise AssertionError(f"the server ended: {self.log_path.read_text()}")
        host, _, port = listening[0]["local_addr"].rpartition(":")
        self.address = (host, int(port))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._folder.cleanup()

    def __enter__(self) -> "Simulator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def logged(self, message: str) -> list[dict[str, Any]]:
        lines = [line for line in self.log_path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        records = [json.loads(line) for line in lines if line.startswith("{")]
        return [record for record in records if record["msg"] == message]

    def request(self, method: str, path: str, body: Any = None, version: str | None = "5.0.0", **headers: str) -> Reply:
        """`body` is sent as JSON unless it is bytes."""
        sent = dict(headers)
        if version is not None:
            sent["api-version"] = version
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(*self.address, timeout=DEADLINE_SECONDS)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def state(self) -> str:
        state: str = self.request("GET", "/instance").json["instance"]["state"]
        return state

    def put_state(self, state: str) -> Reply:
        return self.request("PUT", "/instance/state", state)

    def await_state(self, state: str) -> None:
        wait_for(lambda: self.state() == state, f"state {state}")

    def monitor(self, generation: int) -> Reply:
        return self.request("GET", "/instance/state-monitor", {"gen": generation})

    def hypervisor(self) -> int:
        """The pid of the QEMU that this server has started."""
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        children = [int(word) for word in Path(path).read_text().split()]
        if len(children) != 1:
            raise AssertionError(f"one child expected, not {children}")
        return children[0]

    def history(self, **query: int) -> Reply:
        return self.request("GET", "/instance/serial/history?" + "&".join(f"{k}={v}" for k, v in query.items()))

    def console(self) -> bytes:
        """All that the guest has printed."""
        data, offset = b"", 0
        while True:
            reply = self.history(from_start=offset).json
            if not reply["data"]:
                return data
            data, offset = data + bytes(reply["data"]), reply["last_byte_offset"]


def properties() -> dict[str, Any]:
    metadata = {name: str(uuid.uuid4()) for name in ("project_id", "silo_id", "sled_id")}
    metadata |= {"sled_model": "none", "sled_revision": 0, "sled_serial": "none"}  # type: ignore[dict-item]
    return {"id": str(uuid.uuid4()), "name": "t1", "description": "", "metadata": metadata}


def component(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "component": fields}


def pci(device: int, bus: int = 0, function: int = 0) -> dict[str, int]:
    return {"bus": bus, "device": device, "function": function}


def com1() -> dict[str, Any]:
    return {"com1": component("serial_port", num="com1")}


def spec(components: dict[str, Any], cpus: int = 1, memory_mb: int = 128) -> dict[str, Any]:
    chipset = {"type": "i440_fx", "value": {"enable_pcie": False}}
    return {"board": {"cpus": cpus, "memory_mb": memory_mb, "chipset": chipset}, "components": components}


def ensure_body(components: dict[str, Any] | None = None, **board: int) -> dict[str, Any]:
    value = {"spec": spec(com1() if components is None else components, **board)}
    return {"properties": properties(), "init": {"method": "Spec", "value": value}}


class WebSocketClient:
    """RFC 6455 from the client's side. Reads time out, so that a test cannot hang."""

    def __init__(self, address: tuple[str, int], path: str, version: str = "5.0.0") -> None:
        self.socket = socket.create_connection(address, timeout=DEADLINE_SECONDS)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: test",
            f"api-version: {version}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
        ]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.stream = self.socket.makefile("rb")
        self.status = int(self.stream.readline().split()[1])
        self.unread = b""
        self.headers: dict[str, str] = {}
        while (line := self.stream.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def __enter__(self) -> "WebSocketClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, payload: bytes, opcode: int = BINARY, final: bool = True, masked: bool = True) -> None:
        mask = os.urandom(4)
        length = struct.pack("!BH", 0xFE, len(payload)) if len(payload) > 125 else bytes([0x80 | len(payload)])
        first = bytes([(0x80 if final else 0) | opcode])
        if not masked:
            self.socket.sendall(first + bytes([length[0] & 0x7F]) + length[1:] + payload)
            return
        hidden = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self.socket.sendall(first + length + mask + hidden)

    def receive(self) -> tuple[int, bytes] | None:
        """The next frame's opcode and payload; None at the connection's end."""
        head = self.stream.read(2)
        if len(head) < 2:
            return None
        size = head[1] & 0x7F
        if size == 126:
            size = struct.unpack("!H", self.stream.read(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self.stream.read(8))[0]
        return head[0] & 0x0F, self.stream.read(size)

    def ping(self, payload: bytes) -> None:
        """Returns when the server has answered; what the guest prints meanwhile is kept for `read_until`."""
        self.send(payload, PING)
        while (frame := self.receive()) != (PONG, payload):
            if frame is None or frame[0] != BINARY:
                raise AssertionError(f"{frame} instead of a pong")
            self.unread += frame[1]

    def read_to_close(self) -> bytes:
        """What the server's goodbye says; nothing may follow it."""
        while (frame := self.receive()) is not None and frame[0] == BINARY:
            pass
        if frame is None or frame[0] != CLOSE or self.receive() is not None:
            raise AssertionError(f"{frame} instead of a goodbye and the end")
        return frame[1]

    def read_until(self, wanted: bytes) -> bytes:
        """All up to and with `wanted`; what came with it in one frame is kept for the next call."""
        while wanted not in self.unread:
            frame = self.receive()
            if frame is None or frame[0] != BINARY:
                raise AssertionError(f"{frame} after {self.unread[-2000:]!r} while waiting for {wanted!r}")
            self.unread += frame[1]
        end = self.unread.index(wanted) + len(wanted)
        data, self.unread = self.unread[:end], self.unread[end:]
        return data


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


class SimulatorTest(unittest.TestCase):
    """A test case whose tests each have a server of their own."""

    def start(self, *arguments: Any, **keywords: Any) -> Simulator:
        simulator = Simulator(*arguments, **keywords)
        self.addCleanup(simulator.close)
        return simulator

    def assert_refused(self, reply: Reply, status: int, message: str, code: str | None = None) -> None:
        self.assertEqual(reply.status, status, reply.body)
        error = reply.json
        self.assertIn(message, error["message"])
        self.assertEqual(error.get("error_code"), code)
        self.assertEqual(error["request_id"], reply.headers["x-request-id"])
        self.assertEqual(reply.headers["content-type"], "application/json")
