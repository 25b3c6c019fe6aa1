"""What the clients make of servers that do not behave."""

from __future__ import annotations

import io
import json
import socket
import unittest
from typing import Any, Type

from gavel import Decision, GavelError, Interrupted, Malformed, Misused, Refused, Request, TimedOut, Unreachable
from gavel.sdk import AsyncKernelClient, KernelClient

from .both import Async, Sync
from .fake import RECEIPT, FakeServer, answer, hang_up, raw

HELLO = Request(request_id="r1", actor="agent-001", intent="Say hello")
#: Tries follow each other at once.
QUICK = {"tries": 3, "backoff": (0.001, 0.001)}


def nobody_listens() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return "http://127.0.0.1:%d" % listener.getsockname()[1]


class Faults:
    Client: Type[Any]

    def fails(self: Any, error: Type[GavelError], server: FakeServer, method: str, *args: Any, **options: Any) -> Any:
        """Call it, which must fail so."""
        with self.Client(server.url, **{**QUICK, **options}) as client, self.assertRaises(error) as raised:
            getattr(client, method)(*args)
        return raised.exception

    def test_nobody_listens(self: Any) -> None:
        with self.Client(nobody_listens(), **QUICK) as client, self.assertRaises(Unreachable) as raised:
            client.submit(HELLO)
        self.assertTrue(raised.exception.certainly_undone)

    def test_a_server_that_never_answers_is_not_waited_for(self: Any) -> None:
        with FakeServer(None) as server:
            why = self.fails(TimedOut, server, "submit", HELLO, timeout=1.0)
            self.assertEqual(len(server.requests), 1, "it may have run: it is not sent again")
        self.assertFalse(why.certainly_undone)
        self.assertIn("within 1 s (timeout)", str(why))

    def test_an_answer_that_trickles_is_not_waited_for(self: Any) -> None:
        with FakeServer(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")) as server:
            self.fails(TimedOut, server, "submit", HELLO, timeout=1.0)

    def test_what_was_turned_away_is_sent_again(self: Any) -> None:
        for status in (429, 503):
            busy = answer(status, {"error": "busy"}, "retry-after: 0")
            with FakeServer(busy, busy, answer(200, RECEIPT)) as server:
                with self.Client(server.url, **QUICK) as client:
                    self.assertTrue(client.submit(HELLO).is_allowed)
                self.assertEqual(len(server.requests), 3)
                self.assertEqual(server.requests[0], server.requests[2])

    def test_there_is_a_last_try(self: Any) -> None:
        with FakeServer(answer(429, {"error": "more than 5 requests per second"}, "retry-after: 0")) as server:
            why = self.fails(Refused, server, "submit", HELLO)
            self.assertEqual(len(server.requests), 3)
        self.assertEqual((why.status, why.message), (429, "more than 5 requests per second"))
        self.assertTrue(why.certainly_undone)

    def test_a_wait_beyond_the_time_out_is_not_begun(self: Any) -> None:
        with FakeServer(answer(429, {"error": "busy"}, "retry-after: 3600")) as server:
            why = self.fails(Refused, server, "submit", HELLO)
            self.assertEqual(len(server.requests), 1)
        self.assertEqual(why.retry_after, 3600)

    def test_what_may_have_run_is_not_sent_again(self: Any) -> None:
        for script, error in [
            (hang_up, Interrupted),
            (answer(503, {"error": "who knows"}), Refused),
            (answer(500, {"error": "the tool may have run"}), Refused),
            (answer(503, b"<html>", "retry-after: 0"), Malformed),
        ]:
            for method, args in [("submit", [HELLO]), ("submit_batch", [[HELLO]]), ("halt", ["why"])]:
                with FakeServer(script) as server:
                    why = self.fails(error, server, method, *args)
                    self.assertEqual(len(server.requests), 1, (error, method))
                self.assertFalse(why.certainly_undone)

    def test_what_only_reads_is_sent_again(self: Any) -> None:
        for script in (hang_up, answer(503, {"error": "busy"}), answer(502, b"<html>")):
            with FakeServer(script) as server:
                self.fails(GavelError, server, "status")
                self.assertEqual(len(server.requests), 3)

    def test_a_halted_kernel(self: Any) -> None:
        halted = answer(409, {"error": "kernel 'k' is halted: drill", "kernel_state": "HALTED"})
        with FakeServer(halted) as server:
            why = self.fails(Refused, server, "submit", HELLO)
            self.assertEqual(len(server.requests), 1)
        self.assertTrue(why.is_halted and why.certainly_undone)
        with FakeServer(answer(503, {"status": "halted", "kernel_state": "HALTED"})) as server:
            with self.Client(server.url) as client:
                health = client.health()
        self.assertEqual((health.status, health.is_healthy), ("halted", False))

    def test_answers_of_somebody_else(self: Any) -> None:
        cut = {name: value for name, value in RECEIPT.items() if name != "decision"}
        wrong = {**RECEIPT, "decision": 5}
        for body in (b"", b"hello", b"[1]", b"\xff", b"[" * 100_000, json.dumps(cut).encode(), json.dumps(wrong).encode()):
            with FakeServer(answer(200, body)) as server:
                why = self.fails(Malformed, server, "submit", HELLO)
                self.assertEqual(why.status, 200, body[:20])
        with FakeServer(answer(404, b"<html>not here</html>")) as server:
            why = self.fails(Malformed, server, "submit", HELLO)
            self.assertIn("<html>not here", str(why))
        for body in ({"results": []}, {"results": [{}]}, {"results": [5]}, {}):
            with FakeServer(answer(200, body)) as server:
                self.fails(Malformed, server, "submit_batch", [HELLO])

    def test_what_is_no_http(self: Any) -> None:
        for data in (
            b"SSH-2.0-OpenSSH\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloworld",
            b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000,
        ):
            with FakeServer(raw(data)) as server:
                self.fails(Malformed, server, "submit", HELLO)

    def test_what_a_newer_server_adds_is_let_by(self: Any) -> None:
        newer = {**RECEIPT, "decision": "DEFER", "trace": {"x": [1]}}
        with FakeServer(answer(200, newer)) as server, self.Client(server.url) as client:
            receipt = client.submit(HELLO)
        self.assertEqual((receipt.decision, receipt.raw["trace"]), ("DEFER", {"x": [1]}))
        self.assertFalse(receipt.is_allowed, "what is not understood is no permission")

    def test_an_answer_that_breaks_off(self: Any) -> None:
        for begun in (
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        ):
            with FakeServer(raw(begun), close_after_each=True) as server:
                self.fails(Interrupted, server, "evidence_to", io.BytesIO(), tries=1)

    def test_answers_come_in_all_forms(self: Any) -> None:
        body = json.dumps(RECEIPT).encode()
        chunks = b"%x;x=y\r\n%s\r\n%x\r\n%s\r\n0\r\ntrailer: x\r\n\r\n" % (5, body[:5], len(body) - 5, body[5:])
        for data in (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks,
            b"HTTP/1.0 200 OK\r\n\r\n" + body,
        ):
            with FakeServer(raw(data), close_after_each=True) as server, self.Client(server.url) as client:
                self.assertEqual(client.submit(HELLO).decision, Decision.ALLOW)

    def test_an_answer_that_is_too_long(self: Any) -> None:
        with FakeServer(answer(200, b"x" * 200_000)) as server:
            why = self.fails(Malformed, server, "status", answer_bytes_max=1000)
        self.assertIn("more than 1000 bytes (answer_bytes_max)", str(why))

    def test_a_refusal_before_the_body_was_read_is_told(self: Any) -> None:
        refused = answer(413, {"error": "the body is larger than 1000 bytes (limits.max_body_bytes)"})
        large = Request(request_id="r1", actor="a", intent="x" * (8 << 20))
        with FakeServer(refused, close_after_each=True, read_bodies=False) as server:
            # What the system had not yet delivered may be lost with the connection.
            why = self.fails(GavelError, server, "submit", large)
        self.assertIsInstance(why, (Refused, Interrupted))

    def test_a_connection_is_used_again(self: Any) -> None:
        with FakeServer(answer(200, RECEIPT)) as server, self.Client(server.url) as client:
            for _ in range(3):
                client.submit(HELLO)
            self.assertEqual((server.connections, len(server.requests)), (1, 3))

    def test_a_connection_that_was_closed_meanwhile_is_not_used(self: Any) -> None:
        with FakeServer(answer(200, RECEIPT), close_after_each=True) as server, self.Client(server.url) as client:
            for _ in range(3):
                client.submit(HELLO)
                server.wait_until_closed()
            self.assertEqual((server.connections, len(server.requests)), (3, 3))

    def test_a_key_and_a_kernel_are_sent(self: Any) -> None:
        with FakeServer(answer(200, RECEIPT)) as server:
            with self.Client(server.url + "/governance/", key="s3cret", kernel="prod-001") as client:
                client.submit(HELLO)
            head, _, body = server.requests[0].partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"POST /governance/kernels/prod-001/submit HTTP/1.1\r\n"), head)
        self.assertIn(b"\r\nAuthorization: Bearer s3cret\r\n", head)
        self.assertEqual(json.loads(body), {"request_id": "r1", "actor": "agent-001", "intent": "Say hello"})

    def test_what_cannot_be_used_is_told_before_anything_is_sent(self: Any) -> None:
        for url in ("", "localhost:8080", "ftp://a", "http://", "http://a/?x=1", "http://k@a/", "http://a:b/", "http://a/ b"):
            with self.assertRaises(Misused, msg=url):
                self.Client(url)
        for options in ({"kernel": "../x"}, {"kernel": ""}, {"key": "a\r\nX-Evil: 1"}):
            with self.assertRaises(Misused, msg=options):
                self.Client("http://a", **options)
        with FakeServer(answer(200, RECEIPT)) as server, self.Client(server.url) as client:
            for value in (float("nan"), object(), "\ud800"):
                with self.assertRaises(Misused):
                    client.submit({"request_id": value})
            self.assertEqual(server.requests, [])

    def test_a_closed_client_says_so(self: Any) -> None:
        with FakeServer(answer(200, RECEIPT)) as server:
            client = self.Client(server.url)
            with client as opened:
                opened.submit(HELLO)
            if self.Client is Sync:
                with self.assertRaises(Misused):
                    client.submit(HELLO)


