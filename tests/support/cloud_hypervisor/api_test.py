"""What the API refuses, with which status and words: methods, bodies, states, identifiers, values."""

from __future__ import annotations

import json
import unittest
from typing import Any

from cloud_hypervisor_sim import openapi
from cloud_hypervisor_sim.api import ENDPOINTS
from simulated import ApiConnection, SimulatorTest

NOT_CREATED = "VM is not created"
NOT_RUNNING = "VM is not running"
BAD_JSON = "Failed to deserialize JSON"

# A body that each endpoint can read, and what it says of it while there is no VM.
BODIES: dict[str, tuple[Any, int, str]] = {
    "vm.info": (None, 404, NOT_CREATED),
    "vm.counters": (None, 500, NOT_RUNNING),
    "vm.boot": (None, 404, "VM config is missing"),
    "vm.pause": (None, 500, NOT_RUNNING),
    "vm.resume": (None, 500, NOT_RUNNING),
    "vm.shutdown": (None, 500, NOT_RUNNING),
    "vm.reboot": (None, 404, NOT_CREATED),
    "vm.power-button": (None, 500, NOT_RUNNING),
    "vm.nmi": (None, 500, NOT_RUNNING),
    "vm.resize": ({"desired_vcpus": 1}, 404, NOT_CREATED),
    "vm.resize-disk": ({"id": "d", "desired_size": 512}, 404, NOT_CREATED),
    "vm.resize-zone": ({"id": "z", "desired_ram": 512}, 404, NOT_CREATED),
    "vm.add-device": ({"path": "/sys/d"}, 404, NOT_CREATED),
    "vm.add-user-device": ({"socket": "/s"}, 404, NOT_CREATED),
    "vm.add-disk": ({"path": "/d"}, 404, NOT_CREATED),
    "vm.add-fs": ({"tag": "t", "socket": "/s", "num_queues": 1, "queue_size": 512}, 404, NOT_CREATED),
    "vm.add-generic-vhost-user": ({"socket": "/s", "queue_sizes": [8], "device_type": 26}, 404, NOT_CREATED),
    "vm.add-pmem": ({"file": "/p"}, 404, NOT_CREATED),
    "vm.add-net": ({"tap": "t"}, 404, NOT_CREATED),
    "vm.add-vdpa": ({"path": "/v", "num_queues": 1}, 404, NOT_CREATED),
    "vm.add-vsock": ({"cid": 3, "socket": "/s"}, 404, NOT_CREATED),
    "vm.remove-device": ({"id": "d"}, 404, NOT_CREATED),
    "vm.snapshot": ({"destination_url": "file:///d"}, 500, NOT_RUNNING),
    "vm.coredump": ({"destination_url": "file:///d"}, 500, NOT_RUNNING),
    "vm.send-migration": ({"destination_url": "unix:/s"}, 500, NOT_RUNNING),
}

