#!/usr/bin/env python3
"""Devices and configurations of the VZ helper's VMs, over the stand-in of the framework."""

import json
import os
import pathlib
import socket
import subprocess
import tempfile
import unittest
from collections import Counter
from typing import Any

from helper_process import Helper, wait_for
from helper_test_case import X86_64, HelperTestCase


class RefusalTest(HelperTestCase):
    """What the framework refuses comes back with its own words."""

    def create(self, **more: Any) -> list[str]:
        helper = self.start()
        status, answer = helper.call("PUT", "vm.create", {**self.vm(helper), **more})
        self.assertGreaterEqual(status, 400, answer)
        self.assertEqual(helper.call("GET", "vm.info")[0], 404)
        return [str(status), *answer]

    def test_a_missing_kernel(self) -> None:
        status, *reasons = self.create(boot_loader={"type": "linux", "kernel": "/nonexistent"})
        self.assertEqual(status, "500")
        self.assertEqual(reasons[0], "cannot create the VM")
        self.assertIn(
            "VZErrorDomain 2: Invalid virtual machine configuration. (The kernel does not exist: /nonexistent)",
            reasons[2],
        )

    def test_an_image_of_a_wrong_size(self) -> None:
        helper = self.start()
        config = self.vm(helper, disks=[{"image": self.disk(helper, size=1000)}])
        reasons = self.refused(helper, 500, "vm.create", config, saying="multiple of 512")
        self.assertIn("VZErrorDomain 5", reasons[2])

    def test_a_missing_image(self) -> None:
        self.assertIn("VZErrorDomain 5", self.create(disks=[{"image": "/nonexistent"}])[3])

    def test_too_many_cpus(self) -> None:
        status, *reasons = self.create(cpus=500)
        self.assertEqual(status, "400")
        self.assertIn("cpus: the framework takes 1 to", reasons[1])

    def test_too_little_memory(self) -> None:
        self.assertIn("memory_mib: the framework takes 4 to", self.create(memory_mib=2)[2])

    def test_bridging_without_the_entitlement(self) -> None:
        self.assertIn("com.apple.vm.networking", self.create(nics=[{"type": "bridged", "interface": "en0"}])[3])

    def test_an_interface_that_is_not_there(self) -> None:
        self.assertIn("there are: en0", self.create(nics=[{"type": "bridged", "interface": "en7"}])[2])

    def test_a_descriptor_that_is_no_socket(self) -> None:
        self.assertIn("descriptor 77 is no datagram socket", self.create(nics=[{"type": "file-handle", "fd": 77}])[2])

    def test_a_switch_that_is_not_there(self) -> None:
        nics = [{"type": "socket", "local": "/tmp/vz-nobody", "remote": "/tmp/vz-nobody-either"}]
        self.assertIn("cannot connect to /tmp/vz-nobody-either", self.create(nics=nics)[2])
        self.assertFalse(os.path.exists("/tmp/vz-nobody"))

    def test_a_name_of_a_shared_directory(self) -> None:
        share = {"type": "multiple", "tag": "t", "directories": {"a/b": {"path": "/tmp"}}}
        self.assertIn("the name 'a/b'", self.create(shares=[share])[2])

    def test_a_missing_shared_directory(self) -> None:
        self.assertIn(
            "A shared directory does not exist.",
            self.create(shares=[{"type": "single", "tag": "t", "path": "/nonexistent"}])[3],
        )

    def test_a_file_that_is_no_machine_identifier(self) -> None:
        helper = self.start()
        config = self.vm(helper, platform={"type": "generic", "machine_identifier": self.disk(helper)})
        self.refused(helper, 400, "vm.create", config, saying="no machine identifier is in")

    def test_text_that_is_not_utf8_is_no_json(self) -> None:
        helper = self.start()
        status, answer = helper.call("PUT", "vm.create", '{"a": "\\ud800"}')
        self.assertEqual(status, 400, answer)


