"""The command line: what is accepted and what becomes of it, what is refused with which status and words."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import unittest

from cloud_hypervisor_sim import cli, config_cli
from cloud_hypervisor_sim.faults import Fault
from simulated import HALT, PROGRAM, Simulator, SimulatorTest, wait_for, write_elf

KERNEL = ["--kernel", "/k"]

# Arguments behind the kernel, the part of the configuration looked at, and what stands there.
ACCEPTED = [
    (["--cpus", "boot=2"], ("cpus", "max_vcpus"), 2),
    (["--cpus", "boot=1,max=4,topology=1:2:1:2"], ("cpus", "topology", "packages"), 2),
    (["--cpus", "boot=2,affinity=[0@[0,1],1@[0-1]]"], ("cpus", "affinity", 1, "host_cpus"), [0, 1]),
    (["--cpus", "boot=1,nested=off,features=amx"], ("cpus", "features", "amx"), True),
    (["--memory", "size=1G,shared=on"], ("memory", "size"), 1 << 30),
    (["--memory", "size=128M,hotplug_method=virtio-mem,hotplug_size=1G"], ("memory", "hotplug_method"), "VirtioMem"),
    (["--memory", "size=0", "--memory-zone", "id=a,size=64M", "id=b,size=64M"], ("memory", "zones", 1, "id"), "b"),
    (["--disk", "path=/a", "path=/b,readonly=on"], ("disks", 1, "readonly"), True),
    (["--disk", "path=/a", "--disk", "path=/b"], ("disks", 1, "path"), "/b"),
    (["--disk", "path=/a,image_type=qcow2,backing_files=on"], ("disks", 0, "image_type"), "Qcow2"),
    (["--disk", 'path="/a,b",id=d'], ("disks", 0, "path"), "/a,b"),
    (["--disk", 'path="/a,readonly=on"'], ("disks", 0, "readonly"), False),
    (["--disk", 'path="/vms/""a"""'], ("disks", 0, "path"), '/vms/"a"'),
    (["--disk", 'path=""""'], ("disks", 0, "path"), '"'),
    (["--disk", 'path="/a]"'], ("disks", 0, "path"), "/a]"),
    (["--disk", "path=/[a,b],id=d"], ("disks", 0, "path"), "/[a,b]"),
    (["--disk", 'path= "/a "'], ("disks", 0, "path"), "/a "),
    (["--disk", "path=/a ,id=d"], ("disks", 0, "path"), "/a"),
    (["--disk", "path=/a=b"], ("disks", 0, "path"), "/a=b"),
    (["--disk", "path=/a,bw_size=1000,bw_refill_time=100"], ("disks", 0, "rate_limiter_config", "ops"), None),
    (["--net", "tap=t0,mac=AA:bb:cc:dd:ee:ff"], ("net", 0, "mac"), "aa:bb:cc:dd:ee:ff"),
    (["--net", "fd=[3,4],num_queues=4"], ("net", 0, "fds"), [3, 4]),
    (["--net", "ip=10.0.0.1,mask=255.255.255.0"], ("net", 0, "ip"), "10.0.0.1"),
    (["--net=tap=t0"], ("net", 0, "tap"), "t0"),
    (["--serial", "file=/s"], ("serial", "mode"), "File"),
    (["--serial", "socket=/s"], ("serial", "socket"), "/s"),
    (["--console", "off"], ("console", "mode"), "Off"),
    (["--debug-console", "file=/d,iobase=0x402"], ("debug_console", "iobase"), 0x402),
    (["--vsock", "cid=3,socket=/v"], ("vsock", "cid"), 3),
    (["--fs", "tag=t,socket=/f,num_queues=1,queue_size=512"], ("fs", 0, "queue_size"), 512),
    (["--fs", 'tag="a,b",socket=/f,num_queues="1"'], ("fs", 0, "tag"), "a,b"),
    (["--fs", 'tag="",socket=/f'], ("fs", 0, "tag"), ""),
    (["--serial", 'socket="/s,t"'], ("serial", "socket"), "/s,t"),
    (["--platform", 'serial_number="a,b"'], ("platform", "system_serial_number"), "a,b"),
    (["--platform", 'oem_strings=["a",b]'], ("platform", "oem_strings"), ['"a"', "b"]),
    (["--initramfs", '"/i"'], ("payload", "initramfs"), '"/i"'),
    (["--cmdline=-- single"], ("payload", "cmdline"), "-- single"),
    (["--tpm", "socket=/t"], ("tpm", "socket"), "/t"),
    (["--balloon", "size=64M,deflate_on_oom=on"], ("balloon", "deflate_on_oom"), True),
    (["--rng", "src=/dev/random"], ("rng", "src"), "/dev/random"),
    (["--pmem", "file=/p,size=2M,discard_writes=on"], ("pmem", 0, "size"), 2 << 20),
    (["--rate-limit-group", "id=g,ops_size=10,ops_refill_time=100"], ("rate_limit_groups", 0, "id"), "g"),
    (["--numa", "guest_numa_id=0,cpus=[0-1],distances=[1@20]"], ("numa", 0, "distances", 0, "distance"), 20),
    (["--platform", "uuid=x,oem_strings=[a,b]"], ("platform", "oem_strings"), ["a", "b"]),
    (["--watchdog", "--pvpanic", "--rtc"], ("watchdog",), True),
    (["--initramfs", "/i", "--cmdline", "console=ttyS0 quiet"], ("payload", "cmdline"), "console=ttyS0 quiet"),
]

