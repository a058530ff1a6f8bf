#!/usr/bin/python3
"""Each endpoint of both versions of the interface: what is refused there and how, whatever the instance does.

The statuses are those of propolis-server's source, server.rs and vm/ at the commit that README.md names.
"""

import json
import socket
import sys
import threading
import unittest
import uuid
from dataclasses import dataclass
from typing import Any

sys.dont_write_bytecode = True

from sim_client import HERE, Reply, Simulator, SimulatorTest, WebSocketClient, ensure_body, wait_for  # noqa: E402

ID = "6f0c1d0e-3a5e-4c5e-9b6f-0d6a3f1c7d11"
VCR = {"vcr_json": "{}"}
METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE")
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
# The only endpoint that no document has.
UNPUBLISHED = ("GET", "/instance/vnc")


@dataclass(frozen=True)
class Ask:
    """A well-formed request, and its answer's status in each phase of an instance; None: it would end the phase, or wait."""

    method: str
    template: str
    before: int | None  # no instance yet
    making: int | None  # ensure is at work
    made: int | None  # Creating
    running: int | None
    ended: int | None  # Destroyed
    body: Any = None
    query: str = ""

    @property
    def path(self) -> str:
        names = {"{id}": "root", "{snapshot_id}": ID, "{migration_id}": ID}
        path = self.template
        for name, value in names.items():
            path = path.replace(name, value)
        return path + self.query


DISK = "/instance/disk/{id}"
HISTORY = "/instance/serial/history"
ASKS = [
    Ask("GET", "/instance", 424, 200, 200, 200, 200),
    Ask("PUT", "/instance", None, 409, 409, 409, None, ensure_body()),
    Ask("GET", "/instance/spec", 424, 200, 200, 200, 200),
    Ask("PUT", "/instance/state", 424, 424, None, 204, 424, "Run"),
    Ask("PUT", "/instance/state", 424, 424, 403, None, 424, "Reboot"),
    Ask("PUT", "/instance/state", 424, 424, None, None, 424, "Stop"),
    Ask("GET", "/instance/state-monitor", 424, 200, 200, 200, 200, {"gen": 0}),
    Ask("GET", "/instance/state-monitor", 424, None, None, None, 410, {"gen": 99}),
    Ask("GET", HISTORY, 424, 424, 200, 200, 424, query="?from_start=0"),
    Ask("GET", HISTORY, 424, 424, 200, 200, 424, query="?most_recent=0&max_bytes=1"),
    Ask("GET", HISTORY, 424, 424, 400, 400, 424),
    Ask("GET", HISTORY, 424, 424, 400, 400, 424, query="?from_start=0&most_recent=0"),
    Ask("GET", "/instance/migration-status", 424, 200, 200, 200, 200),
    Ask("POST", "/instance/nmi", 424, 424, 200, 200, 424),
    Ask("POST", DISK + "/snapshot/{snapshot_id}", 424, 424, 404, 404, 424),
    Ask("GET", DISK + "/status", 424, 424, 404, 404, 424),
    Ask("PUT", DISK + "/vcr", 424, 424, 404, 404, 424, VCR),
]
# Upgraded whatever the instance does. Whether somebody is there then, in the same phases.
CHANNELS = {
    "/instance/serial": (False, False, True, True, False),
    "/instance/vnc": (False, False, True, True, False),
    "/instance/migrate/{migration_id}/start": (False, False, False, False, False),
}
PHASES = ("before", "making", "made", "running", "ended")
CODES = {409: "AlreadyInitialized", 410: "NoInstance", 424: "NoInstance"}


def channel(template: str) -> Ask:
    return Ask("GET", template, *[None] * 5)


def every_request() -> list[tuple[Ask, dict[str, str]]]:
    """One of each, with its headers."""
    return [(ask, {}) for ask in ASKS] + [(channel(template), UPGRADE) for template in CHANNELS]


