#!/usr/bin/env python3
"""Forks: ours beside bare QEMU's, with the same guest, in turn; and what forks are worth.

ratios.fork_restored               from the call until the guest runs on, ours over bare QEMU (`tiny`)
ratios.fork_ssh                    from the call to the first SSH command answered, ours over bare QEMU (`tiny`)
ratios.debian_fork_ssh_over_tiny   the price of a real distribution
ratios.tiny_cold_over_fork         cold boot over fork, both to the first SSH command answered
ratios.debian_cold_over_fork
ratios.pool_across                 a VM made ahead for a new process, from that process's turn to its first SSH command answered,
                                   over a login to a guest that has seen one
figures.pool_handover_s            a VM of a pool handed to a test body
figures.vm_fork_pause_s            how long a VM stands still while it is forked
figures.tests_per_minute_fork      a suite of 50 trivial tests, each with a pristine `tiny`, two jobs; and _cold
figures.idle_fork_pss_mib          memory of an idle fork of a 256 MiB `tiny`; figures.forks_at_once: how many were held
phases, debian_phases              where the time of a fork goes, in seconds. "ssh.banner" is a part of "ssh"; "hypervisor.monitor" is
                                   QEMU's start up to its monitor's first answer, "hypervisor.restore" the state taken and the guest
                                   run on; "exec" is the first command
All are medians of --runs runs, those that take a minute each of --long-runs.
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

import measure

HERE = os.path.dirname(os.path.abspath(__file__))
TINY = ["--memory", "256"]
DEBIAN = ["--image", "debian-12", "--memory", "512", "--cpus", "2"]
TESTS = 50


def ours(program, *arguments, mode="require", **variables):
    environment = {**os.environ, "VMTEST_FORK": mode, **variables}
    done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{program} {' '.join(arguments)} failed")
    return json.loads(done.stdout)


def bare(parts, folder):
    """A template by bare QEMU and one fork of it."""
    argv = [sys.executable, f"{HERE}/raw_limit.py", "--runs", "1", "--memory", "256", "--kernel", parts["kernel"],
            "--initrd", parts["initrd"], "--append", parts["append"], "--accel", parts["accel"], "--mac", parts["mac"],
            "--key", f"{folder}/id_ed25519", "--seed", f"{folder}/seed.iso", "--disk", parts["disk"],
            "--disk-format", parts["disk_format"]]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("bare QEMU failed")
    out = json.loads(done.stdout)
    return {"restored": out["fork_restored"][0], "ssh": out["fork_ssh"][0], "cpu": out["fork_cpu"][0],
            "pss_mib": out["fork_pss_mib"][0]}


def tests_per_minute(runner, suite, mode):
    begin = time.monotonic()
    done = subprocess.run([runner, "run", "--jobs", "2", suite], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "VMTEST_FORK": mode})
    if done.returncode != 0:
        sys.exit(f"the suite failed:\n{done.stderr[-3000:]}")
    return TESTS / (time.monotonic() - begin) * 60


def many(program, count, extra):
    """As many idle forks at once as were asked for, or as fit. Why there were no more goes to `extra`."""
    result = ours(program, "many", *TINY, "--count", str(count), VMTEST_MAX_VCPUS=str(2 * count))
    extra["forks_at_once_end"] = result["end"]
    extra["forks_at_once_seconds"] = result["seconds"]
    return {"idle_fork_pss_mib": result["pss_mib"], "forks_at_once": result["count"]}


def ahead(suite, folder):
    """A process that made its VM before its turn came: from its turn to its first command answered."""
    gate = f"{folder}/gate"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(gate)
        os.chmod(gate, 0o600)
        listener.listen(1)
        listener.settimeout(120)
        argv = [suite, "--gtest_filter=DISABLED_Ahead.*", "--gtest_also_run_disabled_tests"]
        environment = {**os.environ, "VMTEST_FORK": "require", "VMTEST_GATE": gate}
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as process:
            connection, _ = listener.accept()
            begin = time.monotonic()
            connection.sendall(b"1")
            out, _ = process.communicate()
    os.unlink(gate)
    if process.returncode != 0:
        sys.exit(f"the test failed:\n{out}")
    answered = next(float(line.split()[1]) for line in out.splitlines() if line.startswith("answered "))
    return {"across": round(answered - begin, 4)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", required=True, help="the program that makes one fork of ours")
    p.add_argument("--long-runs", type=int, default=5, help="runs of the cold suite, and of many idle forks")
    p.add_argument("--parts", nargs="+", default=["fork", "debian", "pool", "suite", "many"],
                   choices=["fork", "debian", "pool", "suite", "many"])
    p.add_argument("--many", type=int, default=100, help="how many idle forks to try to hold at once")
    a = measure.parse_arguments(p)
    build = os.path.dirname(os.path.dirname(os.path.abspath(a.program)))
    series, ratios, extra = measure.Series(), {}, {}
    folder = tempfile.mkdtemp(prefix="bench-fork-")
    # Templates of its own: a fork is charged the most that any of its template's took, whatever others have done with theirs.
    os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
    keys = ("restored", "ssh", "cpu", "pss_mib")
    phases = []

    def fork(*arguments):
        result = ours(a.program, "boot", *arguments)
        phases.append(result["phases"])
        return {key: result[key] for key in keys}

    def cold(*arguments):
        result = ours(a.program, "boot", *arguments, mode="never")
        return {"ssh": result["ssh"], "cpu": result["cpu"]}

    try:
        if "fork" in a.parts:
            parts = ours(a.program, "boot", *TINY, "--parts", folder, mode="never")["parts"]
            ours(a.program, "boot", *TINY)  # makes the template
            for run in range(a.runs):
                measure.say(f"tiny {run + 1}/{a.runs}")
                series.run("ours_fork", lambda: fork(*TINY))
                series.run("raw_fork", lambda: bare(parts, folder))
                series.run("ours_cold", lambda: cold(*TINY))
            ratios["fork_restored"] = round(series.median("ours_fork_restored") / series.median("raw_fork_restored"), 3)
            ratios["fork_ssh"] = round(series.median("ours_fork_ssh") / series.median("raw_fork_ssh"), 3)
            ratios["tiny_cold_over_fork"] = round(series.median("ours_cold_ssh") / series.median("ours_fork_ssh"), 2)
            extra["phases"] = {key: round(sorted(p[key] for p in phases)[len(phases) // 2], 4) for key in phases[0]}
        if "debian" in a.parts:
            ours(a.program, "boot", *DEBIAN)
            phases.clear()
            for run in range(a.runs):
                measure.say(f"debian-12 {run + 1}/{a.runs}")
                series.run("debian_fork", lambda: fork(*DEBIAN))
                series.run("debian_cold", lambda: cold(*DEBIAN))
            if "fork" in a.parts:
                ratio = series.median("debian_fork_ssh") / series.median("ours_fork_ssh")
                ratios["debian_fork_ssh_over_tiny"] = round(ratio, 3)
            ratios["debian_cold_over_fork"] = round(series.median("debian_cold_ssh") / series.median("debian_fork_ssh"), 2)
            extra["debian_phases"] = {key: round(sorted(p[key] for p in phases)[len(phases) // 2], 4) for key in phases[0]}
        if "pool" in a.parts:
            for run in range(a.runs):
                measure.say(f"pool and fork of a running VM {run + 1}/{a.runs}")
                series.run("pool", lambda: ours(a.program, "pool", *TINY))
                series.run("pool", lambda: ahead(f"{build}/ci/vmtest_bench_suite", folder))
                series.run("warm", lambda: ours(a.program, "warm", *TINY))
                series.run("vm_fork", lambda: ours(a.program, "fork", *TINY))
            ratios["pool_across"] = round(series.median("pool_across") / series.median("warm_login"), 3)
        if "suite" in a.parts:
            def suite(mode):
                return tests_per_minute(f"{build}/vmtest", f"{build}/ci/vmtest_bench_suite", mode)

            for name, mode, runs in (("fork", "require", a.runs), ("cold", "never", a.long_runs)):
                for run in range(runs):
                    measure.say(f"{TESTS} tests, {name} {run + 1}/{runs}")
                    series.run("tests_per_minute", lambda: {name: suite(mode)})
        if "many" in a.parts:
            for run in range(a.long_runs):
                measure.say(f"{a.many} idle forks {run + 1}/{a.long_runs}")
                series.run("many", lambda: many(a.program, a.many, extra))
            for key in ("idle_fork_pss_mib", "forks_at_once"):
                series.values[key] = series.values.pop(f"many_{key}")
    finally:
        shutil.rmtree(folder)
    figures = series.figures()
    for old, new in (("pool_handover", "pool_handover_s"), ("vm_fork_pause", "vm_fork_pause_s")):
        if old in figures:
            figures[new] = figures.pop(old)
    for name, figure in figures.items():
        if name.endswith("pss_mib"):
            figure["unit"] = "MiB"
        elif name.startswith("tests_per_minute"):
            figure["unit"] = "1/min"
        elif name == "forks_at_once":
            figure["unit"] = "1"
    measure.report("fork", series, figures, ratios, extra)


if __name__ == "__main__":
    main()
