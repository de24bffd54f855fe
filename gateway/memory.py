"""Memory that is free again, given back to the system.

The allocator of glibc keeps what lies below something that is still in use, so a process stays as large as it
ever was. Elsewhere nothing is done.
"""

import asyncio
import ctypes
from collections.abc import Callable

LOOK = 10.0
"""How often it is looked how much is free, in seconds."""

WORTH = 16 * 1024 * 1024
"""How many bytes must have become free since it was done last."""


class _Info(ctypes.Structure):
    """What `mallinfo2` returns: see mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


class Memory:
    """Gives free memory back now and then, beside the event loop."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._read: Callable[[], _Info] | None = getattr(libc, "mallinfo2", None)
        self._trim: Callable[[int], int] | None = getattr(libc, "malloc_trim", None)
        if self._read is not None:
            self._read.restype = _Info
        self._free_bytes = 0

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            await asyncio.to_thread(self.look)

    def look(self) -> bool:
        """Give back what is free where that is worth it, and return whether it was."""
        if self._read is None or self._trim is None:
            return False
        # Bytes that were given back count as free, too.
        free_bytes = int(self._read().fordblks)
        is_worth_it = free_bytes - self._free_bytes >= WORTH
        if is_worth_it:
            self._trim(0)
        self._free_bytes = free_bytes if is_worth_it else min(free_bytes, self._free_bytes)
        return is_worth_it
