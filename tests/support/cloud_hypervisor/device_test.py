"""Devices: added before and after the boot, removed, resized, counted; what is refused of them."""

from __future__ import annotations

import os
import socket
import subprocess
import unittest
from pathlib import Path
from typing import Any

from simulated import Simulator, SimulatorTest, wait_for

BDF = r"^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$"
MIB = 1 << 20


class AddTest(SimulatorTest):
    def assertAdded(self, answer: tuple[int, Any], device_id: str) -> None:
        self.assertEqual(answer[0], 200, answer)
        self.assertEqual(answer[1]["id"], device_id)
        self.assertRegex(answer[1]["bdf"], BDF)

    def names(self, simulator: Simulator, kind: str) -> list[str | None]:
        return [device.get("id") for device in simulator.get("vm.info")[1]["config"].get(kind, [])]

    def testBeforeBootOnlyTheConfigurationChanges(self) -> None:
        simulator = self.start()
        self.assertAnswer(204, simulator.put("vm.create", self.config()))
        self.assertAnswer(204, simulator.put("vm.add-disk", {"path": self.make_disk("a"), "id": "a"}))
        self.assertAnswer(204, simulator.put("vm.add-pmem", {"file": self.make_disk("p", 4 * MIB)}))
        self.assertAnswer(204, simulator.put("vm.add-vsock", {"cid": 3, "socket": str(self.folder / "v")}))
        self.assertEqual(self.names(simulator, "disks"), ["a"])
        self.assertAnswer(204, simulator.put("vm.boot"))
        self.assertEqual(self.names(simulator, "pmem"), ["_pmem0"])
        self.assertEqual(simulator.get("vm.info")[1]["config"]["vsock"]["id"], "_vsock1")

    def testNamesAreCountedOverAllKinds(self) -> None:
        disks = [{"path": self.make_disk("a")}, {"path": self.make_disk("b"), "id": "_disk1"}]
        simulator = self.started_vm(config=self.config(disks=disks, net=[{}]))
        self.assertEqual(self.names(simulator, "disks"), ["_disk0", "_disk1"])
        self.assertEqual(self.names(simulator, "net"), ["_net1"])
        self.assertEqual(set(simulator.get("vm.counters")[1]), {"_disk0", "_disk1", "_net1"})

    def testAfterBootEveryKindIsPluggedIn(self) -> None:
        simulator = self.started_vm()
        self.assertAdded(simulator.put("vm.add-disk", {"path": self.make_disk("a"), "image_type": "Raw"}), "_disk0")
        self.assertAdded(simulator.put("vm.add-net", {"id": "n"}), "n")
        self.assertAdded(simulator.put("vm.add-pmem", {"file": self.make_disk("p", 4 * MIB)}), "_pmem1")
        self.assertAdded(simulator.put("vm.add-vsock", {"cid": 3, "socket": str(self.folder / "v")}), "_vsock2")
        tree = simulator.get("vm.info")[1]["device_tree"]
        self.assertEqual(set(tree), {"__rng", "_disk0", "n", "_pmem1", "_vsock2"})

    def testDuplicateIdentifiersConflict(self) -> None:
        disk = {"path": self.make_disk("a"), "id": "x"}
        simulator = self.started_vm(config=self.config(disks=[disk]))
        for path, body in (
            ("vm.add-disk", {"path": self.make_disk("b"), "id": "x"}),
            ("vm.add-net", {"id": "x"}),
            ("vm.add-pmem", {"file": self.make_disk("p", 4 * MIB), "id": "x"}),
            ("vm.add-vsock", {"cid": 3, "socket": "/s", "id": "x"}),
            ("vm.add-vdpa", {"path": "/v", "num_queues": 1, "id": "x"}),
            ("vm.add-device", {"path": "/d", "id": "x"}),
        ):
            with self.subTest(path):
                self.assertAnswer(409, simulator.put(path, body), "Identifier x is not unique")

    def testInvalidDevicesAreBadRequests(self) -> None:
        simulator = self.started_vm()
        fs = {"tag": "t", "socket": "/s", "num_queues": 1, "queue_size": 512}
        for path, body, words in (
            ("vm.add-disk", {"path": "/a", "id": "__x"}, "Identifier __x is not valid"),
            ("vm.add-disk", {"path": "/a", "num_queues": 2}, "Queue count (2) must not exceed boot vCPUs (1)"),
            ("vm.add-net", {"mtu": 100}, "Provided MTU 100 is lower than 1280 (expected by VIRTIO specification)"),
            ("vm.add-fs", fs, "Using vhost-user requires using shared memory or huge pages"),
            ("vm.add-vsock", {"cid": 1, "socket": "/s"}, "1 is a special VSOCK CID"),
            (
                "vm.add-user-device",
                {"socket": "/s"},
                "Using user devices requires using shared memory or huge pages",
            ),
            ("vm.add-device", {}, "VFIO device config must specify `path=` or `fd=`"),
        ):
            with self.subTest(path=path, body=body):
                self.assertAnswer(400, simulator.put(path, body), words)

    def testDevicesThatAreNotThereAreRefused(self) -> None:
        simulator = self.started_vm(config=self.config(memory={"size": 64 * MIB, "shared": True}))
        gone = "No such file or directory (os error 2)"
        queues = {"num_queues": 1, "queue_size": 512}
        for path, body in (
            ("vm.add-disk", {"path": "/none/disk"}),
            ("vm.add-fs", {"tag": "t", "socket": "/none/fs"} | queues),
            ("vm.add-pmem", {"file": "/none/pmem"}),
            ("vm.add-vsock", {"cid": 3, "socket": "/none/vsock"}),
            ("vm.add-vdpa", {"path": "/none/vdpa", "num_queues": 1}),
            ("vm.add-device", {"path": "/none/device"}),
            ("vm.add-user-device", {"socket": "/none/user"}),
            ("vm.add-generic-vhost-user", {"socket": "/none/generic", "queue_sizes": [8], "device_type": 26}),
        ):
            with self.subTest(path):
                answer = simulator.put(path, body)
                self.assertAnswer(500, answer, gone)
                self.assertEqual(answer[1][2], "Error from device manager")
        self.assertEqual(set(simulator.get("vm.info")[1]["device_tree"]), {"__rng"})

    def testSecondVsockIsRefused(self) -> None:
        vsock = {"cid": 3, "socket": str(self.folder / "v")}
        simulator = self.started_vm(config=self.config(vsock=vsock))
        self.assertAnswer(500, simulator.put("vm.add-vsock", vsock), "Too many virtio-vsock devices")

    def testLockedImageIsNotAdded(self) -> None:
        disk = {"path": self.make_disk("a"), "image_type": "Raw"}
        self.started_vm(config=self.config(disks=[disk]))
        second = Simulator(self.folder, name="2")
        self.addCleanup(second.close)
        self.assertAnswer(204, second.put("vm.create", self.config()))
        self.assertAnswer(204, second.put("vm.boot"))
        answer = second.put("vm.add-disk", disk)
        self.assertAnswer(500, answer, "The file is already locked")
        self.assertEqual(answer[1][3], "Cannot lock images of all block devices")

    def testRemovalOfUnknownAndFixedDevices(self) -> None:
        simulator = self.started_vm(config=self.config(balloon={"size": 0}))
        self.assertAnswer(
            404,
            simulator.put("vm.remove-device", {"id": "none"}),
            "Failed to find device corresponding to the given identifier: none",
        )
        for device_id, shown in (("__rng", "rng"), ("__balloon", "balloon")):
            self.assertAnswer(
                500,
                simulator.put("vm.remove-device", {"id": device_id}),
                f"Not allowed to remove this type of device from the VM: {shown}",
            )

    def testRemovalTakesTheDeviceOutOfTheConfigurationAtOnce(self) -> None:
        disk = {"path": self.make_disk("a"), "id": "a", "image_type": "Raw"}
        simulator = self.started_vm(config=self.config(disks=[disk]))
        self.assertAnswer(204, simulator.put("vm.remove-device", {"id": "a"}))
        self.assertEqual(simulator.get("vm.info")[1]["config"]["disks"], [])
        # The guest halts and never lets go: the identifier stays taken.
        self.assertAnswer(500, simulator.put("vm.add-disk", disk), "Invalid identifier as it is not unique: a")


