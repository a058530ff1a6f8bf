#!/usr/bin/env python3
"""Shows that vz_api_check.py finds what is wrong: each test spoils one thing and expects it to be named.

usage: vz_api_check_test.py CLANG SOURCE
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
CLANG = "clang++-14"
SOURCE = HERE.parents[2] / "drivers/vz/helper/boot.mm"


class VzApiCheckTest(unittest.TestCase):
    def setUp(self) -> None:
        owner = tempfile.TemporaryDirectory(prefix="vz-api-")
        self.addCleanup(owner.cleanup)
        self.folder = pathlib.Path(owner.name)
        shutil.copytree(HERE / "include", self.folder / "include")
        shutil.copytree(SOURCE.parent, self.folder / "helper")

    def spoil(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text()
        self.assertIn(old, text)
        path.write_text(text.replace(old, new))

    def check(self, *arguments: str) -> tuple[int, str]:
        command = [
            sys.executable,
            str(HERE / "vz_api_check.py"),
            "--clang",
            CLANG,
            "--include",
            str(self.folder / "include"),
        ]
        source = str(self.folder / "helper" / SOURCE.name)
        result = subprocess.run([*command, *arguments, source], capture_output=True, text=True, check=False)
        return result.returncode, result.stderr

    def assert_found(self, what: str) -> None:
        code, errors = self.check()
        self.assertEqual(code, 1, errors)
        self.assertIn(what, errors)

    def test_unspoilt_is_right(self) -> None:
        self.assertEqual(self.check(), (0, ""))

    def test_finds_a_misspelt_selector(self) -> None:
        # The helper and the declarations agree, and are both wrong.
        self.spoil("include/Virtualization/VZBoot.h", "setInitialRamdiskURL:", "setInitialRamDiskURL:")
        self.spoil("helper/boot.mm", "setInitialRamdiskURL:", "setInitialRamDiskURL:")
        self.assert_found("VZLinuxBootLoader's selector setInitialRamDiskURL: is not in the table")

    def test_finds_a_selector_of_another_class(self) -> None:
        self.spoil(
            "include/Virtualization/VZBoot.h", "- (NSURL*)kernelURL;", "- (NSURL*)kernelURL;\n- (NSURL*)variableStore;"
        )
        self.assert_found("VZLinuxBootLoader's selector variableStore is not in the table")

    def test_finds_a_class_that_does_not_exist(self) -> None:
        self.spoil("include/Virtualization/VZBoot.h", "@interface VZMacOSBootLoader", "@interface VZTPMBootLoader")
        self.assert_found("class VZTPMBootLoader is not in the table")

    def test_finds_a_wrong_superclass(self) -> None:
        self.spoil(
            "include/Virtualization/VZBoot.h", "VZMacOSBootLoader : VZBootLoader", "VZMacOSBootLoader : NSObject"
        )
        self.assert_found("class VZMacOSBootLoader is declared as a subclass of NSObject, and is one of VZBootLoader")

    def test_finds_a_wrong_value(self) -> None:
        self.spoil("include/Virtualization/VZVirtualMachine.h", "StateSaving = 8", "StateSaving = 9")
        self.assert_found("VZVirtualMachineStateSaving is declared as 9, and is 8")

    def test_finds_a_message_to_an_object_of_no_known_class(self) -> None:
        self.spoil("helper/boot.mm", "[linux.get() setCommandLine:", "[(id)linux.get() performSomething:")
        code, errors = self.check()
        self.assertEqual(code, 1, errors)
        self.assertIn("boot.mm uses the selector performSomething:, which nothing declares", errors)

    def test_wants_a_source_of_what_was_checked_by_hand(self) -> None:
        by_hand = self.folder / "by-hand.tsv"
        by_hand.write_text("selector\tVZBootLoader\tnew:\t\n")
        code, errors = self.check("--by-hand", str(by_hand))
        self.assertEqual(code, 1)
        self.assertIn("no source is given for new:", errors)

    def test_wants_all_of_foundation_to_be_checked_by_hand(self) -> None:
        by_hand = self.folder / "by-hand.tsv"
        rows = (HERE / "checked-by-hand.tsv").read_text().splitlines()
        by_hand.write_text("\n".join(row for row in rows if "\tUTF8String\t" not in row and "class\tNSURL" not in row))
        code, errors = self.check("--by-hand", str(by_hand))
        self.assertEqual(code, 1)
        self.assertIn("NSString's selector UTF8String is not in the table", errors)
        self.assertIn("class NSURL is not in the table", errors)

    def test_finds_what_the_coverage_has_wrong(self) -> None:
        coverage = self.folder / "coverage.tsv"
        coverage.write_text(
            "VZTPMDeviceConfiguration\tused\n"
            "VZLinuxBootLoader\tleft out: nobody wants it\n"
            "VZBootLoader\tbase: VZEFIBootLoader\n"
            "VZAudioDeviceConfiguration\tbase: VZEFIBootLoader\n"
            "VZMacKeyboardConfiguration\tused\n"
            "VZMacAuxiliaryStorage\tnot there: nobody found it\n"
        )
        code, errors = self.check("--coverage", str(coverage))
        self.assertEqual(code, 1)
        self.assertIn('says of VZTPMDeviceConfiguration "used", which is not so', errors)
        self.assertIn('says of VZLinuxBootLoader "left out: nobody wants it", which is not so', errors)
        self.assertIn('says of VZAudioDeviceConfiguration "base: VZEFIBootLoader", which is not so', errors)
        self.assertIn('says of VZMacKeyboardConfiguration "used", which is not so', errors)
        self.assertIn('says of VZMacAuxiliaryStorage "not there: nobody found it", which is not so', errors)
        self.assertIn("says nothing of VZMacOSInstaller", errors)
        self.assertNotIn("VZBootLoader ", errors)

    def test_refuses_to_compare_nothing(self) -> None:
        (self.folder / "include/Virtualization/Virtualization.h").write_text("#import <Foundation/Foundation.h>\n")
        result = subprocess.run(
            [
                sys.executable,
                str(HERE / "vz_api_check.py"),
                "--clang",
                CLANG,
                "--include",
                str(self.folder / "include"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(result.returncode, 1)
        self.assertIn("the extraction found nothing", result.stderr)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        CLANG, SOURCE = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
        del sys.argv[1:3]
    unittest.main()
