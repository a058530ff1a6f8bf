"""Snapshots and migration: what they leave, what comes back of them, and what is refused."""

from __future__ import annotations

import json
import os
import socket
import threading
import unittest
from pathlib import Path
from typing import Any

from simulated import Simulator, SimulatorTest, wait_for, write_elf

MIB = 1 << 20
# Says "A" once and "." now and then, so that a VM that goes on can be told from one that starts over.
COUNTING = bytes.fromhex(
    "66baf803 b041 ee"  # mov $0x3f8, %dx; mov $'A', %al; out
    "b90000a000"  # 1: mov $0xa00000, %ecx
    "49 75fd"  # 2: dec %ecx; jnz 2b
    "b02e ee"  # mov $'.', %al; out
    "ebf3"  # jmp 1b
)


class StateCase(SimulatorTest):
    def setUp(self) -> None:
        super().setUp()
        write_elf(self.kernel, COUNTING)
        self.serial = self.folder / "serial"
        self.target = self.folder / "snapshot"
        self.target.mkdir()
        self.url = f"file://{self.target}"

    def another(self, name: str) -> Simulator:
        simulator = Simulator(self.folder, name=name)
        self.addCleanup(simulator.close)
        return simulator

    def running(self, **more: Any) -> Simulator:
        config = self.config(serial={"mode": "File", "file": str(self.serial)}, **more)
        simulator = self.started_vm(config=config)
        wait_for(lambda: self.said().endswith("A..") or ".." in self.said(), "the guest's count")
        return simulator

    def said(self) -> str:
        return self.serial.read_bytes().decode("latin-1") if self.serial.exists() else ""

    def snapshot(self, **more: Any) -> Simulator:
        """A VM that was snapshotted and is gone."""
        simulator = self.running(**more)
        self.assertAnswer(204, simulator.put("vm.pause"))
        self.assertAnswer(204, simulator.put("vm.snapshot", {"destination_url": self.url}))
        simulator.close()
        return simulator

    def assertGoesOn(self) -> None:
        """The file of the serial port is made anew, and the guest that goes on does not start over."""
        wait_for(lambda: len(self.said()) > 2, "the count to go on")
        self.assertEqual(set(self.said()), {"."})


