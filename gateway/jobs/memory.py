"""Free memory: the allocator's settings, and a job that returns free memory to the operating system.

The allocator of glibc keeps free memory that lies below memory in use, so a process would stay at its maximum
size. With other C libraries both do nothing.
"""

import asyncio
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from gateway.protocol.items import free_contents

CHECK_SECONDS = 10.0
"""How often the size of the process is checked."""

MIN_CHANGE_BYTES = 4 * 1024 * 1024
"""Minimum change of the process's size, or growth of its free memory, since memory was last returned."""

MAPPED_BYTES = 128 * 1024
"""Minimum size of a block that gets pages of its own, which go back to the system when it is freed.

This is glibc's initial value. Unless it is set, glibc raises it to the largest block that was ever freed, and
the blocks of a flood then leave a heap full of holes.
"""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")

# malloc.h
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_MALLOC_FIELDS = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


class _MallocInfo(ctypes.Structure):
    """The result of `mallinfo2`, see mallinfo(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in _MALLOC_FIELDS]


def limit_holes() -> None:
    """Let the allocator keep less free memory. Call this before the process starts threads.

    The threads share one heap: they rarely allocate at the same time, because of the interpreter's lock.
    """
    if (set_option := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        set_option(_M_MMAP_THRESHOLD, MAPPED_BYTES)
        set_option(_M_ARENA_MAX, 1)


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
            free_contents()
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
