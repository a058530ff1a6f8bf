#!/usr/bin/python3
"""The guest's console, typed into and read, with the firmware's shell as the guest that answers."""

import sys
import unittest
from collections.abc import Callable

sys.dont_write_bytecode = True

from sim_client import (  # noqa: E402
    BINARY,
    CLOSE,
    PING,
    TEXT,
    Simulator,
    SimulatorTest,
    WebSocketClient,
    ensure_body,
)

PROMPT = b"Shell> "


class ConsoleTest(SimulatorTest):
    """One guest for all tests that leave it as it is: the firmware takes seconds to its prompt."""

    server: Simulator

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Simulator()
        cls.addClassCleanup(cls.server.close)
        assert cls.server.request("PUT", "/instance", ensure_body()).status == 201
        assert cls.server.put_state("Run").status == 204
        with WebSocketClient(cls.server.address, "/instance/serial?from_start=0") as console:
            console.read_until(PROMPT)

    def open(self, query: str = "") -> WebSocketClient:
        console = WebSocketClient(self.server.address, "/instance/serial" + query)
        self.addCleanup(console.close)
        self.assertEqual(console.status, 101)
        return console

    def test_types_and_reads(self) -> None:
        console = self.open()
        console.send(b"echo one^-two\r")  # what is printed is not what is typed
        console.read_until(b"one-two\r\n")
        console.read_until(PROMPT)

    def test_every_client_sees_what_one_types(self) -> None:
        clients = [self.open() for _ in range(3)]
        for client in clients:
            client.ping(b"")  # so that each is known to be there
        clients[0].send(b"echo to^-all-of-you\r")
        for client in clients:
            client.read_until(b"to-all-of-you\r\n")
            client.read_until(PROMPT)

    def test_history_comes_first(self) -> None:
        everything = self.server.console()
        self.assertIn(PROMPT, everything)
        console = self.open("?from_start=0")
        data = b""
        while len(data) < len(everything):
            frame = console.receive()
            assert frame is not None and frame[0] == BINARY
            data += frame[1]
        self.assertEqual(data[: len(everything)], everything)
        frame = self.open("?most_recent=7").receive()
        assert frame is not None
        self.assertEqual((frame[0], len(frame[1])), (BINARY, 7))
        self.assertIn(frame[1], self.server.console()[len(everything) - 7 :])

    def test_both_offsets_are_as_good_as_none(self) -> None:
        console = self.open("?from_start=0&most_recent=5")
        console.ping(b"still there")

    def test_history_offsets(self) -> None:
        # The guest may print a little more at any time: what was there stays, and the end lies between two looks at it.
        before = len(self.server.console())
        for query, length, least in (
            ({"from_start": 0, "max_bytes": 10}, 10, 10),
            ({"from_start": 10, "max_bytes": 5}, 5, 15),
            ({"from_start": 10**6}, 0, before),
            ({"most_recent": 4}, 4, before),
            ({"most_recent": 6, "max_bytes": 2}, 2, before - 4),
            ({"most_recent": 10**6, "max_bytes": 9}, 9, 9),
        ):
            with self.subTest(query=query):
                reply = self.server.history(**query)
                self.assertEqual(reply.status, 200)
                everything, end = self.server.console(), reply.json["last_byte_offset"]
                self.assertEqual(bytes(reply.json["data"]), everything[end - length : end])
                self.assertTrue(least <= end <= least + len(everything) - before, f"{least} {end}")
                if least < before - 4:
                    self.assertEqual(end, least)
        words = "Exactly one of 'from_start' or 'most_recent' must be specified."
        neither: dict[str, int] = {}
        for query in (neither, {"from_start": 0, "most_recent": 0}):
            with self.subTest(query=query):
                self.assert_refused(self.server.history(**query), 400, words)

    def test_frames_in_parts_are_one_message_and_text_is_not_for_the_guest(self) -> None:
        console = self.open()
        console.send(b"rm everything\r", TEXT)
        console.send(b"echo in^-", BINARY, final=False)
        console.ping(b"between the parts")
        console.send(b"parts\r", 0)
        data = console.read_until(b"in-parts\r\n") + console.read_until(PROMPT)
        self.assertNotIn(b"everything", data)

    def test_a_client_says_goodbye(self) -> None:
        console = self.open()
        console.send(b"\x03\xe8", CLOSE)
        self.assertEqual(console.read_to_close(), b"\x03\xe8")

    def test_what_is_no_websocket_traffic_ends_the_connection(self) -> None:
        cases: list[tuple[str, Callable[[WebSocketClient], None]]] = [
            ("unmasked", lambda c: c.send(b"x", masked=False)),
            ("unknown opcode", lambda c: c.send(b"x", 0x3)),
            ("a continuation of nothing", lambda c: c.send(b"x", 0)),
            ("a control frame in parts", lambda c: c.send(b"x", PING, final=False)),
            ("reserved bits", lambda c: c.send(b"x", BINARY | 0x40)),
        ]
        for name, send in cases:
            with self.subTest(name=name):
                console = self.open()
                send(console)
                self.assertEqual(console.read_to_close(), b"\x03\xea")

    def test_an_older_client_is_served(self) -> None:
        with WebSocketClient(self.server.address, "/instance/serial", version="1.0.0") as console:
            self.assertEqual(console.status, 101)
        with WebSocketClient(self.server.address, "/instance/serial", version="9.0.0") as console:
            self.assertEqual(console.status, 400)


class GuestsOwnWillTest(SimulatorTest):
    def shell(self) -> tuple[Simulator, WebSocketClient]:
        server = self.start()
        server.request("PUT", "/instance", ensure_body())
        console = WebSocketClient(server.address, "/instance/serial")
        self.addCleanup(console.close)
        server.put_state("Run")
        console.read_until(PROMPT)
        return server, console

    def test_resets_and_powers_off(self) -> None:
        server, console = self.shell()
        guest = server.hypervisor()
        console.send(b"reset\r")
        reply = server.monitor(5)
        self.assertEqual((reply.json["gen"], reply.json["state"]), (5, "Running"), "Rebooting and Running again")
        console.read_until(PROMPT)
        self.assertEqual(server.hypervisor(), guest, "the console and the machine are the same")
        console.send(b"reset -s\r")
        reply = server.monitor(8)
        self.assertEqual((reply.json["gen"], reply.json["state"]), (8, "Destroyed"), "Stopping, Stopped, Destroyed")
        self.assertEqual(console.read_to_close(), b"\x03\xe9VM stopped")
        self.assertEqual(server.state(), "Destroyed")
        self.assert_refused(server.put_state("Stop"), 424, "Server not initialized", "NoInstance")


if __name__ == "__main__":
    unittest.main()
