"""What the clients send and read, against the API's own description.

Where the document lies says ``GAVEL_OPENAPI``; in the repository it is found by itself.
"""

from __future__ import annotations

import json
import os
import unittest
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Dict, Set

from gavel import (
    Evidence,
    Halted,
    Health,
    KernelStatus,
    LedgerEntry,
    LedgerStatus,
    Policy,
    Receipt,
    Request,
    ToolCall,
)
from gavel._core import Core

FOUND = Path(__file__).resolve().parents[3] / "src" / "http" / "openapi.json"
DOCUMENT: Dict[str, Any] = json.loads(Path(os.environ.get("GAVEL_OPENAPI", FOUND)).read_text("utf-8"))


def schema(name: str) -> Dict[str, Any]:
    found: Dict[str, Any] = DOCUMENT["components"]["schemas"][name]
    return found


def used(kind: Any) -> Set[str]:
    return {each.name for each in fields(kind) if each.name != "raw"}


def required(kind: Any) -> Set[str]:
    has_none = (each for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING)
    return {each.name for each in has_none}


class TestContract(unittest.TestCase):
    def test_every_call_is_described(self) -> None:
        core = Core("http://localhost")
        hello = Request(request_id="r1", actor="a", intent="i")
        calls = {
            "Receipt": core.submit(hello),
            "BatchAnswer": core.submit_batch([hello]),
            "Health": core.health(),
            "KernelStatus": core.status(),
            "Policy": core.policy(),
            "EvidenceBundle": core.evidence(),
            "HaltAnswer": core.halt("why"),
        }
        sent = {"/submit": "Request", "/submit/batch": "Batch", "/halt": "Halt"}
        for answered, call in calls.items():
            for prefix in ("", "/kernels/{id}"):
                with self.subTest(route=prefix + call.route):
                    described = DOCUMENT["paths"][prefix + call.route][call.method.lower()]
                    content = described["responses"]["200"]["content"]["application/json"]["schema"]
                    named = {"KernelStatus": "Status"}.get(answered, answered)
                    self.assertEqual(content, {"$ref": f"#/components/schemas/{named}"})
                    body = described.get("requestBody")
                    self.assertEqual(body is not None, call.route in sent)
                    if body:
                        content = body["content"]["application/json"]["schema"]
                        self.assertEqual(content, {"$ref": f"#/components/schemas/{sent[call.route]}"})

    def test_what_is_sent_is_understood(self) -> None:
        for kind, name in ((Request, "Request"), (ToolCall, "ToolCall")):
            with self.subTest(kind=name):
                self.assertLessEqual(used(kind), set(schema(name)["properties"]))
                self.assertEqual(required(kind), set(schema(name)["required"]))
        self.assertEqual(set(schema("Batch")["required"]), {"requests"})
        self.assertIn("reason", schema("Halt")["properties"])

    def test_nothing_that_can_be_sent_is_missing(self) -> None:
        self.assertEqual(used(Request), set(schema("Request")["properties"]))

    def test_what_is_read_is_promised(self) -> None:
        kinds = {
            "Receipt": Receipt,
            "Health": Health,
            "Status": KernelStatus,
            "Policy": Policy,
            "HaltAnswer": Halted,
            "EvidenceBundle": Evidence,
            "Entry": LedgerEntry,
        }
        described = [(name, kind, schema(name)) for name, kind in kinds.items()]
        described.append(("Status.ledger", LedgerStatus, schema("Status")["properties"]["ledger"]))
        for name, kind, promised in described:
            with self.subTest(kind=name):
                self.assertLessEqual(used(kind), set(promised["properties"]))
                self.assertLessEqual(required(kind), set(promised["required"]))

    def test_words_are_those_of_the_document(self) -> None:
        from gavel import Decision, Status

        self.assertEqual(set(Status.__members__), set(schema("Receipt")["properties"]["status"]["enum"]))
        self.assertEqual(set(Decision.__members__), set(schema("Entry")["properties"]["decision"]["enum"]))

    def test_refusals_are_those_of_the_document(self) -> None:
        self.assertEqual(schema("Error")["required"], ["error"])
        self.assertIn("kernel_state", schema("Halted")["properties"])
        self.assertEqual(schema("Judged")["required"], ["receipt"])
        self.assertLessEqual({"status", "error"}, set(schema("NotJudged")["required"]))
        self.assertLessEqual({"kernel_state", "retry_after_s"}, set(schema("NotJudged")["properties"]))


if __name__ == "__main__":
    unittest.main()