# Whole command lines that the grammar refuses, and a part of what is said.
REFUSED = [
    ([], "Usage: cloud-hypervisor"),
    (["--no-such-option"], "unexpected argument '--no-such-option' found"),
    ([*KERNEL, "-x"], "unexpected argument '-x' found"),
    ([*KERNEL, "loose"], "unexpected argument 'loose' found"),
    (["--memory", "size=1G"], "--firmware <firmware>|--kernel <kernel>"),
    (["--api-socket", "/s", "--disk", "path=/a"], "the following required arguments were not provided"),
    (["--watchdog"], "the following required arguments were not provided"),
    ([*KERNEL, *KERNEL], "the argument '--kernel <kernel>' cannot be used multiple times"),
    ([*KERNEL, "--serial", "tty", "--serial", "null"], "cannot be used multiple times"),
    (["--kernel"], "a value is required for '--kernel <kernel>' but none was supplied"),
    ([*KERNEL, "--seccomp", "maybe"], "[possible values: true, false, log, errno]"),
    ([*KERNEL, "--watchdog=on"], "unexpected value 'on' for '--watchdog' found"),
    (["--kernel", "/k\udcff"], "invalid UTF-8 was detected in one or more arguments"),
]

# Option values that the parser of the configuration refuses: the chain behind "Error parsing config".
BAD_VALUES = [
    (["--cpus", "boot=x"], ["Error parsing --cpus", "Unable to convert x for boot"]),
    (["--cpus", "bot=1"], ["Error parsing --cpus", "Unknown option: bot"]),
    (["--cpus", "boot"], ["Error parsing --cpus", "Invalid syntax: boot"]),
    (["--cpus", "boot=1,topology=1:2"], ["Error parsing --cpus", "Unable to convert 1:2 for topology"]),
    (["--cpus", "features=fast"], ["Invalid feature in --cpus features list: fast"]),
    (["--memory", "size=1X"], ["Error parsing --memory", "Unable to convert 1X for size"]),
    (["--memory", "size=1G,shared=maybe"], ["Error parsing --memory", "Unable to convert maybe for shared"]),
    (["--memory-zone", "size=1G"], ["Error parsing --memory-zone: id missing"]),
    (["--disk", "path=/a,[x"], ["Error parsing --disk", "Invalid syntax: path=/a,[x"]),
    (["--disk", 'path="/a'], ["Error parsing --disk", 'Invalid syntax: path="/a']),
    (["--disk", "path=/a]"], ["Error parsing --disk", "Invalid syntax: path=/a]"]),
    (["--disk", "path=/a,b"], ["Error parsing --disk", "Unknown option: b"]),
    (["--disk", 'path=/a,readonly="on"'], ["Error parsing --disk", 'Unable to convert "on" for readonly']),
    (["--disk", "path=/a,image_type=vmdk"], ["Error parsing --disk", "Unable to convert vmdk for image_type"]),
    (["--net", "mac=zz"], ["Error parsing --net", "Unable to convert zz for mac"]),
    (["--net", "ip=300.1.1.1"], ["Error parsing --net", "Unable to convert 300.1.1.1 for ip"]),
    (["--fs", "socket=/s"], ["Error parsing --fs: tag missing"]),
    (["--fs", "tag=t"], ["Error parsing --fs: socket missing"]),
    (["--fs", f"tag={'t' * 37},socket=/s"], ["Error parsing --fs: max tag length is 36"]),
    (["--vsock", "cid=3"], ["Error parsing --vsock: socket missing"]),
    (["--vsock", "socket=/s"], ["Error parsing --vsock: cid missing"]),
    (["--pmem", "size=2M"], ["Error parsing --pmem: file missing"]),
    (["--tpm", ""], ["Error parsing --tpm: path missing"]),
    (["--vdpa", "num_queues=1"], ["Error parsing --vdpa: path missing"]),
    (["--user-device", "id=x"], ["Error parsing --user-device: socket missing"]),
    (["--serial", "loud"], ["Error parsing --serial", "Unknown option: loud"]),
    (["--serial", "file="], ["Error validating configuration", "Path missing when using file console mode"]),
    (["--console", ""], ["Error parsing --console: invalid console mode given"]),
    (
        ["--debug-console", "off,iobase=233"],
        [
            "Error validating configuration",
            "The IO port was not properly provided in hex or a `0x` prefix is missing: 233",
        ],
    ),
    (
        ["--numa", "cpus=[0]"],
        ["Error parsing --numa", "Invalid value: guest_numa_id is required for all NUMA nodes"],
    ),
]


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | more
    return subprocess.run(
        [str(PROGRAM), *arguments], capture_output=True, text=True, timeout=60, env=environment, check=False
    )


