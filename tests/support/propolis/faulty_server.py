"""A propolis-server that misbehaves, or whose guest does: faulty_server.py FAULT run BOOTROM IP:PORT."""

import base64
import hashlib
import json
import os
import socket
import sys
from pathlib import Path

FAULT = sys.argv[1]
HOST, PORT = sys.argv[4].rsplit(":", 1)
# Open as long as the server lives.
CONSOLES: list[socket.socket] = []


def answer(connection: socket.socket, status: str, body: str) -> None:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall((head + body).encode())


def last_words() -> None:
    print("its own last words", file=sys.stderr, flush=True)


def connect_console(connection: socket.socket, request: str) -> None:
    """Answers as a WebSocket does."""
    key = next(line.split(":", 1)[1].strip() for line in request.split("\r\n") if line.lower().startswith("sec-websocket-key:"))
    accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
    head = f"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    connection.sendall(head.encode())


def serve(connection: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        piece = connection.recv(65536)
        if not piece:
            return
        request += piece
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    # A connection that is closed with something unread takes the answer along.
    left = sum(map(int, lengths)) - len(body)
    while left > 0 and (piece := connection.recv(65536)):
        left -= len(piece)
    first = head.split(b"\r\n")[0].decode()
    if FAULT == "old":
        answer(connection, "400 Bad Request", json.dumps({"message": "server does not support this API version: 5.0.0"}))
    elif FAULT == "silent":
        connection.recv(65536)
    elif FAULT == "no-json":
        answer(connection, "200 OK", "all is well")
    elif FAULT == "unknown-state":
        answer(connection, "200 OK", json.dumps({"instance": {"state": "Dreaming"}}))
    elif first.startswith("GET /instance HTTP"):
        answer(connection, "424 Failed Dependency", json.dumps({"error_code": "NoInstance", "message": "no instance"}))
    elif FAULT == "closes":
        connection.sendall(b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{")
    elif FAULT == "garbage":
        connection.sendall(b"\0\1\2 this is no HTTP\r\n\r\n")
    elif FAULT == "array":
        answer(connection, "500 Internal Server Error", json.dumps(["the outer reason", "the inner reason"]))
    elif FAULT == "reason-in-log":
        line = {"msg": "request completed", "response_code": 500, "error_message_internal": "no such viona device"}
        print(json.dumps(line), flush=True)
        answer(connection, "500 Internal Server Error", json.dumps({"message": "Internal Server Error"}))
    elif FAULT == "aborts":
        last_words()
        os.abort()
    elif FAULT in ("dies-before-run", "dies-as-it-runs"):
        if first.startswith("PUT /instance HTTP"):
            answer(connection, "201 Created", json.dumps({"migrate": None}))
        elif "/serial" in first and FAULT == "dies-as-it-runs":
            connect_console(connection, request.decode())
            CONSOLES.append(connection.dup())
        else:
            last_words()
            os._exit(3)
    elif FAULT == "powers-off-at-once":
        # Nobody gets to ask before it has.
        if "/serial" in first:
            connect_console(connection, request.decode())
            # The VM has halted.
            connection.sendall(b"\x88\x02" + (1001).to_bytes(2, "big"))
        elif "/state-monitor" in first:
            answer(connection, "200 OK", json.dumps({"gen": 6, "state": "Destroyed"}))
        else:
            answer(connection, "201 Created", json.dumps({"migrate": None}))


def main() -> int:
    if FAULT.startswith("port-taken:"):
        # Once; from then on it is the server whose program follows.
        _, mark, program = FAULT.split(":", 2)
        if Path(mark).exists():
            os.execv(program, [program, *sys.argv[2:]])
        Path(mark).touch()
        print("Error: Failed to start server: Address already in use", file=sys.stderr)
        return 1
    with socket.create_server((HOST, int(PORT))) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                serve(connection)


sys.exit(main())
