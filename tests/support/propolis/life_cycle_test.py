#!/usr/bin/python3
"""An instance from its making to its end, with QEMU behind it and firmware alone as its guest."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True

from sim_client import (  # noqa: E402
    FIRMWARE,
    HERE,
    Reply,
    Simulator,
    SimulatorTest,
    WebSocketClient,
    alive,
    com1,
    component,
    ensure_body,
    kill,
    pci,
    wait_for,
)

# From exec to the answer of an ensure request: a suite of forty servers is to be quick. The host may be busy with other
# things; what the program itself costs is the best of some starts.
START_SECONDS = 0.5


def file_disk(path: Path | str, device: int = 16, **more: Any) -> dict[str, Any]:
    backend = {"path": str(path), "block_size": 512, "readonly": False} | more
    return {
        f"disk{device}": component("virtio_disk", backend_id=f"be{device}", pci_path=pci(device)),
        f"be{device}": component("file_storage_backend", **backend),
    }


def blob_disk(content: bytes | str, device: int = 24, readonly: bool = True) -> dict[str, Any]:
    text = content if isinstance(content, str) else base64.b64encode(content).decode()
    return {
        "seed": component("virtio_disk", backend_id="seed-be", pci_path=pci(device)),
        "seed-be": component("blob_storage_backend", base64=text, readonly=readonly),
    }


class MakingTest(SimulatorTest):
    def test_starts_fast(self) -> None:
        taken: list[float] = []
        while len(taken) < 20 and min(taken, default=START_SECONDS) >= START_SECONDS:
            begin = time.monotonic()
            with Simulator() as server:
                self.assertEqual(server.request("PUT", "/instance", ensure_body()).status, 201)
                taken.append(time.monotonic() - begin)
        self.assertLess(min(taken), START_SECONDS, taken)

    def test_makes_an_instance_once(self) -> None:
        server = self.start()
        body = ensure_body()
        reply = server.request("PUT", "/instance", body)
        self.assertEqual((reply.status, reply.json), (201, {"migrate": None}))
        for again in (body, ensure_body()):
            reply = server.request("PUT", "/instance", again)
            self.assert_refused(reply, 409, "instance already initialized", "AlreadyInitialized")
        found = server.request("GET", "/instance").json["instance"]
        self.assertEqual(found, {"properties": body["properties"], "state": "Creating"})
        migration = server.request("GET", "/instance/migration-status")
        self.assertEqual((migration.status, migration.json), (200, {"migration_in": None, "migration_out": None}))

    def test_tells_its_spec_in_the_words_of_the_asked_version(self) -> None:
        server = self.start()
        body = ensure_body()
        smbios = {"manufacturer": "m, or n", "product_name": "p", "serial_number": "s", "version": 1}
        body["init"]["value"]["spec"]["smbios"] = smbios
        self.assertEqual(server.request("PUT", "/instance", body).status, 201)
        newest = server.request("GET", "/instance/spec").json["spec"]
        self.assertEqual((newest["type"], newest["value"]["smbios"]), ("Present", smbios))
        self.assertEqual(newest["value"]["components"], com1())
        oldest = server.request("GET", "/instance/spec", version="1.0.0").json["spec"]["value"]
        self.assertEqual(oldest["version"], "V0")
        self.assertNotIn("smbios", oldest["spec"])

    def test_takes_the_example_once_its_disks_are_there(self) -> None:
        server = self.start(VMTEST_SIM_PROPOLIS_NET=f"user:{free_port()}")
        body = json.loads((HERE / "data/propolis-example-instance-ensure-5.0.0.json").read_text())
        body["init"]["value"]["spec"]["board"]["cpus"] = 1
        self.assert_refused(server.request("PUT", "/instance", body), 500, "Internal Server Error", "Internal")
        self.assertIn("/dev/zvol/rdsk/rpool/vms/t1", server.log_path.read_text())
        disk = server.folder / "disk"
        disk.write_bytes(bytes(1 << 20))
        components = body["init"]["value"]["spec"]["components"]
        components["disk0-be"]["component"]["path"] = str(disk)
        self.assert_refused(server.request("PUT", "/instance", body), 500, "Internal Server Error", "Internal")
        self.assertIn("size 3 not multiple of block size 512!", server.log_path.read_text())
        components["seed-be"]["component"]["base64"] = base64.b64encode(bytes(512)).decode()
        self.assertEqual(server.request("PUT", "/instance", body).status, 201)

    def test_an_older_server_makes_instances_too(self) -> None:
        server = self.start(VMTEST_SIM_PROPOLIS_VERSION="1.0.0")
        body = json.dumps(ensure_body()).encode()
        self.assertEqual(server.request("PUT", "/instance", body, version="1.0.0").status, 201)
        self.assertEqual(server.request("PUT", "/instance/state", "Run", version="1.0.0").status, 204)
        reply = server.request("GET", "/instance/state-monitor", {"gen": 3}, version="1.0.0")
        self.assertEqual((reply.status, reply.json["state"]), (200, "Running"))
        spec = server.request("GET", "/instance/spec", version="1.0.0").json["spec"]["value"]
        self.assertEqual((spec["version"], spec["spec"]["components"]), ("V0", com1()))

    def test_a_seed_as_large_as_the_body_allows(self) -> None:
        server = self.start()
        sectors = 1530
        reply = server.request("PUT", "/instance", ensure_body(com1() | blob_disk(os.urandom(sectors * 512))))
        self.assertEqual(reply.status, 201)
        larger = ensure_body(com1() | blob_disk(bytes((sectors + 10) * 512)))
        self.assert_refused(server.request("PUT", "/instance", larger), 400, "request body exceeded maximum size")

    def test_a_vnic_is_a_tap_device(self) -> None:
        name = f"vnic{os.getpid() % 100000}"
        made = subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], capture_output=True, text=True)
        if made.returncode != 0:
            self.skipTest(f"no TAP device can be made here: {made.stderr}")
        self.addCleanup(lambda: subprocess.run(["ip", "link", "delete", name], check=True))
        server = self.start()
        components = com1() | {
            "net": component("virtio_nic", backend_id="nb", interface_id=body_id(), pci_path=pci(8)),
            "nb": component("virtio_network_backend", vnic_name=name),
        }
        self.assertEqual(server.request("PUT", "/instance", ensure_body(components)).status, 201)
        carrier = Path(f"/sys/class/net/{name}/carrier")
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        self.assertEqual(carrier.read_text().strip(), "1", "the guest's hypervisor has it open")

    def test_the_user_network_is_asked_for_by_port(self) -> None:
        for value in ("user", "user:0", "user:x", "tap:22", ""):
            with self.subTest(value=value):
                server = self.start(VMTEST_SIM_PROPOLIS_NET=value)
                components = com1() | {
                    "net": component("virtio_nic", backend_id="nb", interface_id=body_id(), pci_path=pci(8)),
                    "nb": component("virtio_network_backend", vnic_name="vnic0"),
                }
                reply = server.request("PUT", "/instance", ensure_body(components))
                self.assert_refused(reply, 500, "Internal Server Error", "Internal")
                self.assertIn("VMTEST_SIM_PROPOLIS_NET is user:PORT", server.log_path.read_text())

    def test_every_kind_of_component(self) -> None:
        server = self.start(VMTEST_SIM_PROPOLIS_NET=f"user:{free_port()}")
        disk = server.folder / "a,b.raw"
        disk.write_bytes(bytes(1 << 20))
        components = com1() | file_disk(disk) | blob_disk(bytes(1024), device=9, readonly=False)
        components |= {f"com{n}": component("serial_port", num=f"com{n}") for n in (2, 3, 4)}
        components |= {
            "nvme": component("nvme_disk", backend_id="nb", pci_path=pci(1, bus=1), serial_number=list(b"x" * 20)),
            "nb": component("file_storage_backend", path=str(FIRMWARE), block_size=4096, readonly=True, workers=1),
            "bridge": component("pci_pci_bridge", downstream_bus=1, pci_path=pci(20)),
            "pvpanic": component("qemu_pvpanic", enable_isa=True),
            "net": component("virtio_nic", backend_id="net-be", interface_id=body_id(), pci_path=pci(8)),
            "net-be": component("virtio_network_backend", vnic_name="vnic0"),
            "boot": component("boot_settings", order=[{"id": "disk16"}, {"id": "seed"}]),
        }
        self.assertEqual(server.request("PUT", "/instance", ensure_body(components)).status, 201)
        self.assertEqual(server.put_state("Run").status, 204)
        server.await_state("Running")

    def test_refuses_a_machine_this_host_cannot_make(self) -> None:
        server = self.start()
        missing, guarded, disk = server.folder / "none", server.folder / "guarded", server.folder / "disk"
        for path in (guarded, disk):
            path.write_bytes(bytes(4096))
        guarded.chmod(0o444)
        crucible = component("crucible_storage_backend", request_json="{}", readonly=False)
        nic = {
            "net": component("virtio_nic", backend_id="nb", interface_id=body_id(), pci_path=pci(8)),
            "nb": component("virtio_network_backend", vnic_name="novnic0"),
        }
        cases: list[tuple[dict[str, Any], dict[str, int], str]] = [
            (file_disk(missing), {}, "failed to read file backend metadata"),
            (file_disk(guarded), {}, "writeable backend with read-only file not allowed"),
            (file_disk(server.folder), {}, "neither a file nor a block device"),
            (file_disk(disk, block_size=1000), {}, "block size 1000 is not simulated"),
            (file_disk(disk) | {"be16": crucible}, {}, "failed to create Crucible backend"),
            (blob_disk(b""), {}, "size cannot be 0"),
            (blob_disk(b"x" * 513), {}, "size 513 not multiple of block size 512!"),
            (blob_disk("AAA"), {}, "failed to decode in-memory storage backend contents"),
            (nic, {}, "failed to create viona device"),
            (file_disk(disk) | {"disk16": component("virtio_disk", backend_id="be16", pci_path=pci(1, bus=3))}, {},
             "no bridge leads to PCI bus 3"),
            (file_disk(disk, device=0), {}, "the hypervisor did not start"),
            ({}, {"cpus": 0}, "failed to set max cpus"),
            ({}, {"cpus": 255}, "spec requested more CPUs than are online!"),
            ({}, {"memory_mb": 0}, "failed to add low memory region"),
            ({}, {"memory_mb": 1 << 40}, "the hypervisor did not start"),
            ({"v": component("virtio_socket", guest_cid=2, pci_path=pci(9))}, {}, "could not parse guest cid"),
        ]  # fmt: skip
        for components, board, words in cases:
            with self.subTest(words=words):
                reply = server.request("PUT", "/instance", ensure_body(com1() | components, **board))
                self.assert_refused(reply, 500, "Internal Server Error", "Internal")
                completed = server.logged("request completed")[-1]
                self.assertIn("VM initialization failed: ", completed["error_message_internal"])
                self.assertIn(words, completed["error_message_internal"])
                self.assertEqual(server.state(), "Failed")
                self.assert_refused(server.put_state("Run"), 424, "Server not initialized", "NoInstance")
        self.assertEqual(server.request("PUT", "/instance", ensure_body()).status, 201, "a failure is not the end")
        self.assertLess(len(os.listdir(f"/proc/{server.process.pid}/fd")), 20, "failures leave no descriptors")

    def test_a_migration_has_no_source(self) -> None:
        server = self.start()
        migration = {"migration_id": body_id(), "src_addr": f"127.0.0.1:{free_port()}", "replace_components": {}}
        body = ensure_body() | {"init": {"method": "MigrationTarget", "value": migration}}
        self.assert_refused(server.request("PUT", "/instance", body), 500, "Internal Server Error", "Internal")
        self.assertEqual(server.state(), "Failed")
        spec = server.request("GET", "/instance/spec").json["spec"]
        self.assertEqual(spec, {"type": "WaitingForMigrationSource"})
        status = server.request("GET", "/instance/migration-status").json["migration_in"]
        self.assertEqual(status, {"id": migration["migration_id"], "state": "Sync"})

    def test_while_an_instance_is_made(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as source:
            source.settimeout(30)
            server = self.start()
            address = f"127.0.0.1:{source.getsockname()[1]}"
            migration = {"migration_id": body_id(), "src_addr": address, "replace_components": {}}
            body = ensure_body() | {"init": {"method": "MigrationTarget", "value": migration}}
            replies: list[Reply] = []
            making = threading.Thread(target=lambda: replies.append(server.request("PUT", "/instance", body)))
            making.start()
            self.addCleanup(making.join)
            with source.accept()[0] as asked:
                head = asked.recv(4096).decode()
                self.assertTrue(
                    head.startswith(f"GET /instance/migrate/{migration['migration_id']}/start HTTP/1.1\r\n")
                )
                self.assertIn("api-version: 1.0.0\r\n", head)
                self.assertEqual(server.state(), "Migrating")
                self.assertEqual(
                    server.request("GET", "/instance/spec").json["spec"]["type"], "WaitingForMigrationSource"
                )
                for requested in ("Run", "Stop", "Reboot"):
                    self.assert_refused(server.put_state(requested), 424, "Server not initialized", "NoInstance")
                self.assert_refused(server.history(from_start=0), 424, "Server not initialized", "NoInstance")
                again = server.request("PUT", "/instance", ensure_body())
                self.assert_refused(again, 409, "instance already initialized", "AlreadyInitialized")
                self.assertEqual(replies, [])
            making.join(30)
            self.assert_refused(replies[0], 500, "Internal Server Error", "Internal")
            self.assertEqual(server.state(), "Failed")

    def test_aborts_where_the_server_panics(self) -> None:
        cases: list[tuple[Path | None, dict[str, Any] | None, str]] = [
            (None, {}, "no serial port com1"),
            (Path("/nonexistent/OVMF.fd"), None, "failed to open bootrom"),
            (Path("/etc/hostname"), None, "not aligned to 1000"),
            (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), None, "the region for it 2097152"),
        ]
        for firmware, components, words in cases:
            with self.subTest(words=words):
                server = self.start(firmware or FIRMWARE)
                with self.assertRaises(ConnectionError):
                    server.request("PUT", "/instance", ensure_body(components))
                self.assertEqual(server.process.wait(timeout=30), -signal.SIGABRT)
                self.assertIn(words, server.log_path.read_text())


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def body_id() -> str:
    identifier: str = ensure_body()["properties"]["id"]
    return identifier


class StateTest(SimulatorTest):
    def made(self) -> Simulator:
        server = self.start()
        self.assertEqual(server.request("PUT", "/instance", ensure_body()).status, 201)
        return server

    def running(self) -> Simulator:
        server = self.made()
        self.assertEqual(server.put_state("Run").status, 204)
        server.await_state("Running")
        return server

    def states_from(self, server: Simulator, generation: int) -> list[str]:
        """What the state monitor tells from that generation on, until it says that none follows."""
        states = []
        while (reply := server.monitor(generation)).status == 200:
            states.append(reply.json["state"])
            generation = reply.json["gen"] + 1
        self.assert_refused(reply, 410, f"No instance present; will never reach generation {generation}", "NoInstance")
        return states

    def assert_over(self, server: Simulator, state: str) -> None:
        server.await_state(state)
        for requested in ("Run", "Stop", "Reboot"):
            self.assert_refused(server.put_state(requested), 424, "Server not initialized", "NoInstance")
        self.assert_refused(server.history(from_start=0), 424, "Server not initialized", "NoInstance")
        self.assertEqual(server.request("GET", "/instance/spec").json["state"], state)

    def test_runs_and_stops(self) -> None:
        server = self.running()
        guest = server.hypervisor()
        self.assertEqual(server.monitor(0).json["gen"], 3, "Creating, Starting, Running")
        self.assertEqual(server.put_state("Run").status, 204, "running already is no error")
        self.assertEqual(server.put_state("Stop").status, 204)
        self.assertEqual(self.states_from(server, 6), ["Destroyed"])
        self.assert_over(server, "Destroyed")
        self.assertFalse(alive(guest))

    def test_stops_what_never_ran(self) -> None:
        server = self.made()
        self.assertEqual(server.put_state("Stop").status, 204)
        self.assert_over(server, "Destroyed")
        self.assertEqual(server.monitor(0).json["gen"], 4, "Creating, Stopping, Stopped, Destroyed")

    def test_what_is_forbidden_before_it_runs(self) -> None:
        server = self.made()
        words = "instance state change not allowed: Operation requires an active instance"
        self.assert_refused(server.put_state("Reboot"), 403, "Forbidden", words)
        self.assertEqual(server.state(), "Creating")

    def test_reboots(self) -> None:
        server = self.running()
        guest = server.hypervisor()
        self.assertEqual(server.put_state("Reboot").status, 204)
        reply = server.monitor(5)
        self.assertEqual((reply.json["gen"], reply.json["state"]), (5, "Running"))
        self.assertEqual(server.hypervisor(), guest)

    def test_the_monitor_wakes_up(self) -> None:
        server = self.made()
        replies: list[Reply] = []
        waiting = threading.Thread(target=lambda: replies.append(server.monitor(3)))
        waiting.start()
        self.addCleanup(waiting.join)
        self.assertEqual(server.monitor(1).json["state"], "Creating", "others are served meanwhile")
        time.sleep(0.2)
        self.assertEqual(replies, [], "it waits while nothing changes")
        server.put_state("Run")
        waiting.join(30)
        self.assertEqual([(r.status, r.json["gen"], r.json["state"]) for r in replies], [(200, 3, "Running")])
        self.assertEqual(replies[0].json["migration"], {"migration_in": None, "migration_out": None})

    def test_an_ended_server_can_make_another(self) -> None:
        server = self.running()
        server.put_state("Stop")
        server.await_state("Destroyed")
        body = ensure_body()
        self.assertEqual(server.request("PUT", "/instance", body).status, 201)
        found = server.request("GET", "/instance").json["instance"]
        self.assertEqual(found, {"properties": body["properties"], "state": "Creating"})

    def test_a_hypervisor_that_dies_is_a_failure(self) -> None:
        server = self.running()
        kill(server.hypervisor())
        self.assert_over(server, "Failed")
        self.assertEqual(self.states_from(server, 4), ["Failed"])

    def test_the_guest_goes_with_a_killed_server(self) -> None:
        server = self.running()
        guest = server.hypervisor()
        self.assertEqual(os.getpgid(guest), os.getpgid(server.process.pid))
        kill(server.process.pid)
        server.process.wait()
        wait_for(lambda: not alive(guest), "the guest's hypervisor ends", 10)

    def test_the_guest_goes_with_a_terminated_server(self) -> None:
        server = self.running()
        guest = server.hypervisor()
        server.process.terminate()
        self.assertEqual(server.process.wait(timeout=10), -signal.SIGTERM)
        wait_for(lambda: not alive(guest), "the guest's hypervisor ends", 10)

    def test_interrupts_and_disks_of_no_crucible(self) -> None:
        server = self.running()
        reply = server.request("POST", "/instance/nmi")
        self.assertEqual((reply.status, reply.json), (200, None))
        missing = "No crucible backend for id a"
        self.assert_refused(server.request("GET", "/instance/disk/a/status"), 404, "Not Found", missing)
        self.assert_refused(
            server.request("PUT", "/instance/disk/a/vcr", {"vcr_json": "{}"}), 404, "Not Found", missing
        )
        self.assert_refused(
            server.request("POST", f"/instance/disk/a/snapshot/{body_id()}"), 404, "Not Found", "no disk with id a!"
        )

    def test_leaves_nothing_but_the_debug_port_s_file(self) -> None:
        server = self.running()
        server.put_state("Stop")
        server.await_state("Destroyed")
        self.assertEqual(sorted(path.name for path in server.folder.iterdir()), ["debug.out", "log"])


class ScreenTest(SimulatorTest):
    def test_a_viewer_gets_the_guests_screen(self) -> None:
        server = self.start(more=["127.0.0.1:0"])
        said = wait_for(lambda: server.logged("listening for VNC"), "the VNC server's address")
        host, _, port = said[0]["local_addr"].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as viewer:
            self.assertEqual(viewer.recv(12), b"", "no guest, no screen")
        server.request("PUT", "/instance", ensure_body())
        with socket.create_connection((host, int(port)), timeout=10) as viewer:
            self.assertEqual(viewer.recv(12), b"RFB 003.008\n")
            viewer.sendall(b"RFB 003.008\n")
            self.assertEqual(viewer.recv(2), b"\x01\x01", "one way to log in: none")

    def test_a_viewer_can_come_by_a_websocket(self) -> None:
        server = self.start()
        with WebSocketClient(server.address, "/instance/vnc") as viewer:
            self.assertEqual((viewer.status, viewer.receive()), (101, None), "no guest, no screen")
        server.request("PUT", "/instance", ensure_body())
        with WebSocketClient(server.address, "/instance/vnc") as viewer:
            self.assertEqual(viewer.read_until(b"\n"), b"RFB 003.008\n")
            viewer.send(b"RFB 003.008\n")
            self.assertEqual(viewer.read_until(b"\x01\x01"), b"\x01\x01")


if __name__ == "__main__":
    unittest.main()
