#!/usr/bin/python3
"""Requests that a server refuses before it has a guest, each with its status and its words."""

import copy
import http.client
import json
import os
import socket
import subprocess
import sys
import unittest
from typing import Any

sys.dont_write_bytecode = True

from rules_test import OLD_BODY  # noqa: E402
from sim_client import HERE, Simulator, SimulatorTest, WebSocketClient, com1, component, ensure_body, pci  # noqa: E402

ID = "6f0c1d0e-3a5e-4c5e-9b6f-0d6a3f1c7d11"


class RefusalsTest(SimulatorTest):
    """No request here makes a VM, so one server serves them all."""

    server: Simulator

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Simulator()
        cls.addClassCleanup(cls.server.close)

    def test_versions(self) -> None:
        cases: list[tuple[str | None, str]] = [
            (None, 'missing expected header "api-version"'),
            ("6.0.0", "server does not support this API version: 6.0.0"),
            ("5.0.1", "server does not support this API version: 5.0.1"),
            ("1", 'bad value for header "api-version"'),
            ("five", 'bad value for header "api-version"'),
        ]
        for version, words in cases:
            for method, path in (("GET", "/instance"), ("PUT", "/instance/state"), ("GET", "/nowhere")):
                with self.subTest(version=version, path=path):
                    self.assert_refused(self.server.request(method, path, version=version), 400, words)

    def test_older_versions_are_served(self) -> None:
        for version in ("5.0.0", "4.0.0", "3.1.0", "1.0.0", "0.9.0"):
            with self.subTest(version=version):
                self.assertEqual(self.server.request("GET", "/instance", version=version).status, 424)

    def test_an_older_server_refuses_newer_clients(self) -> None:
        server = self.start(VMTEST_SIM_PROPOLIS_VERSION="1.0.0")
        self.assertEqual(server.request("GET", "/instance", version="1.0.0").status, 424)
        self.assert_refused(
            server.request("GET", "/instance", version="2.0.0"), 400, "does not support this API version"
        )

    def test_unknown_paths(self) -> None:
        for path in ("/", "/nowhere", "/instance/x", "/instance/serial/history/x", "/instance/disk/a", "/instances"):
            with self.subTest(path=path):
                self.assert_refused(self.server.request("GET", path), 404, "Not Found")

    def test_a_version_before_the_first_has_no_volume_status(self) -> None:
        self.assert_refused(self.server.request("GET", "/instance/disk/a/status", version="0.9.0"), 404, "Not Found")

    def test_dot_segments(self) -> None:
        for path in ("/instance/../instance", "/./instance", "/instance/%ff"):
            with self.subTest(path=path):
                self.assert_refused(self.server.request("GET", path), 400, "invalid path encoding")

    def test_slashes_more_do_not_matter(self) -> None:
        for path in ("/instance/", "//instance", "/%69nstance"):
            with self.subTest(path=path):
                self.assertEqual(self.server.request("GET", path).status, 424)

    def test_wrong_methods(self) -> None:
        cases = [
            ("POST", "/instance", "GET, PUT"),
            ("DELETE", "/instance", "GET, PUT"),
            ("GET", "/instance/state", "PUT"),
            ("PUT", "/instance/serial/history", "GET"),
            ("PUT", "/instance/serial", "GET"),
            ("GET", "/instance/nmi", "POST"),
            ("GET", f"/instance/disk/a/snapshot/{ID}", "POST"),
        ]
        for method, path, allowed in cases:
            with self.subTest(method=method, path=path):
                reply = self.server.request(method, path)
                self.assert_refused(reply, 405, "Method Not Allowed")
                self.assertEqual(", ".join(reply.headers.get_all("allow", [])), allowed)

    def test_everything_before_an_instance(self) -> None:
        cases: list[tuple[str, str, Any]] = [
            ("GET", "/instance", None),
            ("GET", "/instance/spec", None),
            ("PUT", "/instance/state", "Run"),
            ("PUT", "/instance/state", "Stop"),
            ("PUT", "/instance/state", "Reboot"),
            ("GET", "/instance/state-monitor", {"gen": 0}),
            ("GET", "/instance/serial/history?from_start=0", None),
            ("GET", "/instance/serial/history", None),
            ("GET", "/instance/migration-status", None),
            ("POST", "/instance/nmi", None),
            ("POST", f"/instance/disk/a/snapshot/{ID}", None),
            ("GET", "/instance/disk/a/status", None),
            ("PUT", "/instance/disk/a/vcr", {"vcr_json": "{}"}),
        ]
        for method, path, body in cases:
            with self.subTest(method=method, path=path):
                reply = self.server.request(method, path, body)
                self.assert_refused(reply, 424, "Server not initialized (no instance)", "NoInstance")

    def test_the_console_before_an_instance_is_upgraded_and_ends(self) -> None:
        with WebSocketClient(self.server.address, "/instance/serial") as console:
            self.assertEqual(console.status, 101)
            self.assertIsNone(console.receive())

    def test_the_console_needs_a_websocket(self) -> None:
        upgrade = {"Connection": "upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        cases: list[tuple[dict[str, str], str]] = [
            ({}, "expected connection upgrade"),
            ({"Connection": "Upgrade", "Upgrade": "h2c"}, "unexpected protocol for upgrade"),
            (upgrade | {"Sec-WebSocket-Version": "8"}, "missing or invalid websocket version"),
            (upgrade, "missing websocket key"),
        ]
        for headers, words in cases:
            with self.subTest(words=words):
                self.assert_refused(self.server.request("GET", "/instance/serial", **headers), 400, words)

    def test_queries(self) -> None:
        for query in (
            "from_start=-1",
            "from_start=",
            "max_bytes=x",
            "from_start=1&from_start=2",
            f"most_recent={2**64}",
        ):
            for path in ("/instance/serial/history", "/instance/serial"):
                if path.endswith("serial") and "max" in query:
                    continue
                with self.subTest(query=query, path=path):
                    self.assert_refused(
                        self.server.request("GET", f"{path}?{query}"), 400, "unable to parse query string"
                    )

    def test_path_parameters(self) -> None:
        self.assert_refused(
            self.server.request("POST", "/instance/disk/a/snapshot/7"),
            400,
            "bad parameter in URL path: UUID parsing failed",
        )

    def test_bodies(self) -> None:
        state, monitor = "/instance/state", "/instance/state-monitor"
        wrong_disk = ensure_body(com1() | {"d": component("virtio_disk", backend_id="x", pci_path=pci(16))})
        no_board = ensure_body()
        del no_board["init"]["value"]["spec"]["board"]
        migration = {"migration_id": ID, "src_addr": "127.0.0.1:65536", "replace_components": {}}
        bad_source = ensure_body() | {"init": {"method": "MigrationTarget", "value": migration}}
        parse = "unable to parse JSON body: "
        cases: list[tuple[str, str, Any, str]] = [
            ("PUT", state, None, parse + "EOF"),
            ("PUT", state, b"Run", parse),
            ("PUT", state, "run", parse + "unknown variant `run`, expected one of `Run`, `Stop`, `Reboot`"),
            ("PUT", state, {"state": "Run"}, parse + "invalid type: map"),
            ("GET", monitor, None, parse),
            ("GET", monitor, {}, parse + "missing field `gen`"),
            ("GET", monitor, {"gen": -1}, parse + "gen: invalid value"),
            ("GET", monitor, {"gen": "1"}, parse + "gen: invalid type: string"),
            ("PUT", "/instance", {}, parse + "missing field `init`"),
            ("PUT", "/instance", OLD_BODY, parse + "missing field `init`"),
            ("PUT", "/instance", no_board, parse + "init.value.spec: missing field `board`"),
            ("PUT", "/instance", bad_source, parse + "init.value.src_addr: invalid socket address syntax"),
            ("PUT", "/instance", wrong_disk,
             "failed to generate internal instance spec: storage backend x not found for device d"),
            ("PUT", "/instance/disk/a/vcr", {}, parse + "missing field `vcr_json`"),
        ]  # fmt: skip
        for method, path, body, words in cases:
            with self.subTest(path=path, words=words):
                self.assert_refused(self.server.request(method, path, body), 400, words)
        self.assertEqual(self.server.request("GET", "/instance").status, 424)

    def test_content_types(self) -> None:
        cases = [
            ("application/json", 424, "Server not initialized"),
            ("application/json; charset=utf-8", 424, "Server not initialized"),
            ("application/merge-patch+json", 424, "Server not initialized"),
            ("text/plain", 400, "unsupported content-type: text/plain"),
            ("application/x-www-form-urlencoded", 400, 'expected content type "application/json"'),
            ("application/octet-stream", 400, 'expected content type "application/json"'),
        ]
        for kind, status, words in cases:
            with self.subTest(kind=kind):
                reply = self.server.request("PUT", "/instance/state", "Run", **{"content-type": kind})
                self.assert_refused(reply, status, words, "NoInstance" if status == 424 else None)

    def test_the_body_limit(self) -> None:
        limit = 1024 * 1024
        words = f"request body exceeded maximum size of {limit} bytes"
        body = json.dumps(ensure_body()).encode()
        self.assert_refused(self.server.request("PUT", "/instance", body + b" " * (limit + 1 - len(body))), 400, words)
        fits = copy.deepcopy(OLD_BODY)
        text = json.dumps(fits).encode()
        reply = self.server.request("PUT", "/instance", text + b" " * (limit - len(text)))
        self.assert_refused(reply, 400, "missing field `init`")

    def test_one_connection_serves_many_requests(self) -> None:
        connection = http.client.HTTPConnection(*self.server.address, timeout=10)
        self.addCleanup(connection.close)
        for body in (b'"Run"', b"x" * (1024 * 1024 + 1), b"{", None):
            connection.request("PUT", "/instance/state", body, {"api-version": "5.0.0"})
            first = connection.sock
            self.assertIn(connection.getresponse().read()[:1], (b"{",))
            self.assertIs(connection.sock, first)

    def test_chunked_bodies_and_leave_to_send(self) -> None:
        for head, sent, expected in (
            ("Transfer-Encoding: chunked", b'3\r\n"Ru\r\n2;x=y\r\nn"\r\n0\r\n\r\n', b"HTTP/1.1 424"),
            ("Content-Length: 5\r\nExpect: 100-continue", b'"Run"', b"HTTP/1.1 100"),
        ):
            with self.subTest(head=head), socket.create_connection(self.server.address, timeout=10) as raw:
                request = f"PUT /instance/state HTTP/1.1\r\nHost: x\r\napi-version: 5.0.0\r\n{head}\r\n\r\n"
                raw.sendall(request.encode())
                if "Expect" in head:
                    self.assertTrue(raw.recv(1000).startswith(expected))
                raw.sendall(sent)
                self.assertTrue(raw.recv(1000).startswith(b"HTTP/1.1 424"))

    def test_what_is_no_http(self) -> None:
        for sent in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET /instance\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n",
                     b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                     b"GET /" + b"x" * 100000):  # fmt: skip
            with self.subTest(sent=sent[:30]), socket.create_connection(self.server.address, timeout=10) as raw:
                raw.sendall(sent)
                answer = raw.recv(1000)
                self.assertTrue(answer.startswith(b"HTTP/1.1 400"), answer)
        self.assertEqual(self.server.request("GET", "/instance").status, 424)


