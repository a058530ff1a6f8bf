"""The endpoints, each with the checks of the server in the server's order."""

import asyncio
import re
import socket
import urllib.parse
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from .addresses import parse_address
from .errors import HttpError, SpecError, bad_request, internal_error, with_reason_phrase
from .history import Expired
from .log import Log
from .openapi import SchemaError, is_uuid, parse_json
from .spec import build_machine, check_pci_paths
from .states import Denied
from .versions import HEADER, Version, document_for, requested
from .vm import Vm
from .web import Request, Response, Upgrade, json_response, path_segments, websocket_key
from .websocket import BINARY, WebSocket

MAX_BODY = 1024 * 1024


@dataclass
class Call:
    request: Request
    version: Version
    template: str
    variables: dict[str, str]

    def query_numbers(self, *names: str) -> dict[str, int | None]:
        """Raises HttpError 400 for what is no unsigned number, and for one that is there twice."""
        found: dict[str, int | None] = dict.fromkeys(names)
        for name, value in urllib.parse.parse_qsl(self.request.query, keep_blank_values=True):
            if name not in found:
                continue
            if found[name] is not None:
                raise bad_request(f"unable to parse query string: duplicate field `{name}`")
            if not re.fullmatch(r"\+?[0-9]+", value, re.ASCII) or int(value) >= 2**64:
                raise bad_request(
                    "unable to parse query string: "
                    + ("invalid digit found in string" if value else "cannot parse integer from empty string")
                )
            found[name] = int(value)
        return found

    def uuid_variable(self, name: str) -> str:
        if not is_uuid(self.variables[name]):
            raise bad_request(f'bad parameter in URL path: UUID parsing failed: "{self.variables[name]}"')
        return self.variables[name]

    async def body(self, path: str) -> Any:
        """The JSON body, checked against the document. Raises HttpError 400."""
        text = await self.request.body(MAX_BODY)
        mime = (self.request.header("content-type") or "application/json").split(";")[0].rstrip().lower()
        known = {"application/octet-stream", "application/x-www-form-urlencoded", "multipart/form-data"}
        if mime in known:
            raise bad_request(f'expected content type "application/json", got "{mime}"')
        if mime != "application/json" and not re.fullmatch(r"application/[^+]+\+json", mime):
            raise bad_request(f"unsupported content-type: {mime}")
        try:
            value = parse_json(text)
            document_for(self.version).check_request(path, self.request.method.lower(), value)
            if path == "/instance":
                check_ensure(value)
        except SchemaError as error:
            raise bad_request(f"unable to parse JSON body: {error}") from error
        return value


def check_ensure(value: dict[str, Any]) -> None:
    """What reading the body checks beyond its schema."""
    init = value["init"]["value"]
    if value["init"]["method"] == "Spec":
        check_pci_paths(init["spec"])
    else:
        try:
            parse_address(init["src_addr"])
        except ValueError as error:
            raise SchemaError("init.value.src_addr", str(error)) from error


Method = Callable[[Call], Awaitable[Response | Upgrade]]


