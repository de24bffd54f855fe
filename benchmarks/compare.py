"""Two checkouts of the project in turn: this one, and a commit in a git worktree with its own environment.

The client, the loads and the tutorial style are those of this checkout on both sides.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from benchmarks.report import Figures, Report
from benchmarks.rounds import Plan
from benchmarks.subjects import PYTHON

_ROOT = Path(__file__).parent.parent

Benchmark = Callable[[Plan], Awaitable[None]]
Measured = dict[str, Mapping[str, Sequence[Figures]]]
"""What one round of a benchmark has measured, by title and subject."""


class CompareError(Exception):
    """The other checkout cannot be made; the text says why, in one line."""


class _Round:
    """The record of one round, which prints nothing."""

    def __init__(self) -> None:
        self.measured: Measured = {}

    def add(self, title: str, measured: Mapping[str, Sequence[Figures]], *, ratios: bool = True) -> None:  # noqa: ARG002 - the protocol's
        """Keep the figures."""
        self.measured[title] = measured


async def compare(plan: Plan, report: Report, benchmark: Benchmark, python: Path) -> None:
    """Run a benchmark on both checkouts, A B A B, and report the ratio of each figure.

    Each round has new servers and a warm-up of its own. `python` is the interpreter of the other checkout.
    """
    one_round = replace(plan, rounds=1, profiles=None)
    rounds = [
        (await _run(benchmark, one_round, python), await _run(benchmark, one_round, Path(sys.executable)))
        for _ in range(plan.rounds)
    ]
    for title, subjects in rounds[0][0].items():
        there, here = (
            {subject: [one[side][title][subject][0] for one in rounds] for subject in subjects}
            for side in (0, 1)
        )
        report.compare(title, there, here)


async def _run(benchmark: Benchmark, plan: Plan, python: Path) -> Measured:
    """Run a benchmark with the gateway of this interpreter's environment."""
    kept = _Round()
    token = PYTHON.set(str(python))
    try:
        await benchmark(replace(plan, report=kept))
    finally:
        PYTHON.reset(token)
    return kept.measured


@contextmanager
def checkout(ref: str, project: Path = _ROOT) -> Iterator[Path]:
    """Check a commit of the project out into a temporary folder; yield the interpreter of its environment.

    Raises `CompareError`.
    """
    commit = _commit(ref, project)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        worktree = Path(folder, "checkout")
        try:
            _call(project, "git", "worktree", "add", "--quiet", "--detach", str(worktree), commit)
            _sync(worktree)
            yield worktree / ".venv" / "bin" / "python"
        finally:
            with suppress(CompareError):
                _call(project, "git", "worktree", "remove", "--force", str(worktree))


def _commit(ref: str, project: Path) -> str:
    _call(project, "git", "rev-parse", "--git-dir")
    try:
        return _call(project, "git", "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
    except CompareError:
        raise CompareError(f"this repository has no commit {ref!r}") from None


def _sync(worktree: Path) -> None:
    """Make the environment of the worktree, with this Python and without the dev group."""
    options = ["--quiet", "--no-dev", "--all-extras", "--python", sys.executable]
    _call(worktree, "uv", "sync", *options)


def _call(folder: Path, tool: str, *arguments: str) -> str:
    """Run git or uv in a folder, and return its output. Raises `CompareError` with one line."""
    if shutil.which(tool) is None:
        raise CompareError(f"{tool} is not installed")
    # `uv run` names the environment of this checkout.
    ours = {"VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT"}
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    done = subprocess.run(
        [tool, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        complaint = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise CompareError(f"{tool} {arguments[0]}: {complaint}")
    return done.stdout.strip()
