#!/usr/bin/env python3
"""Disks of the VZ helper's VMs as the framework is asked for them, over its stand-in."""

import pathlib
import tempfile
import unittest

from helper_process import Helper
from helper_test_case import HelperTestCase


class DiskModeTest(HelperTestCase):
    """What the framework is asked for, in its own numbers: caching automatic 0, uncached 1, cached 2; synchronization
    full 1, fsync 2, none 3."""

    def setUp(self) -> None:
        owner = tempfile.TemporaryDirectory(prefix="vz-disks-")
        self.addCleanup(owner.cleanup)
        self.log = pathlib.Path(owner.name) / "log"

    def start_logged(self, version: str = "15.0") -> Helper:
        return self.start(
            environment={"VMTEST_SIM_VZ_OS_VERSION": version, "VMTEST_SIM_VZ_DISK_LOG": str(self.log)},
        )

    def asked(self, helper: Helper) -> list[str]:
        """The log's lines without the images' folder."""
        return self.log.read_text().replace(f"{helper.folder}/", "").splitlines()

    def test_every_pair_of_modes_is_asked_for(self) -> None:
        helper = self.start_logged()
        image = self.disk(helper)
        disks = [
            {"image": image, "caching": caching, "synchronization": synchronization}
            for caching in ("automatic", "uncached", "cached")
            for synchronization in ("full", "fsync", "none")
        ]
        helper.put("vm.create", self.vm(helper, disks=disks))
        device = "VZVirtioBlockDeviceConfiguration disk"
        wanted = [f"{device} caching {caching} synchronization {sync}" for caching in (0, 1, 2) for sync in (1, 2, 3)]
        self.assertEqual(self.asked(helper), wanted)

    def test_every_kind_of_device_has_them(self) -> None:
        helper = self.start_logged()
        disks = [
            {"type": kind, "image": self.disk(helper, kind), "caching": "uncached", "synchronization": "full"}
            for kind in ("virtio-blk", "nvme", "usb")
        ]
        helper.put("vm.create", self.vm(helper, disks=disks))
        modes = "caching 1 synchronization 1"
        self.assertEqual(
            self.asked(helper),
            [
                f"VZVirtioBlockDeviceConfiguration virtio-blk {modes}",
                f"VZNVMExpressControllerDeviceConfiguration nvme {modes}",
                f"VZUSBMassStorageDeviceConfiguration usb {modes}",
            ],
        )

    def test_cached_and_fsync_is_what_nobody_asks_for(self) -> None:
        helper = self.start_logged()
        disks = [{"type": "nvme", "image": self.disk(helper), "read_only": True}]
        helper.put("vm.create", self.vm(helper, disks=disks, usb_controller=True))
        helper.put("vm.boot")
        helper.put("vm.attach-usb-disk", {"image": self.disk(helper, "extra"), "id": "extra"})
        self.assertEqual(
            self.asked(helper),
            [
                "VZNVMExpressControllerDeviceConfiguration disk caching 2 synchronization 2 read-only",
                "VZUSBMassStorageDeviceConfiguration extra caching 2 synchronization 2",
            ],
        )

    def test_a_system_without_modes_has_its_own(self) -> None:
        helper = self.start_logged("11.7")
        image = self.disk(helper)
        disks = [{"image": image, "caching": "uncached"}]
        self.refused(helper, 501, "vm.create", self.vm(helper, disks=disks), saying="disk-modes needs macOS 12.0")
        helper.put("vm.create", self.vm(helper, disks=[{"image": image}]))
        self.assertEqual(self.asked(helper), ["VZVirtioBlockDeviceConfiguration disk caching 0 synchronization 1"])

    def test_a_mode_that_does_not_exist_is_named_with_those_that_do(self) -> None:
        helper = self.start_logged()
        disk = {"type": "nvme", "image": self.disk(helper)}
        bad = {**disk, "caching": "writeback"}
        self.refused(
            helper,
            400,
            "vm.create",
            self.vm(helper, disks=[disk, bad]),
            saying="disks[1].caching: must be one of automatic, uncached, cached",
        )
        self.refused(
            helper,
            400,
            "vm.create",
            self.vm(helper, disks=[{**disk, "synchronization": "always"}]),
            saying="disks[0].synchronization: must be one of full, fsync, none",
        )
        self.assertFalse(self.log.exists())


if __name__ == "__main__":
    unittest.main()
