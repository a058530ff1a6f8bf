"""The event monitor: pretty-printed JSON objects, one after another, into a file or descriptor."""

from __future__ import annotations

import json
import os
import threading
import time


class EventMonitor:
    def __init__(self, fd: int | None = None) -> None:
        self._fd = fd
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._left_out: frozenset[str] = frozenset()
        if fd is not None:
            os.set_blocking(fd, False)

    def leave_out(self, events: frozenset[str]) -> None:
        """These are not told."""
        self._left_out = events

    def emit(self, source: str, event: str, **properties: str) -> None:
        if self._fd is None or event in self._left_out:
            return
        elapsed = time.monotonic() - self._start
        seconds = int(elapsed)
        record = {
            "timestamp": {"secs": seconds, "nanos": int((elapsed - seconds) * 1e9)},
            "source": source,
            "event": event,
            "properties": properties or None,
        }
        data = json.dumps(record, indent=2).encode() + b"\n\n"
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError:
                # Nobody reads: the program drops the event, too.
                pass
