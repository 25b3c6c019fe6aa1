"""The client of a Gavel server.

An agent never calls a tool: it submits a request to a kernel, which judges it, records the decision, and only
then runs the tool::

    from gavel import Request, ToolCall
    from gavel.sdk import KernelClient

    with KernelClient("http://127.0.0.1:8080") as client:
        receipt = client.submit(
            Request(request_id="req-001", actor="agent-001", intent="Say hello",
                    tool_call=ToolCall(name="echo", params={"text": "hello"}))
        )
        print(receipt.tool_result)

Nothing but the standard library is needed. ``AsyncKernelClient`` is the same for asyncio.
"""

from ._errors import GavelError, Interrupted, Malformed, Misused, Refused, TimedOut, Unreachable
from ._types import (
    Decision,
    Evidence,
    Halted,
    Health,
    KernelStatus,
    LedgerEntry,
    LedgerStatus,
    Policy,
    Receipt,
    Request,
    Status,
    ToolCall,
)

__version__ = "0.1.0"

__all__ = [
    "Decision",
    "Evidence",
    "GavelError",
    "Halted",
    "Health",
    "Interrupted",
    "KernelStatus",
    "LedgerEntry",
    "LedgerStatus",
    "Malformed",
    "Misused",
    "Policy",
    "Receipt",
    "Refused",
    "Request",
    "Status",
    "TimedOut",
    "ToolCall",
    "Unreachable",
]
