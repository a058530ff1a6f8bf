#!/usr/bin/env python3
"""The floor under vmtest's figures: the same guest booted and forked by bare QEMU, with nothing around it.

Cold: exec QEMU -> marker on the serial line -> first `ssh true` answered.
Fork: memory in a file (saved with the VM stopped, device state by migration with x-ignore-shared), then per fork
a qcow2 overlay, a private mapping of that file, `-incoming defer` -> state restored -> first `ssh true` answered.
Migration goes through passed descriptors (getfd, fd:), so QEMU runs with its sandbox on and no shell is involved.

Prints one JSON object: seconds, each as a list of runs; beside the wall times the CPU seconds QEMU itself used, and how many
CPU seconds the machine's own hypervisor stole meanwhile: on shared hosts a run with much of it says nothing. Run it beside the framework's own benchmark, in turn and
on an otherwise idle machine, and quote ratios of medians: absolute times differ from host to host.

  raw_limit.py --kernel K --initrd I --append 'console=ttyS0 ...' --key KEY [--disk D] [--disk-format qcow2] [--seed ISO] [--memory 256]
               [--marker VMRS_READY] [--user root] [--accel tcg] [--cpu max] [--mac MAC] [--runs 5] [--cold-only]

With --cold-only no fork is made, and the guest's memory is QEMU's own instead of a file.

The guest must print the marker once sshd is up, take 10.0.2.15 on QEMU's user network and accept KEY.
"""
import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def stolen():
    with open("/proc/stat") as f:
        return int(f.readline().split()[8]) / os.sysconf("SC_CLK_TCK")


class Qmp:
    def __init__(self, path, process):
        deadline = time.monotonic() + 30
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(path)
                break
            except OSError:
                self.sock.close()
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("QEMU did not open its QMP socket")
                time.sleep(0.001)
        self.file = self.sock.makefile("rw")
        self.file.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            reply = json.loads(self.file.readline())
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                sys.exit(f"{command}: {reply['error']['desc']}")

    def pass_descriptor(self, name, path, flags):
        fd = os.open(path, flags, 0o600)
        try:
            message = json.dumps({"execute": "getfd", "arguments": {"fdname": name}}) + "\n"
            socket.send_fds(self.sock, [message.encode()], [fd])
        finally:
            os.close(fd)
        while True:
            reply = json.loads(self.file.readline())
            if "error" in reply:
                sys.exit(f"getfd: {reply['error']['desc']}")
            if "return" in reply:
                return

    def wait_migrated(self):
        while (status := self("query-migrate").get("status")) != "completed":
            if status == "failed":
                sys.exit("migration failed")
            time.sleep(0.001)


