"""The command line of the dev cluster: ``python -m async_scheduler.devcluster demo|up``."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import httpx

from async_scheduler.devcluster.cluster import CHECKOUT, SCHEDULER_FLAGS, ClusterOptions, running_cluster
from async_scheduler.devcluster.data_directory import USER, DataDirectory
from async_scheduler.devcluster.demo import run_demo
from async_scheduler.devcluster.problem import ClusterProblem
from async_scheduler.devcluster.screen import Screen

FOREVER = 3600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0 good, 1 an unexpected end, 2 a problem, 130 interrupted."""
    args = _parser().parse_args(arguments)
    screen = Screen()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        if args.command == "demo":
            return 0 if run_demo(_options(args, fresh=True), screen, args.timeout) else 1
        return _stay_up(_options(args, fresh=False), screen)
    except ClusterProblem as problem:
        screen.problem(problem)
        return 2
    except httpx.HTTPError as error:
        screen.problem(ClusterProblem(f"The API server failed: {error}", f"See {args.data_dir}/logs/*.log."))
        return 2
    except KeyboardInterrupt:
        screen.say("Interrupted.")
        return 130


def _stay_up(options: ClusterOptions, screen: Screen) -> int:
    with running_cluster(options, screen) as cluster:
        password = cluster.data.keys().admin_password if screen.is_terminal else "(in the file below)"
        screen.say(f"\n  UI        [bold]{cluster.url}[/bold]")
        screen.say(f"  Log in    user [bold]{USER}[/bold], password [bold]{password}[/bold]")
        screen.note(f"          it is kept in {cluster.data.passwords_file}")
        screen.say(
            f"  Commands  AIRFLOW_HOME={cluster.data.root} {Path(sys.executable).parent}/airflow dags list"
        )
        screen.say(f"  Logs      {cluster.data.logs}/*.log, of tasks in {cluster.data.logs}/tasks/")
        screen.say("\n  Ctrl-C stops all of it.\n")
        try:
            while True:
                cluster.processes.wait(FOREVER)
        except KeyboardInterrupt:
            return 0


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _options(args: Namespace, *, fresh: bool) -> ClusterOptions:
    return ClusterOptions(
        data=DataDirectory(args.data_dir.resolve()),
        database=args.command,
        port=args.port,
        scheduler=args.scheduler,
        fresh=fresh,
    )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m async_scheduler.devcluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="run the DAGs of config/dev/dags, judge how they end, stop")
    demo.add_argument("--timeout", type=float, default=240.0, help="seconds the runs may take (240)")
    stay = commands.add_parser("up", help="keep a cluster up until Ctrl-C; its database is kept")
    for command, port in ((demo, 0), (stay, 8080)):
        command.add_argument("--scheduler", choices=SCHEDULER_FLAGS, default="async")
        command.add_argument("--data-dir", type=Path, default=CHECKOUT / ".dev")
        command.add_argument("--port", type=_port, default=port, help=f"of the API server, 0: any ({port})")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
