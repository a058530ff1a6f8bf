"""zfs: filesystems, volumes, snapshots and clones. Volumes have their content in files below the state's folder.

Source: zfs(8) and the pages of its subcommands; usr/src/cmd/zfs/zfs_main.c of illumos-gate (destroy) for the words of refusals.
"""

import getopt
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .command import State, fail, folder, not_simulated, state

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.: -]*(/[A-Za-z0-9_.: -]+)*(@[A-Za-z0-9_.: -]+)?")
UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
NATIVE = (
    "name",
    "type",
    "origin",
    "volsize",
    "used",
    "available",
    "avail",
    "referenced",
    "refer",
    "mountpoint",
    "creation",
)


def usage(message: str) -> None:
    fail(f"{message}\nusage:\n\tzfs command args ...", 2)


def options(argv: list[str], letters: str) -> tuple[dict[str, str], list[tuple[str, str]], list[str]]:
    try:
        found, rest = getopt.getopt(argv, letters)
    except getopt.GetoptError as error:
        usage(
            f"invalid option '{error.opt}'"
            if "not recognized" in error.msg
            else f"missing argument for '{error.opt}' option"
        )
    return dict(found), found, rest


def content(name: str) -> Path:
    """Where a volume or a volume's snapshot has its bytes; propolis-server finds volumes there, too."""
    return folder() / "zvol" / "rdsk" / name


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--reflink=auto", "--sparse=always", "--", source, target], check=True)


def check_name(verb: str, name: str) -> None:
    if not NAME.fullmatch(name):
        fail(f"cannot {verb} '{name}': invalid character or component in name")


def need(now: State, name: str, verb: str = "open") -> None:
    if name not in now["datasets"]:
        fail(f"cannot {verb} '{name}': dataset does not exist")


def is_below(name: str, top: str) -> bool:
    return name.startswith((top + "/", top + "@"))


def add(
    now: State,
    name: str,
    kind: str,
    origin: str | None = None,
    volsize: int | None = None,
    properties: dict[str, str] | None = None,
) -> None:
    now["created"] += 1
    now["datasets"][name] = {
        "type": kind,
        "origin": origin,
        "volsize": volsize,
        "properties": properties or {},
        "created": now["created"],
    }


def check_new(now: State, name: str, make_parents: bool) -> None:
    check_name("create", name)
    if name in now["datasets"]:
        if make_parents:
            raise FileExistsError
        fail(f"cannot create '{name}': dataset already exists")
    parts = name.split("/")
    parents = ["/".join(parts[:count]) for count in range(1, len(parts))]
    if not parents or parts[0] not in now["datasets"]:
        fail(f"cannot create '{name}': " + ("missing dataset name" if not parents else f"no such pool '{parts[0]}'"))
    for parent in parents:
        if parent not in now["datasets"]:
            if not make_parents:
                fail(f"cannot create '{name}': parent does not exist")
            add(now, parent, "filesystem")
        elif now["datasets"][parent]["type"] != "filesystem":
            fail(f"cannot create '{name}': parent is not a filesystem")


def pairs(found: list[tuple[str, str]]) -> dict[str, str]:
    given = [value for name, value in found if name == "-o"]
    if any("=" not in value for value in given):
        usage("missing '=' for -o option")
    return dict(value.split("=", 1) for value in given)


def create(argv: list[str]) -> None:
    given, found, rest = options(argv, "psV:o:b:")
    if len(rest) != 1:
        usage("missing filesystem argument" if not rest else "too many arguments")
    name, size = rest[0], None
    if "-V" in given:
        parsed = re.fullmatch(r"(\d+)([bkmgt]?)b?", given["-V"].lower())
        if parsed is None or int(parsed.group(1)) == 0:
            fail(f"cannot create '{name}': bad numeric value '{given['-V']}'")
        size = int(parsed.group(1)) * UNITS[parsed.group(2)]
    with state() as now:
        try:
            check_new(now, name, "-p" in given)
        except FileExistsError:
            return  # what -p asks for is there
        add(now, name, "filesystem" if size is None else "volume", volsize=size, properties=pairs(found))
        if size is not None:
            content(name).parent.mkdir(parents=True, exist_ok=True)
            with open(content(name), "xb") as file:
                file.truncate(size)