class HostTest(HelperTestCase):
    """What older systems and other processors do not have is named before the framework is asked."""

    def host(self, version: str, program: str | None = None) -> Helper:
        more = {"program": program} if program else {}
        return self.start(environment={"VMTEST_SIM_VZ_OS_VERSION": version}, **more)

    def features(self, helper: Helper) -> dict[str, Any]:
        status, answer = helper.call("GET", "host.capabilities")
        self.assertEqual(status, 200)
        return dict(answer["features"])

    def test_the_command_line_says_the_same(self) -> None:
        status, answer = self.host("13.1").call("GET", "host.capabilities")
        self.assertEqual(status, 200)
        environment = {**os.environ, "VMTEST_SIM_VZ_OS_VERSION": "13.1"}
        program = os.environ["VMTEST_VZ_HELPER"]
        printed = subprocess.run([program, "--capabilities"], env=environment, stdout=subprocess.PIPE, check=True)
        self.assertEqual(json.loads(printed.stdout), answer)

    def test_macos_11_has_the_first_devices_alone(self) -> None:
        helper = self.host("11.7")
        features = self.features(helper)
        self.assertTrue(features["pause-resume"]["supported"])
        self.assertEqual(features["efi-boot"], {"supported": False, "why": "needs macOS 13.0; this is macOS 11.7"})
        helper.put(
            "vm.create", self.vm(helper, disks=[{"image": self.disk(helper), "id": "root"}], nics=[{"type": "nat"}])
        )
        helper.put("vm.boot")
        self.refused(helper, 501, "vm.stop", saying="forced-stop needs macOS 12.0")
        self.assertFalse(helper.info()["can"]["stop"])

    def test_macos_13_neither_saves_nor_has_nvme(self) -> None:
        helper = self.host("13.5")
        disks = [{"type": "nvme", "image": self.disk(helper)}]
        self.refused(
            helper, 501, "vm.create", self.vm(helper, disks=disks), saying="nvme needs macOS 14.0; this is macOS 13.5"
        )
        helper.put("vm.create", self.vm(helper))
        self.refused(helper, 501, "vm.restore", {"path": "/x"}, saying="save-restore needs macOS 14.0")
        self.assertEqual(helper.info()["cannot_save"], "needs macOS 14.0; this is macOS 13.5")

    def test_intel_has_nothing_of_apple_silicon(self) -> None:
        helper = self.host("15.0", X86_64)
        features = self.features(helper)
        for name in ("macos-boot", "rosetta-share", "save-restore", "mac-graphics", "mac-keyboard", "mac-trackpad"):
            self.assertEqual(features[name]["why"], "needs Apple silicon; this is x86_64", name)
        files = {
            name: self.disk(helper, name) for name in ("hardware_model", "machine_identifier", "auxiliary_storage")
        }
        config = {**self.vm(helper), "boot_loader": {"type": "macos"}, "platform": {"type": "mac", **files}}
        self.refused(helper, 501, "vm.create", config, saying="macos-boot needs Apple silicon")
        helper.put("vm.create", self.vm(helper))
        helper.put("vm.boot")
        self.assertIn("needs Apple silicon", helper.info()["cannot_save"])

    def test_nobody_has_what_does_not_exist(self) -> None:
        features = self.features(self.host("15.0"))
        for name in ("tpm", "watchdog", "cpu-hotplug", "live-migration", "reboot"):
            self.assertFalse(features[name]["supported"], name)

    def test_rosetta_is_installed_when_asked(self) -> None:
        helper = self.start(environment={"VMTEST_SIM_VZ_ROSETTA": "1"})
        share = {"type": "rosetta", "tag": "rosetta"}
        self.refused(helper, 501, "vm.create", self.vm(helper, shares=[share]), saying="install=true installs it")
        helper.put("vm.create", self.vm(helper, shares=[{**share, "install": True}]))

    def test_a_mac_is_taken_with_all_it_has(self) -> None:
        helper = self.start()
        files = {
            name: self.disk(helper, name) for name in ("hardware_model", "machine_identifier", "auxiliary_storage")
        }
        config = {
            "boot_loader": {"type": "macos"},
            "platform": {"type": "mac", **files},
            "cpus": 2,
            "memory_mib": 4096,
            "disks": [{"image": self.disk(helper)}],
            "graphics": {"type": "mac"},
            "keyboard": "mac",
            "pointing": "mac-trackpad",
            "audio": {"input": True},
        }
        helper.put("vm.create", config)
        self.refused(helper, 501, "vm.boot", saying="the stand-in runs no macOS")
        self.assertEqual(helper.state(), "Error")


