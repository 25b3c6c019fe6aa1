"""The client for plain code."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from types import TracebackType
from typing import Any, BinaryIO, Callable, List, Optional, Sequence, Tuple, Type, TypeVar

from ._core import Call, Core, Outcome, Submitted
from ._errors import GavelError, Interrupted, Misused, TimedOut, Unreachable
from ._http import AnswerReader, BrokenOff, NotHttp
from ._types import Evidence, Halted, Health, KernelStatus, Policy, Receipt

T = TypeVar("T")

#: Bytes that are read at once.
PIECE_BYTES = 64 << 10


class KernelClient:
    """A client of one kernel: the first of the server's configuration, unless ``kernel`` names another.

    It keeps its connections, and can be used by several threads at once. Options, all by keyword: ``key``, ``kernel``,
    ``connect_timeout`` (5 s), ``timeout`` of a whole call with all its tries (60 s), ``tries`` (4), ``backoff`` (first and
    longest wait, 0.1 s and 5 s), ``idle_max`` (8 kept connections), ``idle_timeout`` (5 s), ``answer_bytes_max`` (64 MiB),
    ``ssl_context``.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._core = Core(url, **options)
        self._idle: List[Tuple[socket.socket, float]] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, request: Submitted) -> Receipt:
        """Have a request judged and, if it is allowed, its tool run. A denial is a receipt, not an error."""
        return self._call(self._core.submit(request))

    def submit_batch(self, requests: Sequence[Submitted]) -> List[Outcome]:
        """Have several requests judged, each as if it had come alone, in no order among them.

        The answers come in the order of the requests: a receipt, or the ``Refused`` of one that was not judged.
        """
        return self._call(self._core.submit_batch(requests))

    def health(self) -> Health:
        """How the kernel is. A halted kernel is an answer, not an error."""
        return self._call(self._core.health())

    def status(self) -> KernelStatus:
        """The kernel's status."""
        return self._call(self._core.status())

    def policy(self) -> Policy:
        """What the kernel judges by."""
        return self._call(self._core.policy())

    def evidence(self) -> Evidence:
        """The kernel's evidence in memory; see ``evidence_to`` for one that is large."""
        return self._call(self._core.evidence())

    def evidence_to(self, out: BinaryIO) -> int:
        """Write the evidence bundle out as it comes, byte for byte; how many bytes it has.

        ``timeout`` is then that of the beginning, and of each piece. What is written when this fails is no whole bundle.
        """
        call = self._core.evidence()
        exchange, piece = self._tried(call, lambda deadline: self._begun(call, deadline))
        written = 0
        with exchange:
            while True:
                out.write(piece)
                written += len(piece)
                if exchange.answer.done:
                    return written
                piece = exchange.receive(time.monotonic() + self._core.timeout)

    def halt(self, reason: Optional[str] = None) -> Halted:
        """Halt the kernel, for good."""
        return self._call(self._core.halt(reason))

    def close(self) -> None:
        """Close the kept connections; the client is then of no more use."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def __enter__(self) -> KernelClient:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], why: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    # --- a call ---

    def _call(self, call: Call[T]) -> T:
        return self._tried(call, lambda deadline: self._once(call, deadline))

    def _tried(self, call: Call[Any], once: Callable[[float], T]) -> T:
        """Try until it succeeds, must not be tried again, or the time is up."""
        deadline = time.monotonic() + self._core.timeout
        tried = 0
        while True:
            try:
                return once(deadline)
            except GavelError as why:
                tried += 1
                wait = self._core.wait(tried, call.only_reads, why)
                if wait is None or time.monotonic() + wait >= deadline:
                    raise
            time.sleep(wait)

    def _once(self, call: Call[T], deadline: float) -> T:
        with _Exchange(self, call, deadline) as exchange:
            return self._core.read(call, exchange.head(), exchange.body(deadline))

    def _begun(self, call: Call[Any], deadline: float) -> Tuple[_Exchange, bytes]:
        exchange = _Exchange(self, call, deadline)
        try:
            if 200 <= exchange.answer.status < 300:
                return exchange, exchange.first
            raise self._core.refusal(call, exchange.head(), exchange.body(deadline))
        except BaseException:
            exchange.close()
            raise

    # --- connections ---

    def _connection(self, call: Call[Any], deadline: float) -> socket.socket:
        if self._closed:
            raise Misused("the client is closed")
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection, since = self._idle.pop()
            if time.monotonic() - since < self._core.idle_timeout and not has_something(connection):
                return connection
            connection.close()
        return self._connect(call, deadline)

    def _connect(self, call: Call[Any], deadline: float) -> socket.socket:
        core = self._core
        patience = max(0.001, min(core.connect_timeout, deadline - time.monotonic()))
        connection = None
        try:
            connection = socket.create_connection((core.host, core.port), timeout=patience)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return core.ssl.wrap_socket(connection, server_hostname=core.host) if core.ssl else connection
        except OSError as why:
            if connection is not None:
                connection.close()
            raise Unreachable(core.url(call), why) from why

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < self._core.idle_max:
                self._idle.append((connection, time.monotonic()))
                return
        connection.close()


def has_something(connection: Any) -> bool:
    """Whether an idle connection has something to read: its end, as a rule, and nothing that was asked for."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(0))


class _Exchange:
    """One request that was sent and its answer, as far as it came."""

    def __init__(self, client: KernelClient, call: Call[Any], deadline: float) -> None:
        self._client = client
        self._call = call
        self._core = client._core
        self.answer = AnswerReader()
        self._connection = client._connection(call, deadline)
        try:
            unsent = self._send(deadline)
            self.first = b""
            while not self.answer.begun:
                self.first = self.receive(deadline, unsent)
        except BaseException:
            self.close()
            raise

    def head(self) -> Any:
        return self._core.head_of(self.answer.status, self.answer.headers)

    def body(self, deadline: float) -> bytes:
        pieces, length = [self.first], len(self.first)
        while not self.answer.done:
            piece = self.receive(deadline)
            pieces.append(piece)
            length += len(piece)
            if length > self._core.answer_bytes_max:
                break
        if length > self._core.answer_bytes_max:
            raise self._core.too_long(self._call, self.answer.status)
        return b"".join(pieces)

    def _send(self, deadline: float) -> Optional[OSError]:
        """A server may answer and close before it has read a body that it refuses: then what it says counts."""
        try:
            self._connection.settimeout(self._left(deadline))
            self._connection.sendall(self._core.bytes_of(self._call))
        except socket.timeout:
            raise self._late() from None
        except OSError as why:
            return why
        return None

    def receive(self, deadline: float, unsent: Optional[OSError] = None) -> bytes:
        """The next piece of the body; empty while only the head comes."""
        try:
            self._connection.settimeout(self._left(deadline))
            data = self._connection.recv(PIECE_BYTES)
            if data:
                return self.answer.feed(data)
            self.answer.end()
            return b""
        except socket.timeout:
            raise self._late() from None
        except NotHttp as why:
            raise self._core.malformed(self._call, self.answer.status, str(why)) from None
        except (OSError, BrokenOff) as why:
            raise Interrupted(self._core.url(self._call), unsent or why) from why

    def _left(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> TimedOut:
        return TimedOut(self._core.url(self._call), self._core.timeout)

    def close(self) -> None:
        if self.answer.done and self.answer.reusable:
            self._client._keep(self._connection)
        else:
            self._connection.close()

    def __enter__(self) -> _Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
