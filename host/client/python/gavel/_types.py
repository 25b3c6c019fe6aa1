"""What is sent and what comes back.

Words that a newer server may add stay text, fields that it adds are in ``raw``: an old client goes on working. What
matters is not guessed: a receipt without a decision is no receipt.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from typing import Any, Dict, List, Mapping, Optional, Type, TypeVar, Union

T = TypeVar("T", bound="Answer")
E = TypeVar("E", bound=Enum)


class Decision(str, Enum):
    """What was decided."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    HALT = "HALT"


class Status(str, Enum):
    """What became of a request."""

    ACCEPTED = "ACCEPTED"
    REJECTED = "REJECTED"
    FAILED = "FAILED"


@dataclass
class ToolCall:
    """The tool that a request wants run."""

    name: str
    params: Dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> Dict[str, Any]:
        return {"name": self.name, "params": self.params}


@dataclass
class Request:
    """One request for a decision."""

    request_id: str
    actor: str
    intent: str
    tool_call: Optional[ToolCall] = None
    #: The request's own parameters; the tool never sees them.
    params: Optional[Dict[str, Any]] = None
    #: What justifies it; required by a kernel that is evidence-first.
    evidence: Union[None, str, List[str]] = None
    #: What it keeps to; required by a kernel that is dual-channel.
    constraints: Any = None
    #: A signed permit, where the kernel demands one.
    permit: Optional[Dict[str, Any]] = None
    #: Unix milliseconds; the server's clock if absent.
    ts_ms: Optional[int] = None

    def to_json(self) -> Dict[str, Any]:
        said = {each.name: getattr(self, each.name) for each in fields(self)}
        if isinstance(self.tool_call, ToolCall):
            said["tool_call"] = self.tool_call.to_json()
        return {name: value for name, value in said.items() if value is not None}


class Answer:
    """What all answers have in common: the JSON they were read from, in ``raw``."""

    raw: Dict[str, Any]

    @classmethod
    def from_json(cls: Type[T], value: Any) -> T:
        """Read an answer; raises ValueError when it is none."""
        if not isinstance(value, Mapping):
            raise ValueError(f"{cls.__name__} is not a JSON object")
        found: Dict[str, Any] = {"raw": dict(value)}
        for each in fields(cls):  # type: ignore[arg-type]
            if each.name == "raw":
                continue
            if each.name in value:
                found[each.name] = cls.convert(each.name, value[each.name])
            elif each.default is MISSING and each.default_factory is MISSING:
                raise ValueError(f"{cls.__name__} has no `{each.name}`")
        return cls(**found)

    @classmethod
    def convert(cls, name: str, value: Any) -> Any:
        """The value of a field as it is kept."""
        return value

    def __getitem__(self, name: str) -> Any:
        return self.raw[name]


def known(words: Type[E], value: Any) -> Any:
    """The word if it is known, else as it came; certainly no text is no word."""
    if not isinstance(value, str):
        raise ValueError(f"{words.__name__} is {value!r}, not a word")
    return words(value) if value in words.__members__ else value


@dataclass
class Receipt(Answer):
    """The answer to one request."""

    request_id: str
    status: Union[Status, str]
    decision: Union[Decision, str]
    state_from: str
    state_to: str
    #: When, by the kernel's clock, in Unix milliseconds.
    ts_ms: int
    #: Why it was denied or failed.
    error: Optional[str] = None
    #: The hash of the entry that records it.
    evidence_hash: Optional[str] = None
    #: What the tool returned.
    tool_result: Any = None
    raw: Dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def convert(cls, name: str, value: Any) -> Any:
        words: Dict[str, Type[Enum]] = {"decision": Decision, "status": Status}
        return known(words[name], value) if name in words else value

    @property
    def is_allowed(self) -> bool:
        """Whether it was allowed, and its tool, if it asked for one, ran."""
        return self.decision == Decision.ALLOW and self.status == Status.ACCEPTED

    @property
    def result(self) -> Any:
        """What the tool returned, by its older name."""
        return self.tool_result


@dataclass
class Health(Answer):
    """How a kernel is."""

    #: ``healthy``, ``halted`` or ``unhealthy``.
    status: str
    kernel_state: str
    raw: Dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_healthy(self) -> bool:
        """Whether it accepts requests."""
        return self.status == "healthy"


@dataclass
class LedgerStatus(Answer):
    """What a ledger holds."""

    entries: int
    root_hash: str
    records: int
    #: Why it takes no records, if so.
    error: Optional[str] = None
    raw: Dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass
class KernelStatus(Answer):
    """A kernel's status."""

    kernel_id: str
    variant: str
    state: str
    started_at_ms: int
    policy_set: str
    tools: List[str]
    ledger: LedgerStatus
    halt_reason: Optional[str] = None
    raw: Dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def convert(cls, name: str, value: Any) -> Any:
        return LedgerStatus.from_json(value) if name == "ledger" else value


@dataclass
class Policy(Answer):
    """What a kernel judges by."""

    variant: str
    allowed_actors: List[str]
    allowed_tools: List[str]
    require_tool_call: bool
    required_fields: List[str]
    max_param_bytes: int
    max_intent_length: int
    custom_rules: List[str]
    policy_set: str
    raw: Dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass
class Halted(Answer):
    """What halting a kernel came to."""

    kernel_id: str
    kernel_state: str
    reason: str
    evidence_hash: str
    ts_ms: int
    raw: Dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass
class LedgerEntry(Answer):
    """An entry of the evidence chain."""

    ledger_seq: int
    prev_hash: str
    entry_hash: str
    ts_ms: int
    request_id: str
    actor: str
    intent: str
    decision: Union[Decision, str]
    tool_name: Optional[str] = None
    error: Optional[str] = None
    raw: Dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def convert(cls, name: str, value: Any) -> Any:
        return known(Decision, value) if name == "decision" else value


@dataclass
class Evidence(Answer):
    """An evidence bundle. ``raw`` is all of it, as ``json.dump`` would archive it."""

    kernel_id: str
    variant: str
    exported_at_ms: int
    entry_count: int
    root_hash: str
    ledger_entries: List[LedgerEntry]
    raw: Dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def convert(cls, name: str, value: Any) -> Any:
        if name != "ledger_entries":
            return value
        if not isinstance(value, list):
            raise ValueError("Evidence.ledger_entries is not a list")
        return [LedgerEntry.from_json(entry) for entry in value]
