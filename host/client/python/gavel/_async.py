"""The client for asyncio. It uses no threads; a call that is cancelled closes its connection."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Awaitable, BinaryIO, Callable, List, Optional, Sequence, Tuple, Type, TypeVar

from ._core import Call, Core, Outcome, Submitted
from ._errors import GavelError, Interrupted, Misused, TimedOut, Unreachable
from ._http import AnswerReader, BrokenOff, NotHttp
from ._sync import has_something
from ._types import Evidence, Halted, Health, KernelStatus, Policy, Receipt

T = TypeVar("T")

#: Bytes that are read at once.
PIECE_BYTES = 64 << 10

Connection = Tuple[asyncio.StreamReader, asyncio.StreamWriter]


class AsyncKernelClient:
    """``KernelClient`` for asyncio: the same calls, to be awaited, and the same options.

    Its kept connections belong to the event loop that made them; in another loop it makes new ones.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._core = Core(url, **options)
        self._idle: List[Tuple[Connection, float, asyncio.AbstractEventLoop]] = []
        self._closed = False

    async def submit(self, request: Submitted) -> Receipt:
        """Have a request judged and, if it is allowed, its tool run. A denial is a receipt, not an error."""
        return await self._call(self._core.submit(request))

    async def submit_batch(self, requests: Sequence[Submitted]) -> List[Outcome]:
        """Have several requests judged, each as if it had come alone, in no order among them.

        The answers come in the order of the requests: a receipt, or the ``Refused`` of one that was not judged.
        """
        return await self._call(self._core.submit_batch(requests))

    async def health(self) -> Health:
        """How the kernel is. A halted kernel is an answer, not an error."""
        return await self._call(self._core.health())

    async def status(self) -> KernelStatus:
        """The kernel's status."""
        return await self._call(self._core.status())

    async def policy(self) -> Policy:
        """What the kernel judges by."""
        return await self._call(self._core.policy())

    async def evidence(self) -> Evidence:
        """The kernel's evidence in memory; see ``evidence_to`` for one that is large."""
        return await self._call(self._core.evidence())

    async def evidence_to(self, out: BinaryIO) -> int:
        """Write the evidence bundle out as it comes, byte for byte; how many bytes it has.

        ``timeout`` is then that of the beginning, and of each piece. What is written when this fails is no whole bundle.
        """
        call = self._core.evidence()
        exchange = await self._tried(call, lambda deadline: self._begun(call, deadline))
        try:
            piece, written = exchange.first, 0
            while True:
                out.write(piece)
                written += len(piece)
                if exchange.answer.done:
                    return written
                piece = await exchange.receive(time.monotonic() + self._core.timeout)
        finally:
            exchange.close()

    async def halt(self, reason: Optional[str] = None) -> Halted:
        """Halt the kernel, for good."""
        return await self._call(self._core.halt(reason))

    async def close(self) -> None:
        """Close the kept connections; the client is then of no more use."""
        self._closed = True
        idle, self._idle = self._idle, []
        for (_, writer), _, loop in idle:
            if loop is asyncio.get_running_loop():
                writer.close()
                try:
                    await writer.wait_closed()
                except OSError:
                    pass  # Closed is closed.

    async def __aenter__(self) -> AsyncKernelClient:
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], why: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.close()

    # --- a call ---

    async def _call(self, call: Call[T]) -> T:
        return await self._tried(call, lambda deadline: self._once(call, deadline))

    async def _tried(self, call: Call[Any], once: Callable[[float], Awaitable[T]]) -> T:
        """Try until it succeeds, must not be tried again, or the time is up."""
        deadline = time.monotonic() + self._core.timeout
        tried = 0
        while True:
            try:
                return await once(deadline)
            except GavelError as why:
                tried += 1
                wait = self._core.wait(tried, call.only_reads, why)
                if wait is None or time.monotonic() + wait >= deadline:
                    raise
            await asyncio.sleep(wait)

    async def _once(self, call: Call[T], deadline: float) -> T:
        exchange = await self._exchange(call, deadline)
        try:
            return self._core.read(call, exchange.head(), await exchange.body(deadline))
        finally:
            exchange.close()

    async def _begun(self, call: Call[Any], deadline: float) -> _Exchange:
        exchange = await self._exchange(call, deadline)
        try:
            if 200 <= exchange.answer.status < 300:
                return exchange
            raise self._core.refusal(call, exchange.head(), await exchange.body(deadline))
        except BaseException:
            exchange.close()
            raise

    async def _exchange(self, call: Call[Any], deadline: float) -> _Exchange:
        exchange = _Exchange(self, call, await self._connection(call, deadline))
        try:
            await exchange.begin(deadline)
            return exchange
        except BaseException:
            exchange.close()
            raise

    # --- connections ---

    async def _connection(self, call: Call[Any], deadline: float) -> Connection:
        if self._closed:
            raise Misused("the client is closed")
        loop = asyncio.get_running_loop()
        while self._idle:
            (reader, writer), since, owner = self._idle.pop()
            if owner is not loop:
                continue
            if time.monotonic() - since < self._core.idle_timeout and is_open(reader, writer):
                return reader, writer
            writer.close()
        return await self._connect(call, deadline)

    async def _connect(self, call: Call[Any], deadline: float) -> Connection:
        core = self._core
        patience = max(0.001, min(core.connect_timeout, deadline - time.monotonic()))
        try:
            opening = asyncio.open_connection(core.host, core.port, ssl=core.ssl)
            return await within(patience, opening, unwanted=lambda opened: opened[1].close())
        except asyncio.TimeoutError:
            raise Unreachable(core.url(call), f"no connection within {patience:g} s") from None
        except OSError as why:
            raise Unreachable(core.url(call), why) from why

    def _keep(self, connection: Connection) -> None:
        if not self._closed and len(self._idle) < self._core.idle_max:
            self._idle.append((connection, time.monotonic(), asyncio.get_running_loop()))
        else:
            connection[1].close()


