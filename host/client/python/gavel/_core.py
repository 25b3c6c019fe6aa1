"""What both clients share: options, the calls, what an answer means, and what is tried again.

A call that only reads is tried again when it fails in passing. A call that does something (submit, submit_batch, halt)
is tried again only when it is certain that nothing was done: no connection came about, so nothing was sent, or Gavel
answered 429, or 503 with ``Retry-After``: it turned the request away before judging it. It is never tried again after a
time-out or when the connection broke: the kernel may have judged it and its tool may have run, and then a second try
would run it twice. Ask for the evidence instead; the request's id is in it.
"""

from __future__ import annotations

import json
import random
import re
import ssl
from typing import Any, Callable, Dict, Generic, List, Mapping, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union
from urllib.parse import urlsplit

from ._errors import GavelError, Interrupted, Malformed, Misused, Refused, Unreachable
from ._types import Evidence, Halted, Health, KernelStatus, Policy, Receipt, Request

T = TypeVar("T")

Submitted = Union[Request, Mapping[str, Any]]
Outcome = Union[Receipt, Refused]


class Head(NamedTuple):
    """The status of an answer and what its head says beside."""

    status: int
    retry_after: Optional[float]


class Call(Generic[T]):
    """One call: what is sent, and what the answer is read as."""

    def __init__(self, method: str, route: str, read: Callable[[Any], T], body: Any = None) -> None:
        self.method = method
        self.route = route
        self.read = read
        #: Whether it does nothing but read.
        self.only_reads = method == "GET"
        self.body = b"" if body is None else encoded(body)


