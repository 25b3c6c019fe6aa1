"""A server that answers what a test tells it to, byte for byte."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any, Callable, List, Optional

#: Seconds that anything may take before the test fails.
PATIENCE = 60.0

Script = Callable[[socket.socket], None]

RECEIPT = {
    "request_id": "r1",
    "status": "ACCEPTED",
    "decision": "ALLOW",
    "state_from": "IDLE",
    "state_to": "IDLE",
    "ts_ms": 1,
    "error": None,
    "evidence_hash": "00",
    "tool_result": "hello",
    "result": "hello",
}


def answer(status: int, body: Any, *headers: str) -> Script:
    """Answer JSON, or bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}", *headers, "", ""]
    return raw("\r\n".join(lines).encode() + content)


def raw(data: bytes) -> Script:
    """Answer these bytes."""
    return lambda connection: connection.sendall(data)


def hang_up(connection: socket.socket) -> None:
    """Close without an answer."""
    connection.close()


class FakeServer:
    """Answers the n-th request by the n-th script, and the last script for all that come after.

    A script that is ``None`` never answers.
    """

    def __init__(self, *scripts: Optional[Script], close_after_each: bool = False, read_bodies: bool = True) -> None:
        self.requests: List[bytes] = []
        self.connections = 0
        self._scripts = scripts
        self._close_after_each = close_after_each
        self._read_bodies = read_bodies
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self._listener.getsockname()[1]
        self._open: List[socket.socket] = []
        self._closed = threading.Semaphore(0)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            connection.settimeout(PATIENCE)
            self._open.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            while True:
                request = self._read(connection)
                if request is None:
                    return
                script = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
                self.requests.append(request)
                if script is None:
                    continue
                script(connection)
                if self._close_after_each:
                    connection.close()
                    self._closed.release()
                    return
        except OSError:
            pass  # The client went away, or the test is over.

    def _read(self, connection: socket.socket) -> Optional[bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        while self._read_bodies and len(body) < length:
            piece = connection.recv(65536)
            if not piece:
                return None
            body += piece
        return head + b"\r\n\r\n" + body

    def wait_until_closed(self) -> None:
        """Wait until it has closed a connection."""
        if not self._closed.acquire(timeout=PATIENCE):
            raise AssertionError("the connection is not closed")

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for connection in self._open:
            connection.close()
