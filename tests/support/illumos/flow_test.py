#!/usr/bin/python3
"""A back end's whole way: image, clone, VNIC, zone, server, instance, and everything gone again."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import unittest
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True

from commands_test import HERE, CommandTest  # noqa: E402

SERVER = HERE.parent / "propolis" / "propolis-server"
FIRMWARE = "/usr/share/ovmf/OVMF.fd"
DEADLINE_SECONDS = 60.0


def alive(pid: int) -> bool:
    """A process that somebody has yet to reap is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class FlowTest(CommandTest):
    def setUp(self) -> None:
        super().setUp()
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.environment["VMTEST_SIM_PROPOLIS_NET"] = f"user:{found.getsockname()[1]}"
        self.environment["VMTEST_ILLUMOS_PROPOLIS"] = f"{SERVER} run {FIRMWARE} 127.0.0.1:{self.port}"
        self.environment["VMTEST_ILLUMOS_OWNER"] = str(os.getpid())

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status 0 while nobody listens."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"api-version": "5.0.0", "content-type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as reply:
                text = reply.read()
                return reply.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except (urllib.error.URLError, ConnectionError):
            return 0, None

    def await_status(self, status: int) -> None:
        end = time.monotonic() + DEADLINE_SECONDS
        while (found := self.request("GET", "/instance")[0]) != status:
            self.assertLess(time.monotonic(), end, f"status {status}, not {found}")
            time.sleep(0.02)

    def keeper(self, zone: str = "t1") -> int:
        pid: int = json.loads((self.state / "state.json").read_text())["zones"][zone]["process"]["pid"]
        return pid

    def make_zone(self) -> None:
        self.make_image()
        self.do("zfs", "clone", "rpool/images/tiny@latest", "rpool/vms/t1")
        self.do("dladm", "create-vnic", "-t", "-l", "igb0", "-m", "2:8:20:a:b:c", "vnic_t10")
        volume = "/dev/zvol/rdsk/rpool/vms/t1"
        self.configure(more=f"add net; set physical=vnic_t10; end; add device; set match={volume}; end;")
        self.do("zoneadm", "-z", "t1", "install")

    def ensure_body(self) -> dict[str, Any]:
        def part(kind: str, **fields: Any) -> dict[str, Any]:
            return {"type": kind, "component": fields}

        def at(device: int) -> dict[str, int]:
            return {"bus": 0, "device": device, "function": 0}

        metadata: dict[str, Any] = {n: str(uuid.uuid4()) for n in ("project_id", "silo_id", "sled_id")}
        metadata |= {"sled_model": "none", "sled_revision": 0, "sled_serial": "none"}
        volume = "/dev/zvol/rdsk/rpool/vms/t1"
        seed = base64.b64encode(bytes(2048)).decode()
        components = {
            "disk0": part("virtio_disk", backend_id="disk0-be", pci_path=at(16)),
            "disk0-be": part("file_storage_backend", path=volume, block_size=512, readonly=False),
            "seed": part("virtio_disk", backend_id="seed-be", pci_path=at(24)),
            "seed-be": part("blob_storage_backend", base64=seed, readonly=True),
            "net0": part("virtio_nic", backend_id="net0-be", interface_id=str(uuid.uuid4()), pci_path=at(8)),
            "net0-be": part("virtio_network_backend", vnic_name="vnic_t10"),
            "com1": part("serial_port", num="com1"),
            "boot": part("boot_settings", order=[{"id": "disk0"}]),
        }
        board = {"cpus": 1, "memory_mb": 128, "chipset": {"type": "i440_fx", "value": {"enable_pcie": False}}}
        return {
            "properties": {"id": str(uuid.uuid4()), "name": "t1", "description": "", "metadata": metadata},
            "init": {"method": "Spec", "value": {"spec": {"board": board, "components": components}}},
        }

    def test_the_whole_way(self) -> None:
        self.make_zone()
        self.do("zoneadm", "-z", "t1", "boot")
        self.addCleanup(self.call, "zoneadm", "-z", "t1", "halt")
        keeper = self.keeper()
        self.assertEqual(self.state_of(), "running")
        self.await_status(424)
        status, reply = self.request("PUT", "/instance", self.ensure_body())
        log = (self.state / "zones" / "t1.log").read_text()
        self.assertEqual(status, 201, log)
        self.assertIn("mac=02:08:20:0a:0b:0c", log, "the guest has its VNIC's address")
        self.assertEqual(self.request("PUT", "/instance/state", "Run")[0], 204)
        server = children(keeper)[0]
        guest = children(server)[0]
        self.refused("cannot destroy 'rpool/vms/t1': dataset is busy", "zfs", "destroy", "-r", "rpool/vms/t1")
        self.assertEqual(self.request("PUT", "/instance/state", "Stop")[0], 204)
        self.do("zoneadm", "-z", "t1", "halt")
        self.assertEqual([pid for pid in (keeper, server, guest) if alive(pid)], [])
        self.assertEqual(self.request("GET", "/instance")[0], 0)
        self.do("zoneadm", "-z", "t1", "uninstall", "-F")
        self.do("zonecfg", "-z", "t1", "delete", "-F")
        self.do("dladm", "delete-vnic", "vnic_t10")
        self.do("zfs", "destroy", "-r", "rpool/vms/t1")

    def test_halt_ends_a_guest_that_runs(self) -> None:
        self.make_zone()
        self.do("zoneadm", "-z", "t1", "boot")
        self.addCleanup(self.call, "zoneadm", "-z", "t1", "halt")
        self.await_status(424)
        self.assertEqual(self.request("PUT", "/instance", self.ensure_body())[0], 201)
        server = children(self.keeper())[0]
        guest = children(server)[0]
        self.do("zoneadm", "-z", "t1", "halt")
        self.assertEqual([pid for pid in (server, guest) if alive(pid)], [])
        self.do("zoneadm", "-z", "t1", "boot")
        self.await_status(424)

    def test_a_server_that_dies_leaves_its_zone_running(self) -> None:
        self.make_zone()
        self.do("zoneadm", "-z", "t1", "boot")
        self.addCleanup(self.call, "zoneadm", "-z", "t1", "halt")
        self.await_status(424)
        os.kill(children(self.keeper())[0], signal.SIGKILL)
        self.await_status(0)
        self.assertEqual(self.state_of(), "running")
        self.do("zoneadm", "-z", "t1", "halt")

    def test_a_server_goes_with_its_owner(self) -> None:
        self.make_zone()
        with subprocess.Popen(["sleep", "60"]) as owner:
            self.do("zoneadm", "-z", "t1", "boot", VMTEST_ILLUMOS_OWNER=str(owner.pid))
            self.addCleanup(self.call, "zoneadm", "-z", "t1", "halt")
            self.await_status(424)
            owner.kill()
            owner.wait()
            self.await_status(0)

    def test_an_instance_needs_its_vnic(self) -> None:
        self.make_zone()
        self.do("zoneadm", "-z", "t1", "boot")
        self.addCleanup(self.call, "zoneadm", "-z", "t1", "halt")
        self.await_status(424)
        body = self.ensure_body()
        body["init"]["value"]["spec"]["components"]["net0-be"]["component"]["vnic_name"] = "vnic_t9"
        self.assertEqual(self.request("PUT", "/instance", body)[0], 500)
        self.assertIn("no VNIC 'vnic_t9'", (self.state / "zones" / "t1.log").read_text())


if __name__ == "__main__":
    unittest.main()
