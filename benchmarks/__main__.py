"""`python -m benchmarks NAME …`: measure, and print."""

import argparse
import asyncio
import gc
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import uvloop

from benchmarks.compare import CompareError, checkout, compare
from benchmarks.encodings import encodings
from benchmarks.inbox import inbox
from benchmarks.logins import login_flood
from benchmarks.posting import bulk, fan_out, post
from benchmarks.process import LOAD_CORE, SERVER_CORE, prepare
from benchmarks.report import Report
from benchmarks.rounds import Plan
from benchmarks.slow import slow
from benchmarks.sockets import handshake, idle
from benchmarks.workers import workers

BENCHMARKS = {
    "post": post,
    "fan-out": fan_out,
    "bulk": bulk,
    "encodings": encodings,
    "handshake": handshake,
    "inbox": inbox,
    "slow": slow,
    "idle": idle,
    "login-flood": login_flood,
    "workers": workers,
}

GATE = "gate: Instructions and calls of one operation: fails if they grow by over a tenth; see `gate --help`."


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure what the gateway costs."
    )
    names = "\n".join(f"{name}: {run.__doc__}" for name, run in BENCHMARKS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"{names}\n{GATE}"
    parser.add_argument("names", nargs="+", choices=[*BENCHMARKS, "all"], metavar="NAME", help="or: all")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of each load (5)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the size of every load (1)")
    parser.add_argument(
        "--database", help="postgresql://… of a server where databases may be made; else SQLite"
    )
    parser.add_argument("--redis", help="redis://… of a server that may carry hints, for `workers`")
    parser.add_argument("--compare", metavar="REF", help="measure this commit in turn with this checkout")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON too")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="a profile of each load; needs py-spy")
    arguments = parser.parse_args()
    if arguments.compare is not None and arguments.profile is not None:
        parser.error("--profile is for one checkout: leave --compare out")
    return arguments


async def _run(arguments: argparse.Namespace, other: Path | None) -> None:
    kind = "SQLite" if arguments.database is None else "Postgres"
    report = Report(kind, arguments.rounds, arguments.compare)
    plan = Plan(
        report=report,
        rounds=arguments.rounds,
        scale=arguments.scale,
        database=arguments.database,
        redis=arguments.redis,
        profiles=arguments.profile,
    )
    if SERVER_CORE == LOAD_CORE:
        print("There is one core only: the load disturbs the server, and latencies mean little.")
    if plan.profiles is not None:
        plan.profiles.mkdir(parents=True, exist_ok=True)
    for name, run in BENCHMARKS.items():
        if name in arguments.names or "all" in arguments.names:
            await (run(plan) if other is None else compare(plan, report, run, other))
            if arguments.json is not None:
                report.write(arguments.json)


def main() -> None:
    """Run what the command line names."""
    if sys.argv[1:2] == ["gate"]:
        # It loads the gateway itself, which the other benchmarks run in a process of its own.
        from benchmarks import gate

        sys.exit(gate.main(sys.argv[2:]))
    arguments = _arguments()
    # SIGTERM ends a run like Ctrl-C: the servers stop, and the databases and the other checkout are removed.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with nullcontext() if arguments.compare is None else checkout(arguments.compare) as other:
            _measure(arguments, other)
    except CompareError as error:
        sys.exit(f"--compare: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _measure(arguments: argparse.Namespace, other: Path | None) -> None:
    prepare()
    # The garbage of a load is small and the pauses of its collection would be measured.
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(arguments, other))


if __name__ == "__main__":
    main()
