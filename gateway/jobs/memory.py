"""Free memory: a job that returns it to the operating system.

The allocator of glibc keeps free memory that lies below memory in use, so a process would stay at its maximum
size. With other C libraries the job does nothing.
"""

import asyncio
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

CHECK_SECONDS = 10.0
"""How often the size of the process is checked."""

MIN_CHANGE_BYTES = 16 * 1024 * 1024
"""Minimum change of the process's size, or growth of its free memory, since memory was last returned."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")

_MALLOC_FIELDS = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


class _MallocInfo(ctypes.Structure):
    """The result of `mallinfo2`, see mallinfo(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in _MALLOC_FIELDS]


class Memory:
    """Returns free memory to the system periodically, in a thread."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._trim: Callable[[int], int] | None = getattr(libc, "malloc_trim", None)
        self._read: Callable[[], _MallocInfo] | None = getattr(libc, "mallinfo2", None)
        if self._read is not None:
            self._read.restype = _MallocInfo
        self._resident_bytes = self._free_bytes = 0

    async def run(self) -> None:
        """Check periodically, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await asyncio.to_thread(self.look)

    def look(self) -> bool:
        """Return free memory to the system if enough has changed. Return whether that was attempted."""
        if self._trim is None or self._read is None:
            return False
        # Check both sizes: returned memory still counts as free, and newly freed memory still as resident.
        free_bytes = int(self._read().fordblks)
        has_changed = abs(_resident_bytes() - self._resident_bytes) >= MIN_CHANGE_BYTES
        if not has_changed and free_bytes - self._free_bytes < MIN_CHANGE_BYTES:
            self._free_bytes = min(free_bytes, self._free_bytes)
            return False
        self._trim(0)
        self._resident_bytes, self._free_bytes = _resident_bytes(), free_bytes
        return True


def _resident_bytes() -> int:
    """Return the resident size of the process in bytes: the second field of statm (proc_pid_statm(5))."""
    return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
