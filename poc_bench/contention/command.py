"""``poc-bench contention``: measures what concurrency buys and writes the page; or runs the controls."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from async_scheduler.contention.family import reports, with_details
from async_scheduler.contention.page import write_page
from async_scheduler.contention.terminal import show
from poc_bench.contention import controls
from poc_bench.contention.beside import COMMANDS, beside
from poc_bench.contention.experiment import Runner
from poc_bench.contention.plan import MODES, Plan, families, modes
from poc_bench.contention.servers import SPEED, LoggingPostgres
from poc_bench.errors import UsageError
from poc_bench.numbers import numbers, require
from poc_bench.site import Executor
from poc_bench.workloads import sized_list

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

PAGE = "contention.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(command=run)
    parser.add_argument(
        "--controls", action="store_true", help="check the instrument on work with known answers"
    )
    parser.add_argument(
        "--family", default="naive,redesigned", metavar="F,…", help="naive, redesigned (both)"
    )
    parser.add_argument(
        "--mode", default=",".join(MODES), metavar="M,…", help=f"{', '.join(MODES)} (all of them)"
    )
    parser.add_argument(
        "--workload", default="layers", metavar="W[:NAME=VALUE,…]", help="see `poc-bench list`"
    )
    parser.add_argument("--size", default="", metavar="NAME=VALUE,…", help="parameters put over the workload")
    parser.add_argument("--rtt", default="0", metavar="MS,…", help="round-trip times to the database (0)")
    parser.add_argument("--schedulers", default="1", metavar="N,…", help="scheduler processes at once (1)")
    parser.add_argument("--repeat", type=int, default=7, metavar="R", help="timed repeats of each arm (7)")
    parser.add_argument(
        "--arms", default="", metavar="A,…", help="of the families' arms only these, and `sync` (all)"
    )
    parser.add_argument(
        "--lanes", default="1,2,4,8", metavar="N,…", help="transactions of *schedule* at once, mode lanes"
    )
    parser.add_argument(
        "--beside",
        default="",
        metavar="P,…",
        help=f"processes of Airflow that work on the database meanwhile: {', '.join(COMMANDS)} (none)",
    )
    parser.add_argument(
        "--executor",
        choices=get_args(Executor),
        default="bench",
        help="bench: simulated workers, which pass over locked rows; asked: the same, the executor does not"
        " tell of their ends, as Celery; local: task processes and an API server that waits for them",
    )
    parser.add_argument("--add", action="store_true", help="add to the experiment that lies in --out")
    parser.add_argument("--seed", type=int, default=1, help="what is drawn by chance is drawn from this (1)")
    parser.add_argument(
        "--timeout", type=float, default=300.0, metavar="S", help="give a run up after so long"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where everything goes (bench-results/<time>)"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the command; return the exit code: 0, or 1 when a run failed or was wrong."""
    folder = options.out or Path("bench-results", datetime.now(UTC).strftime("contention-%Y%m%d-%H%M%S"))
    if options.controls:
        return asyncio.run(_controls(folder, console))
    runner = Runner(_plan(options), folder, lambda line: console.print(line, markup=False), options.add)
    experiment = runner.run()
    for report in reports(folder):
        show(report, console)
    write_page(with_details(folder), folder / PAGE)
    console.print(f"\nPage: {folder / PAGE}", markup=False)
    return 1 if any(record.failure for record in experiment.runs) else 0


def _plan(options: argparse.Namespace) -> Plan:
    sizes = sized_list(options.workload, options.size, "defaults")
    if len(sizes) != 1:
        raise UsageError("poc-bench contention measures one workload at a time")
    if sizes[0].plan(options.seed).idle_seconds is not None:
        raise UsageError(
            f"How long work takes is measured here, and {sizes[0].workload.name} is none;"
            " `poc-bench run` measures it"
        )
    require("--repeat", options.repeat, 1)
    require("--timeout", options.timeout, 1)
    plan = Plan(
        workload=sizes[0],
        families=families(options.family),
        modes=modes(options.mode),
        rtts=tuple(numbers("--rtt", options.rtt)),
        schedulers=tuple(int(number) for number in numbers("--schedulers", options.schedulers, least=1)),
        repeats=options.repeat,
        seed=options.seed,
        timeout=options.timeout,
        lanes=tuple(int(number) for number in numbers("--lanes", options.lanes, least=1)),
        only=tuple(name for name in options.arms.split(",") if name),
        beside=beside(options.beside),
        executor=options.executor,
    )
    plan.refuse_unknown_arms()
    return plan


async def _controls(folder: Path, console: Console) -> int:
    """Run the controls with a known speed-up and lock share; return 0 when the instrument is right."""
    server = await asyncio.to_thread(LoggingPostgres, SPEED)
    right = True
    try:
        for number, (control, (low, high), (least, most)) in enumerate(_known()):
            name = f"controls_{number}"
            server.create(name)
            address = server.address(name)
            await controls.prepare(address.async_url)
            gained = controls.typical(await controls.speed_ups(control, address.async_url))
            traces = folder / control.name.replace(" ", "-")
            report, _ = await controls.attribute(control, address.async_url, traces, lambda: server.logs)
            share = report.lock_share or 0.0
            fine = low <= gained <= high and least <= share <= most
            right = right and fine
            console.print(
                f"{control.name:<14} speed-up {gained:.2f} ({low:g} to {high:g}),"
                f" lock share {100 * share:.1f} % ({100 * least:g} to {100 * most:g}): "
                + ("right" if fine else "WRONG"),
                markup=False,
            )
    finally:
        await asyncio.to_thread(server.close)
    return 0 if right else 1


def _known() -> list[tuple[controls.Control, tuple[float, float], tuple[float, float]]]:
    return [
        (controls.one_row(hold=controls.LONG_HOLD), (0.9, 1.1), (0.6, 1.0)),
        (controls.disjoint_rows(), (3.0, float(controls.ROUTINES) + 0.5), (0.0, 0.01)),
    ]
