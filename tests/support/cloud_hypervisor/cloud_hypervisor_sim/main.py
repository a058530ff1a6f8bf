"""Start to end: command line, event monitor, API server, the VM of the command line, and the exit status."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
import threading

from . import cli, config_cli, log, versions
from .api import Api
from .events import EventMonitor
from .faults import Fault, io_error_text
from .http_server import HttpServer
from .options import OptionError, OptionParser
from .vmm import Vmm

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PAYLOAD_LIMIT = 4 << 20
OLD_PAYLOAD_LIMIT = 51200


def _print_chain(fault: Fault) -> None:
    log.error(f"Fatal error: {fault}")
    start = "Error: Cloud Hypervisor exited with the following "
    if len(fault.chain) == 1:
        print(f"{start}error:\n  {fault.chain[0]}", file=sys.stderr)
        return
    print(f"{start}chain of errors:", file=sys.stderr)
    for level, message in enumerate(fault.chain):
        print(f"  {level}: {message}", file=sys.stderr)


def _parse_api_socket(value: str | None) -> tuple[str | None, int | None]:
    if value is None:
        return None, None
    parser = OptionParser(("path", "fd"))
    with contextlib.suppress(OptionError):
        # What stands before the error counts; where that is nothing, the whole value is the path.
        parser.parse(value)
    fd = parser.get("fd")
    if fd is not None:
        try:
            return None, int(fd)
        except ValueError:
            raise Fault("Error parsing --api-socket", "invalid digit found in string") from None
    return parser.get("path") or value, None


def _open_monitor(value: str | None) -> EventMonitor:
    if value is None:
        return EventMonitor()
    try:
        parser = OptionParser(("path", "fd")).parse(value)
        fd = parser.convert("fd", int)
    except OptionError as error:
        raise Fault("Error parsing --event-monitor", str(error)) from None
    try:
        if fd is not None:
            os.fstat(fd)
            return EventMonitor(fd)
        path = parser.get("path")
        if path is None:
            raise Fault("Error parsing --event-monitor: path or fd required")
        return EventMonitor(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise Fault("Error doing event monitor I/O", io_error_text(error)) from None


class _ApiServer:
    """The listening socket; the lock beside its path stays behind, as the real program leaves it."""

    def __init__(self, path: str | None, fd: int | None, vmm: Vmm) -> None:
        self._path = path
        self._lock: int | None = None
        if path is not None:
            listener = self._bind(path)
        else:
            assert fd is not None
            listener = socket.socket(fileno=fd)
        self._server = HttpServer(listener, Api(vmm).handle, OLD_PAYLOAD_LIMIT if vmm.old else PAYLOAD_LIMIT)
        self._server.start()

    def _bind(self, path: str) -> socket.socket:
        outer = "Failed to start the VMM thread"
        try:
            self._lock = os.open(f"{path}.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise Fault(outer, "Error creation API server's socket", io_error_text(error)) from None
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Fault(outer, f'API socket "{path}" is already in use by another running instance') from None
        try:
            os.unlink(path)
        except OSError:
            pass
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(path)
            listener.listen(128)
        except OSError as error:
            raise Fault(outer, "Error creation API server's socket", io_error_text(error)) from None
        return listener

    def stop(self, remove: bool) -> None:
        self._server.stop()
        if remove and self._path is not None:
            try:
                os.unlink(self._path)
            except OSError:
                pass


def _watch_signals(vmm: Vmm) -> None:
    """A thread waits for them: the main thread may be inside a wait that no Python handler ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def wait() -> None:
        while True:
            signal.sigwait(SIGNALS)
            vmm.post(vmm.exit)

    threading.Thread(target=wait, name="vmm_signal_handler", daemon=True).start()


def _start_vm(vmm: Vmm, arguments: cli.Arguments) -> Fault | None:
    """Creates and boots, or restores, what the command line names."""
    try:
        if "kernel" in arguments or "firmware" in arguments:
            try:
                config = config_cli.vm_config(arguments)
            except Fault as fault:
                raise fault.within("Error parsing config") from None
            try:
                vmm.vm_create(config)
            except Fault as fault:
                raise fault.within("Error creating VM", "The VM could not be created") from None
            try:
                vmm.vm_boot()
            except Fault as fault:
                raise fault.within("Error booting VM", "The VM could not boot") from None
        elif "restore" in arguments:
            try:
                request = config_cli.restore_config(arguments.one("restore") or "")
            except Fault as fault:
                raise fault.within("Error parsing restore") from None
            try:
                vmm.vm_restore(request)
            except Fault as fault:
                raise fault.within("Error restoring VM", "The VM could not be restored") from None
    except Fault as fault:
        return fault
    return None


def _redirect_log(path: str | None) -> None:
    """What is said at the end goes to standard error all the same."""
    if path is not None:
        try:
            log.set_file(path)
        except OSError as error:
            raise Fault("Error creating log file", io_error_text(error)) from None


def _run(arguments: cli.Arguments) -> None:
    api_path, api_fd = _parse_api_socket(arguments.one("api-socket"))
    _redirect_log(arguments.one("log-file"))
    version = versions.chosen()
    events = _open_monitor(arguments.one("event-monitor"))
    events.leave_out(versions.missing_events(version))
    events.emit("vmm", "starting")
    guest_debug = os.environ.get("VMTEST_SIM_CH_GUEST_DEBUG") == "1"
    vmm = Vmm(events, version, "no-shutdown" in arguments, guest_debug)
    _watch_signals(vmm)
    server = _ApiServer(api_path, api_fd, vmm) if api_path is not None or api_fd is not None else None
    failure: Fault | None = None
    try:
        failure = _start_vm(vmm, arguments)
        if failure is not None:
            vmm.exit()
        vmm.run()
        failure = failure or vmm.failure
    finally:
        vmm.close()
        if server is not None:
            server.stop(remove=failure is None)
    if failure is not None:
        raise failure


def main(argv: list[str]) -> int:
    os.umask(0o077)
    arguments = cli.parse(argv)
    if "version" in arguments:
        print(f"cloud-hypervisor v{versions.NUMBERS[versions.chosen()]}\nMigration Protocol Versions: 0")
        if arguments.verbosity:
            print('Enabled features: ["io_uring", "kvm"]')
        return 0
    try:
        _run(arguments)
    except Fault as fault:
        _print_chain(fault)
        return 1
    return 0
