"""The rule. This is the file to edit.

Whatever goes wrong in here denies the request: an error of the configuration because it says so below, an exception
because Gavel takes it so.
"""

import json
from dataclasses import dataclass

from wit_world.imports import config, log
from wit_world.imports.types import (
    Metadata,
    Request,
    Verdict,
    Verdict_Abstain,
    Verdict_Allow,
    Verdict_Deny,
    Verdict_Escalate,
)

INJECTED = b"ignore all previous instructions"
APPROVAL = "approved-by:"

CONFIG_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "guarded": {
            "description": "Patterns of the names of tools that need an approval; * stands for any text.",
            "type": "array",
            "items": {"type": "string"},
        },
        "approvers": {
            "description": "Who may approve, as evidence names them: approved-by:human:alice.",
            "type": "array",
            "items": {"type": "string"},
        },
    },
    "required": ["guarded", "approvers"],
    "additionalProperties": False,
}


@dataclass
class Config:
    guarded: list[str]
    approvers: list[str]

    @classmethod
    def read(cls, text: str) -> "Config":
        """Raises ValueError, or TypeError where keys are missing or unknown."""
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        for key, texts in found.items():
            if not isinstance(texts, list):
                raise ValueError(f"{key} is no list")
            for index, item in enumerate(texts):
                if not isinstance(item, str):
                    raise ValueError(f"{key}[{index}] is no text")
                if not item:
                    raise ValueError(f"{key}[{index}] is empty")
        return cls(**found)


def describe() -> Metadata:
    return Metadata(
        name="guarded-tools",
        version="0.1.0",
        description="Lets guarded tools run only with the approval of a human.",
        config_schema=json.dumps(CONFIG_SCHEMA),
    )


def evaluate(request: Request) -> Verdict:
    # As bytes, because only ASCII letters are alike then, as in the other languages.
    if INJECTED in request.intent.encode().lower():
        return Verdict_Deny("the intent reads like an injected instruction")
    try:
        settings = Config.read(config.get())
    except (TypeError, ValueError) as error:
        return Verdict_Deny(f"the configuration cannot be read: {error}")
    call = request.tool_call
    if call is None:
        return Verdict_Abstain()
    if not any(fits(pattern, call.name) for pattern in settings.guarded):
        return Verdict_Allow()
    for entry in request.evidence:
        approver = entry.removeprefix(APPROVAL)
        if entry.startswith(APPROVAL) and approver in settings.approvers:
            log.write(log.Level.INFO, f"tool '{call.name}' passes: {approver} approved")
            return Verdict_Allow()
    approvers = ", ".join(settings.approvers)
    return Verdict_Escalate(
        f"tool '{call.name}' is guarded: evidence '{APPROVAL}...' of one of {approvers} is needed"
    )


def fits(pattern: str, name: str) -> bool:
    """Whether `name` fits `pattern`, where `*` stands for any text."""
    first, *middle = pattern.split("*")
    if not middle:
        return name == pattern
    last = middle.pop()
    if not name.startswith(first):
        return False
    at = len(first)
    for part in middle:
        at = name.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return name.endswith(last) and len(name) - at >= len(last)
