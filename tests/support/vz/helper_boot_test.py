#!/usr/bin/env python3
"""A whole guest, the image `tiny`, over the stand-in of the framework: what it prints comes by its virtio console."""

import fcntl
import json
import os
import pathlib
import socket
import struct
import subprocess
import tempfile
import unittest

from helper_process import Helper, wait_for
from helper_test_case import HelperTestCase


def image_folder() -> pathlib.Path:
    home = os.environ.get("VMTEST_HOME")
    data = (
        pathlib.Path(home)
        if home
        else pathlib.Path(os.environ.get("XDG_DATA_HOME", pathlib.Path.home() / ".local/share")) / "vmtest"
    )
    return data / "images/tiny-x86_64"


IMAGE = image_folder()


def may_make_taps() -> bool:
    """Whether this user may make the network devices that the stand-in's NAT is made of; tried."""
    tun_set_interface, tap_without_header = 0x400454CA, 0x1002
    try:
        with open("/dev/net/tun", "r+b", buffering=0) as tun:
            fcntl.ioctl(tun, tun_set_interface, struct.pack("16sH14x", b"vmtest%d", tap_without_header))
        return True
    except OSError:
        return False


@unittest.skipUnless((IMAGE / "manifest.json").exists(), "needs the image: vmtest image build tiny")
class BootTest(HelperTestCase):
    def tiny(self, helper: Helper, **more: object) -> dict[str, object]:
        manifest = json.loads((IMAGE / "manifest.json").read_text())
        disk = helper.folder / "disk"
        if not disk.exists():
            command = ["qemu-img", "convert", "-O", "raw", str(IMAGE / manifest["disk"]), str(disk)]
            subprocess.run(command, check=True, timeout=300)
        return {
            "boot_loader": {
                "type": "linux",
                "kernel": str(IMAGE / manifest["kernel"]),
                "initramfs": str(IMAGE / manifest["initramfs"]),
                "command_line": manifest["command_line"].replace("console=ttyS0", "console=hvc0"),
            },
            "cpus": 1,
            "memory_mib": 256,
            "disks": [{"image": str(disk), "id": "root"}],
            "serial": {"type": "socket", "socket": str(helper.folder / "console"), "log": str(helper.folder / "log")},
            **more,
        }

    def ask(self, agent: socket.socket, name: str) -> object:
        """Pings the guest's agent."""
        agent.sendall(json.dumps({"id": name, "op": "ping"}).encode() + b"\n")
        return json.loads(agent.makefile().readline())

    def await_text(self, helper: Helper, text: str) -> None:
        log = helper.folder / "log"
        wait_for(text, lambda: text in log.read_text(errors="replace"), 300)

    def test_boots_to_its_marker_and_goes_on_from_a_saved_state(self) -> None:
        helper = self.start("--stay")
        port = helper.folder / "agent"
        nics = [{"type": "nat", "mac": "52:54:00:00:00:07"}]
        config = self.tiny(helper, nics=nics, console_ports=[{"name": "org.vmtest.agent", "socket": str(port)}])
        helper.put("vm.create", config)
        helper.put("vm.boot")
        self.await_text(helper, "VMRS_READY 10.0.2.15")
        agent = socket.socket(socket.AF_UNIX)
        self.addCleanup(agent.close)
        agent.settimeout(120)
        agent.connect(str(port))
        self.assertEqual(self.ask(agent, "1"), {"id": "1", "ok": True})
        helper.put("vm.pause")
        state = {"path": str(helper.folder / "state")}
        helper.put("vm.save", state)
        helper.put("vm.stop")
        helper.put("vm.restore", state)
        helper.put("vm.resume")
        # The same guest, and the same connection to it.
        self.assertEqual(self.ask(agent, "2"), {"id": "2", "ok": True})
        helper.put("vm.power-button")
        wait_for("the guest's end", lambda: "guest-stopped" in helper.event_names(), 120)
        self.assertEqual(helper.state(), "Stopped")

    def test_reaches_agent_shell_and_ssh_from_the_host(self) -> None:
        if not may_make_taps():
            self.skipTest("this user may make no TAP, which the stand-in's NAT is")
        with tempfile.NamedTemporaryFile(prefix="leases-", delete=False) as leases:
            self.addCleanup(os.unlink, leases.name)
        helper = self.start("--stay", environment={"VMTEST_SIM_VZ_LEASES": leases.name})
        path = helper.folder / "vsock"
        nics = [{"type": "nat", "mac": "52:54:00:12:34:56"}]
        config = self.tiny(helper, nics=nics, vsock={"socket": str(path)})
        boot_loader = dict(config["boot_loader"])  # type: ignore[call-overload]
        config["boot_loader"] = {**boot_loader, "command_line": boot_loader["command_line"] + " vmtest.shell=1"}
        helper.put("vm.create", config)
        helper.put("vm.boot")
        self.await_text(helper, "VMRS_READY 198.")
        agent = socket.socket(socket.AF_UNIX)
        self.addCleanup(agent.close)
        agent.settimeout(120)
        agent.connect(str(path))
        agent.sendall(b"CONNECT 5252\n")
        self.assertEqual(agent.recv(8), b"OK 1024\n")
        self.assertEqual(self.ask(agent, "1"), {"id": "1", "ok": True})
        console = socket.socket(socket.AF_UNIX)
        self.addCleanup(console.close)
        console.connect(str(helper.folder / "console"))
        console.sendall(b"echo got-$((6 * 7))\n")
        self.await_text(helper, "got-42")
        entries = pathlib.Path(leases.name).read_text()
        self.assertIn("hw_address=1,52:54:0:12:34:56\n", entries)
        address = entries.split("ip_address=")[1].split("\n")[0]
        with socket.create_connection((address, 22), 120) as ssh:
            ssh.settimeout(120)
            self.assertEqual(ssh.recv(4), b"SSH-")

    def test_sends_frames_to_a_switch_and_text_to_a_client(self) -> None:
        helper = self.start()
        switch = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(switch.close)
        switch.bind(str(helper.folder / "switch"))
        switch.settimeout(300)
        nics = [
            {
                "type": "socket",
                "local": str(helper.folder / "nic"),
                "remote": str(helper.folder / "switch"),
                "mac": "52:54:00:00:00:08",
            }
        ]
        helper.put("vm.create", self.tiny(helper, nics=nics))
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.connect(str(helper.folder / "console"))
        client.settimeout(300)
        helper.put("vm.boot")
        self.assertEqual(switch.recv(65536)[6:12].hex(":"), "52:54:00:00:00:08")
        text = b""
        while b"VMTEST_FAILED" not in text and b"VMRS_READY" not in text:
            more = client.recv(65536)
            self.assertTrue(more, text)
            text += more


if __name__ == "__main__":
    unittest.main()
