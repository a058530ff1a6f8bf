"""zoneadm: zones that are installed, booted, halted and uninstalled.

Source: zoneadm(8), and illumos-gate's usr/src/cmd/zoneadm/zoneadm.c (zone_print, sanity_check) for listings and the words of refusals.
"""

import getopt
import os
import shlex
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from . import keeper
from .command import State, escaped, fail, folder, not_simulated, state, table

Zone = dict[str, Any]
HALT_SECONDS = 10.0  # what the brand's halt script gives propolis-server before it kills it


def complain(zone: str, message: str) -> None:
    fail(f"zoneadm: zone '{zone}': {message}")


def need(now: State, zone: str) -> Zone:
    if zone not in now["zones"]:
        fail(f"zoneadm: {zone}: No such zone configured")
    found: Zone = now["zones"][zone]
    return found


def line(name: str, zone: Zone) -> str:
    ident = "-" if zone["state"] != "running" else str(zone["id"])
    ip_type = "excl" if zone["ip-type"] == "exclusive" else "shared"
    path = escaped(zone["zonepath"], 7)
    return ":".join([ident, name, zone["state"], path, zone["uuid"], zone["brand"], ip_type])


GLOBAL = "0:global:running:/::ipkg:shared"


def list_zones(zone: str | None, argv: list[str]) -> None:
    try:
        flags = {name for name, _ in getopt.getopt(argv, "pv" if zone else "cipv")[0]}
    except getopt.GetoptError as error:
        fail(f"zoneadm: {error}\nusage:\tlist [-cipv]", 2)
    if {"-p", "-v"} <= flags:
        fail("zoneadm: list -p and -v are mutually exclusive.")
    with state() as now:
        if zone == "global":
            lines = [GLOBAL]
        elif zone is not None:
            lines = [line(zone, need(now, zone))]
        else:
            shown = {"running"} | ({"installed", "incomplete"} if flags & {"-i", "-c"} else set())
            shown |= {"configured"} if "-c" in flags else set()
            lines = [GLOBAL] + [line(n, z) for n, z in now["zones"].items() if z["state"] in shown]
    if "-p" in flags:
        print("\n".join(lines))
    elif "-v" in flags:
        keys = ["ID", "NAME", "STATUS", "PATH", "UUID", "BRAND", "IP"]
        rows = [dict(zip(keys, each.replace("\\:", "\0").split(":"))) for each in lines]
        table([k for k in keys if k != "UUID"], [{k: v.replace("\0", ":") for k, v in row.items()} for row in rows])
    else:
        print("\n".join(each.split(":")[1] for each in lines))


def install(zone: str, argv: list[str]) -> None:
    with state() as now:
        entry = need(now, zone)
        if entry["state"] == "running":
            complain(zone, "install operation is invalid for running zones.")
        if entry["state"] == "installed":
            complain(zone, "is already installed.")
        for other, its in now["zones"].items():
            mine, theirs = entry["zonepath"] + "/", its["zonepath"] + "/"
            if other != zone and its["state"] != "configured" and (mine.startswith(theirs) or theirs.startswith(mine)):
                fail(f"{zone} zonepath ({entry['zonepath']}) and {other} zonepath ({its['zonepath']}) overlap.")
        try:
            path = Path(entry["zonepath"])
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)
            (path / "root").mkdir(exist_ok=True)
        except OSError as error:
            fail(f"zoneadm: {entry['zonepath']}: {error.strerror}")
        entry["state"], entry["uuid"] = "installed", str(uuid.uuid4())


def boot(zone: str, argv: list[str]) -> None:
    with state() as now:
        entry = need(now, zone)
        if entry["state"] == "configured":
            complain(zone, "must be installed before boot.")
        if entry["state"] == "running":
            print(f"zoneadm: zone '{zone}': zone is already booted", file=sys.stderr)
            return
        nets = [r["physical"] for r in entry["resources"] if r["resource"] == "net"]
        for link in nets:
            holder = next(
                (
                    n
                    for n, z in now["zones"].items()
                    if z["state"] == "running" and any(r.get("physical") == link for r in z["resources"])
                ),
                None,
            )
            if entry["ip-type"] == "exclusive" and (link not in now["vnics"] or holder is not None):
                complain(
                    zone,
                    f"unable to add network interface '{link}': "
                    + ("object not found" if holder is None else f"it belongs to zone {holder}")
                    + f"\nzoneadm: zone '{zone}': call to zoneadmd failed",
                )
        entry["datasets"] = [
            r["match"].removeprefix("/dev/zvol/rdsk/")
            for r in entry["resources"]
            if r["resource"] == "device" and r["match"].startswith("/dev/zvol/rdsk/")
        ]
        entry["process"] = start_propolis(zone, entry)
        entry["state"], entry["id"] = "running", now["next_zone_id"]
        now["next_zone_id"] += 1


