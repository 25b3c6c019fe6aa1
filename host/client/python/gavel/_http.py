"""HTTP/1.1 without I/O: bytes in, an answer out. Both clients read and write by this."""

from __future__ import annotations

import re
from typing import Callable, Dict, List, Optional

#: Bytes of the head of an answer, and of a line between chunks.
HEAD_BYTES_MAX = 64 << 10


class NotHttp(Exception):
    """What came is no HTTP."""


class BrokenOff(Exception):
    """The connection ended before the answer did."""


class AnswerReader:
    """Takes the bytes of one answer as they come."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Dict[str, str] = {}
        #: The head is there.
        self.begun = False
        #: The answer is whole.
        self.done = False
        #: The connection can be used again.
        self.reusable = False
        self._buffer = b""
        self._step: Callable[[List[bytes]], bool] = self._head
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        """Take what came; gives the part of the body that is in it."""
        self._buffer += data
        body: List[bytes] = []
        while not self.done and self._step(body):
            pass
        if self.done and self._buffer:
            # More than was asked for: whatever it is, it does not answer the next request.
            self.reusable = False
        return b"".join(body)

    def end(self) -> None:
        """The connection ended."""
        if self._step != self._until_the_end:
            raise BrokenOff("it ended before the answer was whole" if self.begun else "it ended without an answer")
        self.done = True

    def _line(self) -> Optional[bytes]:
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise NotHttp(f"a line of more than {HEAD_BYTES_MAX} bytes")
            return None
        self._buffer = rest
        return line

    def _head(self, body: List[bytes]) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if len(head) > HEAD_BYTES_MAX:
                raise NotHttp(f"a head of more than {HEAD_BYTES_MAX} bytes")
            if not b"HTTP/1.".startswith(head[:7]):
                raise NotHttp(f"no HTTP/1: {head[:40]!r}")
            return False
        self._buffer = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        parts = first.split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not re.fullmatch("[0-9]{3}", parts[1]):
            raise NotHttp(f"no status line: {first[:40]!r}")
        self.status = int(parts[1])
        if self.status < 200:
            return True
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        self.begun = True
        self._frame(parts[0])
        return True

    def _frame(self, version: str) -> None:
        connection = self.headers.get("connection", "").lower()
        self.reusable = version != "HTTP/1.0" and "close" not in connection
        length = self.headers.get("content-length")
        if self.status in (204, 304):
            self.done = True
        elif self.headers.get("transfer-encoding", "").lower() == "chunked":
            self._step = self._chunk_size
        elif length is None:
            self.reusable = False
            self._step = self._until_the_end
        elif re.fullmatch("[0-9]{1,15}", length):
            self._left = int(length)
            self._step = self._counted
        else:
            raise NotHttp(f"a content-length of {length[:40]!r}")

    def _take(self, body: List[bytes]) -> None:
        taken, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(taken)
        body.append(taken)

    def _counted(self, body: List[bytes]) -> bool:
        self._take(body)
        self.done = self._left == 0
        return False

    def _until_the_end(self, body: List[bytes]) -> bool:
        body.append(self._buffer)
        self._buffer = b""
        return False

    def _chunk_size(self, body: List[bytes]) -> bool:
        line = self._line()
        if line is None:
            return False
        size = line.partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):
            raise NotHttp(f"a chunk of {size[:40]!r} bytes")
        self._left = int(size, 16)
        self._step = self._chunk if self._left else self._trailer
        return True

    def _chunk(self, body: List[bytes]) -> bool:
        self._take(body)
        if self._left:
            return False
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise NotHttp("a chunk without its end")
        self._buffer = self._buffer[2:]
        self._step = self._chunk_size
        return True

    def _trailer(self, body: List[bytes]) -> bool:
        line = self._line()
        if line == b"":
            self.done = True
        return bool(line)
