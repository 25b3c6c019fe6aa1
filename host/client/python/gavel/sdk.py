"""The two clients: ``KernelClient`` for plain code, ``AsyncKernelClient`` for asyncio."""

from ._async import AsyncKernelClient
from ._sync import KernelClient

__all__ = ["AsyncKernelClient", "KernelClient"]
