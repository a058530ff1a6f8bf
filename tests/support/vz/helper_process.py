"""A VZ helper to talk to, for tests."""

import http.client
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time
from typing import Any, Callable

# A busy host and emulated guests are slow; what is waited for comes sooner.
PATIENCE = 90.0


def wait_for(what: str, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Polls until the condition holds, and returns what it returned."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come within {patience} s")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Helper:
    """A running helper with a folder of its own."""

    def __init__(
        self, program: str, *options: str, environment: dict[str, str] | None = None, pass_fds: tuple[int, ...] = ()
    ) -> None:
        self.folder_owner = tempfile.TemporaryDirectory(prefix="vz-")
        self.folder = pathlib.Path(self.folder_owner.name)
        self.socket = self.folder / "api"
        self.event_file = self.folder / "events"
        self.errors = self.folder / "stderr"
        command = [program, "--api-socket", str(self.socket), "--event-file", str(self.event_file), *options]
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                command,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
                pass_fds=pass_fds,
            )
        wait_for("the helper's socket", lambda: self.process.poll() is not None or self.listens())

    def listens(self) -> bool:
        try:
            return self.call("GET", "vmm.ping")[0] == 200
        except OSError:
            return False

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self.folder_owner.cleanup()

    def call(self, method: str, name: str, body: Any = None) -> tuple[int, Any]:
        """Status and answer of a call."""
        text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
        connection = UnixConnection(self.socket)
        try:
            connection.request(method, f"/api/v1/{name}", body=text)
            response = connection.getresponse()
            answer = response.read().decode()
        finally:
            connection.close()
        return response.status, json.loads(answer) if answer else None

    def put(self, name: str, body: Any = None) -> None:
        """A call that must succeed."""
        status, answer = self.call("PUT", name, body)
        if status != 204:
            raise AssertionError(f"{name}: {status} {answer}; {self.errors.read_text()}")

    def info(self) -> Any:
        status, answer = self.call("GET", "vm.info")
        if status != 200:
            raise AssertionError(f"vm.info: {status} {answer}")
        return answer

    def state(self) -> str:
        return str(self.info()["state"])

    def events(self) -> list[Any]:
        return [json.loads(line) for line in self.event_file.read_text().splitlines()]

    def event_names(self) -> list[str]:
        return [event["event"] for event in self.events()]

    def qemus(self) -> list[int]:
        """Process numbers of the helper's children."""
        children = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self.process.pid and fields[0] != "Z":
                children.append(int(entry.name))
        return children
