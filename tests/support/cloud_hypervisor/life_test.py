"""The life of a VM: states, events, consoles, resets and power-off by the guest, and its end."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
import unittest
from pathlib import Path

from simulated import (
    HALT,
    POWER_OFF,
    RESET,
    SPEAK_AND_HALT,
    ApiConnection,
    Simulator,
    SimulatorTest,
    wait_for,
    write_elf,
)

START_SECONDS = 2.0
INVALID_TRANSITION = "Invalid transition: InvalidStateTransition"


def process_exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class StateTest(SimulatorTest):
    def state(self, simulator: Simulator) -> str:
        return simulator.get("vm.info")[1]["state"]

    def testFromCreationToDeletion(self) -> None:
        simulator = self.start()
        self.assertAnswer(204, simulator.put("vm.create", self.config()))
        self.assertEqual(self.state(simulator), "Created")
        self.assertAnswer(204, simulator.put("vm.boot"))
        self.assertEqual(self.state(simulator), "Running")
        self.assertEqual(len(simulator.qemu_pids()), 1)
        self.assertAnswer(204, simulator.put("vm.pause"))
        self.assertEqual(self.state(simulator), "Paused")
        self.assertAnswer(204, simulator.put("vm.resume"))
        self.assertAnswer(204, simulator.put("vm.shutdown"))
        # The VM object is gone with the shutdown; its configuration is there to be booted again.
        self.assertEqual(self.state(simulator), "Created")
        self.assertEqual(simulator.qemu_pids(), [])
        self.assertAnswer(204, simulator.put("vm.boot"))
        self.assertAnswer(204, simulator.put("vm.delete"))
        self.assertAnswer(404, simulator.get("vm.info"))
        self.assertAnswer(200, simulator.put("vmm.shutdown"))
        self.assertEqual(simulator.wait(), 0)
        self.assertEqual(
            simulator.events(),
            [
                "vmm starting",
                "vm booting",
                "vm booted",
                "vm pausing",
                "vm paused",
                "vm resuming",
                "vm resumed",
                "vm shutdown",
                "vm booting",
                "vm booted",
                "vm shutdown",
                "vm deleted",
                "vmm shutdown",
            ],
        )

    def testEventsAreObjectsWithTheirTime(self) -> None:
        simulator = self.started_vm()
        records = simulator.event_records()
        self.assertEqual([sorted(record) for record in records], [["event", "properties", "source", "timestamp"]] * 3)
        times = [record["timestamp"]["secs"] + record["timestamp"]["nanos"] / 1e9 for record in records]
        self.assertEqual(times, sorted(times))
        self.assertIn('{\n  "timestamp": {\n    "secs": 0,', simulator.event_file.read_text())

    def testRequestsInTheWrongState(self) -> None:
        simulator = self.started_vm()
        self.assertAnswer(500, simulator.put("vm.boot"), "VM is already created")
        self.assertAnswer(500, simulator.put("vm.resume"), f"{INVALID_TRANSITION}(Running, Running)")
        self.assertAnswer(
            500,
            simulator.put("vm.snapshot", {"destination_url": f"file://{self.folder}"}),
            "Trying to snapshot while VM is running",
        )
        self.assertAnswer(204, simulator.put("vm.pause"))
        self.assertAnswer(500, simulator.put("vm.pause"), f"{INVALID_TRANSITION}(Paused, Paused)")
        self.assertAnswer(500, simulator.put("vm.boot"), "VM is already created")

    def testRebootMakesTheVmAnew(self) -> None:
        simulator = self.started_vm()
        before = simulator.qemu_pids()
        self.assertAnswer(204, simulator.put("vm.reboot"))
        self.assertNotEqual(simulator.qemu_pids(), before)
        self.assertEqual(self.state(simulator), "Running")
        self.assertEqual(simulator.events()[-2:], ["vm rebooting", "vm rebooted"])

    def testBootFromTheStartOfTheProcessIsQuick(self) -> None:
        begin = time.monotonic()
        self.started_vm()
        # Far above what it takes on an idle host, far below what a guest's boot would.
        self.assertLess(time.monotonic() - begin, START_SECONDS)

    def testGuestResetRebootsTheVm(self) -> None:
        write_elf(self.kernel, RESET)
        simulator = self.started_vm()
        simulator.wait_event("vm rebooted")
        # In one step: it boots anew over and over.
        halting = self.folder / "halting"
        write_elf(halting, HALT)
        halting.rename(self.kernel)
        simulator.close()
        self.assertEqual(simulator.process.returncode, 0)

    def testGuestPowerOffEndsTheProcess(self) -> None:
        write_elf(self.kernel, POWER_OFF)
        simulator = self.started_vm()
        self.assertEqual(simulator.wait(), 0)
        self.assertEqual(simulator.events()[-3:], ["vm shutdown", "vm deleted", "vmm shutdown"])

    def testGuestPowerOffLeavesTheVmmIfAsked(self) -> None:
        write_elf(self.kernel, POWER_OFF)
        simulator = self.started_vm("--no-shutdown")
        simulator.wait_event("vm shutdown")
        self.assertEqual(self.state(simulator), "Created")
        self.assertAnswer(500, simulator.put("vm.shutdown"), "VM is not running")
        write_elf(self.kernel, HALT)
        self.assertAnswer(204, simulator.put("vm.boot"))

    def testButtonAndNmiReachTheMachine(self) -> None:
        simulator = self.started_vm()
        self.assertAnswer(204, simulator.put("vm.power-button"))
        self.assertAnswer(204, simulator.put("vm.nmi"))

    def testCoredumpIsAnElfFile(self) -> None:
        simulator = self.started_vm(VMTEST_SIM_CH_GUEST_DEBUG="1")
        target = self.folder / "core"
        self.assertAnswer(204, simulator.put("vm.coredump", {"destination_url": f"file://{target}"}))
        self.assertEqual(target.read_bytes()[:4], b"\x7fELF")
        self.assertEqual(self.state(simulator), "Running")
        self.assertAnswer(500, simulator.put("vm.coredump", {"destination_url": str(target)}))
        self.assertEqual(self.state(simulator), "Running")

    def testCoredumpThatFailsLeavesTheVmPaused(self) -> None:
        simulator = self.started_vm(VMTEST_SIM_CH_GUEST_DEBUG="1")
        target = self.folder / "core"
        target.write_bytes(b"")
        answer = simulator.put("vm.coredump", {"destination_url": f"file://{target}"})
        self.assertAnswer(500, answer, "File exists (os error 17)")
        self.assertEqual(self.state(simulator), "Paused")

    def testBootThatFailsAtTheLocksLeavesAVm(self) -> None:
        disk = self.make_disk("disk")
        first = self.started_vm(config=self.config(disks=[{"path": disk, "image_type": "Raw"}]))
        second = Simulator(self.folder, name="2")
        self.addCleanup(second.close)
        self.assertAnswer(204, second.put("vm.create", self.config(disks=[{"path": disk, "image_type": "Raw"}])))
        self.assertAnswer(
            500,
            second.put("vm.boot"),
            "Error locking disk images: Another instance likely holds a lock",
            "Cannot lock images of all block devices",
            f"Failed to get Write lock for disk image: {disk}",
            "The file is already locked",
        )
        self.assertEqual(self.state(second), "Created")
        self.assertAnswer(500, second.put("vm.boot"), "VM is already created")
        self.assertAnswer(204, second.put("vm.delete"))
        self.assertAnswer(204, first.put("vm.shutdown"))
        self.assertAnswer(204, second.put("vm.create", self.config(disks=[{"path": disk, "image_type": "Raw"}])))
        self.assertAnswer(204, second.put("vm.boot"))

    def testReadersShareAnImage(self) -> None:
        disk = {"path": self.make_disk("disk"), "image_type": "Raw", "readonly": True}
        self.started_vm(config=self.config(disks=[disk]))
        second = Simulator(self.folder, name="2")
        self.addCleanup(second.close)
        self.assertAnswer(204, second.put("vm.create", self.config(disks=[disk])))
        self.assertAnswer(204, second.put("vm.boot"))


class EndTest(SimulatorTest):
    def testGuestDiesWithTheKilledSimulator(self) -> None:
        simulator = self.started_vm()
        (pid,) = simulator.qemu_pids()
        simulator.process.kill()
        simulator.wait()
        wait_for(lambda: not process_exists(pid), "the end of QEMU")

    def testKilledGuestProcessEndsTheSimulator(self) -> None:
        simulator = self.started_vm()
        os.kill(simulator.qemu_pids()[0], signal.SIGKILL)
        self.assertEqual(simulator.wait(), 1)
        self.assertIn("QEMU ended unexpectedly", simulator.error_text())

    def testInterruptShutsDown(self) -> None:
        simulator = self.started_vm()
        simulator.process.send_signal(signal.SIGINT)
        self.assertEqual(simulator.wait(), 0)
        self.assertEqual(simulator.events()[-1], "vmm shutdown")

    def testShutdownWithOpenConnections(self) -> None:
        simulator = self.started_vm()
        idle = ApiConnection(simulator.socket)
        self.addCleanup(idle.close)
        idle.connect()
        self.assertAnswer(200, simulator.put("vmm.shutdown"))
        self.assertEqual(simulator.wait(), 0)


class ConsoleTest(SimulatorTest):
    def setUp(self) -> None:
        super().setUp()
        write_elf(self.kernel, SPEAK_AND_HALT)

    def testSerialFile(self) -> None:
        path = self.folder / "serial"
        path.write_text("old")
        simulator = self.started_vm(config=self.config(serial={"mode": "File", "file": str(path)}))
        wait_for(lambda: path.read_bytes().endswith(b"!"), "the guest's word")
        self.assertFalse(path.read_bytes().startswith(b"old"))
        self.assertAnswer(204, simulator.put("vm.reboot"))
        wait_for(lambda: path.read_bytes().endswith(b"!"), "the guest's word after the reboot")

    def testSerialSocketKeepsWhatWasSaidBefore(self) -> None:
        path = str(self.folder / "serial.sock")
        said = self.folder / "debug"
        debug = {"mode": "File", "file": str(said), "iobase": 0xE9}
        serial = {"mode": "Socket", "socket": path}
        simulator = self.started_vm(config=self.config(serial=serial, debug_console=debug))
        # The guest speaks to the serial port first, to the debug port then.
        wait_for(lambda: said.read_bytes().endswith(b"!"), "the guest's word")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(path)
            data = b""
            while not data.endswith(b"!"):
                data += client.recv(4096)
        self.assertAnswer(204, simulator.put("vm.shutdown"))
        self.assertFalse(os.path.exists(path))

    def testSerialSocketTakesTheNewestClient(self) -> None:
        path = str(self.folder / "serial.sock")
        self.started_vm(config=self.config(serial={"mode": "Socket", "socket": path}))
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for client in (first, second):
                client.settimeout(20)
                client.connect(path)
            while first.recv(4096):
                pass

    def testSerialSocketPathInUseIsRefused(self) -> None:
        path = self.folder / "serial.sock"
        path.write_text("")
        answer = self.start().put("vm.create", self.config(serial={"mode": "Socket", "socket": str(path)}))
        self.assertAnswer(500, answer, "Error creating console device", "Address already in use (os error 98)")

    def testSerialPtyIsNamedInTheConfiguration(self) -> None:
        simulator = self.started_vm(config=self.config(serial={"mode": "Pty"}))
        path = simulator.get("vm.info")[1]["config"]["serial"]["file"]
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        self.addCleanup(os.close, fd)
        data = b""
        while not data.endswith(b"!"):
            self.assertTrue(select.select([fd], [], [], 20)[0], data)
            data += os.read(fd, 4096)

    def testSerialTtyIsStandardOutput(self) -> None:
        simulator = self.started_vm(config=self.config(serial={"mode": "Tty"}))
        output = self.folder / "stdout"
        wait_for(lambda: output.read_bytes().endswith(b"!"), "the guest's word")
        simulator.close()


if __name__ == "__main__":
    unittest.main()
