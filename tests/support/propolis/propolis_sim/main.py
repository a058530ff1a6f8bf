"""The command line of propolis-server, and its event loop."""

import argparse
import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from . import versions
from .addresses import Address, parse_address
from .api import Api
from .log import LEVELS, Log
from .vm import Vm
from .web import MAX_HEAD, Server


def socket_address(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def metric_address(text: str) -> str:
    """Metrics are not produced here; the option is checked as the server checks it."""
    if text.lower() not in ("disable", "dns"):
        socket_address(text)
    return text


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="propolis-server", description="An HTTP server providing access to Propolis")
    parser.add_argument("--version", action="version", version="propolis-server 0.1.0 (simulated)")
    run = parser.add_subparsers(dest="command", required=True).add_parser("run", help="Runs the Propolis server")
    run.add_argument("bootrom_path", metavar="BOOTROM_PATH", type=Path)
    run.add_argument("propolis_addr", metavar="PROPOLIS_IP:PORT", type=socket_address)
    run.add_argument("vnc_addr", metavar="VNC_IP:PORT", type=socket_address, nargs="?")
    run.add_argument("--bootrom-version")
    run.add_argument("--metric-addr", type=metric_address, default="disable")
    run.add_argument("--log-level", choices=LEVELS, default="info")
    return parser.parse_args(argv)


def listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def serve_viewers(listener: socket.socket, vm: Vm, log: Log) -> None:
    """The port for raw VNC: each client goes to the guest's screen, or away while there is none."""
    while True:
        client, _ = await asyncio.get_running_loop().sock_accept(listener)
        with client:
            try:
                await vm.active().hypervisor.add_viewer(client)
            except Exception as error:  # noqa: BLE001: one viewer's failure is not the server's
                log.warn("a VNC client was turned away", error=str(error))


async def serve(options: argparse.Namespace, newest: versions.Version, log: Log) -> int:
    try:
        listener = listen(options.propolis_addr)
        viewers = listen(options.vnc_addr) if options.vnc_addr else None
    except OSError as error:
        print(f"Error: Failed to start server: {error.strerror}", file=sys.stderr)
        return 1
    vm = Vm(options.bootrom_path, log)
    server = Server(Api(vm, newest, log).handle, log)
    accepting = await asyncio.start_server(server.connection, sock=listener, limit=MAX_HEAD)
    log.info("listening", local_addr=shown(listener), api_version=newest.text)
    if viewers is not None:
        watching = asyncio.create_task(serve_viewers(viewers, vm, log))
        log.info("listening for VNC", local_addr=shown(viewers))
        await asyncio.gather(accepting.serve_forever(), watching)
    await accepting.serve_forever()
    return 0


def main(argv: list[str]) -> int:
    options = parse(argv)
    wanted = os.environ.get("VMTEST_SIM_PROPOLIS_VERSION", versions.KNOWN[-1])
    if wanted not in versions.KNOWN:
        print(
            f"Error: VMTEST_SIM_PROPOLIS_VERSION is one of {', '.join(versions.KNOWN)}, not {wanted}", file=sys.stderr
        )
        return 1
    # Like the server: a signal ends the process at once, and the guest with it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return asyncio.run(serve(options, versions.parse(wanted), Log(options.log_level)))
