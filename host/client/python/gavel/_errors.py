"""What can go wrong, told apart by what the caller should do next."""

from __future__ import annotations

from typing import Optional


class GavelError(Exception):
    """A call came to nothing."""

    #: Whether it is certain that nothing was judged, recorded or run, so that a second try does nothing twice.
    certainly_undone: bool = False


class Refused(GavelError):
    """The server answered that it will not."""

    def __init__(
        self,
        status: int,
        message: str,
        kernel_state: Optional[str] = None,
        retry_after: Optional[float] = None,
    ) -> None:
        super().__init__(f"the server answered {status}: {message}")
        #: 400 a body that cannot be read, 401 and 403 the key, 404 the kernel, 409 halted, 413 too long,
        #: 429 too often, 503 too busy.
        self.status = status
        #: The server's words.
        self.message = message
        #: The kernel's state, where the answer names it.
        self.kernel_state = kernel_state
        #: Seconds until it may be tried again. The server sends it only where nothing was done.
        self.retry_after = retry_after
        self.certainly_undone = self.passes or (400 <= status < 500 and status != 408)

    @property
    def is_halted(self) -> bool:
        """Whether the kernel is halted."""
        return self.status == 409 and self.kernel_state == "HALTED"

    @property
    def passes(self) -> bool:
        """Whether the request was turned away before it was judged, for a reason that passes."""
        return self.status == 429 or (self.status == 503 and self.retry_after is not None)


class TimedOut(GavelError):
    """No whole answer came in time. Unless the call only reads, it may have been carried out."""

    def __init__(self, url: str, waited: float) -> None:
        super().__init__(f"no answer from {url} within {waited:g} s (timeout)")


class Unreachable(GavelError):
    """No connection came about: nothing was sent."""

    certainly_undone = True

    def __init__(self, url: str, why: object) -> None:
        super().__init__(f"cannot connect to {url}: {why}")


class Interrupted(GavelError):
    """The connection broke before the answer was whole. Unless the call only reads, it may have been carried out."""

    def __init__(self, url: str, why: object) -> None:
        super().__init__(f"the connection to {url} broke: {why}")


class Malformed(GavelError):
    """The answer is none of a Gavel server."""

    def __init__(self, url: str, status: int, why: str) -> None:
        super().__init__(f"{url} answered {status} and {why}: is it a Gavel server?")
        #: The status of the answer.
        self.status = status


class Misused(GavelError, ValueError):
    """The options or the request cannot be used; nothing was sent."""

    certainly_undone = True
