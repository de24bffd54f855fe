"""`--compare`: a benchmark runs on two checkouts in turn. No run leaves anything behind."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.compare import CompareError, checkout
from benchmarks.report import CPU, Report
from benchmarks.rounds import Plan
from benchmarks.subjects import PYTHON
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
PROJECT = '[project]\nname = "compared"\nversion = "{}"\nrequires-python = ">=3.11"\n'


async def test_a_benchmark_alternates_between_both_checkouts_with_a_ratio_per_round(
    tmp_path: Path,
) -> None:
    ran: list[str] = []

    async def benchmark(plan: Plan) -> None:
        ran.append(PYTHON.get())
        cost = 100 if PYTHON.get() == "there" else 20 * len(ran)
        plan.report.add("Title", {"gateway": [{CPU: cost}] * plan.rounds})

    report, file = Report("SQLite", 2), tmp_path / "figures.json"
    plan = Plan(report, 2, 1, None, None, None)
    await compare.compare(plan, report, benchmark, Path("there"))
    report.write(file)
    assert ran == ["there", sys.executable, "there", sys.executable]
    (result,) = json.loads(file.read_text())["results"]
    assert result["compared"]["gateway"][CPU]["ratio"]["rounds"] == [0.4, 0.8]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two commits."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for version in (1, 2):
        (folder / "pyproject.toml").write_text(PROJECT.format(version))
        git(folder, "add", ".")
        git(folder, "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-qm", str(version))
    return folder


def git(folder: Path, *arguments: str) -> str:
    """Run git there, and return its output."""
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_other_checkout_has_its_own_environment_and_is_removed_afterwards(
    repository: Path,
) -> None:
    with checkout("HEAD~1", repository) as python:
        worktree = python.parents[2]
        assert (worktree / "pyproject.toml").read_text() == PROJECT.format(1)
        prefix = subprocess.run(
            [python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
        )
        assert prefix.stdout.strip() == str(worktree / ".venv")
    assert not worktree.parent.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_commit_with_a_broken_environment_gives_one_line_and_is_removed(repository: Path) -> None:
    (repository / "pyproject.toml").write_text(PROJECT.format(3) + "dependencies = 1\n")
    git(repository, "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-qam", "broken")
    with pytest.raises(CompareError) as raised, checkout("HEAD", repository):
        pass
    assert len(str(raised.value).splitlines()) == 1
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_an_unknown_commit_gives_a_one_line_error(repository: Path) -> None:
    with pytest.raises(CompareError) as raised, checkout("nonsense", repository):
        pass
    assert str(raised.value) == "this repository has no commit 'nonsense'"


def test_a_folder_without_git_gives_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(CompareError) as raised, checkout("HEAD", tmp_path):
        pass
    assert str(raised.value).startswith("git rev-parse: fatal: not a git repository")


def test_a_machine_without_git_gives_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CompareError) as raised, checkout("HEAD", tmp_path):
        pass
    assert str(raised.value) == "git is not installed"


def files_in(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the files of a folder."""
    return list(folder.glob(pattern))


async def test_a_terminated_run_stops_its_servers_and_leaves_no_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "handshake", "--rounds", "1", "--scale", "0.1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    running = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment)
    try:
        await until(lambda: files_in(tmp_path, "*/server.log"), "a server starts", within=60)
        running.terminate()
        assert await asyncio.wait_for(running.wait(), 60) == 130
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    assert files_in(tmp_path) == []
