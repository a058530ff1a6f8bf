"""A real Linux guest (the image `tiny`): it boots, and sees what is added, removed, resized and carried over."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any

from cloud_hypervisor_sim.qemu import die_with_parent
from simulated import Simulator, wait_for

MIB = 1 << 20
GUEST_SECONDS = 120.0


def image_folder() -> Path:
    home = os.environ.get("VMTEST_HOME")
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return (Path(home) if home else data / "vmtest") / "images" / "tiny-x86_64"


class Shell:
    """The root shell on the guest's serial port, which is a socket here."""

    def __init__(self, path: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(1)
        self._sock.connect(path)
        self._count = 0
        self.text = ""

    def close(self) -> None:
        self._sock.close()

    def wait(self, pattern: str, seconds: float = GUEST_SECONDS) -> re.Match[str]:
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text, re.S)
            if found:
                self.text = self.text[found.end() :]
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"{pattern!r} not within {seconds} s in: {self.text[-3000:]}")
            try:
                data = self._sock.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise AssertionError(f"the console ended: {self.text[-3000:]}")
            self.text += data.decode("latin-1").replace("\r", "")

    def send(self, command: str) -> None:
        self._sock.sendall(command.encode() + b"\n")

    def run(self, command: str) -> str:
        """What the command prints; the end mark is computed, so that the echo of the line is not taken for it."""
        self._count += 1
        self.send(f"echo BEGIN$(({self._count}+0))X; {command}; echo END$(({self._count}+0))X")
        return self.wait(f"BEGIN{self._count}X\n(.*?)END{self._count}X").group(1).strip()

    def until(self, command: str, expected: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while (value := self.run(command)) != expected:
            if time.monotonic() > deadline:
                raise AssertionError(f"{command}: {value!r}, not {expected!r}")
            time.sleep(0.2)


class GuestCase(unittest.TestCase):
    def setUp(self) -> None:
        images = image_folder()
        if not (images / "manifest.json").exists():
            self.skipTest(f"no image in {images}: vmtest image build tiny")
        self.manifest = json.loads((images / "manifest.json").read_text())
        self.folder = Path(tempfile.mkdtemp(prefix="vmtest-ch-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.serial = str(self.folder / "serial")
        self.overlay = str(self.folder / "root.qcow2")
        base = ["-b", str(images / self.manifest["disk"]), "-F", self.manifest["disk_format"]]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, self.overlay], check=True)
        self.payload = {
            "kernel": str(images / self.manifest["kernel"]),
            "initramfs": str(images / self.manifest["initramfs"]),
            "cmdline": f"{self.manifest['command_line']} vmtest.shell=1",
        }

    def config(self, **more: Any) -> dict[str, Any]:
        root = {"path": self.overlay, "image_type": "Qcow2", "backing_files": True, "id": "root"}
        return {
            "payload": self.payload,
            "memory": {"size": 256 * MIB},
            "disks": [root],
            "serial": {"mode": "Socket", "socket": self.serial},
            "console": {"mode": "Off"},
        } | more

    def simulator(self, name: str = "", *options: str) -> Simulator:
        simulator = Simulator(self.folder, *options, name=name)
        self.addCleanup(simulator.close)
        return simulator

    def companion(self, *arguments: str) -> None:
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent(os.getpid()))
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

    def shell(self) -> Shell:
        shell = Shell(self.serial)
        self.addCleanup(shell.close)
        return shell

    def booted(self, *options: str, **more: Any) -> tuple[Simulator, Shell]:
        simulator = self.simulator("", *options)
        self.assertEqual(simulator.put("vm.create", self.config(**more)), (204, None))
        self.assertEqual(simulator.put("vm.boot"), (204, None))
        return simulator, self.ready_shell()

    def ready_shell(self) -> Shell:
        """The marker is said three times."""
        shell = self.shell()
        for _ in range(3):
            shell.wait(r"VMRS_READY [0-9.]+\n")
        return shell


