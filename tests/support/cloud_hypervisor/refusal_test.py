"""What is refused of every endpoint: in the wrong state, with an identifier that is taken, with a bad value."""

from __future__ import annotations

import socket
import unittest
from typing import Any

from api_test import BODIES, UNREADABLE
from cloud_hypervisor_sim.api import ENDPOINTS
from simulated import DEADLINE, Simulator, SimulatorTest

CREATED = "VM is already created"
MIGRATING = "VM is currently migrating and can't be modified"
ONGOING = "There is already an ongoing migration"
UNKNOWN_DEVICE = "Failed to find device corresponding to the given identifier: none"
BAD_QUEUE = "Queue size must be a power of 2 no greater than 32768: 3"
BAD_SEGMENT = "Invalid PCI segment id: 1"

# Nothing but a request that is none is refused.
NEVER_REFUSED = {"vmm.ping"}

# What a VM that runs refuses since it runs.
ON_RUNNING: list[tuple[str, Any, str]] = [
    ("vm.create", {"payload": {"kernel": "/k"}}, CREATED),
    ("vm.boot", None, CREATED),
    ("vm.resume", None, "Invalid transition: InvalidStateTransition(Running, Running)"),
    ("vm.snapshot", {"destination_url": "file:///d"}, "Trying to snapshot while VM is running"),
    ("vm.restore", {"source_url": "file:///d"}, CREATED),
    ("vm.receive-migration", {"receiver_url": "unix:/s"}, "Can't receive a migration when a VM is already created"),
]

# Devices of each kind that can be added as far as their description goes.
DEVICES: dict[str, dict[str, Any]] = {
    "vm.add-device": {"path": "/sys/d"},
    "vm.add-disk": {"path": "/d"},
    "vm.add-fs": {"tag": "t", "socket": "/s", "num_queues": 1, "queue_size": 512},
    "vm.add-generic-vhost-user": {"socket": "/s", "queue_sizes": [8], "device_type": 26},
    "vm.add-net": {"tap": "t"},
    "vm.add-pmem": {"file": "/p"},
    "vm.add-user-device": {"socket": "/s"},
    "vm.add-vdpa": {"path": "/v", "num_queues": 1},
    "vm.add-vsock": {"cid": 3, "socket": "/s"},
}

# What is taken while there is a migration, and the words where they are not MIGRATING.
WHILE_MIGRATING: dict[str, tuple[Any, str]] = {
    **{path: (body, MIGRATING) for path, (body, _, _) in BODIES.items() if path != "vm.info"},
    "vm.create": ({"payload": {"kernel": "/k"}}, MIGRATING),
    "vm.delete": (None, MIGRATING),
    "vmm.shutdown": (None, MIGRATING),
    "vm.restore": ({"source_url": "file:///d"}, MIGRATING),
    "vm.send-migration": ({"destination_url": "unix:/s"}, ONGOING),
    "vm.receive-migration": ({"receiver_url": "unix:/s"}, ONGOING),
}