class SnapshotTest(StateCase):
    def testThreeFilesAreLeft(self) -> None:
        simulator = self.snapshot()
        self.assertEqual(sorted(os.listdir(self.target)), ["config.json", "memory-ranges", "state.json"])
        config = json.loads((self.target / "config.json").read_text())
        self.assertEqual(config["payload"], {"kernel": str(self.kernel)})
        self.assertIn("vm snapshotting", simulator.events())

    def testRestoredVmIsPausedAndGoesOn(self) -> None:
        self.snapshot()
        restored = self.another("2")
        self.assertAnswer(204, restored.put("vm.restore", {"source_url": self.url}))
        self.assertEqual(restored.get("vm.info")[1]["state"], "Paused")
        self.assertEqual(self.said(), "")
        self.assertAnswer(204, restored.put("vm.resume"))
        self.assertGoesOn()
        self.assertEqual(
            restored.events(), ["vmm starting", "vm restoring", "vm restored", "vm resuming", "vm resumed"]
        )

    def testRestoredVmRunsAtOnceIfAsked(self) -> None:
        self.snapshot()
        restored = self.another("2")
        self.assertAnswer(204, restored.put("vm.restore", {"source_url": self.url, "resume": True}))
        self.assertEqual(restored.get("vm.info")[1]["state"], "Running")
        self.assertGoesOn()

    def testRestoreFromTheCommandLine(self) -> None:
        self.snapshot()
        simulator = Simulator(self.folder, "--restore", f"source_url={self.url},resume=on", name="2")
        self.addCleanup(simulator.close)
        self.assertEqual(simulator.get("vm.info")[1]["state"], "Running")
        self.assertGoesOn()

    def testSnapshotOfTheSamePauseTwice(self) -> None:
        simulator = self.running()
        self.assertAnswer(204, simulator.put("vm.pause"))
        second = self.folder / "second"
        second.mkdir()
        for target in (self.target, second):
            self.assertAnswer(204, simulator.put("vm.snapshot", {"destination_url": f"file://{target}"}))
        self.assertAnswer(204, simulator.put("vm.resume"))
        count = len(self.said())
        wait_for(lambda: len(self.said()) > count, "the source to go on")
        simulator.close()
        restored = self.another("2")
        self.assertAnswer(204, restored.put("vm.restore", {"source_url": f"file://{second}", "resume": True}))
        self.assertGoesOn()

    def testAddedDevicesComeBack(self) -> None:
        simulator = self.running(
            cpus={"boot_vcpus": 1, "max_vcpus": 2}, memory={"size": 128 * MIB, "hotplug_size": 128 * MIB}
        )
        disk = {"path": self.make_disk("a"), "image_type": "Raw"}
        self.assertEqual(simulator.put("vm.add-disk", disk)[0], 200)
        self.assertAnswer(204, simulator.put("vm.resize", {"desired_vcpus": 2, "desired_ram": 256 * MIB}))
        before = simulator.get("vm.info")[1]["config"]
        self.assertAnswer(204, simulator.put("vm.pause"))
        self.assertAnswer(204, simulator.put("vm.snapshot", {"destination_url": self.url}))
        simulator.close()
        restored = self.another("2")
        self.assertAnswer(204, restored.put("vm.restore", {"source_url": self.url, "resume": True}))
        self.assertGoesOn()
        self.assertEqual(restored.get("vm.info")[1]["config"], before)

    def testTargetThatCannotBeUsedIsRefused(self) -> None:
        simulator = self.running()
        self.assertAnswer(204, simulator.put("vm.pause"))
        for url, words in (
            (str(self.target), f"Could not extract path from URL: {self.target}"),
            ("file:///none/dir", 'Destination is not a directory: "/none/dir"'),
        ):
            with self.subTest(url):
                answer = simulator.put("vm.snapshot", {"destination_url": url})
                outer = ("Cannot send VM snapshot", "Failed to send migratable component snapshot")
                self.assertAnswer(500, answer, *outer, words)
        (self.target / "config.json").write_text("{}")
        answer = simulator.put("vm.snapshot", {"destination_url": self.url})
        self.assertAnswer(500, answer, "Error creating VM config snapshot file", "File exists (os error 17)")

    def testDamagedSnapshotsAreRefused(self) -> None:
        self.snapshot()
        restored = self.another("2")
        damages = {
            "config.json": (b"{", "Error deserialising VM config snapshot"),
            "state.json": (b"{", "Error deserialising VM state snapshot"),
            "memory-ranges": (b"x", "failed to fill whole buffer"),
        }
        for name, (content, words) in damages.items():
            path = self.target / name
            kept = path.read_bytes()
            for damage in ("missing", "damaged"):
                with self.subTest(f"{name} {damage}"):
                    path.unlink()
                    if damage == "damaged":
                        path.write_bytes(content)
                    answer = restored.put("vm.restore", {"source_url": self.url})
                    self.assertEqual(answer[0], 500, answer)
                    self.assertIn("No such file or directory (os error 2)" if damage == "missing" else words, answer[1])
                    self.assertAnswer(404, restored.get("vm.info"))
                    path.write_bytes(kept)
        self.assertAnswer(204, restored.put("vm.restore", {"source_url": self.url}))

    def testMemoryThatQemuCannotReadIsRefused(self) -> None:
        self.snapshot()
        path = self.target / "memory-ranges"
        path.write_bytes(bytes(path.stat().st_size))
        restored = self.another("2")
        answer = restored.put("vm.restore", {"source_url": self.url})
        self.assertEqual((answer[0], answer[1][:2]), (500, ["Error from API", "The VM could not be restored"]))
        self.assertIn("Error reading from snapshot file", answer[1])
        self.assertEqual(restored.qemu_pids(), [])
        self.assertAnswer(204, restored.put("vm.create", self.config()))

    def testContradictoryRestoreIsABadRequest(self) -> None:
        self.snapshot()
        request = {"source_url": self.url, "prefault": True, "memory_restore_mode": "OnDemand"}
        words = "'prefault' cannot be combined with 'memory_restore_mode=ondemand'"
        self.assertAnswer(400, self.another("2").put("vm.restore", request), words)