class DeviceTest(GuestCase):
    def testDisksComeAndGo(self) -> None:
        simulator, shell = self.booted()
        path = self.folder / "extra"
        path.write_bytes(b"from the host".ljust(4 * MIB, b"\0"))
        status, place = simulator.put("vm.add-disk", {"path": str(path), "image_type": "Raw", "id": "extra"})
        self.assertEqual(status, 200, place)
        shell.until("cat /sys/block/vdb/size", str(4 * MIB // 512))
        self.assertIn(place["bdf"], shell.run("readlink -f /sys/block/vdb"))
        self.assertEqual(shell.run("head -c 13 /dev/vdb"), "from the host")
        self.assertGreater(simulator.get("vm.counters")[1]["extra"]["read_bytes"], 0)
        self.assertEqual(simulator.put("vm.resize-disk", {"id": "extra", "desired_size": 8 * MIB}), (204, None))
        shell.until("cat /sys/block/vdb/size", str(8 * MIB // 512))
        shell.run("echo from the guest | dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null")
        self.assertTrue(path.read_bytes().startswith(b"from the guest"))
        self.assertEqual(simulator.put("vm.remove-device", {"id": "extra"}), (204, None))
        simulator.wait_event("vm device-removed")
        event = simulator.event_records()[-1]
        self.assertEqual(event["properties"], {"id": "extra", "bdf": place["bdf"]})
        self.assertEqual(shell.run("ls /sys/block | grep vdb"), "")
        self.assertEqual(set(simulator.get("vm.counters")[1]), {"root"})
        # The place is free again, and the identifier.
        status, _ = simulator.put("vm.add-disk", {"path": str(path), "image_type": "Raw", "id": "extra"})
        self.assertEqual(status, 200)
        shell.until("ls /sys/block | grep vdb", "vdb")

    def testFirstSectorOfADetectedRawDiskIsKept(self) -> None:
        path = self.folder / "extra"
        path.write_bytes(bytes(MIB))
        extra = {"path": str(path)}
        _, shell = self.booted(disks=[*self.config()["disks"], extra])
        shell.run("echo x | dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null")
        shell.run("echo y | dd of=/dev/vdb bs=512 seek=8 conv=notrunc,fsync 2>/dev/null")
        content = path.read_bytes()
        self.assertEqual((content[:2], content[8 * 512 : 8 * 512 + 2]), (b"\0\0", b"y\n"))

    def testNetworkCardIsAdded(self) -> None:
        if not os.access("/dev/net/tun", os.W_OK):
            self.skipTest("/dev/net/tun cannot be opened")
        simulator, shell = self.booted()
        name = f"vmg{os.getpid() % 100000}"
        net = {"tap": name, "ip": "198.18.77.1", "mask": "255.255.255.0", "mac": "02:00:00:00:00:07", "id": "n"}
        self.assertEqual(simulator.put("vm.add-net", net)[0], 200)
        shell.until("cat /sys/class/net/eth0/address", "02:00:00:00:00:07")
        shell.run("ifconfig eth0 198.18.77.2 netmask 255.255.255.0 up")
        self.assertIn(" 0% packet loss", shell.run("ping -c 2 -W 20 198.18.77.1"))
        counters = simulator.get("vm.counters")[1]["n"]
        self.assertGreater(counters["tx_frames"], 0)
        self.assertGreater(counters["rx_frames"], 0)
        # The guest lets go of it, and the interface that was made for it goes.
        self.assertEqual(simulator.put("vm.remove-device", {"id": "n"}), (204, None))
        simulator.wait_event("vm device-removed")
        self.assertEqual(shell.run("ls /sys/class/net | grep eth0"), "")
        wait_for(lambda: not os.path.exists(f"/sys/class/net/{name}"), "the interface to go")

    def testProcessorsAndMemoryComeAndGo(self) -> None:
        simulator, shell = self.booted(
            cpus={"boot_vcpus": 1, "max_vcpus": 2}, memory={"size": 256 * MIB, "hotplug_size": 256 * MIB}
        )
        before = int(shell.run("awk '/MemTotal/ {print $2}' /proc/meminfo"))
        self.assertEqual(simulator.put("vm.resize", {"desired_vcpus": 2, "desired_ram": 384 * MIB}), (204, None))
        files = "/sys/devices/system/cpu/cpu1/online /sys/devices/system/memory/memory*/online"
        online = f"for f in {files}; do echo 1 >$f; done"
        shell.until("ls -d /sys/devices/system/cpu/cpu1", "/sys/devices/system/cpu/cpu1")
        shell.run(f"{{ {online}; }} 2>/dev/null")
        shell.until("grep -c ^processor /proc/cpuinfo", "2")
        after = int(shell.run(f"{{ {online}; }} 2>/dev/null; awk '/MemTotal/ {{print $2}}' /proc/meminfo"))
        self.assertEqual(after - before, 128 << 10)
        self.assertEqual(simulator.put("vm.resize", {"desired_vcpus": 1}), (204, None))
        shell.until("grep -c ^processor /proc/cpuinfo", "1")
        self.assertEqual(simulator.get("vm.info")[1]["config"]["cpus"]["boot_vcpus"], 1)

    def testMemoryByVirtioMemComesAndGoes(self) -> None:
        memory = {"size": 256 * MIB, "hotplug_size": 256 * MIB, "hotplug_method": "VirtioMem"}
        simulator, shell = self.booted(memory=memory)
        shell.run("echo online_movable > /sys/devices/system/memory/auto_online_blocks")
        count = "awk '/MemTotal/ {print $2}' /proc/meminfo"
        before = int(shell.run(count))
        for wanted in (384, 320, 256):
            self.assertEqual(simulator.put("vm.resize", {"desired_ram": wanted * MIB}), (204, None))
            shell.until(count, str(before + ((wanted - 256) << 10)))
            info = simulator.get("vm.info")[1]
            self.assertEqual(info["memory_actual_size"], wanted * MIB)
            self.assertEqual(info["config"]["memory"]["size"], 256 * MIB)

    def testInterruptReachesTheKernel(self) -> None:
        simulator, shell = self.booted()
        self.assertEqual(simulator.put("vm.nmi"), (204, None))
        shell.wait("NMI received for unknown reason")

    def testAgentAnswersOverTheVsockSocket(self) -> None:
        path = str(self.folder / "vsock")
        simulator, _ = self.booted(vsock={"cid": 3, "socket": path})

        for number in ("1", "2"):
            # Whoever was connected before is noticed to be gone a moment later.
            client = wait_for(lambda: self._connect(path, 5252), "the agent")
            self.assertIsNone(self._connect(path, 1234))
            self.assertIsNone(self._connect(path, 5252), "a second client at the same time")
            client.sendall(json.dumps({"id": number, "op": "ping"}).encode() + b"\n")
            self.assertEqual(json.loads(client.makefile().readline()), {"id": number, "ok": True})
            client.close()
        self.assertEqual(simulator.put("vm.shutdown"), (204, None))
        self.assertFalse(os.path.exists(path))

    def _connect(self, path: str, port: int) -> socket.socket | None:
        """A connection to a port of the guest, unless it is refused."""
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(30)
        client.connect(path)
        client.sendall(f"CONNECT {port}\n".encode())
        answer = client.recv(64)
        if not answer:
            client.close()
            return None
        self.assertRegex(answer, rb"^OK \d+\n$")
        return client

    def testSharedFolderIsMounted(self) -> None:
        daemon = shutil.which("virtiofsd") or "/usr/lib/qemu/virtiofsd"
        if not os.path.exists(daemon):
            self.skipTest("virtiofsd is not installed")
        shared = self.folder / "shared"
        shared.mkdir()
        (shared / "word").write_text("from the host")
        path = str(self.folder / "fs")
        # Its other way to lock itself up, by a mount namespace, fails where the root folder is no mount.
        options = f"source={shared},cache=none,sandbox=chroot"
        self.companion(daemon, "-o", options, f"--socket-path={path}")
        wait_for(lambda: os.path.exists(path), "virtiofsd")
        fs = {"tag": "share", "socket": path, "num_queues": 1, "queue_size": 512, "id": "fs"}
        simulator, shell = self.booted(memory={"size": 256 * MIB, "shared": True})
        self.assertEqual(simulator.put("vm.add-fs", fs)[0], 200)
        shell.run("modprobe virtiofs; mkdir -p /mnt")
        shell.until("mount -t virtiofs share /mnt 2>/dev/null; cat /mnt/word", "from the host")

    def testTpmIsThere(self) -> None:
        swtpm = shutil.which("swtpm")
        if swtpm is None:
            self.skipTest("swtpm is not installed")
        path = str(self.folder / "tpm")
        arguments = [
            swtpm,
            "socket",
            "--tpm2",
            "--tpmstate",
            f"dir={self.folder}",
            "--ctrl",
            f"type=unixio,path={path}",
        ]
        self.companion(*arguments)
        wait_for(lambda: os.path.exists(path), "swtpm")
        _, shell = self.booted(tpm={"socket": path})
        self.assertIn("MSFT0101", shell.run("ls /sys/bus/acpi/devices"))


class FirmwareTest(GuestCase):
    def testFirmwareVolumeSpeaks(self) -> None:
        firmware = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
        if not firmware.exists():
            self.skipTest(f"{firmware} is not installed")
        simulator = self.simulator()
        config = self.config(payload={"firmware": str(firmware)}, disks=[])
        self.assertEqual(simulator.put("vm.create", config), (204, None))
        self.assertEqual(simulator.put("vm.boot"), (204, None))
        self.shell().wait("BdsDxe")


class LifeTest(GuestCase):
    def testPlatformStringsReachTheGuest(self) -> None:
        _, shell = self.booted(platform={"system_serial_number": "s-1", "oem_strings": ["one", "two"]})
        self.assertEqual(shell.run("cat /sys/class/dmi/id/product_serial"), "s-1")

    def testDriversTakeTheDevices(self) -> None:
        simulator, _ = self.booted()
        wait_for(lambda: simulator.events().count("virtio-device activated") >= 2, "the events")
        ids = {record["properties"]["id"] for record in simulator.event_records() if record["event"] == "activated"}
        self.assertEqual(ids, {"root", "__rng"})

    def testPowerButtonEndsGuestAndProcess(self) -> None:
        simulator, shell = self.booted()
        self.assertEqual(simulator.put("vm.power-button"), (204, None))
        self.assertEqual(simulator.wait(GUEST_SECONDS), 0)
        self.assertEqual(simulator.events()[-3:], ["vm shutdown", "vm deleted", "vmm shutdown"])
        shell.close()

    def testGuestRebootBootsAgain(self) -> None:
        simulator, shell = self.booted()
        shell.send("reboot")
        simulator.wait_event("vm rebooting")
        shell.close()
        simulator.wait_event("vm rebooted")
        self.ready_shell()
        self.assertEqual(simulator.get("vm.info")[1]["state"], "Running")

    def testShutdownAndBootKeepTheDisk(self) -> None:
        simulator, shell = self.booted()
        shell.run("echo kept >/root/word; sync")
        self.assertEqual(simulator.put("vm.shutdown"), (204, None))
        self.assertEqual(simulator.put("vm.boot"), (204, None))
        self.assertEqual(self.ready_shell().run("cat /root/word"), "kept")


class CarriedTest(GuestCase):
    def mark(self, shell: Shell) -> str:
        shell.run("mkdir -p /tmp/ram; mount -t tmpfs tmpfs /tmp/ram; echo alive >/tmp/ram/word")
        return shell.run("cat /proc/sys/kernel/random/boot_id")

    def assertSameGuest(self, shell: Shell, boot_id: str) -> None:
        self.assertEqual(shell.run("cat /tmp/ram/word"), "alive")
        self.assertEqual(shell.run("cat /proc/sys/kernel/random/boot_id"), boot_id)
        self.assertEqual(shell.run("echo still >/root/word; sync; cat /root/word"), "still")

    def testSnapshotAndRestore(self) -> None:
        simulator, shell = self.booted()
        boot_id = self.mark(shell)
        target = self.folder / "snapshot"
        target.mkdir()
        url = f"file://{target}"
        self.assertEqual(simulator.put("vm.pause"), (204, None))
        self.assertEqual(simulator.put("vm.snapshot", {"destination_url": url}), (204, None))
        simulator.close()
        restored = self.simulator("2")
        self.assertEqual(restored.put("vm.restore", {"source_url": url, "resume": True}), (204, None))
        self.assertSameGuest(self.shell(), boot_id)

    def testMigration(self) -> None:
        source, shell = self.booted()
        boot_id = self.mark(shell)
        target = self.simulator("2")
        url = f"unix:{self.folder}/migration"
        # Both processes name the serial socket, and only one of them can have it.
        os.rename(self.serial, f"{self.serial}.source")
        answers: list[tuple[int, Any]] = []
        receiver = threading.Thread(
            target=lambda: answers.append(target.put("vm.receive-migration", {"receiver_url": url}))
        )
        receiver.start()
        target.wait_event("vm migration-receive-ready")
        self.assertEqual(source.put("vm.send-migration", {"destination_url": url}), (204, None))
        # The end of the source takes the path away again, whoever listens there by then.
        wait_for(lambda: os.path.exists(self.serial), "the target's serial port")
        arrived = self.shell()
        receiver.join(GUEST_SECONDS)
        self.assertEqual(answers, [(204, None)])
        self.assertEqual(source.wait(), 0)
        self.assertEqual(target.get("vm.info")[1]["state"], "Running")
        self.assertSameGuest(arrived, boot_id)


if __name__ == "__main__":
    unittest.main()