async def within(seconds: float, work: Awaitable[T], unwanted: Optional[Callable[[T], None]] = None) -> T:
    """What comes of the work, or asyncio.TimeoutError.

    ``asyncio.wait_for`` would lose a cancellation that comes just when the work is done (before Python 3.12), and the
    work's result with it; here ``unwanted`` gets a result that nobody waits for any more.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        abandon(task, unwanted)
        raise
    if not task.done():
        abandon(task, unwanted)
        raise asyncio.TimeoutError
    return task.result()


def abandon(task: asyncio.Future[T], unwanted: Optional[Callable[[T], None]]) -> None:
    def done(task: asyncio.Future[T]) -> None:
        if not task.cancelled() and task.exception() is None and unwanted:
            unwanted(task.result())

    task.add_done_callback(done)
    task.cancel()


def is_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether an idle connection can be used, also when the loop did not come to notice its end."""
    return not (reader.at_eof() or writer.is_closing() or has_something(writer.get_extra_info("socket")))


class _Exchange:
    """One request that was sent and its answer, as far as it came."""

    def __init__(self, client: AsyncKernelClient, call: Call[Any], connection: Connection) -> None:
        self._client = client
        self._call = call
        self._core = client._core
        self._connection = connection
        self.answer = AnswerReader()
        self.first = b""

    async def begin(self, deadline: float) -> None:
        """Send the request and wait until its answer begins."""
        writer = self._connection[1]
        unsent = None
        try:
            writer.write(self._core.bytes_of(self._call))
            await within(self._left(deadline), writer.drain())
        except asyncio.TimeoutError:
            raise self._late() from None
        except OSError as why:
            # A server may answer and close before it has read a body that it refuses: then what it says counts.
            unsent = why
        while not self.answer.begun:
            self.first = await self.receive(deadline, unsent)

    def head(self) -> Any:
        return self._core.head_of(self.answer.status, self.answer.headers)

    async def body(self, deadline: float) -> bytes:
        pieces, length = [self.first], len(self.first)
        while not self.answer.done:
            piece = await self.receive(deadline)
            pieces.append(piece)
            length += len(piece)
            if length > self._core.answer_bytes_max:
                break
        if length > self._core.answer_bytes_max:
            raise self._core.too_long(self._call, self.answer.status)
        return b"".join(pieces)

    async def receive(self, deadline: float, unsent: Optional[OSError] = None) -> bytes:
        """The next piece of the body; empty while only the head comes."""
        try:
            data = await within(self._left(deadline), self._connection[0].read(PIECE_BYTES))
            if data:
                return self.answer.feed(data)
            self.answer.end()
            return b""
        except asyncio.TimeoutError:
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
            self._connection[1].close()
