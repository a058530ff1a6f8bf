"""What tests of a running helper have in common."""

import os
import pathlib
import unittest
from typing import Any

from helper_process import Helper, wait_for
from pvh_guest import WAITS, write_guest

# The programs, by CMake.
ARM64 = os.environ.get("VMTEST_VZ_HELPER", "")
X86_64 = os.environ.get("VMTEST_VZ_HELPER_X86_64", "")


class HelperTestCase(unittest.TestCase):
    def start(self, *options: str, program: str = ARM64, **others: Any) -> Helper:
        helper = Helper(program, *options, **others)
        self.addCleanup(helper.close)
        return helper

    def vm(self, helper: Helper, code: bytes = WAITS, **more: Any) -> dict[str, Any]:
        """A configuration of a guest of machine code."""
        kernel = write_guest(helper.folder / "kernel", code)
        return {"boot_loader": {"type": "linux", "kernel": str(kernel)}, "cpus": 1, "memory_mib": 64, **more}

    def disk(self, helper: Helper, name: str = "disk", size: int = 1 << 20) -> str:
        path = helper.folder / name
        path.write_bytes(bytes(size))
        return str(path)

    def running(self, *options: str, **more: Any) -> Helper:
        """A helper with a guest that runs until its power button is pressed."""
        helper = self.start(*options)
        helper.put("vm.create", self.vm(helper, **more))
        helper.put("vm.boot")
        return helper

    def press_until_stopped(self, helper: Helper) -> None:
        """Presses the power button of a VM in a helper that stays. A guest that has not come to reading it yet misses it."""

        def pressed() -> bool:
            helper.call("PUT", "vm.power-button")
            return "guest-stopped" in helper.event_names()

        wait_for("the guest's end", pressed)

    def refused(self, helper: Helper, status: int, name: str, body: Any = None, saying: str = "") -> list[str]:
        """The reasons of a call that must be refused."""
        got, answer = helper.call("PUT", name, body)
        self.assertEqual(got, status, f"{name}: {answer}")
        self.assertIsInstance(answer, list)
        self.assertIn(saying, "\n".join(answer))
        return list(answer)


def is_alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