def snapshot(argv: list[str]) -> None:
    given, found, rest = options(argv, "ro:")
    if not rest:
        usage("missing snapshot argument")
    with state() as now:
        for name in rest:
            top, at, label = name.partition("@")
            if not at or not label or not NAME.fullmatch(name):
                fail(f"cannot create snapshot '{name}': invalid snapshot name\nno snapshots were created")
            if top not in now["datasets"]:
                fail(f"cannot open '{top}': dataset does not exist\nno snapshots were created")
            tops = [top] + [d for d in now["datasets"] if "-r" in given and d.startswith(top + "/") and "@" not in d]
            for each in tops:
                new = f"{each}@{label}"
                if new in now["datasets"]:
                    fail(f"cannot create snapshot '{new}': dataset already exists\nno snapshots were created")
                add(now, new, "snapshot", volsize=now["datasets"][each]["volsize"], properties=pairs(found))
                if now["datasets"][each]["type"] == "volume":
                    copy(content(each), content(new))


def clone(argv: list[str]) -> None:
    given, found, rest = options(argv, "po:")
    if len(rest) != 2:
        usage(
            ["missing source dataset argument", "missing target dataset argument"][len(rest)]
            if len(rest) < 2
            else "too many arguments"
        )
    source, target = rest
    with state() as now:
        if "@" not in source:
            fail(
                f"cannot open '{source}': operation not applicable to datasets of this type"
                if source in now["datasets"]
                else f"cannot open '{source}': missing '@' delimiter in snapshot name"
            )
        need(now, source)
        try:
            check_new(now, target, "-p" in given)
        except FileExistsError:
            return
        if source.split("/")[0].split("@")[0] != target.split("/")[0]:
            fail(f"cannot create '{target}': source and target pools differ")
        size = now["datasets"][source]["volsize"]
        add(now, target, "filesystem" if size is None else "volume", source, size, pairs(found))
        if size is not None:
            copy(content(source), content(target))


def dependents(now: State, name: str) -> tuple[list[str], list[str]]:
    """Children (with snapshots), and clones from outside that hang on them or on the dataset itself."""
    inside = [d for d in now["datasets"] if is_below(d, name)]
    clones: list[str] = []
    pending = [name, *inside]
    while pending:
        origin = pending.pop()
        for other, entry in now["datasets"].items():
            if entry["origin"] == origin and other not in inside and other not in clones:
                below = [d for d in now["datasets"] if is_below(d, other)]
                clones += [other, *(d for d in below if d not in clones)]
                pending += [other, *below]
    return inside, clones


def busy(now: State, name: str) -> bool:
    """A running zone holds the volume that its propolis-server has open."""
    return any(zone["state"] == "running" and name in zone["datasets"] for zone in now["zones"].values())


def destroy(argv: list[str]) -> None:
    given, _, rest = options(argv, "fdnprRv")
    if not rest or len(rest) > 1:
        usage("missing dataset argument" if not rest else "too many arguments")
    if {"-n", "-d", "-p"} & set(given):
        not_simulated("zfs destroy -d, -n or -p")
    name, all_of_it = rest[0], "-R" in given
    with state() as now:
        if "@" in name and name not in now["datasets"]:
            need(now, name.split("@")[0])
            fail("could not find any snapshots to destroy; check snapshot names.")
        need(now, name)
        kind = now["datasets"][name]["type"]
        if "/" not in name and kind == "filesystem" and "-r" not in given and not all_of_it:
            fail(
                f"cannot destroy '{name}': operation does not apply to pools\n"
                f"use 'zfs destroy -r {name}' to destroy all datasets in the pool\n"
                f"use 'zpool destroy {name}' to destroy the pool itself"
            )
        inside, clones = dependents(now, name)
        if clones and not all_of_it:
            fail(
                f"cannot destroy '{name}': {kind} has dependent clones\n"
                "use '-R' to destroy the following datasets:\n" + "\n".join(clones)
            )
        if inside and "-r" not in given and not all_of_it:
            fail(
                f"cannot destroy '{name}': {kind} has children\n"
                "use '-r' to destroy the following datasets:\n" + "\n".join(inside)
            )
        doomed = [*clones, *inside, name]
        for each in doomed:
            if busy(now, each):
                fail(f"cannot destroy '{each}': dataset is busy")
        for each in doomed:
            if each == name and "/" not in name and "@" not in name:
                continue  # the pool itself stays
            if now["datasets"].pop(each)["volsize"] is not None:
                content(each).unlink(missing_ok=True)
        for each in sorted(doomed, reverse=True):
            shutil.rmtree(content(each), ignore_errors=True)


def creation(now: State, name: str) -> str:
    return str(now["datasets"][name].get("created", 0))


