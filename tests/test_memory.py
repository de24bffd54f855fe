"""Memory that is free again."""

import subprocess
import sys

PROGRAM = """
import os
from gateway.memory import Memory

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

memory = Memory()
memory.look()
before = rss()
held = [os.urandom(60_000) for _ in range(2_000)]
pin = os.urandom(60_000)
peak = rss()
memory.look()
del held
kept = rss()
print(memory.look(), memory.look(), peak - before > 100e6, kept - before > 100e6, rss() - before < 20e6)
"""


def test_what_lies_free_below_something_in_use_is_given_back_once() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout.split() == ["True", "False", "True", "True", "True"], ran.stderr
