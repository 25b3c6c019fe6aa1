"""The two clients under one face, so that every test is run with each."""

from __future__ import annotations

import asyncio
from typing import Any

from gavel.sdk import AsyncKernelClient, KernelClient


class Sync:
    """``KernelClient`` as it is."""

    def __init__(self, url: str, **options: Any) -> None:
        self.client = KernelClient(url, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def __enter__(self) -> Any:
        return self.client.__enter__()

    def __exit__(self, *why: Any) -> None:
        self.client.__exit__(*why)


class Async:
    """``AsyncKernelClient``, each call awaited in a loop of its own for the client."""

    def __init__(self, url: str, **options: Any) -> None:
        self.client = AsyncKernelClient(url, **options)
        self.loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return lambda *args: self.loop.run_until_complete(method(*args))

    def __enter__(self) -> Any:
        self.loop.run_until_complete(self.client.__aenter__())
        return self

    def __exit__(self, *why: Any) -> None:
        self.loop.run_until_complete(self.client.__aexit__(*why))
        self.loop.close()