# State, endpoint, body, status and a part of the last word.
BAD_VALUES: list[tuple[str, str, Any, int, str]] = [
    ("none", "vm.restore", {"source_url": "/x"}, 500, "Could not extract path from URL: /x"),
    ("none", "vm.receive-migration", {"receiver_url": "http://x"}, 500, "Expected receiver_url to either use `tcp`"),
    (
        "none",
        "vm.create",
        {"payload": {"kernel": "/k"}, "console": {"mode": "Socket", "socket": "/s"}},
        500,
        "No socket option support for console device",
    ),
    ("running", "vm.resize", {"desired_vcpus": 0}, 500, "Requested zero vCPUs"),
    ("running", "vm.resize", {"desired_vcpus": 2}, 500, "Requested vCPUs exceed maximum"),
    ("running", "vm.resize", {"desired_balloon": 1 << 20}, 500, "Missing virtio-balloon, can't proceed as expected"),
    ("running", "vm.resize-disk", {"id": "a", "desired_size": 1000}, 500, "Disk image size is not a multiple of 512"),
    ("running", "vm.resize-disk", {"id": "none", "desired_size": 512}, 404, UNKNOWN_DEVICE),
    ("running", "vm.resize-zone", {"id": "none", "desired_ram": 1 << 27}, 500, "Failed resizing a memory zone"),
    ("running", "vm.remove-device", {"id": "none"}, 404, UNKNOWN_DEVICE),
    ("running", "vm.remove-device", {"id": "__rng"}, 500, "Not allowed to remove this type of device from the VM: rng"),
    ("running", "vm.add-device", {}, 400, "VFIO device config must specify `path=` or `fd=`"),
    ("running", "vm.add-device", {"path": "/d", "pci_device_id": 32}, 400, "Given PCI device ID (32) is out of"),
    ("running", "vm.add-disk", {"path": "/a", "queue_size": 3}, 400, BAD_QUEUE),
    ("running", "vm.add-disk", {"path": "/a", "serial": "s" * 21}, 400, "Block device serial length (21) exceeds"),
    ("running", "vm.add-fs", DEVICES["vm.add-fs"] | {"queue_size": 3}, 400, BAD_QUEUE),
    ("running", "vm.add-fs", DEVICES["vm.add-fs"] | {"num_queues": 2}, 400, "Queue count (2) must not exceed boot"),
    (
        "running",
        "vm.add-generic-vhost-user",
        {"socket": "/s", "queue_sizes": [3], "device_type": 26},
        400,
        BAD_QUEUE,
    ),
    ("running", "vm.add-net", {"num_queues": 1}, 400, "Number of queues (1) to virtio_net should be higher than 2"),
    ("running", "vm.add-net", {"ip": "10.0.0.1"}, 400, "IP provided without a mask"),
    ("running", "vm.add-pmem", {"file": "/dev/null"}, 500, "Trying to use a size that is not multiple of 2MiB"),
    ("running", "vm.add-pmem", {"file": "/p", "pci_segment": 1}, 400, BAD_SEGMENT),
    ("running", "vm.add-user-device", {"socket": "/s", "pci_segment": 1}, 400, BAD_SEGMENT),
    ("running", "vm.add-vdpa", DEVICES["vm.add-vdpa"] | {"pci_segment": 1}, 400, BAD_SEGMENT),
    ("running", "vm.add-vsock", {"cid": 0xFFFFFFFF, "socket": "/s"}, 400, "4294967295 is a special VSOCK CID"),
    ("running", "vm.coredump", {"destination_url": "/x"}, 500, "Could not extract file from URL: /x"),
    ("running", "vm.send-migration", {"destination_url": "file:///x"}, 500, "destination_url must use tcp:"),
    ("paused", "vm.snapshot", {"destination_url": "/x"}, 500, "Could not extract path from URL: /x"),
    ("paused", "vm.snapshot", {"destination_url": "file:///none"}, 500, 'Destination is not a directory: "/none"'),
    ("paused", "vm.coredump", {"destination_url": "file:///dev/null"}, 500, "File exists (os error 17)"),
]


def paths_of(wanted: bool | None = None) -> set[str]:
    """Of all endpoints, or of those with a body, or without one."""
    return {path[1:] for path, endpoint in ENDPOINTS.items() if wanted in (None, endpoint.body is not None)}


class CoverageTest(unittest.TestCase):
    def testEveryEndpointHasAWrongState(self) -> None:
        rows = {*BODIES, *WHILE_MIGRATING, *(path for path, _, _ in ON_RUNNING)}
        self.assertEqual(rows, paths_of() - NEVER_REFUSED)

    def testEveryBodyHasABadValue(self) -> None:
        self.assertEqual({path for _, path, _, _, _ in BAD_VALUES}, paths_of(True))

    def testEveryBodyHasOneThatCannotBeRead(self) -> None:
        self.assertEqual({path for path, _, _ in UNREADABLE}, paths_of(True))

    def testEveryKindOfDeviceHasItsIdentifierTaken(self) -> None:
        self.assertEqual(set(DEVICES), {path for path in paths_of() if path.startswith("vm.add-")})


