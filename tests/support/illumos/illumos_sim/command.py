"""What all the commands share: the record of their calls, the state between them, and the ways to end."""

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

State = dict[str, Any]

# Not among illumos' statuses: the stand-in itself cannot do what it was asked.
NOT_SIMULATED = 70


class Exit(Exception):
    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status


def fail(message: str, status: int = 1) -> NoReturn:
    raise Exit(status, message)


def not_simulated(what: str) -> NoReturn:
    fail(f"stand-in: {what} is not simulated", NOT_SIMULATED)


def folder() -> Path:
    name = os.environ.get("VMTEST_ILLUMOS_STATE")
    if not name:
        fail("stand-in: VMTEST_ILLUMOS_STATE does not name a folder", NOT_SIMULATED)
    return Path(name)


def fresh() -> State:
    """A host with one pool and one network card, and nothing on them."""
    return {
        "datasets": {"rpool": {"type": "filesystem", "origin": None, "volsize": None, "properties": {}}},
        "zones": {},
        "vnics": {},
        "links": ["igb0"],
        "addresses": [],
        "next_zone_id": 1,
        "created": 0,
    }


@contextmanager
def state() -> Iterator[State]:
    """The state under a lock, kept unless the command fails: a failed command changes nothing."""
    path = folder() / "state.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        current = json.loads(text) if text else fresh()
        yield current
        file.seek(0)
        file.truncate()
        json.dump(current, file, indent=1)


def record(argv: list[str]) -> None:
    path = os.environ.get("VMTEST_ILLUMOS_LOG")
    if path:
        # One write to a file opened for appending: lines of commands that run at once do not mix.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(descriptor, (json.dumps(argv) + "\n").encode())
        os.close(descriptor)


def wanted_failure(variable: str, argv: list[str]) -> bool:
    """VMTEST_ILLUMOS_FAIL="zoneadm boot" lets every `zoneadm ... boot` fail, for the tests of what then happens."""
    words = os.environ.get(variable, "").split()
    return bool(words) and words[0] == argv[0] and all(word in argv for word in words)


def run(name: str, main: Callable[[list[str]], None], argv: list[str]) -> int:
    record([name, *argv])
    try:
        if wanted_failure("VMTEST_ILLUMOS_FAIL", [name, *argv]):
            fail(f"{name}: failed as VMTEST_ILLUMOS_FAIL asks")
        main(argv)
        if wanted_failure("VMTEST_ILLUMOS_FAIL_LATE", [name, *argv]):
            fail(f"{name}: failed as VMTEST_ILLUMOS_FAIL_LATE asks, with its work done")
        sys.stdout.flush()
    except Exit as end:
        if str(end):
            print(end, file=sys.stderr)
        return end.status
    return 0


def escaped(value: str, fields: int) -> str:
    """A value of parsable output: colons are escaped where they also separate."""
    return value if fields == 1 else value.replace("\\", "\\\\").replace(":", "\\:")


def table(columns: list[str], rows: list[dict[str, str]]) -> None:
    """Output for people: aligned, with a heading."""
    widths = [max([len(c), *(len(r[c]) for r in rows)]) for c in columns]
    for row in [{c: c for c in columns}, *rows]:
        print(" ".join(row[c].ljust(w) for c, w in zip(columns, widths)).rstrip())


def show(columns: list[str], rows: list[dict[str, str]], parsable: bool) -> None:
    if not parsable:
        table(columns, rows)
        return
    for row in rows:
        print(":".join(escaped(row[c], len(columns)) for c in columns))