def encoded(body: Any) -> bytes:
    """JSON, strictly: Gavel takes no NaN."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except (TypeError, ValueError) as why:
        raise Misused(f"the request is not JSON: {why}") from None


class Core:
    """The options of a client. Every limit has a default."""

    def __init__(
        self,
        url: str,
        *,
        key: Optional[str] = None,
        kernel: Optional[str] = None,
        connect_timeout: float = 5.0,
        timeout: float = 60.0,
        tries: int = 4,
        backoff: Tuple[float, float] = (0.1, 5.0),
        idle_max: int = 8,
        idle_timeout: float = 5.0,
        answer_bytes_max: int = 64 << 20,
        ssl_context: Optional[ssl.SSLContext] = None,
    ) -> None:
        try:
            parts = urlsplit(url)
            self.host, port = parts.hostname or "", parts.port
        except ValueError as why:
            raise Misused(f"the URL `{url}` cannot be read: {why}") from None
        if parts.scheme not in ("http", "https") or not self.host:
            raise Misused(f"the URL `{url}` is neither http://HOST nor https://HOST")
        if parts.query or parts.fragment or "@" in parts.netloc:
            raise Misused(f"the URL `{url}` must have no query, fragment or user")
        if kernel is not None and not re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,64}", kernel):
            raise Misused(f"there can be no kernel `{kernel}`: ids are 1 to 64 letters, digits, `.`, `_` or `-`")
        if key is not None and not re.fullmatch(r"[\x21-\x7e]+", key):
            raise Misused("the key holds characters that no key has")
        path = parts.path.rstrip("/")
        if not re.fullmatch(r"[\x21-\x7e]*", parts.netloc + path):
            raise Misused(f"the URL `{url}` must be ASCII, with everything else percent-encoded")
        self.prefix = path if kernel is None else f"{path}/kernels/{kernel}"
        self.base = f"{parts.scheme}://{parts.netloc}{self.prefix}"
        self.port = port or (443 if parts.scheme == "https" else 80)
        self.ssl: Optional[ssl.SSLContext] = None
        if parts.scheme == "https":
            self.ssl = ssl_context or ssl.create_default_context()
        self.connect_timeout = connect_timeout
        self.timeout = timeout
        self.tries_max = max(1, tries)
        self.backoff_first, self.backoff_longest = backoff
        self.idle_max = idle_max
        self.idle_timeout = idle_timeout
        self.answer_bytes_max = answer_bytes_max
        self._head = f"Host: {parts.netloc}\r\nUser-Agent: gavel-client-python\r\nAccept: application/json\r\n"
        if key is not None:
            self._head += f"Authorization: Bearer {key}\r\n"

    # --- the calls ---

    def submit(self, request: Submitted) -> Call[Receipt]:
        return Call("POST", "/submit", Receipt.from_json, as_json(request))

    def submit_batch(self, requests: Sequence[Submitted]) -> Call[List[Outcome]]:
        sent = [as_json(request) for request in requests]
        return Call("POST", "/submit/batch", lambda value: read_batch(value, len(sent)), {"requests": sent})

    def health(self) -> Call[Health]:
        return Call("GET", "/health", Health.from_json)

    def status(self) -> Call[KernelStatus]:
        return Call("GET", "/status", KernelStatus.from_json)

    def policy(self) -> Call[Policy]:
        return Call("GET", "/policy", Policy.from_json)

    def evidence(self) -> Call[Evidence]:
        return Call("GET", "/evidence", Evidence.from_json)

    def halt(self, reason: Optional[str]) -> Call[Halted]:
        return Call("POST", "/halt", Halted.from_json, {} if reason is None else {"reason": reason})

    # --- what is sent, and what comes back ---

    def url(self, call: Call[Any]) -> str:
        return self.base + call.route

    def bytes_of(self, call: Call[Any]) -> bytes:
        head = f"{call.method} {self.prefix}{call.route} HTTP/1.1\r\n{self._head}"
        if call.method == "POST":
            head += f"Content-Type: application/json\r\nContent-Length: {len(call.body)}\r\n"
        return (head + "\r\n").encode("ascii") + call.body

    def head_of(self, status: int, headers: Mapping[str, str]) -> Head:
        seconds = headers.get("retry-after", "")
        return Head(status, float(seconds) if re.fullmatch("[0-9]{1,9}", seconds) else None)

    def read(self, call: Call[T], head: Head, body: bytes) -> T:
        """What the answer means; raises what it means by an error."""
        # A halted kernel answers 503 to the question how it is; so does a server too busy to say.
        told_unwell = call.route == "/health" and head.status == 503
        if not 200 <= head.status < 300 and not told_unwell:
            raise self.refusal(call, head, body)
        try:
            return call.read(json.loads(body))
        except (ValueError, RecursionError) as why:
            if told_unwell:
                raise self.refusal(call, head, body) from None
            raise self.malformed(call, head.status, f"not what was expected ({why})") from None

    def refusal(self, call: Call[Any], head: Head, body: bytes) -> GavelError:
        try:
            told = json.loads(body)
        except (ValueError, RecursionError):
            told = None
        message = told.get("error") if isinstance(told, dict) else None
        if not isinstance(message, str):
            begins = body[:80].decode("utf-8", "replace")
            return self.malformed(call, head.status, f"no error of Gavel's: {begins!r}")
        return Refused(head.status, message, told.get("kernel_state"), head.retry_after)

    def malformed(self, call: Call[Any], status: int, why: str) -> Malformed:
        return Malformed(self.url(call), status, why)

    def too_long(self, call: Call[Any], status: int) -> Malformed:
        return self.malformed(call, status, f"more than {self.answer_bytes_max} bytes (answer_bytes_max)")

    # --- what is tried again ---

    def wait(self, tried: int, only_reads: bool, why: GavelError) -> Optional[float]:
        """Seconds until the next try; None if there must be none.

        Exponential backoff with jitter, so that clients that failed together do not come back together.
        """
        if tried >= self.tries_max or not worth_it(only_reads, why):
            return None
        whole = min(self.backoff_first * 2.0 ** min(tried - 1, 16), self.backoff_longest)
        drawn = whole * (0.5 + 0.5 * random.random())
        asked = why.retry_after if isinstance(why, Refused) else None
        return max(drawn, asked or 0.0)


def worth_it(only_reads: bool, why: GavelError) -> bool:
    """Whether the failure passes, and a second try does nothing twice."""
    if isinstance(why, Unreachable):
        return True
    if isinstance(why, Refused):
        return why.passes or (only_reads and why.status in (502, 503, 504))
    if isinstance(why, Malformed):
        return only_reads and why.status in (502, 503, 504)
    return only_reads and isinstance(why, Interrupted)


def as_json(request: Submitted) -> Dict[str, Any]:
    return request.to_json() if isinstance(request, Request) else dict(request)


def read_batch(value: Any, count: int) -> List[Outcome]:
    results = value.get("results") if isinstance(value, dict) else None
    if not isinstance(results, list) or len(results) != count:
        raise ValueError(f"no list of {count} results")
    return [read_one(result) for result in results]


def read_one(result: Any) -> Outcome:
    if not isinstance(result, dict):
        raise ValueError("a result is not a JSON object")
    if "receipt" in result:
        return Receipt.from_json(result["receipt"])
    status, message = result.get("status"), result.get("error")
    if not isinstance(status, int) or not isinstance(message, str):
        raise ValueError("a result is neither a receipt nor a refusal")
    return Refused(status, message, result.get("kernel_state"), result.get("retry_after_s"))
