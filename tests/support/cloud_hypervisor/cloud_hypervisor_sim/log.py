"""The log: standard error, or the file that the command line names."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

_start = time.monotonic()
_file: TextIO | None = None


def set_file(path: str) -> None:
    global _file
    _file = open(path, "w", encoding="utf-8")


def _write(level: str, text: str) -> None:
    line = (
        f"cloud-hypervisor: {time.monotonic() - _start:12.6f}s: <{threading.current_thread().name}> {level} -- {text}"
    )
    print(line, file=_file or sys.stderr, flush=True)


def error(text: str) -> None:
    _write("ERROR", text)


def warn(text: str) -> None:
    _write("WARN", text)