class DiskTest(SimulatorTest):
    def booted(self, **disk: Any) -> tuple[int, Any]:
        simulator = self.start()
        self.assertAnswer(204, simulator.put("vm.create", self.config(disks=[disk])))
        self.simulator = simulator
        return simulator.put("vm.boot")

    def qcow2(self, name: str, backing: str | None = None) -> str:
        path = str(self.folder / name)
        base = ["-b", backing, "-F", "raw"] if backing else ["1M"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, *base[:3], *base[3:]], check=True)
        return path

    def testUnnamedTypeIsDetectedAndKept(self) -> None:
        self.assertAnswer(204, self.booted(path=self.qcow2("q")))
        self.assertEqual(self.simulator.get("vm.info")[1]["config"]["disks"][0]["image_type"], "Qcow2")
        self.assertIn("auto-detection of disk image type is deprecated", self.simulator.error_text())

    def testNamedTypeMustBeTheOneFound(self) -> None:
        self.assertAnswer(
            500,
            self.booted(path=self.qcow2("q"), image_type="Raw"),
            "Disk image type does not match expected type: specified = raw, detected = qcow2",
        )

    def testBackingFileMustBeAllowed(self) -> None:
        overlay = self.qcow2("overlay", self.make_disk("base"))
        answer = self.booted(path=overlay, image_type="Qcow2")
        self.assertAnswer(500, answer, "Backing file support is disabled")
        self.assertEqual(answer[1][3], "Cannot open disk path")

    def testAllowedBackingFileIsUsed(self) -> None:
        overlay = self.qcow2("overlay", self.make_disk("base"))
        self.assertAnswer(204, self.booted(path=overlay, image_type="Qcow2", backing_files=True))

    def testAllowedBackingFileOfADetectedTypeIsForgotten(self) -> None:
        overlay = self.qcow2("overlay", self.make_disk("base"))
        self.assertAnswer(204, self.booted(path=overlay, backing_files=True))
        disk = self.simulator.get("vm.info")[1]["config"]["disks"][0]
        self.assertFalse(disk["backing_files"])
        self.assertAnswer(500, self.simulator.put("vm.reboot"), "Backing file support is disabled")

    def testRawImageGrows(self) -> None:
        path = self.make_disk("a")
        self.assertAnswer(204, self.booted(path=path, image_type="Raw", id="a"))
        self.assertAnswer(204, self.simulator.put("vm.resize-disk", {"id": "a", "desired_size": 2 * MIB}))
        self.assertEqual(os.path.getsize(path), 2 * MIB)
        self.assertAnswer(
            500,
            self.simulator.put("vm.resize-disk", {"id": "a", "desired_size": 1000}),
            "Disk image size is not a multiple of 512",
        )
        self.assertAnswer(
            404,
            self.simulator.put("vm.resize-disk", {"id": "b", "desired_size": 512}),
            "Failed to find device corresponding to the given identifier: b",
        )

    def testCountersOfAnUnusedDisk(self) -> None:
        self.assertAnswer(204, self.booted(path=self.make_disk("a"), image_type="Raw", id="a"))
        counters = self.simulator.get("vm.counters")[1]["a"]
        self.assertEqual((counters["write_bytes"], counters["write_ops"]), (0, 0))
        self.assertEqual(counters["write_latency_min"], (1 << 64) - 1)

    def testLimitedDiskBoots(self) -> None:
        bucket = {"size": MIB, "refill_time": 1000}
        self.assertAnswer(
            204,
            self.booted(
                path=self.make_disk("a"), image_type="Raw", rate_limiter_config={"bandwidth": bucket, "ops": bucket}
            ),
        )