def start_propolis(zone: str, entry: Zone) -> dict[str, int] | None:
    """What the brand's boot script does. %z is the zone's name, %R its path."""
    command = os.environ.get("VMTEST_ILLUMOS_PROPOLIS")
    if not command:
        return None
    argv = [word.replace("%z", zone).replace("%R", entry["zonepath"]) for word in shlex.split(command)]
    log = folder() / "zones" / f"{zone}.log"
    log.parent.mkdir(exist_ok=True)
    owner = os.environ.get("VMTEST_ILLUMOS_OWNER", "")
    with open(log, "ab") as output:
        started = subprocess.Popen(
            [sys.executable, "-B", keeper.__file__, owner or "-", *argv],
            cwd=entry["zonepath"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return {"pid": started.pid, "start": keeper.start_time(started.pid)}


def stop_propolis(process: dict[str, int] | None) -> None:
    """By pid and start time together, since the pid may be another's by now."""
    if process is None:
        return
    try:
        handle = os.pidfd_open(process["pid"])
    except ProcessLookupError:
        return
    try:
        if keeper.start_time(process["pid"]) == process["start"]:
            keeper.end(handle, HALT_SECONDS)
    finally:
        os.close(handle)


def halt(zone: str, argv: list[str]) -> None:
    with state() as now:
        entry = need(now, zone)
        if entry["state"] != "running":
            print(f"zoneadm: zone '{zone}': zone is already halted", file=sys.stderr)
            return
        stop_propolis(entry.pop("process", None))
        entry["state"], entry["id"], entry["datasets"] = "installed", None, []


def reboot(zone: str, argv: list[str]) -> None:
    with state() as now:
        if need(now, zone)["state"] != "running":
            complain(zone, "not running")
    halt(zone, [])
    boot(zone, [])


def shutdown(zone: str, argv: list[str]) -> None:
    with state() as now:
        if need(now, zone)["state"] != "running":
            complain(zone, "not running")
    halt(zone, [])


def uninstall(zone: str, argv: list[str]) -> None:
    if argv not in ([], ["-F"]):
        fail("zoneadm: usage:\tuninstall [-F]", 2)
    with state() as now:
        entry = need(now, zone)
        if entry["state"] == "running":
            complain(zone, "uninstall operation is invalid for running zones.")
        if entry["state"] == "configured":
            complain(zone, "is already in state 'configured'.")
        if not argv:
            complain(zone, "Input not from terminal and -F not specified:\nuninstall command ignored, exiting.")
        root = Path(entry["zonepath"], "root")
        if root.is_dir():
            shutil.rmtree(root)
        entry["state"] = "configured"


def main(argv: list[str]) -> None:
    zone = None
    if argv[:1] == ["-z"]:
        if len(argv) < 2:
            fail("zoneadm: usage: zoneadm [-z zone] subcommand", 2)
        zone, argv = argv[1], argv[2:]
    if not argv:
        fail("zoneadm: usage: zoneadm [-z zone] subcommand", 2)
    command, rest = argv[0], argv[1:]
    if command == "list":
        return list_zones(zone, rest)
    commands = {
        "install": install,
        "boot": boot,
        "halt": halt,
        "reboot": reboot,
        "shutdown": shutdown,
        "uninstall": uninstall,
    }
    if command in ("attach", "clone", "detach", "mark", "move", "ready", "verify"):
        not_simulated(f"zoneadm {command}")
    if command not in commands:
        fail(f"zoneadm: unknown command '{command}'\nusage: zoneadm [-z zone] subcommand", 2)
    if zone is None:
        fail("zoneadm: no zone specified")
    if zone == "global":
        complain(zone, f"{command} operation is invalid for the global zone.")
    commands[command](zone, rest)
