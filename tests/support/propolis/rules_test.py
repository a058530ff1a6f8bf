#!/usr/bin/python3
"""The rules that need no server: documents, specs, versions, history, order of states."""

import copy
import json
import sys
import unittest
from typing import Any

sys.dont_write_bytecode = True

from propolis_sim import versions  # noqa: E402
from propolis_sim.api import check_ensure  # noqa: E402
from propolis_sim.errors import HttpError, SpecError  # noqa: E402
from propolis_sim.history import Expired, History  # noqa: E402
from propolis_sim.openapi import Document, SchemaError, parse_json  # noqa: E402
from propolis_sim.spec import build_machine  # noqa: E402
from propolis_sim.states import Denied, RequestQueue  # noqa: E402
from sim_client import HERE, com1, component, pci, spec  # noqa: E402

EXAMPLE = json.loads((HERE / "data/propolis-example-instance-ensure-5.0.0.json").read_text())

# What a back end for an older server sends, which no server since the end of 2024 takes.
OLD_BODY = {
    "properties": {"id": "propolis-0d2f3d1c-6a4e-4b3a-9a51-2f9f0c5a8e11", "name": "t1", "description": ""},
    "nics": [],
    "disks": [],
    "boot_settings": None,
}


def document(version: str) -> Document:
    return versions.document_for(versions.parse(version))


def check(body: Any, version: str = "5.0.0") -> None:
    document(version).check_request("/instance", "put", body)
    check_ensure(body)


class DocumentTest(unittest.TestCase):
    def test_takes_the_example(self) -> None:
        check(EXAMPLE)

    def test_refuses_the_old_body(self) -> None:
        with self.assertRaisesRegex(SchemaError, "missing field `init`"):
            check(OLD_BODY)

    def test_refuses_one_change_to_the_example(self) -> None:
        def at(body: Any, path: str) -> tuple[Any, str]:
            *steps, last = path.split("/")
            for step in steps:
                body = body[step]
            return body, last

        board, disk = "init/value/spec/board", "init/value/spec/components/disk0"
        cases: list[tuple[str, Any, str]] = [
            ("properties/id", "propolis-6f0c1d0e", "properties.id: UUID parsing failed"),
            ("properties/metadata", None, "invalid type: null"),
            ("properties/metadata/sled_revision", -1, "sled_revision: invalid value: integer `-1`"),
            ("properties/name", 7, "properties.name: invalid type: integer `7`, expected a string"),
            ("init/method", "Clone", "init.method: unknown variant `Clone`"),
            (f"{board}/cpus", 256, "cpus: invalid value: integer `256`, expected uint8"),
            (f"{board}/cpus", True, "invalid type: boolean"),
            (f"{board}/cpus", 2.0, "invalid type: floating point"),
            (f"{board}/memory", 1024, "unknown field `memory`"),
            (f"{board}/chipset/type", "q35", "unknown variant `q35`"),
            (f"{disk}/type", "floppy", "unknown variant `floppy`"),
            (f"{disk}/component/drive", "x", "unknown field `drive`"),
            (f"{disk}/component/pci_path/device", 32, "PCI device 32 outside range of 0-31"),
            (f"{disk}/component/pci_path/function", 8, "PCI function 8 outside range of 0-7"),
            ("init/value/spec/components/com1/component/num", "com5", "unknown variant `com5`"),
        ]
        for path, value, words in cases:
            with self.subTest(path=path, value=value):
                body = copy.deepcopy(EXAMPLE)
                parent, name = at(body, path)
                parent[name] = value
                with self.assertRaises(SchemaError) as caught:
                    check(body)
                self.assertIn(words, str(caught.exception))

    def test_refuses_each_missing_field(self) -> None:
        for name in ("id", "name", "description", "metadata"):
            with self.subTest(name=name):
                body = copy.deepcopy(EXAMPLE)
                del body["properties"][name]
                with self.assertRaisesRegex(SchemaError, f"properties: missing field `{name}`"):
                    check(body)

    def test_knows_what_came_with_which_version(self) -> None:
        vsock = copy.deepcopy(EXAMPLE)
        vsock["init"]["value"]["spec"]["components"]["vsock"] = component("virtio_socket", guest_cid=3, pci_path=pci(9))
        smbios = copy.deepcopy(EXAMPLE)
        smbios["init"]["value"]["spec"]["smbios"] = {
            "manufacturer": "m", "product_name": "p", "serial_number": "s", "version": 1}  # fmt: skip
        for body, oldest in ((EXAMPLE, "1.0.0"), (smbios, "2.0.0"), (vsock, "3.0.0")):
            for version in ("0.1.0", "1.0.0", "2.0.0-rc.1", "2.0.0", "2.9.9", "3.0.0", "4.1.0", "5.0.0"):
                with self.subTest(oldest=oldest, version=version):
                    known = versions.parse(version).core >= versions.parse(oldest).core and "rc" not in version
                    if known or body is EXAMPLE:
                        check(body, version)
                    else:
                        with self.assertRaises(SchemaError):
                            check(body, version)

    def test_reads_json_strictly(self) -> None:
        for text in (b"", b"{", b'{"a":1}x', b'{"a":NaN}', b"\xff", b'{"a":1,"a":2}', b"[" * 100000):
            with self.subTest(text=text[:20]), self.assertRaises(SchemaError):
                parse_json(text)