def value_of(now: State, name: str, wanted: str) -> str:
    entry = now["datasets"][name]
    if wanted == "name":
        return name
    if wanted in ("type", "origin", "volsize"):
        value = entry[wanted]
        return "-" if value is None or (wanted == "volsize" and entry["type"] == "snapshot") else str(value)
    if wanted in ("used", "referenced", "refer"):
        path = content(name)
        return str(os.stat(path).st_blocks * 512) if path.is_file() else "0"
    if wanted in ("available", "avail"):
        return "-" if entry["type"] == "snapshot" else str(shutil.disk_usage(folder()).free)
    if wanted == "mountpoint":
        return "/" + name if entry["type"] == "filesystem" else "-"
    if wanted == "creation":
        return creation(now, name)
    return str(entry["properties"].get(wanted, "-"))


def chosen(now: State, names: list[str], recursive: bool, depth: int | None, types: set[str]) -> list[str]:
    everything = not names
    found: list[str] = []
    for top in names or [d for d in now["datasets"] if "/" not in d and "@" not in d]:
        need(now, top)
        below = [d for d in now["datasets"] if is_below(d, top)] if recursive or everything else []
        level = re.split("[/@]", top)
        found += [d for d in [top, *below] if depth is None or len(re.split("[/@]", d)) - len(level) <= depth]
    return [d for d in sorted(dict.fromkeys(found)) if now["datasets"][d]["type"] in types]


def types_of(text: str | None, names: list[str]) -> set[str]:
    if text is None:
        return {"filesystem", "volume"} | ({"snapshot"} if any("@" in n for n in names) else set())
    known: dict[str, set[str]] = {
        "filesystem": {"filesystem"},
        "volume": {"volume"},
        "snapshot": {"snapshot"},
        "snap": {"snapshot"},
        "bookmark": set(),
        "all": {"filesystem", "volume", "snapshot"},
    }
    for word in text.split(","):
        if word not in known:
            usage(f"invalid type '{word}'")
    return set().union(*(known[word] for word in text.split(",")))


def check_properties(names: list[str]) -> None:
    for name in names:
        if name not in NATIVE and ":" not in name:
            usage(f"bad property list: invalid property '{name}'")


def list_datasets(argv: list[str]) -> None:
    given, _, rest = options(argv, "Hprd:o:t:s:S:")
    columns = given.get("-o", "name,used,avail,refer,mountpoint").split(",")
    check_properties(columns)
    depth = int(given["-d"]) if "-d" in given else None
    with state() as now:
        names = chosen(now, rest, "-r" in given or depth is not None, depth, types_of(given.get("-t"), rest))
        rows = [[value_of(now, name, column) for column in columns] for name in names]
    if not rows:
        print("no datasets available", file=sys.stderr)
        return
    if "-H" not in given:
        rows.insert(0, [column.upper() for column in columns])
        widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
        rows = [["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()] for row in rows]
    for row in rows:
        print("\t".join(row))


def get(argv: list[str]) -> None:
    given, _, rest = options(argv, "Hprd:o:t:s:")
    if len(rest) < 1:
        usage("missing property argument")
    wanted = rest[0].split(",")
    check_properties(wanted)
    columns = given.get("-o", "name,property,value,source").split(",")
    if set(columns) - {"name", "property", "value", "source"}:
        usage(f"invalid column name '{next(c for c in columns if c not in ('name', 'property', 'value', 'source'))}'")
    with state() as now:
        for name in chosen(now, rest[1:], "-r" in given, None, {"filesystem", "volume", "snapshot"}):
            for each in wanted:
                source = "local" if each in now["datasets"][name]["properties"] else "-"
                row = {"name": name, "property": each, "value": value_of(now, name, each), "source": source}
                print(("\t" if "-H" in given else "  ").join(row[c] for c in columns))


def set_property(argv: list[str]) -> None:
    if len(argv) < 2 or "=" not in argv[0]:
        usage("missing property=value argument")
    with state() as now:
        for name in argv[1:]:
            need(now, name)
            key, value = argv[0].split("=", 1)
            check_properties([key])
            if key in NATIVE and key not in ("volsize", "mountpoint"):
                fail(f"cannot set property for '{name}': '{key}' is readonly")
            if key == "volsize":
                not_simulated("zfs set volsize")
            now["datasets"][name]["properties"][key] = value


def main(argv: list[str]) -> None:
    commands = {
        "create": create,
        "snapshot": snapshot,
        "snap": snapshot,
        "clone": clone,
        "destroy": destroy,
        "list": list_datasets,
        "get": get,
        "set": set_property,
    }
    if not argv:
        usage("missing command")
    if argv[0] in ("rollback", "promote", "rename", "send", "receive", "recv", "mount", "unmount", "hold", "release"):
        not_simulated(f"zfs {argv[0]}")
    if argv[0] not in commands:
        usage(f"unrecognized command '{argv[0]}'")
    commands[argv[0]](argv[1:])
