#!/usr/bin/python3
"""A Linux guest, from the firmware to its marker and its SSH server, through the simulated propolis-server alone."""

import json
import os
import re
import socket
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True

import efi_disk  # noqa: E402
from life_cycle_test import blob_disk, body_id, file_disk, free_port  # noqa: E402
from sim_client import SimulatorTest, com1, component, ensure_body, pci, wait_for  # noqa: E402

# A boot takes some twenty seconds on an idle host.
BOOT_SECONDS = 180.0
SKIPPED = 77


def image_folder(name: str) -> Path:
    """Where the image store of this user has it."""
    if "VMTEST_HOME" in os.environ:
        data = Path(os.environ["VMTEST_HOME"]) / "data"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "vmtest"
    return data / "images" / name


def manifest(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        return found
    except FileNotFoundError as error:
        raise unittest.SkipTest(f"no image {folder.name}: vmtest image build") from error


class GuestTest(SimulatorTest):
    def test_tiny_boots(self) -> None:
        tiny = image_folder("tiny-x86_64")
        found = manifest(tiny)
        # The form of its kernel that firmware loads.
        kernel = tiny / found["efi_kernel"]
        ssh = free_port()
        server = self.start(VMTEST_SIM_PROPOLIS_NET=f"user:{ssh}")
        boot, root, seed = (server.folder / name for name in ("boot.raw", "root.raw", "seed"))
        efi_disk.make(kernel, tiny / found["initramfs"], found["command_line"], boot)
        subprocess.run(["qemu-img", "convert", "-O", "raw", tiny / found["disk"], root], check=True)
        seed.mkdir()
        (seed / "meta-data").write_text(json.dumps({"instance-id": "i1", "local-hostname": "t1"}))
        user = {"hostname": "t1", "users": [{"name": "root", "ssh_authorized_keys": []}]}
        # What the seed asks for is seen on the console: the guest has read it.
        user |= {"runcmd": [["/bin/sh", "-c", "echo this is $(hostname) > /dev/console"]]}
        (seed / "user-data").write_text("#cloud-config\n" + json.dumps(user))
        iso = ["genisoimage", "-quiet", "-output", f"{seed}.iso", "-volid", "cidata", "-joliet", "-rock", str(seed)]
        subprocess.run(iso, check=True, stderr=subprocess.DEVNULL)
        components = com1() | file_disk(boot) | file_disk(root, device=17)
        components |= blob_disk(Path(f"{seed}.iso").read_bytes())
        components |= {
            "net": component("virtio_nic", backend_id="nb", interface_id=body_id(), pci_path=pci(8)),
            "nb": component("virtio_network_backend", vnic_name="vnic0"),
            "boot": component("boot_settings", order=[{"id": "disk16"}]),
        }
        reply = server.request("PUT", "/instance", ensure_body(components, memory_mb=512))
        self.assertEqual(reply.status, 201, server.log_path.read_text())
        self.assertEqual(server.put_state("Run").status, 204)
        marker = re.compile(rb"^VMRS_READY 10\.0\.2\.15\r?$", re.MULTILINE)
        wait_for(lambda: marker.search(server.console()), "the guest is ready", BOOT_SECONDS)
        self.assertIn(b"this is t1", server.console())
        with socket.create_connection(("127.0.0.1", ssh), timeout=30) as session:
            self.assertTrue(session.recv(100).startswith(b"SSH-2.0-"))
        self.assertEqual(server.put_state("Stop").status, 204)
        server.await_state("Destroyed")


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    sys.exit(1 if not result.wasSuccessful() else SKIPPED if len(result.skipped) == result.testsRun else 0)