class SpecTest(unittest.TestCase):
    DISK = {
        "disk": component("virtio_disk", backend_id="be", pci_path=pci(16)),
        "be": component("file_storage_backend", path="/x", block_size=512, readonly=False),
    }

    def test_builds_the_example(self) -> None:
        machine = build_machine(EXAMPLE["init"]["value"]["spec"])
        self.assertEqual((machine.cpus, machine.memory_mb), (2, 1024))
        self.assertEqual(list(machine.disks), ["disk0", "seed"])
        self.assertEqual(machine.boot_order, ["disk0"])
        self.assertEqual([nic.vnic for nic in machine.nics], ["vnic_t1"])

    def test_refuses(self) -> None:
        def disk(name: str, device: int, backend: str) -> dict[str, Any]:
            return {name: component("nvme_disk", backend_id=backend, pci_path=pci(device), serial_number=[0] * 20)}

        nic = component("virtio_nic", backend_id="be", interface_id="x", pci_path=pci(8))
        cases: list[tuple[dict[str, Any], str]] = [
            ({"disk": self.DISK["disk"]}, "storage backend be not found for device disk"),
            ({"be": self.DISK["be"]}, "backend be not used by any device"),
            (self.DISK | disk("two", 17, "be"), "storage backend be not found for device two"),
            ({"net": nic} | self.DISK, "network backend be not found for device net"),
            ({"nb": component("virtio_network_backend", vnic_name="v")}, "backend nb not used by any device"),
            (
                self.DISK | disk("two", 16, "b2") | {"b2": self.DISK["be"]},
                "a PCI device is already attached at PciPath { bus: 0, device: 16, function: 0 }",
            ),
            (
                com1() | {"other": component("serial_port", num="com1")},
                "serial port Com1 is already specified",
            ),
            (
                {n: component("qemu_pvpanic", enable_isa=True) for n in "ab"},
                "pvpanic device already specified",
            ),
            (
                {"boot": component("boot_settings", order=[{"id": "disk9"}])},
                "boot option disk9 is not an attached device",
            ),
            (
                {"p": component("p9fs", source="/", target="t", chunk_size=1, pci_path=pci(9))},
                "support for component p compiled out via falcon",
            ),
            (
                {"m": component("migration_failure_injector", fail_exports=0, fail_imports=0)},
                "support for component m compiled out via failure-injection",
            ),
        ]
        for components, words in cases:
            with self.subTest(words=words):
                with self.assertRaises(SpecError) as caught:
                    build_machine(spec(components))
                self.assertEqual(str(caught.exception), words)

    def test_refuses_cpuid_entries_that_contradict(self) -> None:
        def entry(leaf: int, subleaf: int | None = None) -> dict[str, int | None]:
            return {"leaf": leaf, "subleaf": subleaf, "eax": 0, "ebx": 0, "ecx": 0, "edx": 0}

        cases: list[tuple[list[dict[str, int | None]], str]] = [
            ([entry(0x10000)], "leaf 10000 not in standard or extended range"),
            ([entry(0x80010000)], "leaf 80010000 not in standard or extended range"),
            ([entry(11), entry(11)], "duplicate leaf and subleaf (b, None)"),
            ([entry(11, 0), entry(11, 0)], "duplicate leaf and subleaf (b, Some(0))"),
            ([entry(11, 0), entry(11)], "leaf b has entries with subleaves"),
            ([entry(11), entry(11, 0)], "leaf b has an entry with no subleaves"),
        ]
        for entries, words in cases:
            with self.subTest(words=words):
                described = spec(com1())
                described["board"]["cpuid"] = {"entries": entries, "vendor": "intel"}
                with self.assertRaises(SpecError) as caught:
                    build_machine(described)
                self.assertEqual(str(caught.exception), f"instance spec's CPUID entries are invalid: {words}")

    def test_takes_the_last_boot_settings_alone(self) -> None:
        orders = {
            "boot1": component("boot_settings", order=[{"id": "no such disk"}]),
            "boot2": component("boot_settings", order=[{"id": "disk"}]),
        }
        self.assertEqual(build_machine(spec(self.DISK | orders)).boot_order, ["disk"])

    def test_meets_components_named_by_a_uuid_first(self) -> None:
        name = "6f0c1d0e-3a5e-4c5e-9b6f-0d6a3f1c7d11"
        both = {"aaa": self.DISK["be"], name: self.DISK["be"]}
        with self.assertRaisesRegex(SpecError, f"backend {name} not used"):
            build_machine(spec(both))