class NetTest(SimulatorTest):
    def setUp(self) -> None:
        super().setUp()
        if not os.access("/dev/net/tun", os.W_OK):
            self.skipTest("/dev/net/tun cannot be opened")

    def interfaces(self) -> set[str]:
        return {path.name for path in Path("/sys/class/net").iterdir()}

    def testNamedTapIsMadeAndGoes(self) -> None:
        name = f"vmt{os.getpid() % 100000}"
        net = {"tap": name, "ip": "198.18.78.1", "mask": "255.255.255.0", "mac": "02:00:00:00:00:01"}
        simulator = self.started_vm(config=self.config(net=[net]))
        self.assertIn(name, self.interfaces())
        flags = int(Path(f"/sys/class/net/{name}/flags").read_text(), 16)
        self.assertTrue(flags & 1, "not up")
        counters = simulator.get("vm.counters")[1]["_net0"]
        self.assertEqual(set(counters), {"rx_bytes", "rx_frames", "tx_bytes", "tx_frames"})
        self.assertAnswer(204, simulator.put("vm.shutdown"))
        wait_for(lambda: name not in self.interfaces(), "the end of the interface")

    def testUnnamedTapIsNumbered(self) -> None:
        before = self.interfaces()
        simulator = self.started_vm(config=self.config(net=[{}]))
        (new,) = self.interfaces() - before
        self.assertRegex(new, r"^vmtap\d+$")
        self.assertRegex(simulator.get("vm.info")[1]["config"]["net"][0]["mac"], r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")

    def testTapInUseIsRefused(self) -> None:
        name = f"vmu{os.getpid() % 100000}"
        self.started_vm(config=self.config(net=[{"tap": name}]))
        second = Simulator(self.folder, name="2")
        self.addCleanup(second.close)
        self.assertAnswer(204, second.put("vm.create", self.config(net=[{"tap": name}])))
        self.assertAnswer(
            500,
            second.put("vm.boot"),
            "Cannot create virtio-net device",
            "Failed to open taps",
            "Open tap device failed",
            "Unable to configure tap interface",
            "Device or resource busy (os error 16)",
        )

    def testTooLongNameIsRefused(self) -> None:
        simulator = self.start()
        self.assertAnswer(204, simulator.put("vm.create", self.config(net=[{"tap": "sixteencharacter"}])))
        answer = simulator.put("vm.boot")
        self.assertAnswer(500, answer, "Interface name too long (max length is 15): sixteencharacter")

    def testDescriptorOfATapIsTakenWithTheRequest(self) -> None:
        from cloud_hypervisor_sim import tap

        opened = tap.open_tap({"fds": None, "tap": f"vmf{os.getpid() % 100000}", "num_queues": 2} | NO_ADDRESS)
        self.addCleanup(opened.close)
        simulator = self.started_vm()
        answer = simulator.put_with_fds("vm.add-net", {"id": "n"}, opened.fds)
        self.assertEqual(answer[0], 200, answer)
        taken = simulator.get("vm.info")[1]["config"]["net"][0]["fds"][0]
        self.assertGreater(taken, 2)
        link = f"/proc/{simulator.process.pid}/fd/{taken}"
        self.assertEqual(os.readlink(link), "/dev/net/tun")
        self.assertAnswer(204, simulator.put("vm.remove-device", {"id": "n"}))
        self.assertFalse(os.path.lexists(link))

    def testDescriptorNumbersInTheBodyDoNotCount(self) -> None:
        before = self.interfaces()
        self.started_vm(config=self.config(net=[{"fds": [7]}]))
        self.assertEqual(len(self.interfaces() - before), 1)

    def testDescriptorThatIsNoTapIsRefused(self) -> None:
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        answer = self.started_vm().put_with_fds("vm.add-net", {"id": "n"}, [theirs.fileno()])
        self.assertEqual((answer[0], answer[1][3]), (500, "Cannot create virtio-net device"))


NO_ADDRESS: dict[str, Any] = {"ip": None, "mask": None, "host_mac": None, "mtu": None}


class ResizeTest(SimulatorTest):
    def testBeforeBootTheConfigurationChanges(self) -> None:
        simulator = self.start()
        self.assertAnswer(204, simulator.put("vm.create", self.config(cpus={"boot_vcpus": 1, "max_vcpus": 2})))
        self.assertAnswer(204, simulator.put("vm.resize", {"desired_vcpus": 2, "desired_ram": 96 * MIB}))
        config = simulator.get("vm.info")[1]["config"]
        self.assertEqual((config["cpus"]["boot_vcpus"], config["memory"]["size"]), (2, 96 * MIB))

    def testProcessorsArePluggedInUpToTheMaximum(self) -> None:
        simulator = self.started_vm(config=self.config(cpus={"boot_vcpus": 1, "max_vcpus": 3}))
        self.assertAnswer(204, simulator.put("vm.resize", {"desired_vcpus": 3}))
        self.assertEqual(simulator.get("vm.info")[1]["config"]["cpus"]["boot_vcpus"], 3)
        self.assertAnswer(500, simulator.put("vm.resize", {"desired_vcpus": 4}), "Requested vCPUs exceed maximum")
        self.assertAnswer(500, simulator.put("vm.resize", {"desired_vcpus": 0}), "Requested zero vCPUs")
        self.assertEqual(simulator.events()[-3:], ["vm resized", "vm resizing", "vm resizing"])

    def testPendingRemovalOfAProcessorIsTooManyRequests(self) -> None:
        simulator = self.started_vm(config=self.config(cpus={"boot_vcpus": 2, "max_vcpus": 2}))
        self.assertAnswer(204, simulator.put("vm.resize", {"desired_vcpus": 1}))
        self.assertEqual(simulator.put("vm.resize", {"desired_vcpus": 2}), (429, ["Too Many Requests"]))

    def testMemoryByAcpi(self) -> None:
        memory = {"size": 128 * MIB, "hotplug_size": 256 * MIB}
        simulator = self.started_vm(config=self.config(memory=memory))
        self.assertAnswer(204, simulator.put("vm.resize", {"desired_ram": 256 * MIB}))
        info = simulator.get("vm.info")[1]
        self.assertEqual((info["config"]["memory"]["size"], info["memory_actual_size"]), (256 * MIB, 256 * MIB))
        self.assertAnswer(
            500,
            simulator.put("vm.resize", {"desired_ram": 257 * MIB}),
            "Memory manager error",
            "The requested hotplug memory addition is not a valid size",
        )
        self.assertAnswer(
            500,
            simulator.put("vm.resize", {"desired_ram": 1024 * MIB}),
            "Not enough space in the hotplug RAM region",
        )

    def testMemoryByVirtioMem(self) -> None:
        memory = {"size": 128 * MIB, "hotplug_size": 256 * MIB, "hotplug_method": "VirtioMem"}
        simulator = self.started_vm(config=self.config(memory=memory))
        self.assertAnswer(204, simulator.put("vm.resize", {"desired_ram": 192 * MIB}))
        info = simulator.get("vm.info")[1]
        self.assertEqual(info["config"]["memory"]["hotplugged_size"], 64 * MIB)
        # The guest takes nothing of it.
        self.assertEqual(info["memory_actual_size"], 128 * MIB)
        self.assertAnswer(
            500,
            simulator.put("vm.resize", {"desired_ram": 64 * MIB}),
            f"Invalid resize request: desired_size = {64 * MIB} below boot size = {128 * MIB}",
        )

    def testZones(self) -> None:
        zones = [{"id": "a", "size": 64 * MIB}, {"id": "b", "size": 64 * MIB, "hotplug_size": 64 * MIB}]
        simulator = self.started_vm(config=self.config(memory={"size": 0, "zones": zones}))
        self.assertAnswer(204, simulator.put("vm.resize-zone", {"id": "b", "desired_ram": 96 * MIB}))
        zone = simulator.get("vm.info")[1]["config"]["memory"]["zones"][1]
        self.assertEqual(zone["hotplugged_size"], 32 * MIB)
        self.assertAnswer(
            500, simulator.put("vm.resize-zone", {"id": "c", "desired_ram": 96 * MIB}), "Failed resizing a memory zone"
        )
        self.assertAnswer(
            500,
            simulator.put("vm.resize", {"desired_ram": 256 * MIB}),
            "Impossible to resize guest memory if it is backed by user defined memory regions",
        )

    def testBalloon(self) -> None:
        simulator = self.started_vm(config=self.config(balloon={"size": 0}))
        self.assertAnswer(204, simulator.put("vm.resize", {"desired_balloon": 16 * MIB}))
        info = simulator.get("vm.info")[1]
        self.assertEqual(info["config"]["balloon"]["size"], 16 * MIB)
        # No driver in the guest fills it.
        self.assertEqual(info["memory_actual_size"], 64 * MIB)

    def testBalloonThatIsNotThere(self) -> None:
        answer = self.started_vm().put("vm.resize", {"desired_balloon": 16 * MIB})
        self.assertAnswer(500, answer, "Missing virtio-balloon, can't proceed as expected")


if __name__ == "__main__":
    unittest.main()
