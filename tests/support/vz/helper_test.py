#!/usr/bin/env python3
"""The VZ helper's calls, states and ends, over the stand-in of the framework."""

import os
import signal
import socket
import subprocess
import unittest
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from helper_process import Helper, wait_for
from helper_test_case import ARM64, HelperTestCase, is_alive
from pvh_guest import HALTS


class ProtocolTest(HelperTestCase):
    def test_answers_a_ping(self) -> None:
        helper = self.start()
        status, answer = helper.call("GET", "vmm.ping")
        self.assertEqual(status, 200)
        self.assertEqual((answer["name"], answer["api"], answer["pid"]), ("vmtest-vz-helper", 1, helper.process.pid))

    def test_tells_wrong_names_methods_and_bodies_apart(self) -> None:
        helper = self.start()
        self.assertEqual(helper.call("PUT", "vm.migrate"), (404, ["there is no call PUT /api/v1/vm.migrate"]))
        self.assertEqual(helper.call("GET", "vm.boot"), (405, ["vm.boot takes PUT"]))
        self.assertEqual(helper.call("PUT", "vm.info"), (405, ["vm.info takes GET"]))
        self.refused(helper, 400, "vm.create", "{", saying="the body is no JSON")
        self.refused(helper, 400, "vm.create", None, saying="the body: must be a JSON object")
        self.refused(helper, 400, "vm.create", {}, saying="boot_loader: is missing")

    def test_takes_no_bodies_where_none_belong(self) -> None:
        helper = self.running()
        self.refused(helper, 400, "vm.pause", {"now": True}, saying="the call takes no body")
        helper.put("vm.pause", {})

    def test_answers_several_at_once(self) -> None:
        helper = self.running()
        with ThreadPoolExecutor(4) as pool:
            states = list(pool.map(lambda _: helper.state(), range(40)))
        self.assertEqual(set(states), {"Running"})

    def test_is_served_to_its_user_alone(self) -> None:
        helper = self.start()
        self.assertEqual(os.stat(helper.socket).st_mode & 0o777, 0o700)
        self.assertEqual(os.stat(helper.event_file).st_mode & 0o777, 0o600)

    def test_refuses_a_socket_in_use(self) -> None:
        helper = self.start()
        command = [ARM64, "--api-socket", str(helper.socket)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(second.returncode, 1)
        self.assertIn("is in use by another process", second.stderr)
        self.assertEqual(helper.call("GET", "vmm.ping")[0], 200)

    def test_takes_the_socket_of_one_that_was_killed(self) -> None:
        helper = self.start()
        helper.process.kill()
        helper.process.wait()
        self.assertTrue(helper.socket.is_socket())
        second = subprocess.Popen([ARM64, "--api-socket", str(helper.socket)])
        self.addCleanup(second.wait)
        self.addCleanup(second.kill)
        wait_for("the second helper", helper.listens)

    def test_names_a_path_that_is_too_long_for_a_socket(self) -> None:
        path = "/tmp/" + "s" * 110
        result = subprocess.run([ARM64, "--api-socket", path], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, "the path of a Unix socket has up to [0-9]+ bytes: /tmp/sss")
        helper = self.start()
        serial = {"type": "socket", "socket": path, "log": str(helper.folder / "log")}
        self.refused(helper, 400, "vm.create", self.vm(helper, serial=serial), saying="serial.socket: has 115 bytes")
        helper.put("vm.create", self.vm(helper))

    def test_names_what_is_wrong_with_its_options(self) -> None:
        result = subprocess.run([ARM64, "--api"], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(result.returncode, 2)
        self.assertIn("there is no option --api", result.stderr)
        self.assertIn("usage: vmtest-vz-helper", result.stderr)


# fmt: off
# What each call answers in each state: one that succeeds is not tried here, since it would change the state.
SUCCEEDS = None
STATES: dict[str, dict[str, int | None]] = {
    "none": {"boot": 404, "pause": 404, "resume": 404, "power-button": 404, "stop": 404, "save": 404, "restore": 404,
             "set-balloon": 404, "attach-usb-disk": 404, "detach-usb-disk": 404, "delete": 404, "create": SUCCEEDS},
    "Stopped": {"boot": SUCCEEDS, "pause": 409, "resume": 409, "power-button": 409, "stop": 409, "save": 409, "restore": SUCCEEDS,
                "set-balloon": 409, "attach-usb-disk": 409, "detach-usb-disk": 409, "delete": SUCCEEDS, "create": 409},
    "Running": {"boot": 409, "pause": SUCCEEDS, "resume": 409, "power-button": SUCCEEDS, "stop": SUCCEEDS, "save": 409,
                "restore": 409, "set-balloon": SUCCEEDS, "attach-usb-disk": SUCCEEDS, "detach-usb-disk": 404, "delete": 409,
                "create": 409},
    "Paused": {"boot": 409, "pause": 409, "resume": SUCCEEDS, "power-button": 409, "stop": SUCCEEDS, "save": SUCCEEDS,
               "restore": 409, "set-balloon": 409, "attach-usb-disk": 409, "detach-usb-disk": 409, "delete": 409, "create": 409},
    "Error": {"boot": SUCCEEDS, "pause": 409, "resume": 409, "power-button": 409, "stop": 409, "save": 409, "restore": 409,
              "set-balloon": 409, "attach-usb-disk": 409, "detach-usb-disk": 409, "delete": SUCCEEDS, "create": 409},
}
# fmt: on


class StateTest(HelperTestCase):
    def bodies(self, helper: Helper) -> dict[str, Any]:
        return {
            "create": self.vm(helper),
            "save": {"path": str(helper.folder / "state")},
            "restore": {"path": str(helper.folder / "state")},
            "set-balloon": {"memory_mib": 32},
            "attach-usb-disk": {"image": self.disk(helper), "id": "extra"},
            "detach-usb-disk": {"id": "extra"},
        }

    def check(self, helper: Helper, state: str) -> None:
        bodies = self.bodies(helper)
        for call, status in STATES[state].items():
            if status is not SUCCEEDS:
                with self.subTest(state=state, call=call):
                    reasons = self.refused(helper, status, f"vm.{call}", bodies.get(call))
                    self.assertGreaterEqual(len(reasons), 2)
        if state != "none":
            self.assertEqual(helper.state(), state, "a refused call changed the state")

    def test_every_call_is_refused_where_it_does_not_belong(self) -> None:
        helper = self.start("--stay")
        self.check(helper, "none")
        helper.put("vm.create", self.vm(helper, balloon=True, usb_controller=True))
        self.check(helper, "Stopped")
        helper.put("vm.boot")
        self.check(helper, "Running")
        helper.put("vm.pause")
        self.check(helper, "Paused")
        helper.put("vm.resume")
        os.kill(helper.qemus()[0], signal.SIGKILL)
        wait_for("the error", lambda: helper.state() == "Error")
        self.check(helper, "Error")

    def test_info_says_what_can_be_done(self) -> None:
        helper = self.running(balloon=True)
        can = helper.info()["can"]
        expected = {
            "boot": False,
            "stop": True,
            "pause": True,
            "resume": False,
            "power-button": True,
            "save": False,
            "restore": False,
        }
        self.assertEqual(can, expected)
        helper.put("vm.pause")
        can = helper.info()["can"]
        self.assertEqual((can["resume"], can["save"], can["pause"]), (True, True, False))

    def test_a_refusal_names_state_and_need(self) -> None:
        helper = self.start()
        helper.put("vm.create", self.vm(helper))
        self.assertEqual(
            self.refused(helper, 409, "vm.pause"), ["cannot pause the VM", "the VM is Stopped; vm.pause needs Running"]
        )

    def test_a_stopped_vm_boots_again(self) -> None:
        helper = self.running()
        helper.put("vm.stop")
        self.assertEqual(helper.qemus(), [])
        helper.put("vm.boot")
        self.assertEqual(helper.state(), "Running")

    def test_a_deleted_vm_makes_room_for_another(self) -> None:
        helper = self.running()
        helper.put("vm.stop")
        helper.put("vm.delete")
        self.assertEqual(helper.call("GET", "vm.info")[0], 404)
        helper.put("vm.create", self.vm(helper))
        self.assertEqual(helper.event_names(), ["listening", "created", "booted", "stopped", "deleted", "created"])


class EndTest(HelperTestCase):
    def assert_ends(self, helper: Helper, code: int, qemus: list[int]) -> None:
        self.assertEqual(helper.process.wait(60), code)
        wait_for("QEMU's end", lambda: not any(is_alive(pid) for pid in qemus))

    def test_a_guest_that_halts_ends_the_helper(self) -> None:
        helper = self.start()
        helper.put("vm.create", self.vm(helper, code=HALTS, vsock={"socket": str(helper.folder / "vsock")}))
        helper.put("vm.boot")
        self.assertEqual(helper.process.wait(60), 0)
        self.assertEqual(helper.event_names()[-2:], ["guest-stopped", "exit"])
        self.assertEqual(sorted(entry.name for entry in helper.folder.iterdir()), ["events", "kernel", "stderr"])

    def test_a_helper_that_stays_outlives_its_guest(self) -> None:
        helper = self.start("--stay")
        helper.put("vm.create", self.vm(helper, code=HALTS))
        helper.put("vm.boot")
        wait_for("the guest's end", lambda: "guest-stopped" in helper.event_names())
        self.assertEqual(helper.state(), "Stopped")
        helper.put("vm.boot")

    def test_the_power_button_reaches_the_guest(self) -> None:
        helper = self.running("--stay")
        self.press_until_stopped(helper)
        self.assertEqual(helper.state(), "Stopped")
        self.assertIn("stop-requested", helper.event_names())
        self.assertEqual(helper.qemus(), [])

    def test_a_machine_that_breaks_ends_the_helper_with_its_reasons(self) -> None:
        helper = self.running()
        os.kill(helper.qemus()[0], signal.SIGKILL)
        self.assert_ends(helper, 1, [])
        events = {event["event"]: event for event in helper.events()}
        self.assertIn("VZErrorDomain 1", events["stopped-with-error"]["errors"][0])
        self.assertEqual(events["exit"]["code"], 1)

    def test_shutdown_ends_a_running_vm(self) -> None:
        helper = self.running()
        qemus = helper.qemus()
        self.assertEqual(len(qemus), 1)
        helper.put("vmm.shutdown")
        self.assert_ends(helper, 0, qemus)
        self.assertFalse(helper.socket.exists())

    def test_a_signal_ends_it_in_order(self) -> None:
        helper = self.running()
        qemus = helper.qemus()
        helper.process.send_signal(signal.SIGTERM)
        self.assert_ends(helper, 0, qemus)
        self.assertFalse(helper.socket.exists())
        self.assertEqual(helper.events()[-1]["why"], f"signal {int(signal.SIGTERM)}")

    def test_qemu_does_not_outlive_a_killed_helper(self) -> None:
        helper = self.running()
        qemus = helper.qemus()
        self.assertEqual(len(qemus), 1)
        helper.process.kill()
        self.assert_ends(helper, -signal.SIGKILL, qemus)

    def test_it_ends_with_its_owner(self) -> None:
        ours, theirs = socket.socketpair()
        helper = self.start("--owner-fd", str(theirs.fileno()), pass_fds=(theirs.fileno(),))
        theirs.close()
        helper.put("vm.create", self.vm(helper))
        helper.put("vm.boot")
        qemus = helper.qemus()
        ours.close()
        self.assert_ends(helper, 0, qemus)
        self.assertEqual(helper.events()[-1]["why"], "the owner has gone")

    def test_events_have_times_in_order(self) -> None:
        helper = self.running()
        helper.put("vm.stop")
        times = [event["time"] for event in helper.events()]
        self.assertEqual(times, sorted(times))
        self.assertEqual(helper.event_names(), ["listening", "created", "booted", "stopped"])


class SavedStateTest(HelperTestCase):
    def test_a_saved_vm_goes_on(self) -> None:
        helper = self.running("--stay")
        state = {"path": str(helper.folder / "state")}
        helper.put("vm.pause")
        helper.put("vm.save", state)
        self.assertEqual(helper.state(), "Paused")
        helper.put("vm.resume")
        helper.put("vm.stop")
        helper.put("vm.restore", state)
        self.assertEqual(helper.state(), "Paused")
        helper.put("vm.resume")
        self.press_until_stopped(helper)

    def test_another_helper_restores_it(self) -> None:
        first = self.running()
        first.put("vm.pause")
        first.put("vm.save", {"path": str(first.folder / "state")})
        second = self.start("--stay")
        second.put("vm.create", self.vm(second))
        second.put("vm.restore", {"path": str(first.folder / "state")})
        second.put("vm.resume")
        self.press_until_stopped(second)

    def test_what_cannot_be_written_or_read_is_named(self) -> None:
        helper = self.running()
        helper.put("vm.pause")
        reasons = self.refused(helper, 500, "vm.save", {"path": "/nonexistent/state"}, saying="/nonexistent/state")
        self.assertIn("VZErrorDomain 11", reasons[1])
        self.assertEqual(helper.state(), "Paused")
        helper.put("vm.stop")
        reasons = self.refused(helper, 500, "vm.restore", {"path": "/nonexistent/state"})
        self.assertIn("VZErrorDomain 12", reasons[1])
        self.assertEqual(helper.state(), "Stopped")

    def test_what_is_no_state_leaves_the_vm_stopped(self) -> None:
        helper = self.start()
        helper.put("vm.create", self.vm(helper))
        self.refused(helper, 500, "vm.restore", {"path": self.disk(helper)}, saying="VZErrorDomain 12")
        self.assertEqual(helper.state(), "Stopped")
        wait_for("QEMU's end", lambda: not helper.qemus())
        helper.put("vm.boot")


if __name__ == "__main__":
    unittest.main()