class Guest:
    def __init__(self, a, work, name, share, disk, incoming):
        self.a, self.port = a, free_port()
        serial, qmp = f"{work}/{name}.ser", f"{work}/{name}.qmp"
        argv = [a.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-machine", f"q35,accel={a.accel}" + ("" if a.cold_only else ",memory-backend=ram"),
                "-cpu", a.cpu, "-smp", str(a.cpus), "-m", str(a.memory),
                "-kernel", a.kernel, "-initrd", a.initrd, "-append", a.append,
                "-device", "vmgenid,guid=auto", "-device", "virtio-rng-pci",
                "-netdev", f"user,id=n0,hostfwd=tcp:127.0.0.1:{self.port}-:22",
                "-device", "virtio-net-pci,netdev=n0" + (f",mac={a.mac}" if a.mac else ""),
                "-serial", f"unix:{serial},server=on,wait=off", "-qmp", f"unix:{qmp},server=on,wait=off"]
        if not a.cold_only:
            argv += ["-object", f"memory-backend-file,id=ram,size={a.memory}M,mem-path={work}/memory,share={share}"]
        argv += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
        if disk:
            argv += ["-drive", f"if=none,id=d0,file={disk},format=qcow2", "-device", "virtio-blk-pci,drive=d0"]
        if a.seed:
            argv += ["-drive", f"if=none,id=d1,file={a.seed},format=raw,readonly=on", "-device", "virtio-blk-pci,drive=d1"]
        if incoming:
            argv += ["-incoming", "defer"]
        self.start, self.stolen = time.monotonic(), stolen()
        self.process = subprocess.Popen(argv)
        self.qmp = Qmp(qmp, self.process)
        self.serial = socket.socket(socket.AF_UNIX)
        self.serial.connect(serial)

    def elapsed(self):
        return round(time.monotonic() - self.start, 4)

    def wait_marker(self):
        seen = b""
        while self.a.marker.encode() + b" " not in seen:
            data = self.serial.recv(65536)
            if not data:
                sys.exit("guest ended before its marker:\n" + seen[-2000:].decode(errors="replace"))
            seen += data
        return self.elapsed()

    def ssh_true(self):
        argv = ["ssh", "-q", "-i", self.a.key, "-p", str(self.port), "-o", "StrictHostKeyChecking=no",
                "-o", "UserKnownHostsFile=/dev/null", "-o", "ControlMaster=no", "-o", "ConnectTimeout=60",
                f"{self.a.user}@127.0.0.1", "true"]
        if subprocess.run(argv, stdin=subprocess.DEVNULL).returncode != 0:
            sys.exit("ssh failed")
        return self.elapsed()

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rsplit(") ", 1)[1].split()
        return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 2)

    def cost(self, out, kind):
        out[f"{kind}_cpu"].append(self.cpu())
        out[f"{kind}_stolen"].append(round(stolen() - self.stolen, 2))

    def kill(self):
        start = time.monotonic()
        self.process.kill()
        self.process.wait()
        return round(time.monotonic() - start, 4)

    def pss_mib(self):
        with open(f"/proc/{self.process.pid}/smaps_rollup") as f:
            return next(int(line.split()[1]) // 1024 for line in f if line.startswith("Pss:"))


def overlay(backing, backing_format, path):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", backing_format, "-b", backing, path], check=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("kernel", "initrd", "append", "key"):
        p.add_argument(f"--{name}", required=True)
    p.add_argument("--disk")
    p.add_argument("--disk-format", default="qcow2")
    p.add_argument("--seed")
    p.add_argument("--memory", type=int, default=256)
    p.add_argument("--marker", default="VMRS_READY")
    p.add_argument("--user", default="root")
    p.add_argument("--accel", default="tcg")
    p.add_argument("--cpu", default="max")
    p.add_argument("--cpus", type=int, default=1)
    p.add_argument("--mac")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--cold-only", action="store_true")
    p.add_argument("--qemu", default="qemu-system-x86_64")
    a = p.parse_args()
    disk = os.path.abspath(a.disk) if a.disk else None
    a.seed = os.path.abspath(a.seed) if a.seed else None
    work = tempfile.mkdtemp(prefix="raw-limit-")
    out = {k: [] for k in ("cold_ready", "cold_ssh", "fork_restored", "fork_ssh", "kill", "fork_pss_mib",
                            "cold_cpu", "cold_stolen", "fork_cpu", "fork_stolen")}
    try:
        for run in range(a.runs):
            for leftover in ("template.qcow2", "memory"):
                if os.path.exists(f"{work}/{leftover}"):
                    os.unlink(f"{work}/{leftover}")
            if disk:
                overlay(disk, a.disk_format, f"{work}/template.qcow2")
            guest = Guest(a, work, f"cold{run}", "on", disk and f"{work}/template.qcow2", False)
            out["cold_ready"].append(guest.wait_marker())
            out["cold_ssh"].append(guest.ssh_true())
            guest.cost(out, "cold")
            if a.cold_only or run < a.runs - 1:
                guest.kill()
        if a.cold_only:
            print(json.dumps({key: value for key, value in out.items() if value}))
            return
        guest.qmp("stop")
        guest.qmp("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
        guest.qmp.pass_descriptor("state", f"{work}/state", os.O_WRONLY | os.O_CREAT)
        guest.qmp("migrate", uri="fd:state")
        guest.qmp.wait_migrated()
        out["state_bytes"] = os.path.getsize(f"{work}/state")
        guest.kill()
        for run in range(a.runs):
            start = time.monotonic()
            if disk:
                overlay(f"{work}/template.qcow2", "qcow2", f"{work}/fork{run}.qcow2")
            guest = Guest(a, work, f"fork{run}", "off", disk and f"{work}/fork{run}.qcow2", True)
            guest.start = start
            guest.qmp("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
            guest.qmp.pass_descriptor("state", f"{work}/state", os.O_RDONLY)
            guest.qmp("migrate-incoming", uri="fd:state")
            guest.qmp.wait_migrated()
            guest.qmp("cont")
            out["fork_restored"].append(guest.elapsed())
            out["fork_ssh"].append(guest.ssh_true())
            guest.cost(out, "fork")
            out["fork_pss_mib"].append(guest.pss_mib())
            out["kill"].append(guest.kill())
    finally:
        shutil.rmtree(work)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
