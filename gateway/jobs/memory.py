"""Memory that is free again, given back to the system.

The allocator of glibc keeps what lies below something that is still in use, so a process stays as large as it
ever was. Elsewhere nothing is done.
"""

import asyncio
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

LOOK = 10.0
"""How often it is looked how large the process is, in seconds."""

WORTH = 16 * 1024 * 1024
"""By how many bytes the process, or what is free in it, must have changed since it was done last."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")

_INFO = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


class _Info(ctypes.Structure):
    """What `mallinfo2` returns: see mallinfo(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in _INFO]


class Memory:
    """Gives free memory back now and then, beside the event loop."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._trim: Callable[[int], int] | None = getattr(libc, "malloc_trim", None)
        self._read: Callable[[], _Info] | None = getattr(libc, "mallinfo2", None)
        if self._read is not None:
            self._read.restype = _Info
        self._resident_bytes = self._free_bytes = 0

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            await asyncio.to_thread(self.look)

    def look(self) -> bool:
        """Give back what is free where that may be worth it, and return whether it was tried."""
        if self._trim is None or self._read is None:
            return False
        # What was given back counts as free, too, and what has become free as resident: neither tells alone.
        free_bytes = int(self._read().fordblks)
        has_changed = abs(_resident_bytes() - self._resident_bytes) >= WORTH
        if not has_changed and free_bytes - self._free_bytes < WORTH:
            self._free_bytes = min(free_bytes, self._free_bytes)
            return False
        self._trim(0)
        self._resident_bytes, self._free_bytes = _resident_bytes(), free_bytes
        return True


def _resident_bytes() -> int:
    """Return how much of the process is in memory: the second field of statm (proc_pid_statm(5))."""
    return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
