#!/usr/bin/python3
"""The stand-ins for illumos' commands: their records, their state, and how they refuse."""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True

HERE = Path(__file__).resolve().parent


class CommandTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="illumos-sim-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.log = self.folder / "log"
        self.state = self.folder / "state"
        self.environment = os.environ | {
            "PATH": f"{HERE}:{os.environ['PATH']}",
            "VMTEST_ILLUMOS_LOG": str(self.log),
            "VMTEST_ILLUMOS_STATE": str(self.state),
        }

    def call(self, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def do(self, *argv: str, **environment: str) -> str:
        found = self.call(*argv, **environment)
        self.assertEqual((found.returncode, found.stderr), (0, ""), argv)
        return found.stdout

    def refused(self, words: str, *argv: str, status: int = 1) -> None:
        before = (self.state / "state.json").read_text() if (self.state / "state.json").exists() else ""
        found = self.call(*argv)
        self.assertEqual(found.returncode, status, f"{argv}: {found.stdout}{found.stderr}")
        self.assertIn(words, found.stderr)
        after = (self.state / "state.json").read_text() if (self.state / "state.json").exists() else ""
        self.assertEqual(after, before, "a refused command changes nothing")

    def make_image(self) -> None:
        self.do("zfs", "create", "-p", "rpool/images")
        self.do("zfs", "create", "rpool/vms")
        self.do("zfs", "create", "-V", "1m", "rpool/images/tiny")
        self.do("zfs", "snapshot", "rpool/images/tiny@latest")

    def configure(self, name: str = "t1", more: str = "") -> None:
        path = self.folder / name
        self.do(
            "zonecfg",
            "-z",
            name,
            f"create -b; set brand=nebula-vm; set zonepath={path}; set ip-type=exclusive; {more} commit",
        )

    def state_of(self, name: str = "t1") -> str:
        return self.do("zoneadm", "-z", name, "list", "-p").split(":")[2]


class RecordTest(CommandTest):
    def test_each_call_is_one_line(self) -> None:
        self.do("zfs", "list", "-H", "-o", "name")
        self.call("zoneadm", "-z", "a b", "boot")
        self.assertEqual(
            [json.loads(line) for line in self.log.read_text().splitlines()],
            [["zfs", "list", "-H", "-o", "name"], ["zoneadm", "-z", "a b", "boot"]],
        )

    def test_calls_at_once_lose_nothing(self) -> None:
        names = [f"rpool/d{index}" for index in range(12)]
        running = [subprocess.Popen(["zfs", "create", name], env=self.environment) for name in names]
        self.assertEqual([process.wait(timeout=30) for process in running], [0] * len(names))
        listed = self.do("zfs", "list", "-H", "-o", "name").split()
        self.assertEqual(sorted(listed), sorted(["rpool", *names]))
        self.assertEqual(len(self.log.read_text().splitlines()), len(names) + 1)

    def test_a_failure_can_be_asked_for(self) -> None:
        self.make_image()
        found = self.call("zfs", "clone", "rpool/images/tiny@latest", "rpool/vms/a", VMTEST_ILLUMOS_FAIL="zfs clone")
        self.assertEqual(found.returncode, 1)
        self.assertIn("VMTEST_ILLUMOS_FAIL", found.stderr)
        self.do("zfs", "list", VMTEST_ILLUMOS_FAIL="zfs clone")

    def test_a_failure_after_the_work_can_be_asked_for(self) -> None:
        self.make_image()
        late = {"VMTEST_ILLUMOS_FAIL_LATE": "zfs clone"}
        found = self.call("zfs", "clone", "rpool/images/tiny@latest", "rpool/vms/a", **late)
        self.assertEqual(found.returncode, 1)
        self.assertIn("VMTEST_ILLUMOS_FAIL_LATE", found.stderr)
        self.do("zfs", "destroy", "rpool/vms/a")

    def test_what_is_not_simulated_says_so(self) -> None:
        self.make_image()
        self.refused("not simulated", "zfs", "rollback", "rpool/images/tiny@latest", status=70)
        self.refused("not simulated", "zoneadm", "-z", "t1", "detach", status=70)

    def test_without_a_folder_for_the_state(self) -> None:
        found = self.call("zfs", "list", VMTEST_ILLUMOS_STATE="")
        self.assertEqual(found.returncode, 70)
        self.assertIn("VMTEST_ILLUMOS_STATE", found.stderr)


class ZfsTest(CommandTest):
    def setUp(self) -> None:
        super().setUp()
        self.make_image()

    def test_clones_and_says_where_from(self) -> None:
        self.do("zfs", "clone", "rpool/images/tiny@latest", "rpool/vms/t1")
        listed = self.do("zfs", "list", "-H", "-o", "name,type,origin,volsize", "-t", "all", "-r", "rpool")
        self.assertEqual(
            [line.split("\t") for line in listed.splitlines()],
            [
                ["rpool", "filesystem", "-", "-"],
                ["rpool/images", "filesystem", "-", "-"],
                ["rpool/images/tiny", "volume", "-", "1048576"],
                ["rpool/images/tiny@latest", "snapshot", "-", "-"],
                ["rpool/vms", "filesystem", "-", "-"],
                ["rpool/vms/t1", "volume", "rpool/images/tiny@latest", "1048576"],
            ],
        )
        self.assertEqual(
            self.do("zfs", "get", "-H", "-o", "value", "origin", "rpool/vms/t1"), "rpool/images/tiny@latest\n"
        )

    def test_a_clone_has_the_snapshots_content_and_keeps_its_own(self) -> None:
        volumes = self.state / "zvol/rdsk/rpool"
        with open(volumes / "images/tiny", "r+b") as file:
            file.write(b"later")
        self.do("zfs", "snapshot", "rpool/images/tiny@second")
        self.do("zfs", "clone", "rpool/images/tiny@latest", "rpool/vms/a")
        self.do("zfs", "clone", "rpool/images/tiny@second", "rpool/vms/b")
        with open(volumes / "vms/b", "r+b") as file:
            file.seek(5)
            file.write(b" mine")
        heads = {name: (volumes / name).read_bytes()[:10] for name in ("vms/a", "vms/b", "images/tiny")}
        self.assertEqual(heads, {"vms/a": bytes(10), "vms/b": b"later mine", "images/tiny": b"later" + bytes(5)})
        self.assertEqual((volumes / "vms/a").stat().st_size, 1048576)

    def test_refuses(self) -> None:
        self.do("zfs", "clone", "rpool/images/tiny@latest", "rpool/vms/t1")
        cases = [
            ("cannot create 'rpool/vms/t1': dataset already exists", "clone rpool/images/tiny@latest rpool/vms/t1"),
            ("cannot open 'rpool/images/tiny@old': dataset does not exist", "clone rpool/images/tiny@old rpool/vms/t2"),
            ("cannot create 'rpool/none/t2': parent does not exist", "clone rpool/images/tiny@latest rpool/none/t2"),
            ("cannot create 'rpool/vms': dataset already exists", "create rpool/vms"),
            ("cannot create 'tank/vms': no such pool 'tank'", "create tank/vms"),
            ("cannot create 'rpool/vms/t1/x': parent is not a filesystem", "create rpool/vms/t1/x"),
            (
                "cannot create snapshot 'rpool/images/tiny@latest': dataset already exists",
                "snapshot rpool/images/tiny@latest",
            ),
            ("cannot open 'rpool/none': dataset does not exist", "snapshot rpool/none@a"),
            ("cannot open 'rpool/none': dataset does not exist", "list rpool/none"),
            ("cannot open 'rpool/none': dataset does not exist", "destroy rpool/none"),
            (
                "cannot destroy 'rpool/images/tiny@latest': snapshot has dependent clones\n"
                "use '-R' to destroy the following datasets:\nrpool/vms/t1",
                "destroy rpool/images/tiny@latest",
            ),
            (
                "cannot destroy 'rpool/images/tiny': volume has dependent clones\n"
                "use '-R' to destroy the following datasets:\nrpool/vms/t1",
                "destroy -r rpool/images/tiny",
            ),
            (
                "cannot destroy 'rpool/vms': filesystem has children\n"
                "use '-r' to destroy the following datasets:\nrpool/vms/t1",
                "destroy rpool/vms",
            ),
            ("cannot destroy 'rpool': operation does not apply to pools", "destroy rpool"),
        ]
        for words, arguments in cases:
            with self.subTest(arguments=arguments):
                self.refused(words, "zfs", *arguments.split())
        for words, arguments in (
            ("missing target dataset argument", "clone rpool/images/tiny@latest"),
            ("unrecognized command 'copy'", "copy a b"),
            ("invalid option 'z'", "list -z"),
            ("invalid property 'nme'", "list -o nme"),
        ):
            with self.subTest(arguments=arguments):
                self.refused(words, "zfs", *arguments.split(), status=2)

    def test_destroys(self) -> None:
        self.do("zfs", "clone", "rpool/images/tiny@latest", "rpool/vms/t1")
        self.do("zfs", "snapshot", "rpool/vms/t1@one")
        self.do("zfs", "destroy", "-r", "rpool/vms/t1")
        self.assertFalse((self.state / "zvol/rdsk/rpool/vms/t1").exists())
        self.do("zfs", "clone", "rpool/images/tiny@latest", "rpool/vms/t2")
        self.do("zfs", "destroy", "-R", "rpool/images")
        self.assertEqual(self.do("zfs", "list", "-H", "-o", "name", "-t", "all").split(), ["rpool", "rpool/vms"])
        left = [path for path in (self.state / "zvol").rglob("*") if path.is_file()]
        self.assertEqual(left, [])

    def test_a_rest_is_listed_as_nothing(self) -> None:
        found = self.call("zfs", "list", "-H", "-t", "snapshot", "rpool/vms")
        self.assertEqual((found.returncode, found.stdout, found.stderr), (0, "", "no datasets available\n"))


class ZoneTest(CommandTest):
    def test_the_way_of_a_zone(self) -> None:
        self.configure()
        line = self.do("zoneadm", "-z", "t1", "list", "-p")
        self.assertEqual(line, f"-:t1:configured:{self.folder}/t1::nebula-vm:excl\n")
        self.do("zoneadm", "-z", "t1", "install")
        self.assertEqual((self.folder / "t1").stat().st_mode & 0o777, 0o700)
        self.do("zoneadm", "-z", "t1", "boot")
        line = self.do("zoneadm", "-z", "t1", "list", "-p")
        self.assertRegex(line, rf"^1:t1:running:{self.folder}/t1:[0-9a-f-]{{36}}:nebula-vm:excl\n$")
        self.do("zoneadm", "-z", "t1", "halt")
        self.assertEqual(self.state_of(), "installed")
        self.do("zoneadm", "-z", "t1", "uninstall", "-F")
        self.assertEqual(self.state_of(), "configured")
        self.do("zonecfg", "-z", "t1", "delete", "-F")
        self.refused("zoneadm: t1: No such zone configured", "zoneadm", "-z", "t1", "list", "-p")

    def test_lists(self) -> None:
        for name in ("a", "b", "c"):
            self.configure(name)
        for name in ("b", "c"):
            self.do("zoneadm", "-z", name, "install")
        self.do("zoneadm", "-z", "c", "boot")
        self.assertEqual(self.do("zoneadm", "list").split(), ["global", "c"])
        self.assertEqual(self.do("zoneadm", "list", "-i").split(), ["global", "b", "c"])
        self.assertEqual(self.do("zoneadm", "list", "-c").split(), ["global", "a", "b", "c"])
        self.assertEqual(len(self.do("zoneadm", "list", "-cp").splitlines()), 4)

    def test_refuses(self) -> None:
        self.configure()
        where = "zoneadm: zone 't1': "
        self.refused(where + "must be installed before boot.", "zoneadm", "-z", "t1", "boot")
        self.refused(where + "is already in state 'configured'.", "zoneadm", "-z", "t1", "uninstall", "-F")
        self.refused("zoneadm: t2: No such zone configured", "zoneadm", "-z", "t2", "boot")
        self.refused("Zone t1 already exists", "zonecfg", "-z", "t1", "create -b")
        self.do("zoneadm", "-z", "t1", "install")
        self.refused(where + "is already installed.", "zoneadm", "-z", "t1", "install")
        self.refused("Zone t1 not in configured state; delete not allowed.", "zonecfg", "-z", "t1", "delete", "-F")
        self.refused("and -F not specified", "zoneadm", "-z", "t1", "uninstall")
        self.do("zoneadm", "-z", "t1", "boot")
        self.refused(where + "install operation is invalid for running zones.", "zoneadm", "-z", "t1", "install")
        self.refused(
            where + "uninstall operation is invalid for running zones.", "zoneadm", "-z", "t1", "uninstall", "-F"
        )
        self.do("zoneadm", "-z", "t1", "halt")
        self.refused(where + "not running", "zoneadm", "-z", "t1", "reboot")
        self.refused("no zone specified", "zoneadm", "boot")
        self.refused("operation is invalid for the global zone", "zoneadm", "-z", "global", "halt")

    def test_what_is_so_already_is_said_but_no_error(self) -> None:
        self.configure()
        self.do("zoneadm", "-z", "t1", "install")
        found = self.call("zoneadm", "-z", "t1", "halt")
        self.assertEqual((found.returncode, found.stderr), (0, "zoneadm: zone 't1': zone is already halted\n"))
        self.do("zoneadm", "-z", "t1", "boot")
        found = self.call("zoneadm", "-z", "t1", "boot")
        self.assertEqual((found.returncode, found.stderr), (0, "zoneadm: zone 't1': zone is already booted\n"))

    def test_zonepaths_do_not_overlap(self) -> None:
        self.configure("a")
        self.do("zoneadm", "-z", "a", "install")
        self.do("zonecfg", "-z", "b", f"create -b; set zonepath={self.folder}/a/b; commit")
        self.refused("overlap", "zoneadm", "-z", "b", "install")

    def test_configurations_that_are_none(self) -> None:
        for words, text in (
            ("Required property zonepath not set", "create -b; set brand=x; commit"),
            ("x is not an absolute path", "create -b; set zonepath=x"),
            ("Use 'create' to begin", "set brand=x"),
            ("unexpected property 'colour'", "create -b; set colour=x"),
            ("physical not specified", f"create -b; set zonepath={self.folder}/a; add net; end"),
            ("net resource is not ended", f"create -b; set zonepath={self.folder}/a; add net; set physical=v0"),
            ("not allowed in the net resource scope", f"create -b; set zonepath={self.folder}/a; add net; commit"),
            ("address cannot be specified",
             f"create -b; set zonepath={self.folder}/a; add net; set physical=v0; set address=10.0.0.1; end; commit"),
        ):  # fmt: skip
            with self.subTest(words=words):
                self.refused(words, "zonecfg", "-z", "t1", text)


class NetworkTest(CommandTest):
    NET = "add net; set physical=vnic_t10; end;"

    def test_vnics(self) -> None:
        self.do("dladm", "create-vnic", "-t", "-l", "igb0", "-m", "02:08:20:0a:0b:0c", "vnic_t10")
        self.assertEqual(self.do("dladm", "show-vnic", "-p", "-o", "macaddress", "vnic_t10"), "2:8:20:a:b:c\n")
        self.assertEqual(
            self.do("dladm", "show-vnic", "-p", "-o", "link,over,macaddress"), "vnic_t10:igb0:2\\:8\\:20\\:a\\:b\\:c\n"
        )
        self.do("dladm", "create-vnic", "-l", "igb0", "auto0")
        self.assertTrue(
            re.match(r"2:8:20(:[0-9a-f]{1,2}){3}\n$", self.do("dladm", "show-vnic", "-p", "-o", "macaddress", "auto0"))
        )
        self.assertEqual(self.do("dladm", "show-phys", "-p", "-o", "link"), "igb0\n")
        self.assertIn("LINK", self.do("dladm", "show-vnic"))
        self.do("dladm", "delete-vnic", "vnic_t10")
        self.do("dladm", "delete-vnic", "-t", "auto0")
        self.assertEqual(self.do("dladm", "show-vnic", "-p", "-o", "link"), "")

    def test_refuses(self) -> None:
        self.do("dladm", "create-vnic", "-l", "igb0", "-m", "2:8:20:1:2:3", "v0")
        for words, arguments in (
            ("vnic creation over igb0 failed: object already exists", "create-vnic -l igb0 v0"),
            ("invalid link name 'net7'", "create-vnic -l net7 v1"),
            ("invalid link name 'vnic'", "create-vnic -l igb0 vnic"),
            ("invalid MAC address", "create-vnic -l igb0 -m 1:2:3:4:5:6 v1"),
            ("invalid MAC address", "create-vnic -l igb0 -m 2:8:20 v1"),
            ("MAC address in use", "create-vnic -l igb0 -m 02:08:20:01:02:03 v1"),
            ("object not found", "delete-vnic v9"),
            ("object not found", "show-vnic v9"),
            ("-p option requires -o", "show-vnic -p"),
            ("unknown output field 'colour'", "show-vnic -p -o colour"),
            ("unknown subcommand 'make'", "make"),
        ):
            with self.subTest(arguments=arguments):
                self.refused(words, "dladm", *arguments.split())

    def test_a_running_zone_needs_and_holds_its_vnic(self) -> None:
        self.configure(more=self.NET)
        self.do("zoneadm", "-z", "t1", "install")
        self.refused("unable to add network interface 'vnic_t10'", "zoneadm", "-z", "t1", "boot")
        self.do("dladm", "create-vnic", "-l", "igb0", "vnic_t10")
        self.do("zoneadm", "-z", "t1", "boot")
        self.refused("link busy", "dladm", "delete-vnic", "vnic_t10")
        self.do("zoneadm", "-z", "t1", "halt")
        self.do("dladm", "delete-vnic", "vnic_t10")

    def test_addresses_of_a_zone(self) -> None:
        self.do("dladm", "create-vnic", "-l", "igb0", "vnic_t10")
        self.configure(more=self.NET)
        self.refused("zlogin: cannot login to a zone which is 'configured'", "zlogin", "t1", "ipadm", "show-addr")
        self.refused("zlogin: zone 't2' unknown\n", "zlogin", "t2", "true")
        self.refused("zlogin: 'zlogin' not applicable to the global zone", "zlogin", "global", "true")
        self.refused("usage: zlogin [ -nQCES ]", "zlogin", status=2)
        self.do("zoneadm", "-z", "t1", "install")
        self.refused("zlogin: login allowed only to running zones (t1 is 'installed').", "zlogin", "t1", "true")
        self.do("zoneadm", "-z", "t1", "boot")
        self.do("zlogin", "t1", "ipadm", "create-addr", "-T", "static", "-a", "10.0.0.7/24", "vnic_t10/v4")
        self.assertEqual(
            self.do("zlogin", "t1", "ipadm", "show-addr", "-p", "-o", "ADDR").split(),
            ["127.0.0.1/8", "::1/128", "10.0.0.7/24"],
        )
        self.assertEqual(self.do("zlogin", "t1", "ipadm show-addr -p -o ADDROBJ,ADDR lo0/v6"), "lo0/v6:\\:\\:1/128\n")
        self.assertEqual(self.do("ipadm", "show-addr", "-p", "-o", "ADDR").split(), ["127.0.0.1/8", "::1/128"])
        self.refused("does not exist", "zlogin", "t1", "ipadm", "create-addr", "-T", "dhcp", "igb0/v4")
        self.refused("Object not found", "ipadm", "show-addr", "igb0/v4")
        self.refused("not found", "zlogin", "t1", "uname", status=127)


if __name__ == "__main__":
    unittest.main()
