"""The server's log: one bunyan object a line on standard output, as propolis-server writes when that is no terminal."""

import datetime
import json
import os
import socket
import sys

LEVELS = {"trace": 10, "debug": 20, "info": 30, "warn": 40, "error": 50, "critical": 60}


class Log:
    def __init__(self, level: str = "info") -> None:
        self.threshold = LEVELS[level]
        self.hostname = socket.gethostname()

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if LEVELS[level] < self.threshold:
            return
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
        record: dict[str, object] = {
            "msg": message,
            "v": 0,
            "name": "propolis-server",
            "level": LEVELS[level],
            "time": now,
            "hostname": self.hostname,
            "pid": os.getpid(),
        }
        try:
            sys.stdout.write(json.dumps(record | fields) + "\n")
            sys.stdout.flush()
        except (BrokenPipeError, ValueError):
            pass  # whoever read the log is gone; the guest need not go with it

    def debug(self, message: str, **fields: object) -> None:
        self._write("debug", message, fields)

    def info(self, message: str, **fields: object) -> None:
        self._write("info", message, fields)

    def warn(self, message: str, **fields: object) -> None:
        self._write("warn", message, fields)

    def error(self, message: str, **fields: object) -> None:
        self._write("error", message, fields)
