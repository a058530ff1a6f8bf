#!/usr/bin/env python3
"""The VZ helper on each of the systems that the framework is on, over its stand-in."""

import os
import socket
import unittest
from typing import Any

from helper_process import Helper
from helper_test_case import ARM64, X86_64, HelperTestCase

HAS_FIRMWARE = os.path.exists("/usr/share/OVMF/OVMF_VARS_4M.fd")


class OlderSystemTest(HelperTestCase):
    """On each system a VM with all that it offers. The stand-in ends its process when it is asked for what came
    later."""

    def offered(self, helper: Helper) -> set[str]:
        status, answer = helper.call("GET", "host.capabilities")
        self.assertEqual(status, 200)
        return {name for name, feature in answer["features"].items() if feature["supported"]}

    def devices(self, helper: Helper, offered: set[str]) -> dict[str, Any]:
        """What the system offers and the stand-in's machine can have."""
        kinds = (("nvme", "nvme"), ("usb", "usb-disk"))
        modes = {"caching": "uncached"} if "disk-modes" in offered else {}
        disks = [{"image": self.disk(helper), "id": "root", **modes}]
        disks += [{"type": kind, "image": self.disk(helper, kind)} for kind, feature in kinds if feature in offered]
        config: dict[str, Any] = {"disks": disks, "nics": [{"type": "nat", "mac": "52:54:00:00:00:01"}]}
        more: dict[str, dict[str, Any]] = {
            "machine-identifier": {
                "platform": {"type": "generic", "machine_identifier": str(helper.folder / "identifier")}
            },
            "console-ports": {"console_ports": [{"name": "port", "socket": str(helper.folder / "port")}]},
            "balloon": {"balloon": True},
            "vsock": {"vsock": {"socket": str(helper.folder / "vsock"), "listen_ports": [7]}},
            "graphics": {"graphics": {"type": "virtio"}},
            "audio": {"audio": {"input": True}},
            "usb-keyboard": {"keyboard": "usb"},
            "usb-pointing": {"pointing": "usb"},
            "usb-hotplug": {"usb_controller": True},
        }
        for feature in sorted(offered & set(more)):
            config |= more[feature]
        return config

    def try_all(self, version: str, program: str = ARM64) -> set[str]:
        """What was offered and did not end the process."""
        helper = self.start("--stay", program=program, environment={"VMTEST_SIM_VZ_OS_VERSION": version})
        offered = self.offered(helper)
        shares = [
            {"type": "single", "tag": "one", "path": "/tmp"},
            {"type": "multiple", "tag": "two", "directories": {"a": {"path": "/tmp"}}},
        ]
        created = {
            "directory-share": self.vm(helper, shares=shares),
            "nic-mtu": self.vm(helper, nics=[self.switch(helper)]),
            "efi-boot": {
                **self.vm(helper),
                "boot_loader": {"type": "efi", "variable_store": str(helper.folder / "variables")},
            },
            "macos-boot": self.mac(helper, offered),
        }
        for feature in sorted(offered & set(created)):
            helper.put("vm.create", created[feature])
            helper.info()
            helper.put("vm.delete")
        helper.put("vm.create", self.vm(helper, **self.devices(helper, offered)))
        helper.put("vm.boot")
        helper.put("vm.pause")
        helper.put("vm.resume")
        self.assertEqual(helper.info()["can"]["stop"], "forced-stop" in offered)
        for feature, call, body in (
            ("usb-hotplug", "vm.attach-usb-disk", {"image": self.disk(helper, "plugged"), "id": "plugged"}),
            ("forced-stop", "vm.stop", None),
        ):
            if feature in offered:
                helper.put(call, body)
        helper.put("vmm.shutdown")
        self.assertEqual(helper.process.wait(60), 0, helper.errors.read_text())
        return offered

    def switch(self, helper: Helper) -> dict[str, Any]:
        """A network card that is connected to a socket, with frames of a size of its own."""
        remote = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(remote.close)
        remote.bind(str(helper.folder / "switch"))
        paths = {"local": str(helper.folder / "nic"), "remote": str(helper.folder / "switch")}
        return {"type": "socket", "mtu": 9000, **paths}

    def mac(self, helper: Helper, offered: set[str]) -> dict[str, Any]:
        files = {
            name: self.disk(helper, name) for name in ("hardware_model", "machine_identifier", "auxiliary_storage")
        }
        return {
            "boot_loader": {"type": "macos"},
            "platform": {"type": "mac", **files},
            "cpus": 2,
            "memory_mib": 4096,
            "graphics": {"type": "mac"},
            "keyboard": "mac" if "mac-keyboard" in offered else "usb",
            "pointing": "mac-trackpad" if "mac-trackpad" in offered else "usb",
        }

    def test_macos_11(self) -> None:
        self.assertNotIn("forced-stop", self.try_all("11.0"))

    def test_macos_12(self) -> None:
        self.assertLessEqual({"macos-boot", "disk-modes", "directory-share", "audio"}, self.try_all("12.0"))

    def test_macos_12_3(self) -> None:
        self.assertNotIn("machine-identifier", self.try_all("12.3"))

    @unittest.skipUnless(HAS_FIRMWARE, "needs Debian's ovmf")
    def test_macos_13(self) -> None:
        self.assertLessEqual({"efi-boot", "console-ports", "graphics", "mac-trackpad"}, self.try_all("13.0"))

    @unittest.skipUnless(HAS_FIRMWARE, "needs Debian's ovmf")
    def test_macos_14(self) -> None:
        self.assertLessEqual({"nvme", "save-restore", "mac-keyboard"}, self.try_all("14.0"))

    @unittest.skipUnless(HAS_FIRMWARE, "needs Debian's ovmf")
    def test_macos_15(self) -> None:
        self.assertIn("usb-hotplug", self.try_all("15.0"))

    @unittest.skipUnless(HAS_FIRMWARE, "needs Debian's ovmf")
    def test_macos_15_on_intel(self) -> None:
        offered = self.try_all("15.0", X86_64)
        self.assertEqual(offered & {"save-restore", "macos-boot", "rosetta-share"}, set())


if __name__ == "__main__":
    unittest.main()
