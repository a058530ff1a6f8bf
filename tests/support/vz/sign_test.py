#!/usr/bin/env python3
"""The helper's signing, with a program in codesign's place that writes down what it is asked."""

import os
import pathlib
import plistlib
import subprocess
import sys
import tempfile
import unittest

CMAKE = os.environ.get("CMAKE", "cmake")
HELPER = pathlib.Path(__file__).resolve().parents[3] / "drivers/vz/helper"
CODESIGN = """#!/bin/sh
echo "$@" >> "$CODESIGN_LOG"
case $1 in
  --force) exit "${CODESIGN_STATUS:-0}" ;;
  --display) [ -n "$CODESIGN_FORGETS" ] || cat "$CODESIGN_ENTITLEMENTS" ;;
esac
"""


class SignTest(unittest.TestCase):
    def setUp(self) -> None:
        owner = tempfile.TemporaryDirectory(prefix="sign-")
        self.addCleanup(owner.cleanup)
        self.folder = pathlib.Path(owner.name)
        self.log = self.folder / "log"
        self.program = self.folder / "vmtest-vz-helper"
        self.program.write_text("")
        codesign = self.folder / "codesign"
        codesign.write_text(CODESIGN)
        codesign.chmod(0o755)

    def sign(self, program: pathlib.Path, **environment: str) -> subprocess.CompletedProcess[str]:
        entitlements = HELPER / "entitlements.plist"
        more = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "CODESIGN_LOG": str(self.log),
            "CODESIGN_ENTITLEMENTS": str(entitlements),
        }
        command = [CMAKE, f"-DPROGRAM={program}", f"-DENTITLEMENTS={entitlements}", "-P", str(HELPER / "sign.cmake")]
        return subprocess.run(
            command, env={**os.environ, **more, **environment}, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )

    def test_signs_ad_hoc_with_the_entitlements_and_looks_at_the_result(self) -> None:
        result = self.sign(self.program)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(
            self.log.read_text().splitlines(),
            [
                f"--force --sign - --entitlements {HELPER}/entitlements.plist {self.program}",
                f"--display --entitlements - --xml {self.program}",
            ],
        )

    def test_the_entitlements_are_the_one_that_an_ad_hoc_signature_may_have(self) -> None:
        with open(HELPER / "entitlements.plist", "rb") as file:
            self.assertEqual(plistlib.load(file), {"com.apple.security.virtualization": True})

    def test_a_failure_ends_the_build(self) -> None:
        self.assertNotEqual(self.sign(self.program, CODESIGN_STATUS="1").returncode, 0)

    def test_a_program_without_the_entitlement_ends_the_build(self) -> None:
        result = self.sign(self.program, CODESIGN_FORGETS="1")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("does not have the entitlement com.apple.security.virtualization", " ".join(result.stderr.split()))

    def test_a_missing_program_is_named(self) -> None:
        result = self.sign(self.folder / "gone")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn(f"PROGRAM is '{self.folder}/gone'", " ".join(result.stderr.split()))
        self.assertFalse(self.log.exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