class TestSync(Faults, unittest.TestCase):
    Client = Sync


class TestAsync(Faults, unittest.TestCase):
    Client = Async

    def test_many_calls_at_once(self) -> None:
        import asyncio

        async def many(url: str) -> None:
            async with AsyncKernelClient(url) as client:
                receipts = await asyncio.gather(*(client.submit(HELLO) for _ in range(20)))
            self.assertTrue(all(receipt.is_allowed for receipt in receipts))

        with FakeServer(answer(200, RECEIPT)) as server:
            asyncio.run(many(server.url))
            self.assertEqual(len(server.requests), 20)

    def test_a_cancelled_call_leaves_a_client_that_works(self) -> None:
        import asyncio

        async def cancelled(url: str) -> None:
            async with AsyncKernelClient(url) as client:
                waiting = asyncio.ensure_future(client.submit(HELLO))
                while not server.requests:
                    await asyncio.sleep(0)
                waiting.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await waiting
                self.assertTrue((await client.submit(HELLO)).is_allowed)

        with FakeServer(None, answer(200, RECEIPT)) as server:
            asyncio.run(cancelled(server.url))
            self.assertEqual(server.connections, 2)

    def test_another_event_loop_has_connections_of_its_own(self) -> None:
        import asyncio

        with FakeServer(answer(200, RECEIPT)) as server:
            client = AsyncKernelClient(server.url)
            for _ in range(2):
                self.assertTrue(asyncio.run(client.submit(HELLO)).is_allowed)
            self.assertEqual(server.connections, 2)


class TestThreads(unittest.TestCase):
    def test_threads_share_a_client(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        with FakeServer(answer(200, RECEIPT)) as server, KernelClient(server.url) as client:
            with ThreadPoolExecutor(8) as threads:
                receipts = list(threads.map(lambda _: client.submit(HELLO), range(100)))
            self.assertTrue(all(receipt.is_allowed for receipt in receipts))
            self.assertEqual(len(server.requests), 100)


if __name__ == "__main__":
    unittest.main()
