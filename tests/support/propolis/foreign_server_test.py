#!/usr/bin/python3
"""with_foreign_server: what its command finds, how it ends, and that nothing of it stays."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True

from sim_client import HERE, alive, ensure_body, kill, wait_for  # noqa: E402

LAUNCHER = HERE / "with_foreign_server"
# Commands are Python programs that know how to ask.
ASKING = """
import http.client, json, os, sys
address = os.environ["VMTEST_PROPOLIS"]
assert address.startswith("http://127.0.0.1:"), address
def ask(method, path, body=None):
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    connection.request(method, path, body, {"api-version": "5.0.0"})
    return connection.getresponse().status
"""


class ForeignServerTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="foreign-server-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_with(self, program: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LAUNCHER, sys.executable, "-c", ASKING + program], capture_output=True, text=True, timeout=60, check=False
        )

    def test_the_command_finds_a_server_without_an_instance(self) -> None:
        found = self.run_with("print(ask('GET', '/instance'))")
        self.assertEqual((found.returncode, found.stdout), (0, "424\n"), found.stderr)

    def test_the_server_ends_with_the_command(self) -> None:
        found = self.run_with("print(address.rpartition(':')[2])")
        with socket.socket() as caller, self.assertRaises(ConnectionRefusedError):
            caller.connect(("127.0.0.1", int(found.stdout)))

    def test_the_commands_status_is_its_own(self) -> None:
        self.assertEqual(self.run_with("sys.exit(3)").returncode, 3)
        self.assertEqual(self.run_with("os.kill(os.getpid(), 9)").returncode, 128 + signal.SIGKILL)

    def test_an_instance_that_runs_on_is_a_failure(self) -> None:
        body = json.dumps(ensure_body())
        found = self.run_with(f"print(ask('PUT', '/instance', {body!r}), ask('PUT', '/instance/state', '\"Run\"'))")
        self.assertEqual((found.returncode, found.stdout), (1, "201 204\n"), found.stderr)
        self.assertIn("an instance on the server runs on: it is Running", found.stderr)

    def test_a_stopped_instance_is_none(self) -> None:
        body = json.dumps(ensure_body())
        found = self.run_with(f"print(ask('PUT', '/instance', {body!r}), ask('PUT', '/instance/state', '\"Stop\"'))")
        self.assertEqual((found.returncode, found.stdout), (0, "201 204\n"), found.stderr)

    def test_a_server_that_is_ended_is_a_failure(self) -> None:
        # It is the launcher's other child.
        found = self.run_with(
            "children = open(f'/proc/{os.getppid()}/task/{os.getppid()}/children').read().split()\n"
            "[os.kill(int(pid), 9) for pid in children if int(pid) != os.getpid()]"
        )
        self.assertEqual(found.returncode, 1, found.stderr)
        self.assertIn("the server has not outlived the command: it ended with -9", found.stderr)

    def killed(self, number: int) -> None:
        """A launcher that gets this signal leaves neither of its children."""
        ready = self.folder / "ready"
        program = f"open({str(ready)!r}, 'w').write('ready')\nimport signal\nsignal.pause()"
        launcher = subprocess.Popen([LAUNCHER, sys.executable, "-c", ASKING + program], stderr=subprocess.DEVNULL)
        self.addCleanup(launcher.wait)
        self.addCleanup(launcher.kill)
        wait_for(lambda: ready.exists() and ready.read_text(), "the command runs")
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        self.assertEqual(len(children), 2)
        os.kill(launcher.pid, number)
        wait_for(lambda: not any(alive(int(child)) for child in children), "its children end", 10)

    def test_a_killed_launcher_leaves_nothing(self) -> None:
        self.killed(signal.SIGKILL)

    def test_a_terminated_launcher_leaves_nothing(self) -> None:
        self.killed(signal.SIGTERM)

    def test_it_dies_with_its_parent(self) -> None:
        # The parent waits for nobody, and is killed.
        pids = self.folder / "pids"
        command = f"open({str(pids)!r}, 'w').write(f'{{os.getppid()}} {{os.getpid()}}')\nimport signal\nsignal.pause()"
        starts = f"import subprocess; subprocess.Popen({[str(LAUNCHER), sys.executable, '-c', ASKING + command]!r}).wait()"
        parent = subprocess.Popen([sys.executable, "-c", starts], stderr=subprocess.DEVNULL)
        self.addCleanup(parent.wait)
        self.addCleanup(parent.kill)
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2, "the command runs")
        kill(parent.pid)
        wait_for(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()), "what it started ends", 10)

    def test_without_a_command(self) -> None:
        found = subprocess.run([LAUNCHER], capture_output=True, text=True, timeout=30, check=False)
        self.assertEqual(found.returncode, 2)
        self.assertIn("with_foreign_server COMMAND", found.stderr)


if __name__ == "__main__":
    unittest.main()
