"""The QEMU process behind a VM; it never outlives the program that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from .faults import Fault
from .qmp import QmpClient, QmpError

PR_SET_PDEATHSIG = 1
START_TIMEOUT = 60.0
QUIT_TIMEOUT = 10.0
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> Callable[[], None]:
    """What a child does before it becomes the program it is to be."""

    def prepare() -> None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if os.getppid() != parent:
            os._exit(1)

    return prepare


class Qemu:
    """Must be started from the main thread: the parent-death signal follows the thread that forks."""

    def __init__(self, arguments: list[str], fds: list[int], on_event: Callable[[dict[str, Any] | None], None]) -> None:
        ours, theirs = socket.socketpair()
        self._errors = os.memfd_create("qemu-stderr")
        self._last_words = ""
        program = os.environ.get("VMTEST_SIM_CH_QEMU", "qemu-system-x86_64")
        command = [program, *arguments]
        command += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
        if os.environ.get("VMTEST_SIM_CH_TRACE"):
            print("qemu:", command, file=sys.stderr, flush=True)
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno(), *fds],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                preexec_fn=die_with_parent(os.getpid()),
            )
        except OSError as error:
            ours.close()
            os.close(self._errors)
            raise Fault("Error initializing VM", f"{program}: {error.strerror}") from None
        finally:
            theirs.close()
        self.qmp = QmpClient(ours, on_event)
        try:
            self.qmp.negotiate(START_TIMEOUT)
        except QmpError as error:
            self.kill()
            raise Fault("Error initializing VM", f"{error}: {self.last_words}") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def last_words(self) -> str:
        return self._last_words if self._errors < 0 else self._read_errors()

    def _read_errors(self) -> str:
        return os.pread(self._errors, 1 << 16, 0).decode("utf-8", "replace").strip()

    def quit(self) -> None:
        """Lets QEMU write out what it caches, and ends it all the same if it does not go."""
        try:
            self.qmp.execute("quit", timeout=QUIT_TIMEOUT)
            self._process.wait(QUIT_TIMEOUT)
        except (QmpError, subprocess.TimeoutExpired):
            pass
        self.kill()

    def kill(self) -> None:
        """Ends the process and waits for it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.qmp.close()
        if self._errors >= 0:
            self._last_words = self._read_errors()
            os.close(self._errors)
            self._errors = -1