# Requests that cannot be read: endpoint, body, last word.
UNREADABLE = [
    ("vm.create", b"{", None),
    ("vm.create", b'{"cpus": {"boot_vcpus": 1}}', "missing field `max_vcpus`"),
    ("vm.create", b'{"cpus": {"boot_vcpus": "1", "max_vcpus": 1}}', 'invalid type: string "1", expected u32'),
    ("vm.create", b'{"cpus": {"boot_vcpus": -1, "max_vcpus": 1}}', "invalid value: integer `-1`, expected u32"),
    ("vm.create", b'{"memory": {"size": 1, "hotplug_method": "acpi"}}', "unknown variant `acpi`"),
    ("vm.create", b'{"disk": []}', "unknown field `disk` in VmConfig"),
    ("vm.create", b"[]", "invalid type: sequence, expected struct VmConfig"),
    ("vm.add-net", b'{"mac": "nonsense"}', "Invalid MAC address: nonsense"),
    ("vm.add-net", b'{"ip": "1.2.3"}', "invalid IP address syntax"),
    ("vm.add-disk", b'{"readonly": "yes"}', 'invalid type: string "yes", expected a boolean'),
    ("vm.add-vsock", b'{"socket": "/s"}', "missing field `cid`"),
    ("vm.resize-disk", b'{"id": "d"}', "missing field `desired_size`"),
    ("vm.remove-device", b"{}", "missing field `id`"),
    ("vm.resize", b'{"desired_vcpus": "2"}', 'invalid type: string "2", expected u32'),
    ("vm.resize-zone", b'{"id": "z"}', "missing field `desired_ram`"),
    ("vm.add-device", b'{"path": 5}', "invalid type: integer `5`, expected a string"),
    ("vm.add-user-device", b"{}", "missing field `socket`"),
    ("vm.add-fs", b'{"tag": "t"}', "missing field `socket`"),
    ("vm.add-generic-vhost-user", b'{"socket": "/s", "device_type": 26}', "missing field `queue_sizes`"),
    ("vm.add-pmem", b"{}", "missing field `file`"),
    ("vm.add-vdpa", b'{"num_queues": 1}', "missing field `path`"),
    ("vm.snapshot", b"{}", "missing field `destination_url`"),
    ("vm.coredump", b'{"destination_url": null}', "invalid type: null, expected a string"),
    ("vm.restore", b"{}", "missing field `source_url`"),
    ("vm.restore", b'{"source_url": "x", "memory_restore_mode": "Lazy"}', "unknown variant `Lazy`"),
    ("vm.send-migration", b'{"destination_url": "x", "downtime_ms": 0}', "expected nonzero u64"),
    ("vm.receive-migration", b"{}", "missing field `receiver_url`"),
]

# Configurations that can be created and never boot: what differs, status, words.
INVALID: list[tuple[dict[str, Any], int, str]] = [
    ({"payload": None}, 400, "No bootitem provided: neither firmware nor kernel"),
    ({"payload": {"kernel": "/k", "firmware": "/f"}}, 400, "Specifying a kernel is not supported when a firmware"),
    ({"cpus": {"boot_vcpus": 2, "max_vcpus": 1}}, 400, "Max CPUs (1) lower than boot CPUs (2)"),
    ({"cpus": {"boot_vcpus": 1, "max_vcpus": 9000}}, 400, "Too many CPUs: specified 9000 but 8192 is the limit"),
    (
        {
            "cpus": {
                "boot_vcpus": 1,
                "max_vcpus": 2,
                "topology": {"threads_per_core": 1, "cores_per_die": 1, "dies_per_package": 1, "packages": 1},
            }
        },
        400,
        "Product of CPU topology parts does not match maximum vCPU",
    ),
    ({"disks": [{"path": "/a", "id": "x"}], "pmem": [{"file": "/p", "id": "x"}]}, 409, "Identifier x is not unique"),
    ({"disks": [{"path": "/a", "id": "__x"}]}, 400, "Identifier __x is not valid"),
    ({"disks": [{"path": "/a", "num_queues": 2}]}, 400, "Queue count (2) must not exceed boot vCPUs (1)"),
    ({"disks": [{"path": "/a", "queue_size": 100}]}, 400, "Queue size must be a power of 2"),
    ({"disks": [{"path": "/a", "queue_size": 2}]}, 400, "Block queue size must be greater than 2: 2"),
    ({"disks": [{"path": "/a", "serial": "s" * 21}]}, 400, "Block device serial length (21) exceeds maximum"),
    ({"disks": [{"path": "/a", "vhost_socket": "/s"}]}, 400, "Disk path and vhost socket both provided"),
    ({"disks": [{"vhost_user": True, "vhost_socket": "/s"}]}, 400, "Using vhost-user requires using shared memory"),
    ({"disks": [{"path": "/a", "rate_limit_group": "g"}]}, 400, "Invalid rate-limiter group"),
    ({"disks": [{"path": "/a", "pci_segment": 1}]}, 400, "Invalid PCI segment id: 1"),
    ({"disks": [{"path": "/a", "pci_device_id": 32}]}, 400, "Given PCI device ID (32) is out of the supported range"),
    ({"net": [{"num_queues": 1}]}, 400, "Number of queues (1) to virtio_net should be higher than 2"),
    ({"net": [{"mtu": 1000}]}, 400, "Provided MTU 1000 is lower than 1280"),
    ({"net": [{"ip": "10.0.0.1"}]}, 400, "IP provided without a mask"),
    ({"net": [{"mask": "255.0.0.0"}]}, 400, "Mask provided without an IP"),
    ({"net": [{"offload_csum": False}]}, 400, '"offload_tso" and "offload_ufo" depend on "offload_csum"'),
    (
        {"fs": [{"tag": "t", "socket": "/s", "num_queues": 1, "queue_size": 512}]},
        400,
        "Using vhost-user requires using shared memory or huge pages",
    ),
    ({"vsock": {"cid": 2, "socket": "/s"}}, 400, "2 is a special VSOCK CID"),
    ({"balloon": {"size": 1 << 40}}, 400, "Balloon size (1099511627776) greater than RAM"),
    ({"memory": {"size": 1 << 26, "hugepage_size": 2 << 20}}, 400, "Huge page size specified but huge pages not"),
    ({"memory": {"size": 1 << 26, "hugepages": True, "hugepage_size": 3}}, 400, "Huge page size is not power of 2: 3"),
    ({"memory": {"size": 1 << 26, "shared": True, "mergeable": True}}, 400, "Invalid to set both 'mergeable' and"),
    ({"memory": {"size": 0}}, 500, "No memory zones found"),
    ({"memory": {"size": 1 << 30, "hugepages": True, "hugepage_size": 1 << 40}}, 500, "Cannot allocate memory"),
    ({"devices": [{"path": "/d"}, {"path": "/d"}]}, 409, "Duplicated device path: /d"),
    ({"devices": [{"path": "/sys/none"}]}, 500, "No such file or directory (os error 2)"),
    ({"vdpa": [{"path": "/dev/none", "num_queues": 1}]}, 500, "No such file or directory (os error 2)"),
    ({"user_devices": [{"socket": "/none"}]}, 400, "Using user devices requires using shared memory or huge pages"),
    ({"numa": [{"guest_numa_id": 0}]}, 400, "numa config must specify either device_id or cpus/memory_zones"),
    ({"platform": {"num_pci_segments": 97}}, 400, "Number of PCI segments (97) not in range of 1 to 96"),
    ({"tpm": {"socket": "/none"}}, 500, "Failed to connect to tpm Socket"),
    ({"disks": [{"path": "/none/disk"}]}, 500, "No such file or directory (os error 2)"),
    ({"disks": [{}]}, 500, "No disk path was specified when one was expected"),
    ({"pmem": [{"file": "/none/pmem"}]}, 500, "No such file or directory (os error 2)"),
    ({"rng": {"src": "/none/rng"}}, 500, "No such file or directory (os error 2)"),
    ({"landlock_rules": [{"path": "/none", "access": "rw"}]}, 400, "provided in landlock-rules does not exist"),
]


