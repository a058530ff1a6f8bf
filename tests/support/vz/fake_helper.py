#!/usr/bin/env python3
"""A VZ helper that fails as FAKE_VZ_FAULT says; what it does not spoil it answers as the real one does."""

import json
import os
import socketserver
import subprocess
import sys

FAULT = os.environ["FAKE_VZ_FAULT"]
REAL = os.environ["FAKE_VZ_REAL_HELPER"]


class Handler(socketserver.StreamRequestHandler):
    """One request a connection."""

    def answer(self, status: int, body: str = "", cut: int = 0) -> None:
        head = f"HTTP/1.1 {status} Fake\r\nContent-Length: {len(body) + cut}\r\nConnection: close\r\n\r\n"
        self.wfile.write((head + body).encode())

    def handle(self) -> None:
        request = self.rfile.readline().decode().split()
        length = 0
        while (line := self.rfile.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.rfile.read(length)
        call = request[1].rsplit("/", 1)[-1] if len(request) > 1 else ""
        if FAULT == "silence":
            self.rfile.read()  # until the client has gone
        elif call == "vmm.ping":
            self.answer(200, json.dumps({"name": "vmtest-vz-helper", "api": 9 if FAULT == "version" else 1}))
        elif FAULT == "die-before-boot" and call == "vm.boot":
            print("the helper's last words", file=sys.stderr, flush=True)
            os._exit(7)
        elif FAULT == "cut-short" and call == "vm.create":
            self.answer(200, '{"half":', cut=100)
        elif FAULT == "garbage" and call == "vm.create":
            self.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")
        elif FAULT == "errors" and call == "vm.boot":
            self.answer(500, json.dumps(["cannot boot the VM", "VZErrorDomain 1: Internal virtualization error."]))
        elif FAULT == "own-error" and call == "vm.create":
            self.answer(500, "an error of its own kind")
        elif FAULT == "never-runs" and call == "vm.info":
            self.answer(200, json.dumps({"state": "Stopped"}))
        elif call == "vm.info":
            self.answer(200, json.dumps({"state": "Running"}))
        else:
            self.answer(204)


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def main() -> None:
    if "--capabilities" in sys.argv:
        if FAULT == "no-capabilities":
            sys.exit("it does not know itself")
        sys.exit(subprocess.run([REAL, "--capabilities"], check=False).returncode)
    Server(sys.argv[sys.argv.index("--api-socket") + 1], Handler).serve_forever()


if __name__ == "__main__":
    main()