class DeviceTest(HelperTestCase):
    def test_a_vm_with_everything_runs(self) -> None:
        helper = self.running(
            platform={"type": "generic", "machine_identifier": "/tmp/vz-identifier-of-a-test"},
            nics=[{"type": "nat", "mac": "52:54:00:00:00:01"}],
            balloon=True,
            graphics={"type": "virtio", "width": 800, "height": 600},
            audio={"input": True, "output": True},
            keyboard="usb",
            pointing="usb",
            usb_controller=True,
        )
        self.addCleanup(os.unlink, "/tmp/vz-identifier-of-a-test")
        self.assertEqual(helper.state(), "Running")
        self.assertEqual(helper.info()["config"]["graphics"]["width"], 800)

    def test_disks_of_each_kind(self) -> None:
        helper = self.start()
        disks = [
            {"image": self.disk(helper, "a"), "id": "root", "caching": "uncached", "synchronization": "none"},
            {"type": "nvme", "image": self.disk(helper, "b"), "read_only": True},
            {"type": "usb", "image": self.disk(helper, "c"), "synchronization": "full"},
        ]
        helper.put("vm.create", self.vm(helper, disks=disks))
        helper.put("vm.boot")
        command = pathlib.Path(f"/proc/{helper.qemus()[0]}/cmdline").read_text()
        for part in ("serial=root", "cache.direct=on", "nvme,id=nvme1", "read-only=on", "usb-storage,bus=usb.0"):
            self.assertIn(part, command)

    def test_a_machine_identifier_is_made_once(self) -> None:
        helper = self.start("--stay")
        path = helper.folder / "identifier"
        config = self.vm(helper, platform={"type": "generic", "machine_identifier": str(path)})
        helper.put("vm.create", config)
        made = path.read_bytes()
        self.assertTrue(made)
        helper.put("vm.delete")
        helper.put("vm.create", config)
        self.assertEqual(path.read_bytes(), made)

    @unittest.skipUnless(os.path.exists("/usr/share/OVMF/OVMF_VARS_4M.fd"), "needs Debian's ovmf")
    def test_efi_makes_its_variable_store(self) -> None:
        helper = self.start()
        store = helper.folder / "variables"
        helper.put(
            "vm.create", {"boot_loader": {"type": "efi", "variable_store": str(store)}, "cpus": 1, "memory_mib": 128}
        )
        self.assertGreater(store.stat().st_size, 0)
        helper.put("vm.boot")
        self.assertEqual(helper.state(), "Running")

    def test_the_balloon_is_set_and_told(self) -> None:
        helper = self.running(balloon=True)
        self.assertEqual(helper.info()["balloon_mib"], 64)
        helper.put("vm.set-balloon", {"memory_mib": 32})
        self.assertEqual(helper.info()["balloon_mib"], 32)
        self.refused(helper, 400, "vm.set-balloon", {"memory_mib": 65}, saying="memory_mib: the VM has 64, not 65")

    def test_a_vm_without_a_balloon_says_so(self) -> None:
        self.refused(self.running(), 409, "vm.set-balloon", {"memory_mib": 32}, saying="the VM has no balloon")

    def test_usb_disks_come_and_go(self) -> None:
        helper = self.running(usb_controller=True)
        disk = {"image": self.disk(helper), "id": "extra"}
        helper.put("vm.attach-usb-disk", disk)
        self.assertEqual(helper.info()["usb_disks"], ["extra"])
        self.refused(helper, 409, "vm.attach-usb-disk", disk, saying="is attached already")
        self.refused(helper, 404, "vm.detach-usb-disk", {"id": "other"}, saying="no disk 'other' was attached")
        helper.put("vm.detach-usb-disk", {"id": "extra"})
        self.assertEqual(helper.info()["usb_disks"], [])
        helper.put("vm.attach-usb-disk", disk)
        helper.put("vm.stop")
        self.assertEqual(helper.info()["usb_disks"], [])

    def test_a_usb_disk_that_cannot_be_used_is_not_attached(self) -> None:
        helper = self.running(usb_controller=True)
        self.refused(helper, 500, "vm.attach-usb-disk", {"image": "/nonexistent", "id": "x"}, saying="VZErrorDomain 5")
        self.assertEqual(helper.info()["usb_disks"], [])

    def test_usb_disks_need_a_controller(self) -> None:
        helper = self.running()
        disk = {"image": self.disk(helper), "id": "extra"}
        self.refused(helper, 409, "vm.attach-usb-disk", disk, saying="the VM has no USB controller")

    def test_inherited_descriptors_carry_frames(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(ours.close)
        helper = self.start(pass_fds=(theirs.fileno(),))
        helper.put("vm.create", self.vm(helper, nics=[{"type": "file-handle", "fd": theirs.fileno(), "mtu": 9000}]))
        theirs.close()
        helper.put("vm.boot")
        self.assertIn("dgram,id=net0", pathlib.Path(f"/proc/{helper.qemus()[0]}/cmdline").read_text())

    def test_shares_are_taken_and_keep_a_vm_from_being_saved(self) -> None:
        helper = self.start()
        shares = [
            {"type": "single", "tag": "one", "path": "/tmp", "read_only": True},
            {"type": "multiple", "tag": "two", "directories": {"a": {"path": "/tmp"}, "b": {"path": "/var"}}},
        ]
        helper.put("vm.create", self.vm(helper, shares=shares))
        self.assertIn("VZErrorDomain 10", helper.info()["cannot_save"])
        self.assertFalse(helper.info()["can"]["restore"])


class ObjectTest(HelperTestCase):
    """Nothing of the framework is held longer than it is of use. What is released too often ends the stand-in by itself."""

    def living(self, log: pathlib.Path) -> dict[str, int]:
        """How many objects of each class were made and are not gone."""
        counts: Counter[str] = Counter()
        for line in log.read_text().splitlines():
            sign, name = line.split()
            counts[name] += 1 if sign == "+" else -1
        return {name: count for name, count in counts.items() if count != 0}

    def test_a_deleted_vm_leaves_no_object(self) -> None:
        log_owner = tempfile.TemporaryDirectory(prefix="vz-objects-")
        self.addCleanup(log_owner.cleanup)
        log = pathlib.Path(log_owner.name) / "log"
        helper = self.start("--stay", environment={"VMTEST_SIM_VZ_OBJECT_LOG": str(log)})
        self.assertEqual(helper.call("GET", "host.capabilities")[0], 200)
        before = self.living(log)
        config = self.vm(
            helper,
            platform={"type": "generic", "machine_identifier": str(helper.folder / "identifier")},
            disks=[{"image": self.disk(helper, "a"), "id": "root"}, {"type": "usb", "image": self.disk(helper, "b")}],
            nics=[{"type": "nat", "mac": "52:54:00:00:00:01"}],
            serial={"type": "socket", "socket": str(helper.folder / "serial")},
            console_ports=[{"name": "port", "socket": str(helper.folder / "port")}],
            vsock={"socket": str(helper.folder / "vsock"), "listen_ports": [7]},
            graphics={"type": "virtio"},
            audio={"input": True},
            keyboard="usb",
            pointing="usb",
            balloon=True,
            usb_controller=True,
        )
        state = {"path": str(helper.folder / "state")}
        self.refused(helper, 500, "vm.create", {**config, "disks": [{"image": "/nonexistent"}]})
        helper.put("vm.create", config)
        self.refused(helper, 500, "vm.restore", {"path": "/nonexistent"})
        helper.put("vm.boot")
        helper.put("vm.attach-usb-disk", {"image": self.disk(helper, "c"), "id": "extra"})
        helper.put("vm.detach-usb-disk", {"id": "extra"})
        helper.put("vm.pause")
        helper.put("vm.save", state)
        helper.put("vm.stop")
        helper.put("vm.restore", state)
        helper.put("vm.stop")
        self.assertIn("VZVirtualMachine", self.living(log))
        helper.put("vm.delete")
        try:
            wait_for("the objects' end", lambda: self.living(log) == before, 10)
        except AssertionError:
            self.assertEqual(self.living(log), before)


class SocketTest(HelperTestCase):
    def connect(self, path: pathlib.Path) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(60)
        client.connect(str(path))
        return client

    def test_vsock_speaks_cloud_hypervisors_handshake(self) -> None:
        helper = self.start()
        path = helper.folder / "vsock"
        helper.put("vm.create", self.vm(helper, vsock={"socket": str(path), "listen_ports": [1024]}))
        stopped = self.connect(path)
        stopped.sendall(b"CONNECT 5252\n")
        self.assertIn(b"the VM does not run", stopped.recv(1000))
        helper.put("vm.boot")
        client = self.connect(path)
        client.sendall(b"CONNECT 5252\n")
        self.assertEqual(client.recv(1000), b"OK 1024\n")
        other = self.connect(path)
        other.sendall(b"CONNECT 9\n")
        self.assertIn(b"ERROR", other.recv(1000))
        client.close()

        def connects_again() -> bool:
            again = self.connect(path)
            again.sendall(b"CONNECT 5252\n")
            return again.recv(1000).startswith(b"OK ")

        wait_for("the next connection", connects_again)

    def test_the_guest_connects_to_a_socket_of_the_port(self) -> None:
        helper = self.start(environment={"VMTEST_SIM_VZ_GUEST_CONNECTS": "77"})
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(helper.folder / "vsock_77"))
        listener.listen()
        listener.settimeout(60)
        vsock = {"socket": str(helper.folder / "vsock"), "listen_ports": [76, 77]}
        helper.put("vm.create", self.vm(helper, vsock=vsock))
        helper.put("vm.boot")
        connection = listener.accept()[0]
        self.addCleanup(connection.close)
        self.assertEqual(connection.makefile("rb").read(), b"hello from the guest\n")

    def test_a_network_that_goes_is_an_event(self) -> None:
        helper = self.start(environment={"VMTEST_SIM_VZ_DISCONNECT_NIC": "1"})
        helper.put("vm.create", self.vm(helper, nics=[{"type": "nat"}, {"type": "nat"}]))
        helper.put("vm.boot")
        event = next(event for event in helper.events() if event["event"] == "network-disconnected")
        self.assertEqual(event["nic"], 1)
        self.assertIn("VZErrorDomain 7", event["errors"][0])

    def test_sockets_go_with_the_vm(self) -> None:
        helper = self.start("--stay")
        paths = {name: helper.folder / name for name in ("vsock", "serial", "port")}
        more: dict[str, Any] = {
            "vsock": {"socket": str(paths["vsock"])},
            "serial": {"type": "socket", "socket": str(paths["serial"]), "log": str(helper.folder / "log")},
            "console_ports": [{"name": "org.vmtest.agent", "socket": str(paths["port"])}],
        }
        helper.put("vm.create", self.vm(helper, **more))
        helper.put("vm.boot")
        for path in paths.values():
            self.assertTrue(path.is_socket())
        helper.put("vm.stop")
        helper.put("vm.delete")
        for path in paths.values():
            self.assertFalse(path.exists())
        self.assertTrue((helper.folder / "log").exists())

    def test_a_serial_file_is_made(self) -> None:
        helper = self.start()
        helper.put("vm.create", self.vm(helper, serial={"type": "file", "log": str(helper.folder / "log")}))
        helper.put("vm.boot")
        self.assertTrue((helper.folder / "log").exists())


if __name__ == "__main__":
    unittest.main()
