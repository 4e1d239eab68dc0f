"""Adds ``--async`` to ``airflow scheduler`` and the ``airflow async-scheduler`` group.

Airflow calls :func:`get_cli_commands` (named in our provider info) while ``airflow.cli.cli_parser`` is
being imported. That module's list of commands exists by then and the parser is built from it later, so
the entry of ``scheduler`` can be replaced by one with an extra argument. Only this module knows of that;
the tests hold it against the installed Airflow.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from airflow.cli.cli_config import (
    ARG_OUTPUT,
    ARG_VERBOSE,
    ActionCommand,
    Arg,
    CLICommand,
    GroupCommand,
    lazy_load_command,
)

if TYPE_CHECKING:
    from argparse import Namespace

ARG_ASYNC = Arg(
    ("--async",),
    dest="use_async",
    default=False,
    action="store_true",
    help="Run the async scheduler: the routines of the scheduling loop as independent coroutines. "
    "Configured by the section async_scheduler of airflow.cfg. Without this flag the stock scheduler runs.",
)

ARG_TRACE = Arg(
    ("--trace",),
    metavar="DIR",
    help="With --async: write a contention trace to this directory "
    "(read it with: airflow async-scheduler contention DIR)",
)

ASYNC_EPILOG = """

Examples:

  airflow scheduler                     the stock scheduler
  airflow scheduler --async             the async scheduler
  AIRFLOW__ASYNC_SCHEDULER__MODE=sequential airflow scheduler --async
                                        its coroutines one after another"""

SECRETS_EPILOG = """

Examples:

  airflow async-scheduler secrets check                       the backends in search order
  airflow async-scheduler secrets check --conn db --var key   who has them, and how long each took"""

CONTENTION_EPILOG = """

Examples:

  airflow async-scheduler contention DIR                      the report in the terminal
  airflow async-scheduler contention DIR --html page.html     and as a page
  airflow async-scheduler contention DIR --since 10m          of the last ten minutes of the trace
  airflow async-scheduler contention DIR --perfetto t.json.gz for ui.perfetto.dev"""

TOP_EPILOG = """

Examples:

  airflow async-scheduler top                                 until Ctrl-C
  airflow async-scheduler top --once --pid 4711               one view of one scheduler of several"""

TRACE_EPILOG = """