class VersionTest(unittest.TestCase):
    def test_requested(self) -> None:
        newest = versions.parse("5.0.0")
        cases: list[tuple[str | None, str]] = [
            (None, 'missing expected header "api-version"'),
            ("5.0.1", "server does not support this API version: 5.0.1"),
            ("5.0.0+1", "does not support"),
            ("6.0.0-alpha", "does not support"),
            ("", "empty string, expected a semver version"),
            ("5", "bad value for header"),
            ("5.0", "bad value for header"),
            ("v5.0.0", "bad value for header"),
            ("05.0.0", "bad value for header"),
            ("5.0.0-01", "invalid leading zero"),
            ("latest", "bad value for header"),
        ]
        for value, words in cases:
            with self.subTest(value=value), self.assertRaises(HttpError) as caught:
                versions.requested(value, newest)
            self.assertEqual(caught.exception.status, 400)
            self.assertIn(words, caught.exception.message)
        for value in ("5.0.0", "5.0.0-rc.1", "4.99.0", "1.0.0", "0.0.1"):
            with self.subTest(value=value):
                self.assertEqual(versions.requested(value, newest).text, value)


class HistoryTest(unittest.TestCase):
    def filled(self, size: int, total: int) -> History:
        history = History(size)
        for index in range(total):
            history.consume(bytes([index % 256]))
        return history

    def test_reads_from_both_ends(self) -> None:
        history = self.filled(100, 50)
        for arguments, data, end in (
            ((0, None), bytes(range(50)), 50),
            ((10, None), bytes(range(10, 50)), 50),
            ((10, None, 5), bytes(range(10, 15)), 15),
            ((99, None), b"", 50),
            ((None, 5), bytes(range(45, 50)), 50),
            ((None, 500), bytes(range(50)), 50),
            ((None, 5, 2), bytes(range(45, 47)), 47),
            ((0, None, 0), b"", 0),
        ):
            with self.subTest(arguments=arguments):
                self.assertEqual(history.read(*arguments), (data, end))

    def test_reads_across_both_parts_while_nothing_is_lost(self) -> None:
        history = self.filled(100, 150)
        self.assertEqual(history.read(0, None), (bytes(range(150)), 150))
        self.assertEqual(history.read(40, None, 20), (bytes(range(40, 60)), 60))

    def test_keeps_beginning_and_end(self) -> None:
        history = self.filled(100, 256)
        self.assertEqual(history.read(90, None), (bytes(range(90, 100)), 100))
        self.assertEqual(history.read(156, None), (bytes(range(156, 256)), 256))
        with self.assertRaisesRegex(Expired, r"offset 100 \(-156\) is no longer cached: Only have first 100 \+ most"):
            history.read(100, None)
        with self.assertRaises(Expired):
            history.read(None, 101)

    def test_answers_at_most_16_kib_unless_asked_for_more(self) -> None:
        history = History()
        history.consume(bytes(100000))
        self.assertEqual(len(history.read(0, None)[0]), 16 * 1024)
        self.assertEqual(len(history.read(0, None, 90000)[0]), 90000)


class RequestQueueTest(unittest.TestCase):
    def queue(self, *steps: str) -> RequestQueue:
        queue = RequestQueue()
        for step in steps:
            if step in ("Run", "Stop", "Reboot"):
                queue.submit(step)
                queue.take()
            else:
                {"started": lambda: queue.started(True), "failed": lambda: queue.started(False),
                 "stopped": queue.stopped, "rebooted": queue.rebooted}[step]()  # fmt: skip
        return queue

    def test_table(self) -> None:
        halted, active = "Instance has already halted", "Operation requires an active instance"
        halting, failed = "Instance is preparing to stop", "Instance failed to start or halted due to a failure"
        # after these steps: what Run, Stop and Reboot are then (True: to be done; False: nothing to do; or the denial)
        cases: list[tuple[tuple[str, ...], tuple[bool | str, ...]]] = [
            ((), (True, True, active)),
            (("Run",), (False, True, "Instance is currently starting")),
            (("Run", "started"), (False, True, True)),
            (("Run", "started", "Reboot"), (False, True, False)),
            (("Run", "started", "Reboot", "rebooted"), (False, True, True)),
            (("Run", "started", "Stop"), (halting, False, halting)),
            (("Stop",), (halting, False, halting)),
            (("Run", "started", "Stop", "stopped"), (halted, False, halted)),
            (("Stop", "stopped"), (halted, False, halted)),
            (("Run", "failed"), (failed, False, failed)),
        ]
        for steps, expected in cases:
            for request, result in zip(("Run", "Stop", "Reboot"), expected):
                with self.subTest(steps=steps, request=request):
                    queue = self.queue(*steps)
                    if isinstance(result, bool):
                        self.assertEqual(queue.submit(request), result)
                        self.assertEqual(queue.take(), request if result else None)
                    else:
                        with self.assertRaises(Denied) as caught:
                            queue.submit(request)
                        self.assertEqual(str(caught.exception), result)


if __name__ == "__main__":
    unittest.main()
