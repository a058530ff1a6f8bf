"""Runs what a booted zone runs, and ends it when the zone halts or when the test that owns it is gone."""

import os
import select
import signal
import subprocess
import sys

GRACE_SECONDS = 10.0


def start_time(pid: int) -> int:
    """In clock ticks since boot; 0 when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def gone(handle: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def end(handle: int, seconds: float) -> None:
    """TERM, and KILL after so many seconds. `handle` is a pidfd."""
    try:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not gone(handle, seconds):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            gone(handle, seconds)
    except ProcessLookupError:
        pass


def main(owner: str, argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        watched = [os.pidfd_open(int(owner))] if owner != "-" else []
    except ProcessLookupError:
        return 0
    child = subprocess.Popen(argv)
    handle = os.pidfd_open(child.pid)
    try:
        select.select([handle, *watched], [], [])
        return child.poll() or 0
    finally:
        if child.poll() is None:
            end(handle, GRACE_SECONDS)
            child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