class MigrationTest(StateCase):
    def migrate(self, url: str, source: Simulator, target: Simulator, **more: Any) -> None:

        answers: list[tuple[int, Any]] = []
        receiver = threading.Thread(
            target=lambda: answers.append(target.put("vm.receive-migration", {"receiver_url": url}))
        )
        receiver.start()
        target.wait_event("vm migration-receive-ready")
        self.assertAnswer(204, source.put("vm.send-migration", {"destination_url": url} | more))
        receiver.join(60)
        self.assertEqual(answers, [(204, None)])

    def assertMoved(self, source: Simulator, target: Simulator) -> None:
        self.assertEqual(source.wait(), 0)
        self.assertEqual(source.events()[-3:], ["vm migration-finished", "vm deleted", "vmm shutdown"])
        self.assertEqual(target.get("vm.info")[1]["state"], "Running")
        self.assertGoesOn()

    def testOverAUnixSocket(self) -> None:
        disk = {"path": self.make_disk("a"), "image_type": "Raw"}
        source, target = self.running(disks=[disk]), self.another("2")
        self.migrate(f"unix:{self.folder}/migration", source, target)
        self.assertMoved(source, target)
        self.assertIn("vm migration-started", source.events())
        received = [event for event in target.events() if "migration" in event]
        self.assertEqual(
            received, ["vm migration-receive-ready", "vm migration-receive-started", "vm migration-receive-finished"]
        )

    def testOverTcp(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        source, target = self.running(), self.another("2")
        self.migrate(f"tcp:127.0.0.1:{port}", source, target, connections=2)
        self.assertMoved(source, target)

    def testLocalNeedsSharedMemory(self) -> None:
        source = self.running()
        self.assertAnswer(
            500,
            source.put("vm.send-migration", {"destination_url": "unix:/s", "local": True}),
            "Local migration requires shared memory or hugepages enabled",
        )

    def testLocalWithSharedMemory(self) -> None:
        source, target = self.running(memory={"size": 64 * MIB, "shared": True}), self.another("2")
        self.migrate(f"unix:{self.folder}/migration", source, target, local=True)
        self.assertMoved(source, target)

    def testPausedVmArrivesPaused(self) -> None:
        source, target = self.running(), self.another("2")
        self.assertAnswer(204, source.put("vm.pause"))
        self.migrate(f"unix:{self.folder}/migration", source, target)
        self.assertEqual(source.wait(), 0)
        self.assertEqual(target.get("vm.info")[1]["state"], "Paused")

    def testWhatTwoProcessesCannotHaveStopsIt(self) -> None:
        """A vsock socket is bound by its path, a TAP that is named serves one process; the source goes on."""
        devices: dict[str, dict[str, Any]] = {"vsock": {"vsock": {"cid": 3, "socket": f"{self.folder}/vsock"}}}
        if os.access("/dev/net/tun", os.W_OK) and os.geteuid() == 0:
            devices["tap"] = {"net": [{"tap": f"vmtest{os.getpid()}"}]}
        for name, config in devices.items():
            with self.subTest(name):
                self.serial = self.folder / f"serial-{name}"
                config |= {"serial": {"mode": "File", "file": str(self.serial)}}
                source, target = Simulator(self.folder, name=f"{name}1"), Simulator(self.folder, name=f"{name}2")
                self.addCleanup(target.close)
                self.addCleanup(source.close)
                self.assertAnswer(204, source.put("vm.create", self.config(**config)))
                self.assertAnswer(204, source.put("vm.boot"))
                url = f"unix:{self.folder}/migration-{name}"

                answers: list[tuple[int, Any]] = []
                receiver = threading.Thread(
                    target=lambda: answers.append(target.put("vm.receive-migration", {"receiver_url": url}))
                )
                receiver.start()
                target.wait_event("vm migration-receive-ready")
                self.assertAnswer(204, source.put("vm.send-migration", {"destination_url": url}))
                receiver.join(60)
                self.assertAnswer(500, answers[0], "Migration was aborted")
                source.wait_event("vm migration-failed")
                wait_for(lambda: source.put("vm.nmi")[0] == 204, "the VM to be back")

    def testNobodyListeningLeavesTheSourceRunning(self) -> None:
        source = self.running()
        self.assertAnswer(204, source.put("vm.send-migration", {"destination_url": f"unix:{self.folder}/none"}))
        source.wait_event("vm migration-failed")
        wait_for(lambda: source.put("vm.nmi")[0] == 204, "the VM to be back")
        count = len(self.said())
        wait_for(lambda: len(self.said()) > count, "the source to go on")

    def testRequestsThatCannotBeMeant(self) -> None:
        source = self.running()
        for body, words in (
            ({"destination_url": "file:///x"}, "destination_url must use tcp:<host>:<port> or unix:<path>."),
            ({"destination_url": "unix:"}, "destination_url must use tcp:<host>:<port> or unix:<path>."),
            ({"destination_url": "unix:/s", "connections": 2}, "UNIX sockets and connections option cannot be used"),
            ({"destination_url": "tcp:h:1", "connections": 129}, "connections must not exceed 128."),
            ({"destination_url": "tcp:h:1", "local": True}, "local option is only supported with UNIX sockets."),
            ({"destination_url": "tcp:h"}, "Missing TCP port"),
            ({"destination_url": "tcp:h:70000"}, "Invalid TCP port: 70000"),
        ):
            with self.subTest(body):
                answer = source.put("vm.send-migration", body)
                self.assertEqual(answer[0], 500, answer)
                self.assertIn(words, answer[1][-1])
        target = self.another("2")
        for body, words in (
            ({"receiver_url": "x"}, "Expected receiver_url to either use `tcp` or `unix` prefix"),
            ({"receiver_url": "tcp::1"}, "Host must not be empty"),
            ({"receiver_url": "unix:/none/dir/s"}, "No such file or directory (os error 2)"),
        ):
            with self.subTest(body):
                self.assertAnswer(500, target.put("vm.receive-migration", body), words)
        answer = source.put("vm.receive-migration", {"receiver_url": "unix:/s"})
        self.assertAnswer(500, answer, "Can't receive a migration when a VM is already created")

    def testSenderThatGoesAwayIsAnError(self) -> None:

        target = self.another("2")
        path = f"{self.folder}/migration"
        answers: list[tuple[int, Any]] = []
        receiver = threading.Thread(
            target=lambda: answers.append(target.put("vm.receive-migration", {"receiver_url": f"unix:{path}"}))
        )
        receiver.start()
        target.wait_event("vm migration-receive-ready")
        with socket.socket(socket.AF_UNIX) as sender:
            sender.connect(path)
        receiver.join(60)
        self.assertEqual((answers[0][0], answers[0][1][1]), (500, "Error receiving migration"))
        self.assertAnswer(404, target.get("vm.info"))


class OldMigrationTest(StateCase):
    """Until v53 the request to send is answered when the guest has moved, or when it stays."""

    def setUp(self) -> None:
        super().setUp()
        self.meeting = f"{self.folder}/migration"

    def source(self, version: str) -> Simulator:
        serial = {"mode": "File", "file": str(self.serial)}
        simulator = self.started_vm(config=self.config(serial=serial), VMTEST_SIM_CH_VERSION=version)
        wait_for(lambda: ".." in self.said(), "the guest's count")
        return simulator

    def receiver(self, version: str, **environment: str) -> Simulator:
        simulator = Simulator(self.folder, name="2", VMTEST_SIM_CH_VERSION=version, **environment)
        self.addCleanup(simulator.close)
        return simulator

    def is_listened_on(self) -> bool:
        lines = Path("/proc/net/unix").read_text().splitlines()
        return any(line.endswith(f" {self.meeting}") and " 00010000 " in line for line in lines)

    def migrate(self, source: Simulator, target: Simulator) -> list[tuple[int, Any]]:
        """The answers to sender and receiver."""
        received: list[tuple[int, Any]] = []
        request = {"receiver_url": f"unix:{self.meeting}"}
        receiver = threading.Thread(target=lambda: received.append(target.put("vm.receive-migration", request)))
        receiver.start()
        wait_for(self.is_listened_on, "the receiver")
        sent = source.put("vm.send-migration", {"destination_url": f"unix:{self.meeting}"})
        receiver.join(60)
        return [sent, *received]

    def migration_events(self, simulator: Simulator) -> list[str]:
        return [event for event in simulator.events() if "migration" in event]

    def testV52AnswersWhenTheGuestHasMoved(self) -> None:
        source, target = self.source("v52"), self.receiver("v52")
        self.assertEqual(self.migrate(source, target), [(204, None), (204, None)])
        self.assertEqual(target.get("vm.info")[1]["state"], "Running")
        self.assertEqual(source.wait(), 0)
        self.assertGoesOn()
        self.assertEqual(self.migration_events(source), ["vm migration-started", "vm migration-finished"])
        self.assertEqual(
            self.migration_events(target), ["vm migration-receive-started", "vm migration-receive-finished"]
        )

    def testV51TellsByItsAnswerAlone(self) -> None:
        source, target = self.source("v51"), self.receiver("v51")
        self.assertEqual(self.migrate(source, target), [(204, None), (204, None)])
        self.assertEqual(target.get("vm.info")[1]["state"], "Running")
        self.assertEqual(source.wait(), 0)
        self.assertGoesOn()
        self.assertEqual(self.migration_events(source) + self.migration_events(target), [])

    def testFailureIsTheAnswer(self) -> None:
        for version in ("v51", "v52"):
            with self.subTest(version):
                source = self.source(version)
                answer = source.put("vm.send-migration", {"destination_url": f"unix:{self.meeting}"})
                words = ("Error connecting to UNIX socket", "No such file or directory (os error 2)")
                self.assertAnswer(500, answer, *words)
                self.assertEqual(source.get("vm.info")[1]["state"], "Running")
                self.assertAnswer(204, source.put("vm.pause"))
                source.close()

    def testReceptionThatIsAbortedIsAnsweredLikeOneThatIsNot(self) -> None:
        source, target = self.source("v52"), self.receiver("v52", VMTEST_SIM_CH_QEMU="/bin/false")
        sent, received = self.migrate(source, target)
        self.assertAnswer(500, sent, "Error during config migration")
        self.assertEqual(received, (204, None))
        self.assertAnswer(500, target.get("vm.info"), "VM is not created")
        self.assertEqual(source.get("vm.info")[1]["state"], "Running")

    def testWhatCameLaterIsRefused(self) -> None:
        cpus = {"boot_vcpus": 1, "max_vcpus": 1, "core_scheduling": "Vm"}
        for version, path, body, field in (
            ("v51", "vm.send-migration", {"destination_url": "unix:/s", "timeout_s": 1}, "timeout_s"),
            ("v51", "vm.restore", {"source_url": "file:///d", "resume": False}, "resume"),
            ("v51", "vm.create", self.config(cpus=cpus), "core_scheduling"),
            ("v52", "vm.send-migration", {"destination_url": "unix:/s", "memory_mode": "Precopy"}, "memory_mode"),
            ("v52", "vm.receive-migration", {"receiver_url": "unix:/s", "tls_dir": "/t"}, "tls_dir"),
        ):
            with self.subTest(version=version, path=path):
                simulator = self.start(VMTEST_SIM_CH_VERSION=version)
                status, words = simulator.put(path, body)
                self.assertEqual((status, words[0]), (400, "Failed to deserialize JSON"))
                self.assertIn(f"{version} has no '{field}' yet", words[1])
                simulator.close()

    def testPathThatCameLaterIsNotThere(self) -> None:
        body = {"socket": "/s", "queue_sizes": [8], "device_type": 26}
        answer = self.start(VMTEST_SIM_CH_VERSION="v51").put("vm.add-generic-vhost-user", body)
        self.assertAnswer(404, answer, "Not Found")


if __name__ == "__main__":
    unittest.main()
