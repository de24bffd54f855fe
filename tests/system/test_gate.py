"""The gate of `benchmarks`: it counts real operations, and fails when one of them exceeds its budget."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gate
from benchmarks.gate import Budget

ROOT = Path(__file__).parents[2]

MEASURED: Budget = {
    "post": {"instructions": 9_000, "c_calls": 300},
    "page": {"instructions": 40_000, "c_calls": 1_800},
}


def judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path, budget: Budget
) -> tuple[int, list[str], list[str]]:
    """Compare `MEASURED` with a budget; return the exit code, the complaints and the hints."""
    gate.write(file, {gate.python(): budget})
    monkeypatch.setattr(gate, "measure", lambda: MEASURED)
    code = gate.main(["--file", str(file)])
    printed = capsys.readouterr()
    return code, printed.err.splitlines(), [line for line in printed.out.splitlines() if "budget" in line]


def changed(**instructions: int) -> Budget:
    """Return what was measured, with other instructions of some operations."""
    return {
        name: {**counts, "instructions": instructions.get(name, counts["instructions"])}
        for name, counts in MEASURED.items()
    }


@pytest.mark.parametrize("post", [9_000, 8_182, 9_999])
def test_the_gate_passes_counts_within_a_tenth_of_the_budget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, post: int
) -> None:
    assert judged(monkeypatch, capsys, tmp_path / "budget.toml", changed(post=post)) == (0, [], [])


def test_the_gate_fails_with_a_line_for_each_count_over_budget_by_a_tenth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, complaints, _ = judged(monkeypatch, capsys, tmp_path / "budget.toml", changed(post=8_000))
    assert (code, complaints) == (1, ["over budget: post: 9,000 instructions, budget 8,000 (+12.5%)"])


def test_the_gate_fails_if_the_budget_lacks_an_operation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, complaints, _ = judged(monkeypatch, capsys, tmp_path / "budget.toml", {"post": MEASURED["post"]})
    assert (code, complaints) == (1, ["no budget: page: instructions", "no budget: page: c_calls"])


def test_the_gate_passes_lower_counts_and_asks_for_a_new_budget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, complaints, hints = judged(monkeypatch, capsys, tmp_path / "budget.toml", changed(page=80_000))
    assert (code, complaints) == (0, [])
    assert hints == [
        "under budget: page: 40,000 instructions, budget 80,000 (-50.0%). Lower the budget with --write."
    ]


def test_the_gate_fails_without_a_budget_for_this_python(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "budget.toml"
    gate.write(file, {"3.0": MEASURED})
    assert gate.main(["--file", str(file)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_new_budget_keeps_the_budgets_of_other_python_versions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "budget.toml"
    gate.write(file, {"3.100": changed(post=1), gate.python(): changed(post=2)})
    monkeypatch.setattr(gate, "measure", lambda: MEASURED)
    assert gate.main(["--file", str(file), "--write"]) == 0
    assert gate.read(file) == {"3.100": changed(post=1), gate.python(): MEASURED}


def test_the_gate_counts_the_operations_of_a_real_gateway(tmp_path: Path) -> None:
    file = tmp_path / "budget.toml"
    command = [sys.executable, "-m", "benchmarks", "gate", "--file", str(file), "--write"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    counted = gate.read(file)[gate.python()]
    # A gateway that was not counted, or only in part, would have far fewer.
    assert min(counts["instructions"] for counts in counted.values()) > 1_000
    assert counted["post"]["instructions"] < counted["page"]["instructions"]
    assert {"post", "handshake, known token", "handshake, new token", "page"} <= counted.keys()
