"""The clients against a real server: ``GAVEL_URL`` says where.

It serves a kernel ``k`` in which every actor may call every tool but ``read_file``, and kernels ``sync`` and ``async``, which are
halted here. No keys are configured.
"""

from __future__ import annotations

import io
import json
import os
import unittest
from typing import Any, Type

from gavel import Decision, Evidence, Receipt, Refused, Request, Status, ToolCall

from .both import Async, Sync

URL = os.environ.get("GAVEL_URL", "")


def echo(name: str) -> Request:
    return Request(
        request_id=name,
        actor="agent-001",
        intent="Say hello",
        tool_call=ToolCall(name="echo", params={"text": "héllo"}),
        params={"n": 10**30},
        evidence=["e-1"],
        constraints={"scope": "x"},
    )


@unittest.skipUnless(URL, "GAVEL_URL is not set")
class Served:
    Client: Type[Any]
    halts: str

    def setUp(self: Any) -> None:
        self.client = self.Client(URL)
        self.client.__enter__()
        self.addCleanup(self.client.__exit__, None, None, None)

    def test_allowed(self: Any) -> None:
        receipt = self.client.submit(echo("r1"))
        self.assertEqual((receipt.decision, receipt.status), (Decision.ALLOW, Status.ACCEPTED))
        self.assertEqual((receipt.request_id, receipt.tool_result, receipt.result), ("r1", "héllo", "héllo"))
        self.assertTrue(receipt.is_allowed)
        self.assertRegex(receipt.evidence_hash, "^[0-9a-f]{64}$")

    def test_denied(self: Any) -> None:
        request = Request("r2", "agent-001", "Read", ToolCall("read_file", {"path": "x"}))
        receipt = self.client.submit(request)
        self.assertEqual((receipt.decision, receipt.is_allowed), (Decision.DENY, False))
        self.assertIn("read_file", receipt.error)

    def test_a_batch_is_answered_in_order(self: Any) -> None:
        sums = [
            Request(f"s{n}", "agent-001", "Add", ToolCall("add", {"a": n, "b": n})).to_json() for n in range(20)
        ]
        results = self.client.submit_batch([*sums[:10], {"actor": "nobody"}, *sums[10:]])
        refused = results.pop(10)
        self.assertIsInstance(refused, Refused)
        self.assertEqual((refused.status, refused.message), (400, "Missing field: 'request_id'"))
        self.assertEqual([result.request_id for result in results], [f"s{n}" for n in range(20)])
        self.assertEqual([result.tool_result for result in results], [2 * n for n in range(20)])
        self.assertEqual(self.client.submit_batch([]), [])

    def test_a_batch_that_is_too_long(self: Any) -> None:
        with self.assertRaises(Refused) as raised:
            self.client.submit_batch([echo("r")] * 257)
        self.assertEqual(raised.exception.status, 413)
        self.assertIn("limits.max_batch_requests", raised.exception.message)

    def test_bad_input(self: Any) -> None:
        for body, status, told in (
            ({"actor": "a"}, 400, "Missing field: 'request_id'"),
            ({"request_id": "x" * 2000, "actor": "a", "intent": "i"}, 413, "request_id"),
            ({"request_id": "r", "actor": "a", "intent": "i" * (2 << 20)}, 413, "limits.max_body_bytes"),
        ):
            with self.assertRaises(Refused) as raised:
                self.client.submit(body)
            self.assertEqual(raised.exception.status, status)
            self.assertIn(told, raised.exception.message)
            self.assertTrue(raised.exception.certainly_undone)

    def test_how_it_is(self: Any) -> None:
        self.assertTrue(self.client.health().is_healthy)
        status = self.client.status()
        self.assertEqual((status.kernel_id, status.variant, status.state), ("k", "strict", "IDLE"))
        self.assertIn("echo", status.tools)
        self.assertRegex(status.ledger.root_hash, "^[0-9a-f]{64}$")
        self.assertEqual(status["ledger"]["entries"], status.ledger.entries)
        policy = self.client.policy()
        self.assertEqual((policy.allowed_actors, policy.policy_set), (["*"], status.policy_set))

    def test_evidence(self: Any) -> None:
        receipt = self.client.submit(echo("for the record"))
        evidence: Evidence = self.client.evidence()
        last = {entry.entry_hash: entry for entry in evidence.ledger_entries}[receipt.evidence_hash]
        self.assertEqual((last.request_id, last.tool_name, last.decision), ("for the record", "echo", Decision.ALLOW))
        self.assertEqual(evidence.entry_count, len(evidence.ledger_entries))
        hashes = ["0" * 64, *(entry.entry_hash for entry in evidence.ledger_entries)]
        self.assertEqual([entry.prev_hash for entry in evidence.ledger_entries], hashes[:-1])
        self.assertEqual(evidence["root_hash"], hashes[-1])
        streamed = io.BytesIO()
        self.assertEqual(self.client.evidence_to(streamed), len(streamed.getvalue()))
        self.assertEqual(json.loads(streamed.getvalue())["kernel_id"], "k")

    def test_another_kernel(self: Any) -> None:
        with self.Client(URL, kernel="nobody") as client, self.assertRaises(Refused) as raised:
            client.submit(echo("r"))
        self.assertEqual(raised.exception.status, 404)
        with self.Client(URL + "/nowhere") as client, self.assertRaises(Refused) as raised:
            client.status()
        self.assertEqual(raised.exception.status, 404)

    def test_halt(self: Any) -> None:
        with self.Client(URL, kernel=self.halts) as client:
            self.assertTrue(client.submit(echo("before")).is_allowed)
            halted = client.halt("drill")
            self.assertEqual((halted.kernel_id, halted.reason), (self.halts, "drill"))
            self.assertEqual(client.health().status, "halted")
            with self.assertRaises(Refused) as raised:
                client.submit(echo("after"))
            self.assertTrue(raised.exception.is_halted)
            self.assertIn("drill", raised.exception.message)
            refused = client.submit_batch([echo("after"), echo("after")])
            self.assertTrue(all(isinstance(each, Refused) and each.is_halted for each in refused))
            self.assertEqual(client.evidence().ledger_entries[-1].decision, Decision.HALT)
            with self.assertRaises(Refused):
                client.halt("again")


class TestSync(Served, unittest.TestCase):
    Client = Sync
    halts = "sync"


class TestAsync(Served, unittest.TestCase):
    Client = Async
    halts = "async"


class TestSeeds(unittest.TestCase):
    """Code that was written for KERNELS: only the import is another."""

    @unittest.skipUnless(URL, "GAVEL_URL is not set")
    def test_only_the_import_changes(self) -> None:
        from gavel import Request, ToolCall
        from gavel.sdk import KernelClient

        client = KernelClient(URL)

        request = Request(
            request_id="req-001",
            actor="agent",
            intent="Do something",
            tool_call=ToolCall(name="echo", params={"text": "x"}),
        )

        receipt = client.submit(request)
        self.assertIsInstance(receipt, Receipt)
        self.assertEqual(receipt.tool_result, "x")
        client.close()


if __name__ == "__main__":
    unittest.main()