class Api:
    def __init__(self, vm: Vm, newest: Version, log: Log) -> None:
        self.vm = vm
        self.newest = newest
        self.log = log
        self.routes: dict[str, dict[str, Method]] = {
            "/instance": {"GET": self.get, "PUT": self.ensure},
            "/instance/spec": {"GET": self.get_spec},
            "/instance/state": {"PUT": self.put_state},
            "/instance/state-monitor": {"GET": self.monitor_state},
            "/instance/serial": {"GET": self.serial},
            "/instance/serial/history": {"GET": self.serial_history},
            "/instance/vnc": {"GET": self.vnc},
            "/instance/migrate/{migration_id}/start": {"GET": self.migrate_start},
            "/instance/migration-status": {"GET": self.migration_status},
            "/instance/disk/{id}/snapshot/{snapshot_id}": {"POST": self.snapshot},
            "/instance/disk/{id}/status": {"GET": self.volume_status},
            "/instance/disk/{id}/vcr": {"PUT": self.replace_vcr},
            "/instance/nmi": {"POST": self.nmi},
        }

    async def handle(self, request: Request) -> Response | Upgrade:
        version = requested(request.header(HEADER), self.newest)
        template, variables = self._find(request.path)
        methods = self.routes[template]
        if template.endswith("/status") and not version.at_least(1):
            raise with_reason_phrase(404, None, f"route has no handlers for version {version.text}")
        if request.method not in methods:
            raise HttpError(405, "Method Not Allowed", headers=[("allow", m) for m in methods])
        return await methods[request.method](Call(request, version, template, variables))

    def _find(self, path: str) -> tuple[str, dict[str, str]]:
        segments = path_segments(path)
        for template in self.routes:
            wanted = template.split("/")[1:]
            if len(wanted) == len(segments) and all(w.startswith("{") or w == s for w, s in zip(wanted, segments)):
                return template, {w[1:-1]: s for w, s in zip(wanted, segments) if w.startswith("{")}
        # A path that only leads to others is a path of the router, without a method.
        partial = any(t.split("/")[1 : len(segments) + 1] == segments for t in self.routes)
        raise with_reason_phrase(
            404, None, "route has no handlers" if partial else "no route found (no path in router)"
        )

    def _reply(self, call: Call, status: int, value: Any) -> Response:
        try:
            document_for(call.version).check_reply(call.template, call.request.method.lower(), status, value)
        except SchemaError as error:
            raise internal_error(f"the reply does not fit the interface's document: {error}") from error
        return json_response(status, value) if status != 204 else Response(status)

    async def ensure(self, call: Call) -> Response:
        body = await call.body("/instance")
        init = body["init"]["value"]
        spec = machine = migration = None
        if body["init"]["method"] == "Spec":
            spec = init["spec"]
            try:
                machine = build_machine(spec)
            except SpecError as error:
                raise bad_request(f"failed to generate internal instance spec: {error}") from error
        else:
            migration = init
        await self.vm.ensure(body["properties"], spec, machine, migration)
        return self._reply(call, 201, {"migrate": None})

    async def get(self, call: Call) -> Response:
        publisher = self.vm.watched()
        return self._reply(call, 200, {"instance": {"properties": self.vm.properties, "state": publisher.state}})

    async def get_spec(self, call: Call) -> Response:
        publisher = self.vm.watched()
        status: dict[str, Any] = {"type": "WaitingForMigrationSource"}
        if self.vm.spec is not None:
            # The server adds the CPUID leaves that it chose; which those are, QEMU does not say.
            board = {"cpuid": {"entries": [], "vendor": host_vendor()}} | self.vm.spec["board"]
            spec: dict[str, Any] = {"board": board, "components": self.vm.spec["components"]}
            if call.version.at_least(2):
                spec["smbios"] = self.vm.spec.get("smbios")
            if not call.version.at_least(3):
                spec["components"] = {n: c for n, c in spec["components"].items() if c["type"] != "virtio_socket"}
            status = {"type": "Present", "value": spec if call.version.at_least(2) else {"version": "V0", "spec": spec}}
        return self._reply(call, 200, {"properties": self.vm.properties, "state": publisher.state, "spec": status})

    async def put_state(self, call: Call) -> Response:
        requested_state = await call.body(call.template)
        active = self.vm.active()
        try:
            active.put_state(requested_state)
        except Denied as error:
            raise with_reason_phrase(403, f"instance state change not allowed: {error}") from error
        return self._reply(call, 204, None)

    async def monitor_state(self, call: Call) -> Response:
        generation = (await call.body(call.template))["gen"]
        state = await self.vm.watched().reach(generation)
        if state is None:
            raise HttpError(410, f"No instance present; will never reach generation {generation}", "NoInstance")
        return self._reply(call, 200, state)

    async def serial_history(self, call: Call) -> Response:
        asked = call.query_numbers("from_start", "most_recent", "max_bytes")
        history = self.vm.active().console.history
        if (asked["from_start"] is None) == (asked["most_recent"] is None):
            raise bad_request("Exactly one of 'from_start' or 'most_recent' must be specified.")
        try:
            data, end = history.read(**asked)
        except Expired as error:
            raise bad_request(str(error)) from error
        return self._reply(call, 200, {"data": list(data), "last_byte_offset": end})

    async def serial(self, call: Call) -> Upgrade:
        asked = call.query_numbers("from_start", "most_recent")

        async def run(client: WebSocket) -> None:
            await self.vm.active().console.serve(client, asked["from_start"], asked["most_recent"])

        return Upgrade(websocket_key(call.request), run)

    async def vnc(self, call: Call) -> Upgrade:
        async def run(client: WebSocket) -> None:
            here, there = socket.socketpair()
            reader, writer = await asyncio.open_unix_connection(sock=here)
            with there:
                await self.vm.active().hypervisor.add_viewer(there)

            async def show() -> None:
                while data := await reader.read(65536):
                    await client.send(BINARY, data)
                client.close()

            showing = asyncio.create_task(show())
            try:
                while (message := await client.receive()) is not None:
                    writer.write(message[1])
                    await writer.drain()
            finally:
                showing.cancel()
                writer.close()

        return Upgrade(websocket_key(call.request), run)

    async def migrate_start(self, call: Call) -> Upgrade:
        call.uuid_variable("migration_id")

        async def run(client: WebSocket) -> None:
            self.vm.active()
            raise RuntimeError("live migration is not simulated")

        return Upgrade(websocket_key(call.request), run)

    async def migration_status(self, call: Call) -> Response:
        return self._reply(call, 200, self.vm.watched().snapshot()["migration"])

    async def snapshot(self, call: Call) -> Response:
        call.uuid_variable("snapshot_id")
        self.vm.active()
        raise with_reason_phrase(404, f"no disk with id {call.variables['id']}!")

    async def volume_status(self, call: Call) -> Response:
        self.vm.active()
        raise with_reason_phrase(404, f"No crucible backend for id {call.variables['id']}")

    async def replace_vcr(self, call: Call) -> Response:
        await call.body(call.template)
        try:
            self.vm.active().queue.check_active()
        except Denied as error:
            raise with_reason_phrase(403, f"instance state change not allowed: {error}") from error
        raise with_reason_phrase(404, f"No crucible backend for id {call.variables['id']}")

    async def nmi(self, call: Call) -> Response:
        active = self.vm.active()
        try:
            await active.hypervisor.execute("inject-nmi")
        except RuntimeError as error:
            self.log.warn("the NMI did not arrive", error=str(error))  # the server does not look, either
        return self._reply(call, 200, None)


def host_vendor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return "amd" if "AuthenticAMD" in file.read(4096) else "intel"
