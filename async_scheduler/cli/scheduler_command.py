"""``airflow scheduler --async``: the stock command's frame around our job runner."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.cli.commands import scheduler_command as stock
from airflow.cli.commands.daemon_utils import run_command_with_daemon_option
from airflow.configuration import conf
from airflow.executors.executor_loader import ExecutorLoader
from airflow.jobs.job import Job, run_job
from airflow.utils import cli as cli_utils
from airflow.utils.memray_utils import MemrayTraceComponents, enable_memray_trace
from airflow.utils.process_utils import set_component_mp_start_method
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from sqlalchemy.exc import DBAPIError

from async_scheduler.cli.database_check import check_database
from async_scheduler.cli.log_server import log_server
from async_scheduler.database.address import async_address
from async_scheduler.database.capacity import require_pool
from async_scheduler.driver.event_loop import loop_factory
from async_scheduler.errors import AsyncSchedulerError, InvalidSetting, UnsupportedConnection
from async_scheduler.settings import SECTION, Settings

if TYPE_CHECKING:
    from argparse import Namespace


@providers_configuration_loaded  # type: ignore[untyped-decorator]
def scheduler(args: Namespace) -> None:
    """Start the async scheduler.

    :raises SystemExit: with code 2 for a wrong setting, before anything touches the database.
    """
    try:
        settings = Settings.from_airflow()
        if args.trace:
            # Absolute before a daemon changes its directory.
            settings = replace(settings, trace_directory=str(Path(args.trace).absolute()))
        _require_event_loop(settings)
        _require_trace_directory(settings)
        _require_database(settings)
    except (InvalidSetting, UnsupportedConnection) as error:
        print(f"airflow scheduler --async: error: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    _run(args, settings)


def _require_event_loop(settings: Settings) -> None:
    try:
        loop_factory(settings.event_loop)
    except ModuleNotFoundError:
        allowed = "auto, asyncio; uvloop is not installed"
        raise InvalidSetting(SECTION, "event_loop", settings.event_loop, allowed) from None


def _require_trace_directory(settings: Settings) -> None:
    if not settings.trace_directory:
        return
    try:
        Path(settings.trace_directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        allowed = f"a directory that can be made, or nothing ({error.strerror})"
        raise InvalidSetting(SECTION, "trace_directory", settings.trace_directory, allowed) from None


def _require_database(settings: Settings) -> None:
    """Refuse what can be seen to be wrong without a connection."""
    async_address()
    if settings.pool_size:
        # Teams are looked up in the database; as in Airflow's own command line, not yet.
        executors = ExecutorLoader.get_executor_names(validate_teams=False)
        require_pool(settings.pool_size, settings.mode, len(executors))


@cli_utils.action_cli(check_db=False)  # type: ignore[untyped-decorator]
def _run(args: Namespace, settings: Settings) -> None:
    check_database()
    cli_utils.print_banner()
    if args.only_idle and args.num_runs <= 0:
        raise SystemExit("The --only-idle flag requires --num-runs to be set to a positive number.")
    if cli_utils.should_enable_hot_reload(args):
        from airflow.cli.hot_reload import run_with_reloader

        run_with_reloader(lambda: _run_job(args, settings), process_name="scheduler")
        return
    run_command_with_daemon_option(
        args=args,
        process_name="scheduler",
        callback=lambda: _run_job(args, settings),
        should_setup_logging=True,
    )


@enable_memray_trace(component=MemrayTraceComponents.scheduler)  # type: ignore[untyped-decorator]
def _run_job(args: Namespace, settings: Settings) -> None:
    set_component_mp_start_method("scheduler")
    from async_scheduler.runner import AsyncSchedulerJobRunner

    runner = AsyncSchedulerJobRunner(
        job=Job(), num_runs=args.num_runs, only_idle=args.only_idle, settings=settings
    )
    health_check = conf.getboolean("scheduler", "ENABLE_HEALTH_CHECK")
    with log_server(args.skip_serve_logs), stock._serve_health_check(health_check):
        try:
            run_job(job=runner.job, execute_callable=runner._execute)
        except AsyncSchedulerError as error:
            print(f"airflow scheduler --async: {error}", file=sys.stderr)  # noqa: T201
            raise SystemExit(1) from error
        except DBAPIError as error:
            # Airflow writes the job's row before the routines begin and after they have ended.
            for line in _outside(error):
                print(f"airflow scheduler --async: {line}", file=sys.stderr)  # noqa: T201
            raise SystemExit(1) from error


def _outside(error: DBAPIError) -> Iterator[str]:
    """Say what had ended the scheduler, if anything, and which error hit its job's row then."""
    before: BaseException | None = error
    while before is not None and not isinstance(before, AsyncSchedulerError):
        before = before.__context__
    if before is not None:
        yield str(before)
    reason = str(error.orig).strip().partition("\n")[0]
    yield f"The scheduler's job could not be written: {type(error.orig).__name__}: {reason}"
