"""The command line: ``poc-bench run | contention | report | compare | list``."""

from __future__ import annotations

import argparse
import signal
import threading
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.console import Console
from rich.table import Table

from async_scheduler.errors import AsyncSchedulerError
from poc_bench import record, secrets_workload
from poc_bench.arms import ARMS, arm
from poc_bench.bench import Bench
from poc_bench.contention import command as contention
from poc_bench.database import open_server
from poc_bench.errors import BenchError, UsageError
from poc_bench.examples import epilog
from poc_bench.matrix import Matrix
from poc_bench.numbers import numbers, require
from poc_bench.presets import FULL, QUICK, Preset
from poc_bench.profiler import py_spy
from poc_bench.progress import Progress
from poc_bench.report import markdown, page
from poc_bench.report.comparison import Change, changes
from poc_bench.report.drawing import number
from poc_bench.report.names import full_name
from poc_bench.run import Run
from poc_bench.site import Executor
from poc_bench.tuning import Tuned
from poc_bench.workloads import WORKLOADS, sized_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from poc_bench.statistics import Spread

INTERRUPTED = 130
COMMANDS = {
    "run": "measure a matrix of workloads and arms",
    "report": "make the page of one or several runs again",
    "compare": "tell what changed between two runs; exit code 1: got worse",
    "contention": "measure what concurrency buys and what it costs",
    "list": "describe workloads and arms",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code.

    0: all is well; 1: a cell failed, was wrong or got worse; 2: it cannot be done; 130: Ctrl-C or SIGTERM.
    """
    options = _parser().parse_args(arguments)
    console = Console(highlight=False)
    try:
        with _terminated_like_interrupted():
            code: int = options.command(options, console)
    except (BenchError, AsyncSchedulerError) as error:
        Console(stderr=True).print(f"poc-bench: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: what is done is kept, no process of a cell stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(options: argparse.Namespace, console: Console) -> int:
    require("--repeat", options.repeat, 1)
    require("--timeout", options.timeout, 1)
    if options.workload == secrets_workload.NAME:
        file = options.out and options.out / "secrets.json"
        return secrets_workload.run(options.repeat or 1, file, console)
    matrix = _matrix(options)
    tuned = _tuned(options.tuned_from) if options.tuned_from else []
    folder = options.out or Path("bench-results", datetime.now(UTC).strftime("%Y%m%d-%H%M%S"))
    server = open_server(options.db)
    try:
        with Bench(server, folder, options.timeout) as bench, Progress(console, len(matrix)) as progress:
            run = Run(matrix, bench, folder, progress, tuned)
            run.measure_all()
    finally:
        server.close()
    _write_report([folder], folder, console)
    if run.record.interrupted:
        return INTERRUPTED
    return 0 if all(cell.correct for cell in run.record.cells) else 1


def _matrix(options: argparse.Namespace) -> Matrix:
    preset: Preset = FULL if options.full else QUICK
    named = bool(options.workload)
    sizes = "defaults" if named and not (options.full or options.quick) else preset.sizes
    if options.db == "sqlite" and options.rtt not in (None, "0"):
        raise UsageError("--rtt has no meaning for SQLite: there is no network in between")
    if options.profile:
        py_spy()
    return Matrix(
        workloads=sized_list(options.workload or preset.workloads, options.size, sizes),
        arms=[arm(name) for name in (options.arm or preset.arms).split(",")],
        rtts=numbers("--rtt", options.rtt or (preset.rtts if options.full else "0")),
        schedulers=[int(number) for number in numbers("--schedulers", options.schedulers, least=1)],
        repeats=options.repeat or (preset.repeats if options.full else 1),
        seed=options.seed,
        executor=options.executor,
        profile=options.profile,
    )


def _tuned(folder: Path) -> list[Tuned]:
    return [Tuned(**found) for found in record.read(folder).tuned]


def _report(options: argparse.Namespace, console: Console) -> int:
    _write_report(options.runs, options.out or options.runs[-1], console)
    return 0


def _write_report(runs: Sequence[Path], folder: Path, console: Console) -> None:
    labelled = [(str(run), record.read(run)) for run in runs]
    file = page.write_page(labelled, folder)
    text = markdown.summary_file(labelled)
    (folder / markdown.FILE).write_text(text, encoding="utf-8")
    console.print(f"\n{text}", markup=False)
    console.print(f"Page: {file}\nFigures: {', '.join(str(run / record.FILE) for run in runs)}")


def _compare(options: argparse.Namespace, console: Console) -> int:
    found = changes(record.read(options.before), record.read(options.after))
    if not found:
        raise UsageError("These runs have no cell in common: same workload with the same size, arm and RTT")
    worse = [change for change in found if change.verdict in ("worse", "now fails")]
    shown = found if options.all else [c for c in found if c.verdict not in ("same", "too few repeats")]
    table = Table("Work", "Arm", "Figure", "Before", "After", "Change", "Verdict", title="Changes")
    for change in shown:
        table.add_row(*_change_row(change))
    if shown:
        console.print(table)
    counts = Counter(change.verdict for change in found)
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if worse else 0


def _change_row(change: Change) -> tuple[str, ...]:
    relative = change.relative
    return (
        full_name(change.position),
        change.arm,
        change.figure,
        _spread(change.before),
        _spread(change.after) if change.after else "",
        f"{relative:+.0%}" if relative is not None else "",
        f"{change.verdict} {change.remark}".strip(),
    )


def _spread(spread: Spread) -> str:
    return f"{number(spread.median)} ({number(spread.low)}–{number(spread.high)})"


def _list(options: argparse.Namespace, console: Console) -> int:
    workloads = [(w.name, w.description, w.sized().label) for w in WORKLOADS.values()]
    workloads.append((secrets_workload.NAME, secrets_workload.DESCRIPTION, secrets_workload.NAME))
    arms = [(a.name, a.description, _command(a.command, a.environment)) for a in ARMS.values()]
    for title, third, rows in (("Workloads", "Default size", workloads), ("Arms", "Command", arms)):
        table = Table("Name", "What it is", third, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    return 0


def _command(command: Sequence[str], environment: object) -> str:
    variables = environment.items() if isinstance(environment, dict) else ()
    return " ".join([*(f"{name}={value}" for name, value in variables), *command])


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    about = "Compare Airflow schedulers on the same work."
    parser = argparse.ArgumentParser(
        prog="poc-bench", description=about, epilog=epilog(), formatter_class=raw
    )
    adding = parser.add_subparsers(required=True, metavar="COMMAND")
    commands = {
        name: adding.add_parser(
            name, help=what, description=f"{what.capitalize()}.", epilog=epilog(name), formatter_class=raw
        )
        for name, what in COMMANDS.items()
    }
    _add_run(commands["run"])
    _add_report(commands["report"])
    _add_compare(commands["compare"])
    contention.add_arguments(commands["contention"])
    commands["list"].set_defaults(command=_list)
    return parser


def _add_report(report: argparse.ArgumentParser) -> None:
    report.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="the --out of a run")
    report.add_argument("--out", type=Path, metavar="DIR", help="default: the last of the runs")
    report.set_defaults(command=_report)


def _add_compare(compare: argparse.ArgumentParser) -> None:
    compare.add_argument("before", type=Path, metavar="DIR1")
    compare.add_argument("after", type=Path, metavar="DIR2")
    compare.add_argument("--all", action="store_true", help="show also what stayed the same")
    compare.set_defaults(command=_compare)


def _add_run(run: argparse.ArgumentParser) -> None:
    run.set_defaults(command=_run)
    size = run.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="small sizes: under 3 minutes on 2 cores (default)"
    )
    size.add_argument("--full", action="store_true", help="the published matrix: more than an hour")
    run.add_argument("--workload", metavar="W[:NAME=VALUE,…],…", help="see `poc-bench list`")
    run.add_argument("--size", default="", metavar="NAME=VALUE,…", help="parameters put over every workload")
    run.add_argument("--arm", metavar="A,…", help="see `poc-bench list`")
    run.add_argument("--rtt", metavar="MS,…", help="round-trip times to the database (0)")
    run.add_argument("--schedulers", default="1", metavar="N,…", help="scheduler processes at once (1)")
    run.add_argument("--repeat", type=int, metavar="R", help="measure each cell so often (1)")
    run.add_argument(
        "--db",
        default="postgres",
        metavar="DB",
        help="postgres, mysql, sqlite (all embedded) or a server's URL",
    )
    run.add_argument(
        "--executor",
        choices=get_args(Executor),
        default="bench",
        help="bench tells of events, as LocalExecutor; asked: does not, as Celery; local: real processes",
    )
    run.add_argument(
        "--profile", action="store_true", help="record each scheduler by py-spy, in cells of its own"
    )
    run.add_argument("--tuned-from", type=Path, metavar="DIR", help="take tuned settings from an earlier run")
    run.add_argument("--seed", type=int, default=1, help="what is drawn by chance is drawn from this (1)")
    run.add_argument("--timeout", type=float, default=300.0, metavar="S", help="give a cell up after so long")
    run.add_argument("--out", type=Path, metavar="DIR", help="where everything goes (bench-results/<time>)")