class RowsTest(SimulatorTest):
    def prepared(self, state: str) -> Simulator:
        """With shared memory, and a disk of the name "a", where there is a VM."""
        simulator = Simulator(self.folder, name=state, VMTEST_SIM_CH_GUEST_DEBUG="1")
        self.addCleanup(simulator.close)
        disk = {"path": self.make_disk(f"disk-{state}"), "id": "a", "image_type": "Raw"}
        config = self.config(memory={"size": 64 << 20, "shared": True}, disks=[disk])
        steps = (("vm.create", config), ("vm.boot", None), ("vm.pause", None))
        for path, body in steps[: ("none", "created", "running", "paused").index(state)]:
            self.assertAnswer(204, simulator.put(path, body))
        return simulator

    def request(self, simulator: Simulator, path: str, body: Any) -> tuple[int, Any]:
        return simulator.request(ENDPOINTS[f"/{path}"].method, path, body)

    def testBadValues(self) -> None:
        simulators = {state: self.prepared(state) for state in ("none", "running", "paused")}
        for state, path, body, status, words in BAD_VALUES:
            with self.subTest(path=path, body=body):
                answer = self.request(simulators[state], path, body)
                self.assertEqual(answer[0], status, answer)
                self.assertIn(words, answer[1][-1])
                self.assertEqual(answer[1][0], "Error from API")
        self.assertEqual(simulators["running"].get("vm.info")[1]["state"], "Running")

    def testRunningVm(self) -> None:
        simulator = self.prepared("running")
        for path, body, words in ON_RUNNING:
            with self.subTest(path):
                self.assertAnswer(500, self.request(simulator, path, body), words)
        self.assertEqual(simulator.get("vm.info")[1]["state"], "Running")

    def testIdentifierThatIsTaken(self) -> None:
        for state in ("created", "running"):
            simulator = self.prepared(state)
            for path, body in DEVICES.items():
                with self.subTest(state=state, path=path):
                    self.assertAnswer(409, simulator.put(path, body | {"id": "a"}), "Identifier a is not unique")

    def testIdentifierThatIsTheProgramsOwn(self) -> None:
        simulator = self.prepared("running")
        for path, body in DEVICES.items():
            with self.subTest(path):
                self.assertAnswer(400, simulator.put(path, body | {"id": "__a"}), "Identifier __a is not valid")

    def testPathOfADeviceThatIsTaken(self) -> None:
        simulator = self.prepared("created")
        self.assertAnswer(204, simulator.put("vm.add-device", {"path": "/sys/d"}))
        self.assertAnswer(409, simulator.put("vm.add-device", {"path": "/sys/d"}), "Duplicated device path: /sys/d")

    def testMigratingVm(self) -> None:
        simulator = self.prepared("running")
        address = f"{self.folder}/silent"
        silent = socket.socket(socket.AF_UNIX)
        self.addCleanup(silent.close)
        silent.settimeout(DEADLINE)
        silent.bind(address)
        silent.listen(1)
        self.assertAnswer(204, simulator.put("vm.send-migration", {"destination_url": f"unix:{address}"}))
        peer, _ = silent.accept()
        self.addCleanup(peer.close)
        for path, (body, words) in WHILE_MIGRATING.items():
            with self.subTest(path):
                self.assertAnswer(500, self.request(simulator, path, body), words)
        self.assertEqual(simulator.get("vm.info")[1]["state"], "Running")
        self.assertEqual(simulator.get("vmm.ping")[0], 200)


if __name__ == "__main__":
    unittest.main()