class CommandLineTest(unittest.TestCase):
    def run_server(self, *arguments: str, **environment: str) -> tuple[int, str]:
        found = subprocess.run(
            [HERE / "propolis-server", *arguments], env=os.environ | environment, capture_output=True, timeout=30
        )
        return found.returncode, found.stderr.decode()

    def test_refuses(self) -> None:
        run = ("run", "/usr/share/ovmf/OVMF.fd")
        cases = [
            ((), 2, "required"),
            (("serve",), 2, "invalid choice"),
            (("run", "/etc/propolis/config.toml"), 2, "PROPOLIS_IP:PORT"),
            ((*run, "localhost:12400"), 2, "invalid socket address syntax"),
            ((*run, "127.0.0.1"), 2, "invalid socket address syntax"),
            ((*run, "127.0.0.1:70000"), 2, "invalid socket address syntax"),
            ((*run, "127.0.0.1:0", "vnc"), 2, "invalid socket address syntax"),
            ((*run, "127.0.0.1:0", "--metric-addr", "x"), 2, "invalid socket address syntax"),
            ((*run, "192.0.2.1:1"), 1, "Failed to start server: Cannot assign requested address"),
        ]
        for arguments, status, words in cases:
            with self.subTest(arguments=arguments):
                found, text = self.run_server(*arguments)
                self.assertEqual(found, status, text)
                self.assertIn(words, text)

    def test_refuses_an_unknown_version(self) -> None:
        status, text = self.run_server("run", "/x", "127.0.0.1:0", VMTEST_SIM_PROPOLIS_VERSION="2.0.0")
        self.assertEqual(status, 1)
        self.assertIn("one of 1.0.0, 5.0.0, not 2.0.0", text)


if __name__ == "__main__":
    unittest.main()