class Endpoints(SimulatorTest):
    """The table over one version; below is one class for each."""

    version: str
    server: Simulator

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Simulator(VMTEST_SIM_PROPOLIS_VERSION=cls.version)
        cls.addClassCleanup(cls.server.close)

    def ask(self, server: Simulator, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        return server.request(method, path, body, version=self.version, **headers)

    def own_server(self) -> Simulator:
        return self.start(VMTEST_SIM_PROPOLIS_VERSION=self.version)

    def put_state(self, server: Simulator, state: str) -> None:
        self.assertEqual(self.ask(server, "PUT", "/instance/state", state).status, 204)

    def await_state(self, server: Simulator, state: str) -> None:
        def now() -> str:
            found: str = self.ask(server, "GET", "/instance").json["instance"]["state"]
            return found

        wait_for(lambda: now() == state, state)

    def check_phase(self, server: Simulator, phase: str) -> None:
        for ask in ASKS:
            status = getattr(ask, phase)
            if status is None:
                continue
            with self.subTest(phase=phase, method=ask.method, path=ask.path, body=ask.body):
                reply = self.ask(server, ask.method, ask.path, ask.body)
                self.assertEqual(reply.status, status, reply.body)
                if status >= 400:
                    self.assertEqual(reply.json["request_id"], reply.headers["x-request-id"])
                if status in CODES:
                    self.assertEqual(reply.json["error_code"], CODES[status])
        for template, open_in in CHANNELS.items():
            with self.subTest(phase=phase, path=template):
                self.check_channel(server, channel(template).path, open_in[PHASES.index(phase)])

    def check_channel(self, server: Simulator, path: str, is_open: bool) -> None:
        with WebSocketClient(server.address, path, version=self.version) as client:
            self.assertEqual(client.status, 101)
            if is_open:
                client.ping(b"is somebody there")
            else:
                self.assertIsNone(client.receive())

    def test_the_table_has_each_operation_of_the_document(self) -> None:
        text = (HERE / f"data/propolis-server-openapi-{self.version}.json").read_text()
        documented = {
            (method.upper(), template) for template, item in json.loads(text)["paths"].items() for method in item
        }
        known = {(ask.method, ask.template) for ask, _ in every_request()}
        self.assertEqual(known, documented | {UNPUBLISHED})

    def test_every_request_needs_a_version_that_is_offered(self) -> None:
        major = int(self.version.split(".")[0])
        cases: list[tuple[str | None, str]] = [
            (None, 'missing expected header "api-version"'),
            ("", 'bad value for header "api-version"'),
            ("latest", 'bad value for header "api-version"'),
            (f"{major + 1}.0.0", "server does not support this API version"),
        ]
        for ask, headers in every_request():
            for version, words in cases:
                with self.subTest(method=ask.method, path=ask.path, version=version):
                    reply = self.server.request(ask.method, ask.path, ask.body, version=version, **headers)
                    self.assert_refused(reply, 400, words)

    def test_each_path_has_its_methods_only(self) -> None:
        for template in {ask.template for ask, _ in every_request()}:
            allowed = {ask.method for ask, _ in every_request() if ask.template == template}
            for method in sorted(set(METHODS) - allowed):
                with self.subTest(method=method, template=template):
                    reply = self.ask(self.server, method, channel(template).path)
                    self.assert_refused(reply, 405, "Method Not Allowed")
                    self.assertEqual(set(reply.headers.get_all("allow", [])), allowed)

    def test_each_body_is_read_before_anything_else(self) -> None:
        parse = "unable to parse JSON body: "
        for ask in ASKS:
            if ask.body is None:
                continue
            for body in (None, b"", b"{", b'{"a":1,"a":1}', [], {}, 7, "no such word", True, b"null"):
                with self.subTest(method=ask.method, path=ask.path, body=body):
                    self.assert_refused(self.ask(self.server, ask.method, ask.path, body), 400, parse)
            with self.subTest(method=ask.method, path=ask.path, body="of another type"):
                reply = self.ask(self.server, ask.method, ask.path, ask.body, **{"content-type": "text/plain"})
                self.assert_refused(reply, 400, "unsupported content-type: text/plain")

    def test_each_value_of_a_body_has_its_type(self) -> None:
        init = "init.value."
        migration = {"migration_id": ID, "src_addr": "127.0.0.1:1", "replace_components": {}}
        target = {"method": "MigrationTarget", "value": migration}
        cases: list[tuple[str, str, Any, str]] = [
            ("PUT", DISK + "/vcr", {"vcr_json": {"type": "volume"}}, "vcr_json: invalid type: map, expected a string"),
            ("PUT", DISK + "/vcr", {"vcr_json": None}, "vcr_json: invalid type: null"),
            ("GET", "/instance/state-monitor", {"gen": 2**64}, "gen: invalid value"),
            ("GET", "/instance/state-monitor", {"gen": 0.5}, "gen: invalid type: floating point"),
            ("PUT", "/instance", changed("properties.id", "t1"), "properties.id: UUID parsing failed"),
            ("PUT", "/instance", changed("properties.metadata", None), "properties.metadata: invalid type: null"),
            ("PUT", "/instance", changed("init.method", "Clone"), "init.method: unknown variant `Clone`"),
            ("PUT", "/instance", changed("init.value", {}), "missing field `spec`"),
            ("PUT", "/instance", changed("init.value.spec.board.cpus", 256), init + "spec.board.cpus: invalid value"),
            ("PUT", "/instance", changed("init.value.spec.board.acpi", True), "unknown field `acpi`"),
            ("PUT", "/instance", changed("init.value.spec.components.com1.component.port", 1), "unknown field `port`"),
            ("PUT", "/instance", changed("init.value.spec.components.com1.type", "floppy"), "unknown variant `floppy`"),
            ("PUT", "/instance", changed("init", target, "migration_id", "7"), "migration_id: UUID parsing failed"),
            ("PUT", "/instance", changed("init", target, "src_addr", "host:1"), "invalid socket address syntax"),
            ("PUT", "/instance", changed("init", target, "replace_components", []), "replace_components: invalid type"),
        ]
        for method, template, body, words in cases:
            with self.subTest(template=template, words=words):
                self.assert_refused(self.ask(self.server, method, channel(template).path, body), 400, words)
        self.assertEqual(self.ask(self.server, "GET", "/instance").status, 424)

    def test_each_parameter_of_a_path_and_query_has_its_type(self) -> None:
        cases = [
            ("POST", "/instance/disk/root/snapshot/monday", {}, "bad parameter in URL path: UUID parsing failed"),
            ("GET", "/instance/migrate/monday/start", UPGRADE, "bad parameter in URL path: UUID parsing failed"),
            ("GET", f"{HISTORY}?from_start=x", {}, "unable to parse query string: invalid digit found in string"),
            ("GET", f"{HISTORY}?from_start=0&max_bytes=-1", {}, "unable to parse query string"),
            ("GET", f"{HISTORY}?most_recent=", {}, "unable to parse query string: cannot parse integer from empty"),
            ("GET", "/instance/serial?from_start=x", UPGRADE, "unable to parse query string"),
            ("GET", "/instance/serial?most_recent=1&most_recent=1", UPGRADE, "unable to parse query string: duplicate"),
        ]
        for method, path, headers, words in cases:
            with self.subTest(path=path):
                self.assert_refused(self.ask(self.server, method, path, **headers), 400, words)

    def test_each_channel_needs_a_websocket(self) -> None:
        cases = [
            ({}, "expected connection upgrade"),
            (UPGRADE | {"Upgrade": "h2c"}, "unexpected protocol for upgrade"),
            (UPGRADE | {"Sec-WebSocket-Version": "8"}, "missing or invalid websocket version"),
            ({name: UPGRADE[name] for name in list(UPGRADE)[:3]}, "missing websocket key"),
        ]
        for template in CHANNELS:
            for headers, words in cases:
                with self.subTest(template=template, words=words):
                    reply = self.ask(self.server, "GET", channel(template).path, **headers)
                    self.assert_refused(reply, 400, words)

    def test_before_an_instance(self) -> None:
        self.check_phase(self.server, "before")

    def test_while_an_instance_is_made(self) -> None:
        """It waits for a migration's source, which takes its time."""
        with socket.create_server(("127.0.0.1", 0)) as source:
            source.settimeout(30)
            server = self.own_server()
            address = f"127.0.0.1:{source.getsockname()[1]}"
            value = {"migration_id": str(uuid.uuid4()), "src_addr": address, "replace_components": {}}
            body = ensure_body() | {"init": {"method": "MigrationTarget", "value": value}}
            replies: list[Reply] = []
            making = threading.Thread(target=lambda: replies.append(self.ask(server, "PUT", "/instance", body)))
            making.start()
            self.addCleanup(making.join)
            with source.accept()[0]:
                self.check_phase(server, "making")
            making.join(30)
        self.assert_refused(replies[0], 500, "Internal Server Error", "Internal")

    def test_an_instance_that_does_not_run_yet(self) -> None:
        server = self.own_server()
        self.assertEqual(self.ask(server, "PUT", "/instance", ensure_body()).status, 201)
        self.check_phase(server, "made")
        self.await_state(server, "Creating")

    def test_a_running_instance(self) -> None:
        server = self.own_server()
        self.assertEqual(self.ask(server, "PUT", "/instance", ensure_body()).status, 201)
        self.put_state(server, "Run")
        self.await_state(server, "Running")
        self.check_phase(server, "running")
        self.await_state(server, "Running")

    def test_an_instance_that_has_ended(self) -> None:
        server = self.own_server()
        self.assertEqual(self.ask(server, "PUT", "/instance", ensure_body()).status, 201)
        self.put_state(server, "Stop")
        self.await_state(server, "Destroyed")
        self.check_phase(server, "ended")
        self.assertEqual(self.ask(server, "PUT", "/instance", ensure_body()).status, 201, "a server takes another")


def changed(path: str, value: Any, field: str = "", inner: Any = None) -> dict[str, Any]:
    """A good body of ensure with one value in another's place; of that, which is an initialization then, one field."""
    body = ensure_body()
    at: Any = body
    *steps, last = path.split(".")
    for step in steps:
        at = at[step]
    at[last] = json.loads(json.dumps(value))
    if field:
        at[last]["value"][field] = inner
    return body


class NewestTest(Endpoints):
    version = "5.0.0"


class OldestTest(Endpoints):
    version = "1.0.0"


def load_tests(loader: unittest.TestLoader, _: unittest.TestSuite, __: str | None) -> unittest.TestSuite:
    """Without the table's own class, which has no version."""
    return unittest.TestSuite(loader.loadTestsFromTestCase(case) for case in (NewestTest, OldestTest))


if __name__ == "__main__":
    unittest.main()