class GrammarTest(unittest.TestCase):
    def testAcceptedValuesReachTheConfiguration(self) -> None:
        for arguments, path, expected in ACCEPTED:
            with self.subTest(arguments):
                value = config_cli.vm_config(cli.parse([*KERNEL, *arguments]))
                for key in path:
                    value = value[key]
                self.assertEqual(value, expected)

    def testRefusedCommandLinesEndWithStatusTwo(self) -> None:
        for arguments, words in REFUSED:
            with self.subTest(arguments), contextlib.redirect_stderr(io.StringIO()) as errors:
                with self.assertRaises(SystemExit) as refusal:
                    cli.parse(arguments)
                self.assertEqual(refusal.exception.code, 2)
                self.assertIn(words, errors.getvalue())

    def testBadValuesNameTheirOption(self) -> None:
        for arguments, chain in BAD_VALUES:
            with self.subTest(arguments), self.assertRaises(Fault) as refusal:
                config_cli.vm_config(cli.parse([*KERNEL, *arguments]))
            self.assertEqual(refusal.exception.chain, chain)

    def testRestoreValuesAreRead(self) -> None:
        request = config_cli.restore_config("source_url=file:///d,resume=true,net_fds=[n@[4,5]]")
        self.assertEqual(request["source_url"], "file:///d")
        self.assertTrue(request["resume"])
        self.assertEqual(request["net_fds"], [{"id": "n", "num_fds": 2, "fds": [4, 5]}])

    def testQuotedKeyOfAPairMayHoldItsSign(self) -> None:
        request = config_cli.restore_config('source_url=file:///d,net_fds=["n@1"@[4]]')
        self.assertEqual(request["net_fds"], [{"id": "n@1", "num_fds": 1, "fds": [4]}])


