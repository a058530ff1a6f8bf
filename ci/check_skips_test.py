#!/usr/bin/env python3
"""Which skips ci/check_skips finds in what CTest wrote."""

import pathlib
import subprocess
import tempfile
import unittest
from xml.sax.saxutils import escape, quoteattr

PROGRAM = """[ RUN      ] Upgrade.IsAllOrNothing
upgrade_test.cc:55: Skipped
the driver vz cannot fork

[  SKIPPED ] Upgrade.IsAllOrNothing (1432 ms)
[ RUN      ] Upgrade.Works
[       OK ] Upgrade.Works (2100 ms)
[  PASSED  ] 1 test.
[  SKIPPED ] 1 test, listed below:
[  SKIPPED ] Upgrade.IsAllOrNothing
"""


class CheckSkips(unittest.TestCase):
    def check(self, expected, *tests):
        """What check_skips says of tests: name, status, output."""
        cases = [
            f"<testcase name={quoteattr(name)} status={quoteattr(status)}><system-out>{escape(output)}</system-out></testcase>"
            for name, status, output in tests
        ]
        with tempfile.TemporaryDirectory() as folder:
            patterns = pathlib.Path(folder, "expected")
            patterns.write_text(expected, encoding="utf-8")
            results = pathlib.Path(folder, "results.xml")
            results.write_text(f"<testsuite>{''.join(cases)}</testsuite>", encoding="utf-8")
            program = pathlib.Path(__file__).parent / "check_skips"
            done = subprocess.run([program, patterns, results], stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 1 if done.stderr else 0)
        return done.stderr

    def test_passed_tests_are_no_skips(self):
        self.assertEqual(self.check("", ("A.B", "run", "[       OK ] A.B (1 ms)\n")), "")

    def test_skipped_test_is_named_with_its_reason(self):
        said = self.check("# A.B\nC.D\n", ("A.B", "notrun", "a.cc:1: Skipped\nno such device\n\n[  SKIPPED ] A.B (0 ms)\n"))
        self.assertIn("  A.B: no such device\n", said)

    def test_expected_skips_are_left_out(self):
        self.assertEqual(self.check(r"A\.(B|C)" + "\n", ("A.B", "notrun", ""), ("A.C  # GetParam() = 7", "notrun", "")), "")

    def test_skip_within_a_program_that_passes_is_named(self):
        said = self.check("Upgrade.IsAllOrNothing\n", ("driver_vz.upgrade", "run", PROGRAM))
        self.assertEqual(said.splitlines()[1:], ["  driver_vz.upgrade: Upgrade.IsAllOrNothing: the driver vz cannot fork"])

    def test_skip_within_a_program_can_be_expected(self):
        self.assertEqual(self.check(r"driver_vz\.upgrade: Upgrade\.IsAllOrNothing", ("driver_vz.upgrade", "run", PROGRAM)), "")

    def test_parameter_is_no_part_of_the_name(self):
        output = "[  SKIPPED ] Of/A.B/Noop, where GetParam() = Noop (3 ms)\n"
        self.assertIn("  all: Of/A.B/Noop: no reason given\n", self.check("", ("all", "run", output)))

    def test_skips_of_unittest_are_counted(self):
        said = self.check("", ("sim.guest", "run", "Ran 9 tests in 2.1s\n\nOK (skipped=2)\n"))
        self.assertIn("  sim.guest: 2 of its tests", said)


if __name__ == "__main__":
    unittest.main()
