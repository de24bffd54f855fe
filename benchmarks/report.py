"""Figures of several rounds: printed as median and min..max, kept for `--json`."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Protocol

Figures = dict[str, float]
"""What one round of one load gave, by name; the unit stands in the name."""

CPU = "server CPU, µs"


class Recorder(Protocol):
    """Takes what a benchmark has measured."""

    def add(self, title: str, measured: Mapping[str, Sequence[Figures]], *, ratios: bool = True) -> None:
        """Take the figures of each round, by subject."""


class Report:
    """Everything measured in one run; `there` names the other checkout, if there is one."""

    def __init__(self, database: str, rounds: int, there: str | None = None) -> None:
        self._about = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
            "versions": {name: version(name) for name in ("fastapi", "sqlalchemy", "uvicorn", "websockets")},
            "database": database,
            "rounds": rounds,
        }
        self._results: list[dict[str, Any]] = []
        print(f"{self._about['machine']}; Python {self._about['python']}; {database}; {rounds} rounds")
        if there is not None:
            self._about["there"] = there
            print(f"there: {there}; here: this checkout")

    def add(self, title: str, measured: Mapping[str, Sequence[Figures]], *, ratios: bool = True) -> None:
        """Print what was measured, by subject, and how much CPU each later one took of the first's."""
        print(f"\n{title}")
        result: dict[str, Any] = {"title": title, "figures": {}, "ratios": {}}
        for subject, rounds in measured.items():
            names = dict.fromkeys(name for figures in rounds for name in figures)
            spreads = {name: _spread([figures[name] for figures in rounds]) for name in names}
            result["figures"][subject] = spreads
            for name, spread in spreads.items():
                _print(subject, name, spread)
        first, *others = measured
        for other in others if ratios else ():
            pairs = zip(measured[other], measured[first], strict=True)
            spread = _spread([a[CPU] / b[CPU] for a, b in pairs if b[CPU]])
            result["ratios"][f"{other} / {first}"] = spread
            _print(f"{other} / {first}", "times the CPU", spread)
        self._results.append(result)

    def compare(
        self, title: str, there: Mapping[str, Sequence[Figures]], here: Mapping[str, Sequence[Figures]]
    ) -> None:
        """Print the figures of another checkout and of this one, and their ratio within each round."""
        print(f"\n{title}\n  {'':<63} {'there':>9} {'here':>9} {'ratio':>9}")
        result: dict[str, Any] = {"title": title, "compared": {}}
        for subject, rounds in there.items():
            for name in rounds[0]:
                pairs = [(one[name], two[name]) for one, two in zip(rounds, here[subject], strict=True)]
                compared = {"there": _spread([a for a, _ in pairs]), "here": _spread([b for _, b in pairs])}
                ratios = [b / a for a, b in pairs if a]
                if ratios:
                    compared["ratio"] = _spread(ratios)
                result["compared"].setdefault(subject, {})[name] = compared
                _print_compared(subject, name, compared)
        self._results.append(result)

    def write(self, file: Path) -> None:
        """Write everything added so far as JSON."""
        file.write_text(json.dumps({**self._about, "results": self._results}, indent=2, ensure_ascii=False))


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median": median(values), "min": min(values), "max": max(values), "rounds": list(values)}


def _print(subject: str, name: str, spread: Mapping[str, float]) -> None:
    low, middle, high = (_number(spread[key]) for key in ("min", "median", "max"))
    print(f"  {subject:<28} {name:<34} {middle:>9}  ({low} .. {high})", flush=True)


def _print_compared(subject: str, name: str, compared: Mapping[str, Mapping[str, float]]) -> None:
    columns = " ".join(f"{_number(compared[side]['median']):>9}" for side in ("there", "here"))
    if ratio := compared.get("ratio"):
        columns += f" {ratio['median']:>9.2f}  ({ratio['min']:.2f} .. {ratio['max']:.2f})"
    print(f"  {subject:<28} {name:<34} {columns}", flush=True)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
