#!/usr/bin/env python3
"""Boot times: ours beside bare QEMU's, with the same kernel, initramfs, disk, seed and memory, in turn.

ratios.cold_ssh             `tiny`, cold boot to the first SSH command answered, ours over bare QEMU
figures.teardown            from the scope's end until nothing is left
ratios.debian_seed_profile  `debian-12`, cold to the marker, our seed over cloud-init's stock behaviour; the same image
ratios.debian_floor         the same image with cloud-init disabled (to sshd's banner), over the stock behaviour
figures.debian_*_stage_*    what each of cloud-init's stages took in the guest (0: it did not run); debian_*_login: a further login
"""
import argparse
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import measure
import raw_limit

HERE = os.path.dirname(os.path.abspath(__file__))
DEBIAN = {"memory": 1024, "cpus": 2}
TINY_MEMORY = 256
FLOOR_LIMIT = 600


def life(program, *arguments):
    """One life of a VM of ours."""
    done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{program} failed")
    return json.loads(done.stdout)


def bare(parts, folder):
    """One cold boot by bare QEMU of what `parts` names."""
    argv = [sys.executable, f"{HERE}/raw_limit.py", "--cold-only", "--runs", "1", "--memory", str(TINY_MEMORY),
            "--kernel", parts["kernel"], "--initrd", parts["initrd"], "--append", parts["append"], "--accel", parts["accel"],
            "--mac", parts["mac"], "--key", f"{folder}/id_ed25519", "--seed", f"{folder}/seed.iso"]
    if parts["disk"]:
        argv += ["--disk", parts["disk"], "--disk-format", parts["disk_format"]]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("bare QEMU failed")
    out = json.loads(done.stdout)
    return {"ssh": out["cold_ssh"][0], "marker": out["cold_ready"][0], "cpu": out["cold_cpu"][0]}


def host_key_credential(folder):
    """A kernel argument by which systemd makes a host key, since the image has none and nobody else makes one."""
    key = f"{folder}/host_key"
    if not os.path.exists(key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with open(key, "rb") as f:
        content = base64.b64encode(f.read()).decode()
    return f'systemd.set_credential="tmpfiles.extra:f~ /etc/ssh/ssh_host_ed25519_key 0600 root root - {content}"'


def floor(parts, folder):
    """Cold boot of a Debian without cloud-init, to the first word of its sshd."""
    a = argparse.Namespace(
        qemu="qemu-system-x86_64", accel=parts["accel"], cpu="host" if parts["accel"] == "kvm" else "max", cpus=DEBIAN["cpus"],
        memory=DEBIAN["memory"], kernel=parts["kernel"], initrd=parts["initrd"], seed=None, mac=parts["mac"], cold_only=True,
        append=f"{parts['append']} cloud-init=disabled ip=dhcp {host_key_credential(folder)}")
    overlay = f"{folder}/floor.qcow2"
    begin = time.monotonic()
    raw_limit.overlay(parts["disk"], parts["disk_format"], overlay)
    guest = raw_limit.Guest(a, folder, "floor", "off", overlay, False)
    console = []
    # A console that nobody reads stops the guest.
    threading.Thread(target=lambda: console.extend(iter(lambda: guest.serial.recv(65536), b"")), daemon=True).start()
    try:
        while time.monotonic() - begin < FLOOR_LIMIT:
            try:
                with socket.create_connection(("127.0.0.1", guest.port), timeout=1) as connection:
                    if connection.recv(4) == b"SSH-":
                        return {"banner": time.monotonic() - begin, "cpu": guest.cpu()}
            except OSError:
                pass
            time.sleep(0.05)
        sys.exit("the guest without cloud-init has no sshd; its console:\n" + b"".join(console)[-3000:].decode(errors="replace"))
    finally:
        guest.kill()
        os.unlink(overlay)
        for name in ("floor.ser", "floor.qmp"):
            os.unlink(f"{folder}/{name}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", required=True, help="the program that boots one VM of ours")
    p.add_argument("--images", nargs="+", default=["tiny", "debian-12"], choices=["tiny", "debian-12"])
    a = measure.parse_arguments(p)
    series, ratios = measure.Series(), {}
    folder = tempfile.mkdtemp(prefix="bench-boot-")
    parts = {}

    def ours(*arguments, keys):
        result = life(a.program, "--parts", folder, *arguments)
        parts.update(result["parts"])
        return {key: result[key] for key in keys}

    of_debian = ("marker", "ssh", "cpu", "stage_local", "stage_init", "stage_config", "stage_final", "login")
    debian = ["--image", "debian-12", "--memory", str(DEBIAN["memory"]), "--cpus", str(DEBIAN["cpus"]), "--stages"]
    try:
        if "tiny" in a.images:
            for run in range(a.runs):
                measure.say(f"tiny {run + 1}/{a.runs}")
                series.run("ours", lambda: ours("--memory", str(TINY_MEMORY), keys=("ssh", "marker", "cpu", "teardown")))
                series.run("raw", lambda: bare(parts, folder))
            ratios["cold_ssh"] = round(series.median("ours_ssh") / series.median("raw_ssh"), 3)
        if "debian-12" in a.images:
            for run in range(a.runs):
                measure.say(f"debian-12 {run + 1}/{a.runs}")
                series.run("debian_fast", lambda: ours(*debian, "--profile", "fast", keys=of_debian))
                series.run("debian_stock", lambda: ours(*debian, "--profile", "stock", keys=of_debian))
                series.run("debian_floor", lambda: floor(parts, folder))
            stock = series.median("debian_stock_marker")
            ratios["debian_seed_profile"] = round(series.median("debian_fast_marker") / stock, 3)
            ratios["debian_floor"] = round(series.median("debian_floor_banner") / stock, 3)
    finally:
        shutil.rmtree(folder)
    figures = series.figures()
    if "ours_teardown" in figures:
        figures["teardown"] = figures.pop("ours_teardown")
    measure.report("boot", series, figures, ratios)


if __name__ == "__main__":
    main()