class ProcessTest(SimulatorTest):
    def testVersionIsPrinted(self) -> None:
        result = run("--version")
        self.assertEqual((result.returncode, result.stdout.splitlines()[0]), (0, "cloud-hypervisor v53.0"))

    def testOlderVersionIsPrinted(self) -> None:
        result = run("--version", VMTEST_SIM_CH_VERSION="v51")
        self.assertEqual((result.returncode, result.stdout.splitlines()[0]), (0, "cloud-hypervisor v51.1"))

    def testVersionThatIsNoneIsRefused(self) -> None:
        result = run("--version", VMTEST_SIM_CH_VERSION="v50")
        self.assertEqual(result.returncode, 2)
        self.assertIn("VMTEST_SIM_CH_VERSION=v50 is none of v51, v52, v53, main", result.stderr)

    def testRefusalReachesStandardError(self) -> None:
        result = run("--disk", "path=/a")
        self.assertEqual(result.returncode, 2)
        self.assertTrue(result.stderr.startswith("error: the following required arguments"))

    def testBadValueEndsWithStatusOneAndTheChain(self) -> None:
        result = run("--kernel", "/k", "--cpus", "boot=x")
        self.assertEqual(result.returncode, 1)
        self.assertIn("Error: Cloud Hypervisor exited with the following chain of errors:\n", result.stderr)
        self.assertIn("  0: Error parsing config\n  1: Error parsing --cpus\n", result.stderr)

    def testMissingKernelIsAFailureOfTheBoot(self) -> None:
        result = run("--kernel", str(self.folder / "none"), "--console", "off")
        self.assertEqual(result.returncode, 1)
        self.assertIn("  0: Error booting VM\n  1: The VM could not boot\n  2: Cannot open kernel file", result.stderr)

    def testInvalidConfigurationIsAFailureOfTheBoot(self) -> None:
        result = run("--kernel", str(self.kernel), "--cpus", "boot=2,max=1", "--console", "off")
        self.assertEqual(result.returncode, 1)
        self.assertIn("  2: Failed to validate config\n  3: Max CPUs (1) lower than boot CPUs (2)", result.stderr)

    def testKernelWithoutPvhEntryIsRefused(self) -> None:
        plain = self.folder / "plain"
        plain.write_bytes(write_elf(self.folder / "pvh", HALT).read_bytes().replace(b"Xen\0", b"Gen\0"))
        result = run("--kernel", str(plain), "--console", "off")
        self.assertEqual(result.returncode, 1)
        self.assertIn("Kernel lacks PVH header", result.stderr)

    def testLogFileTakesTheLogOnly(self) -> None:
        path = self.folder / "log"
        result = run("--kernel", "/k", "--cpus", "boot=x", "--log-file", str(path))
        self.assertTrue(result.stderr.startswith("Error: Cloud Hypervisor exited"), result.stderr)
        self.assertIn("Fatal error", path.read_text())

    def testBareEventMonitorIsRefused(self) -> None:
        result = run("--kernel", str(self.kernel), "--event-monitor", "")
        self.assertEqual(result.returncode, 1)
        self.assertIn("  Error parsing --event-monitor: path or fd required", result.stderr)

    def testSecondServerOnOneSocketIsRefused(self) -> None:
        first = self.start()
        result = run("--api-socket", first.socket)
        self.assertEqual(result.returncode, 1)
        self.assertIn("is already in use by another running instance", result.stderr)
        self.assertEqual(first.get("vmm.ping")[0], 200)

    def testTooLongSocketPathIsRefused(self) -> None:
        result = run("--api-socket", f"path={self.folder}/{'x' * 108}")
        self.assertEqual(result.returncode, 1)
        words = "  1: Error creation API server's socket\n  2: path must be shorter than SUN_LEN\n"
        self.assertIn(words, result.stderr)

    def testSocketGoesAndItsLockStays(self) -> None:
        simulator = self.start()
        simulator.close()
        self.assertEqual(simulator.process.returncode, 0)
        self.assertFalse(os.path.exists(simulator.socket))
        self.assertTrue(os.path.exists(f"{simulator.socket}.lock"))

    def testPayloadBootsAtOnceAndSigtermEndsTheVmm(self) -> None:
        simulator = self.start("--kernel", str(self.kernel), "--memory", "size=64M", "--console", "off")
        simulator.wait_event("vm booted")
        self.assertEqual(simulator.get("vm.info")[1]["state"], "Running")
        simulator.process.send_signal(signal.SIGTERM)
        self.assertEqual(simulator.wait(), 0)
        self.assertEqual(simulator.events()[-3:], ["vm shutdown", "vm deleted", "vmm shutdown"])

    def testApiSocketByDescriptor(self) -> None:
        import socket

        path = str(self.folder / "api")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(8)
        os.set_inheritable(listener.fileno(), True)
        simulator = Simulator(self.folder, "--api-socket", f"fd={listener.fileno()}", api=False)
        self.addCleanup(simulator.close)
        listener.close()
        wait_for(simulator.reachable, "API by descriptor")
        self.assertEqual(simulator.get("vmm.ping")[0], 200)

    def testQuotedApiSocketMayHoldAComma(self) -> None:
        simulator = Simulator(self.folder, "--api-socket", f'path="{self.folder}/api,b"', api=False)
        self.addCleanup(simulator.close)
        simulator.socket = f"{self.folder}/api,b"
        wait_for(simulator.reachable, "API on a quoted path")
        self.assertEqual(simulator.get("vmm.ping")[0], 200)

    def testApiSocketEndsAtACommaThatIsNotQuoted(self) -> None:
        simulator = Simulator(self.folder, "--api-socket", f"path={self.folder}/api,b", api=False)
        self.addCleanup(simulator.close)
        wait_for(simulator.reachable, "API in front of the comma")
        self.assertEqual(simulator.get("vmm.ping")[0], 200)

    def testEventsByDescriptor(self) -> None:
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        process = subprocess.Popen(
            [str(PROGRAM), "--event-monitor", f"fd={writer}", "--restore", "source_url=file:///nowhere"],
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        os.close(writer)
        self.assertEqual(process.wait(60), 1)
        with os.fdopen(reader) as events:
            text = events.read()
        self.assertIn('"event": "starting"', text)
        self.assertIn('"event": "shutdown"', text)


if __name__ == "__main__":
    unittest.main()