class SurfaceTest(unittest.TestCase):
    def testEveryOperationOfTheDescriptionIsThere(self) -> None:
        for version in openapi.FILES:
            described = {path: method.upper() for path, method in openapi.operations(version).items()}
            self.assertEqual(described, {path: endpoint.method for path, endpoint in ENDPOINTS.items()}, version)

    def testReplyThatTheDescriptionForbidsIsFound(self) -> None:
        for status, body in ((200, {"id": "x"}), (200, None), (204, {})):
            with self.subTest(status=status, body=body), self.assertRaises(openapi.Violation):
                openapi.check_reply("main", "/vm.add-disk", status, body)
        with self.assertRaises(openapi.Violation):
            openapi.check_reply("main", "/vm.info", 200, {"config": {"payload": {}}, "state": "Asleep"})


class RefusalTest(SimulatorTest):
    def testWithoutVm(self) -> None:
        simulator = self.start(VMTEST_SIM_CH_GUEST_DEBUG="1")
        for path, (body, status, words) in BODIES.items():
            with self.subTest(path):
                method = ENDPOINTS[f"/{path}"].method
                answer = simulator.request(method, path, body)
                self.assertAnswer(status, answer, words)
                self.assertEqual(answer[1][0], "Error from API")

    def testWithoutVmInOldVersion(self) -> None:
        simulator = self.start(VMTEST_SIM_CH_GUEST_DEBUG="1", VMTEST_SIM_CH_VERSION="v53")
        for path, (body, status, words) in BODIES.items():
            with self.subTest(path):
                answer = simulator.request(ENDPOINTS[f"/{path}"].method, path, body)
                self.assertAnswer(status, answer, words)

    def testWithoutVmBeforeV53(self) -> None:
        simulator = self.start(VMTEST_SIM_CH_GUEST_DEBUG="1", VMTEST_SIM_CH_VERSION="v52")
        for path, (body, _, words) in BODIES.items():
            with self.subTest(path):
                answer = simulator.request(ENDPOINTS[f"/{path}"].method, path, body)
                self.assertAnswer(500, answer, words)

    def testDeleteOfNothingSucceeds(self) -> None:
        self.assertAnswer(204, self.start().put("vm.delete"))

    def testUnknownPath(self) -> None:
        simulator = self.start()
        for path in ("vm.none", "vm.info/x", "vm.coredump"):
            with self.subTest(path):
                self.assertAnswer(404, simulator.put(path, {"destination_url": "file:///d"}), "Not Found")

    def testWrongMethod(self) -> None:
        simulator = self.start(VMTEST_SIM_CH_GUEST_DEBUG="1")
        for path, endpoint in ENDPOINTS.items():
            with self.subTest(path):
                wrong = "PUT" if endpoint.method == "GET" else "GET"
                self.assertAnswer(400, simulator.request(wrong, path[1:]), "Bad Request")

    def testMethodThatTheServerDoesNotKnow(self) -> None:
        simulator = self.start()
        for method in ("POST", "DELETE", "HEAD"):
            with self.subTest(method):
                connection = ApiConnection(simulator.socket)
                self.addCleanup(connection.close)
                connection.request(method, "/api/v1/vm.info")
                self.assertEqual(connection.getresponse().status, 400)

    def testMissingBody(self) -> None:
        simulator = self.start(VMTEST_SIM_CH_GUEST_DEBUG="1")
        for path, endpoint in ENDPOINTS.items():
            if endpoint.body is None:
                continue
            with self.subTest(path):
                answer = simulator.put(path[1:])
                self.assertEqual(answer, (400, None if path == "/vm.create" else ["Bad Request"]))

    def testSuperfluousBody(self) -> None:
        simulator = self.start()
        for path, endpoint in ENDPOINTS.items():
            if endpoint.body is not None or path in ("/vmm.ping", "/vmm.shutdown", "/vm.info", "/vm.counters"):
                continue
            with self.subTest(path):
                self.assertAnswer(400, simulator.put(path[1:], {}), "Bad Request")

    def testUnreadableBody(self) -> None:
        simulator = self.start(VMTEST_SIM_CH_GUEST_DEBUG="1")
        for path, body, words in UNREADABLE:
            with self.subTest(path=path, body=body):
                status, answer = simulator.request("PUT", path, raw=body)
                self.assertEqual((status, answer[0]), (400, BAD_JSON))
                self.assertIn(words or "", answer[1])
        self.assertAnswer(404, simulator.get("vm.info"))

    def testInvalidConfigurationIsCreatedAndNotBooted(self) -> None:
        simulator = self.start()
        for more, status, words in INVALID:
            with self.subTest(more):
                self.assertAnswer(204, simulator.put("vm.delete"))
                self.assertAnswer(204, simulator.put("vm.create", self.config(**more)))
                answer = simulator.put("vm.boot")
                self.assertEqual(answer[0], status, answer)
                self.assertIn(words, answer[1][-1])
                self.assertEqual(answer[1][:2], ["Error from API", "The VM could not boot"])
                self.assertEqual(simulator.get("vm.info")[1]["state"], "Created")

    def testInvalidConfigurationInOldVersion(self) -> None:
        simulator = self.start(VMTEST_SIM_CH_VERSION="v53")
        for more in ({"vsock": {"cid": 2, "socket": "/s"}}, {"disks": [{"path": "/a", "id": "__x"}]}):
            with self.subTest(more):
                self.assertAnswer(204, simulator.put("vm.create", self.config(**more)))
                answer = simulator.put("vm.boot")
                self.assertEqual((answer[0], answer[1][2]), (500, "Failed to validate config"))
                self.assertAnswer(204, simulator.put("vm.delete"))

    def testConsoleThatCannotBeOpenedIsRefusedAtCreation(self) -> None:
        simulator = self.start()
        serial = {"mode": "File", "file": str(self.folder / "none" / "serial")}
        answer = simulator.put("vm.create", self.config(serial=serial))
        self.assertAnswer(500, answer, "Error creating console device", "No such file or directory (os error 2)")

    def testTooLongPathOfASerialSocketIsRefused(self) -> None:
        serial = {"mode": "Socket", "socket": f"{self.folder}/{'x' * 108}"}
        answer = self.start().put("vm.create", self.config(serial=serial))
        self.assertAnswer(500, answer, "Error creating console device", "path must be shorter than SUN_LEN")

    def testConsoleSocketIsRefused(self) -> None:
        answer = self.start().put("vm.create", self.config(console={"mode": "Socket", "socket": "/s"}))
        self.assertAnswer(500, answer, "No socket option support for console device")

    def testSecondCreation(self) -> None:
        simulator = self.start()
        self.assertAnswer(204, simulator.put("vm.create", self.config()))
        self.assertAnswer(500, simulator.put("vm.create", self.config()), "VM is already created")

    def testRequestsOnCreatedVm(self) -> None:
        simulator = self.start(VMTEST_SIM_CH_GUEST_DEBUG="1")
        self.assertAnswer(204, simulator.put("vm.create", self.config()))
        for path, status, words in (
            ("vm.counters", 500, NOT_RUNNING),
            ("vm.pause", 500, NOT_RUNNING),
            ("vm.resume", 500, NOT_RUNNING),
            ("vm.shutdown", 500, NOT_RUNNING),
            ("vm.reboot", 404, NOT_CREATED),
            ("vm.power-button", 500, NOT_RUNNING),
            ("vm.nmi", 500, NOT_RUNNING),
            ("vm.snapshot", 500, NOT_RUNNING),
            ("vm.coredump", 500, NOT_RUNNING),
            ("vm.send-migration", 500, NOT_RUNNING),
            ("vm.resize-disk", 500, "Failed resizing a disk image"),
            ("vm.resize-zone", 500, "Failed resizing a memory zone"),
            ("vm.remove-device", 404, 'No device with id "d" to remove'),
        ):
            with self.subTest(path):
                answer = simulator.request(ENDPOINTS[f"/{path}"].method, path, BODIES[path][0])
                self.assertAnswer(status, answer, words)

    def testRestoreNeedsNoVm(self) -> None:
        simulator = self.start()
        self.assertAnswer(204, simulator.put("vm.create", self.config()))
        self.assertAnswer(500, simulator.put("vm.restore", {"source_url": "file:///d"}), "VM is already created")

    def testKeptConnectionServesManyRequests(self) -> None:
        simulator = self.start()
        self.assertEqual([simulator.get("vmm.ping")[0] for _ in range(20)], [200] * 20)

    def testEleventhConnectionIsTurnedAway(self) -> None:
        simulator = self.start()
        connections = [ApiConnection(simulator.socket) for _ in range(10)]
        for connection in connections:
            self.addCleanup(connection.close)
            connection.connect()
        connections[-1].request("GET", "/api/v1/vmm.ping")
        self.assertEqual(connections[-1].getresponse().status, 503)

    def testPayloadBeyondTheLimitIsRefused(self) -> None:
        simulator = self.start(VMTEST_SIM_CH_VERSION="v53")
        body = json.dumps(self.config(payload={"kernel": "/k", "cmdline": "x" * 60000})).encode()
        connection = ApiConnection(simulator.socket)
        self.addCleanup(connection.close)
        try:
            connection.request("PUT", "/api/v1/vm.create", body)
        except BrokenPipeError:
            pass
        response = connection.getresponse()
        self.assertEqual(response.status, 400)
        self.assertIn(b"is larger than the limit of 51200", response.read())

    def testShutdownOfTheVmmAnswersTwoHundred(self) -> None:
        simulator = self.start()
        self.assertAnswer(200, simulator.put("vmm.shutdown"))
        self.assertEqual(simulator.wait(), 0)


if __name__ == "__main__":
    unittest.main()