Examples:

  airflow async-scheduler trace on /tmp/trace                 begin
  airflow async-scheduler trace on /tmp/trace --level steps   with CPU per routine
  airflow async-scheduler trace status
  airflow async-scheduler trace off                           end; then: contention /tmp/trace"""

SECRETS_COMMANDS: tuple[CLICommand, ...] = (
    ActionCommand(
        name="check",
        help="Show the secrets backends in search order, and which of them has a connection or variable",
        description="Show the secrets backends in the order in which they are searched. With --conn or "
        "--var: what each of them answered and how long it took. Values are never shown. The exit code is "
        "1 when a key is nowhere or a backend fails.",
        func=lazy_load_command("async_scheduler.cli.secrets_command.check"),
        args=(
            Arg(("--conn",), help="look up this connection; may be repeated", action="append", metavar="ID"),
            Arg(("--var",), help="look up this variable; may be repeated", action="append", metavar="KEY"),
            Arg(("--team",), help="as this team (multi-team mode)"),
            ARG_OUTPUT,
            ARG_VERBOSE,
        ),
        epilog=SECRETS_EPILOG,
    ),
)

ARG_PID = Arg(("--pid",), type=int, help="the scheduler's process, where several run on this machine")
ARG_SOCKET = Arg(
    ("--socket",), metavar="PATH", help="the scheduler's control socket, where it is set by hand"
)

TRACE_COMMANDS: tuple[CLICommand, ...] = (
    ActionCommand(
        name="on",
        help="Write a contention trace from now on",
        func=lazy_load_command("async_scheduler.cli.trace_command.on"),
        args=(
            Arg(("directory",), metavar="DIR", help="where the trace goes"),
            Arg(
                ("--level",),
                choices=("ledger", "steps"),
                default="ledger",
                help="steps: also CPU per routine",
            ),
            ARG_PID,
            ARG_SOCKET,
        ),
        epilog=TRACE_EPILOG,
    ),
    ActionCommand(
        name="off",
        help="End the trace",
        func=lazy_load_command("async_scheduler.cli.trace_command.off"),
        args=(ARG_PID, ARG_SOCKET),
    ),
    ActionCommand(
        name="status",
        help="Say whether a trace is being written, and where",
        func=lazy_load_command("async_scheduler.cli.trace_command.status"),
        args=(ARG_PID, ARG_SOCKET),
    ),
)

GROUP_COMMANDS: tuple[CLICommand, ...] = (
    ActionCommand(
        name="contention",
        help="Show who waited for whom in a trace",
        description="Print the verdict, the conflict matrix and where the time went, of a trace written by "
        "`airflow scheduler --async --trace DIR` or of an experiment by `poc-bench contention`.",
        func=lazy_load_command("async_scheduler.cli.contention_command.contention"),
        args=(
            Arg(("directory",), metavar="DIR", help="the trace, or the experiment"),
            Arg(("--html",), metavar="OUT", help="write the page: one file that needs no network"),
            Arg(("--perfetto",), metavar="OUT", help="write a trace for ui.perfetto.dev (.json or .json.gz)"),
            Arg(("--json",), metavar="OUT", help="write every figure"),
            Arg(
                ("--since",),
                metavar="WHEN",
                help="only what ended after this: 90s, 10m, 2h ago, or an ISO time",
            ),
            Arg(
                ("--server-log",),
                metavar="FILE",
                action="append",
                help="PostgreSQL's JSON log with log_lock_waits on; *.json in DIR are read anyway",
            ),
        ),
        epilog=CONTENTION_EPILOG,
    ),
    ActionCommand(
        name="top",
        help="Watch a running scheduler: routines, waits, blockers",
        func=lazy_load_command("async_scheduler.cli.top_command.top"),
        args=(
            Arg(("--once",), action="store_true", help="print one view and end"),
            ARG_PID,
            ARG_SOCKET,
        ),
        epilog=TOP_EPILOG,
    ),
    GroupCommand(
        name="trace",
        help="Switch tracing in a running scheduler",
        subcommands=TRACE_COMMANDS,
        epilog=TRACE_EPILOG,
    ),
    GroupCommand(name="secrets", help="Look into the async secrets chain", subcommands=SECRETS_COMMANDS),
)
"""The commands of ``airflow async-scheduler``."""


def get_cli_commands() -> list[CLICommand]:
    """Return our command group, after giving ``airflow scheduler`` its ``--async`` flag."""
    # Absent where provider commands are listed without building Airflow's parser.
    if parser := sys.modules.get("airflow.cli.cli_parser"):
        _add_async_flag(parser.airflow_commands)
    return [
        GroupCommand(
            name="async-scheduler",
            help="Look into the async scheduler",
            subcommands=GROUP_COMMANDS,
        )
    ]


def _add_async_flag(commands: list[CLICommand]) -> None:
    for index, command in enumerate(commands):
        if command.name == "scheduler" and isinstance(command, ActionCommand):
            commands[index] = command._replace(
                func=run_scheduler,
                args=(*command.args, ARG_ASYNC, ARG_TRACE),
                epilog=(command.epilog or "") + ASYNC_EPILOG,
            )
            return
    raise LookupError("This Airflow has no `scheduler` command to add --async to")


def run_scheduler(args: Namespace) -> Any:
    """Run the scheduler the user asked for: ours with ``--async``, else the stock one, untouched."""
    if getattr(args, "trace", None) and not args.use_async:
        print("airflow scheduler: --trace needs --async", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)
    if getattr(args, "use_async", False):
        target = "async_scheduler.cli.scheduler_command.scheduler"
    else:
        target = "airflow.cli.commands.scheduler_command.scheduler"
    return lazy_load_command(target)(args)
