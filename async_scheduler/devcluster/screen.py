"""What the terminal shows: steps as they are taken, the progress table, the final table, problems."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from async_scheduler.devcluster.expectations import Verdict

if TYPE_CHECKING:
    from async_scheduler.devcluster.problem import ClusterProblem

PLAIN_INTERVAL = 10.0
"""Seconds between two lines of progress where the output is not a terminal."""

TASK_ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""The states in which a task instance has ended (``airflow.utils.state.State.finished``)."""

COLOURS = {"success": "green", "failed": "red", "upstream_failed": "orange3", "skipped": "magenta"}

Show = Callable[[Sequence[Verdict]], None]


class Screen:
    """The terminal, or the plain text where there is none."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)

    @property
    def is_terminal(self) -> bool:
        """Whether somebody is looking, rather than a file or a pipe."""
        return self._console.is_terminal

    def say(self, text: str = "") -> None:
        """Show *text*, which may hold rich markup."""
        self._console.print(text, soft_wrap=True)

    def note(self, text: str) -> None:
        """Show a plain remark."""
        self.say(f"  [dim]{escape(text)}[/dim]")

    def problem(self, problem: ClusterProblem) -> None:
        """Show why it does not go on, and the hint."""
        self.say(f"[bold red]{escape(problem.problem)}[/bold red]")
        self.say(escape(problem.hint))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show that the block is at work on *name*; then that it is done, and how long it took."""
        begin = time.monotonic()
        with self._console.status(name):
            yield
        self._done(name, begin)

    @contextmanager
    def announced_end(self) -> Iterator[Callable[[], None]]:
        """Show, when the block has ended, that everything is stopped, and how long that took.

        The block gets a function to call when its end begins; from then on this shows that it is at work.
        """
        with ExitStack() as stack:
            begun: list[float] = []

            def begin() -> None:
                begun.append(time.monotonic())
                stack.enter_context(self._console.status("stopping everything"))

            try:
                yield begin
            finally:
                stack.close()
                self._done("everything stopped", begun[0] if begun else time.monotonic())

    def _done(self, name: str, begin: float) -> None:
        self.say(f"  [green]✓[/green] {name} [dim]{time.monotonic() - begin:.1f} s[/dim]")

    @contextmanager
    def progress(self) -> Iterator[Show]:
        """Yield a function that shows where the runs stand, over and over, in place on a terminal."""
        if self.is_terminal:
            with Live(console=self._console, transient=True, auto_refresh=False) as live:
                yield lambda verdicts: live.update(verdict_table(verdicts), refresh=True)
        else:
            yield self._plain_progress()

    def results(self, verdicts: Sequence[Verdict], logs: Path) -> None:
        """Show the final table, everything that is not as expected, and where the logs are."""
        self.say()
        self._console.print(verdict_table(verdicts))
        for verdict in verdicts:
            for complaint in verdict.complaints:
                self.say(f"[red]✗ {escape(verdict.dag_id)}: {escape(complaint)}[/red]")
        self.say(f"Logs of the processes: {logs}/*.log")
        self.say(f"Logs of the tasks:     {logs}/tasks/")

    def _plain_progress(self) -> Show:
        begin = last = time.monotonic()

        def show(verdicts: Sequence[Verdict]) -> None:
            nonlocal last
            if time.monotonic() - last >= PLAIN_INTERVAL:
                last = time.monotonic()
                self.say(f"  {last - begin:3.0f} s  {summary(verdicts)}")

        return show


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return one line on how far all runs are."""
    ended = sum(verdict.ended for verdict in verdicts)
    tasks = sum(sum(verdict.task_states.values()) for verdict in verdicts)
    expected = sum(verdict.tasks_expected for verdict in verdicts)
    done = sum(
        count for verdict in verdicts for state, count in verdict.task_states.items() if state in TASK_ENDED
    )
    return f"{ended} of {len(verdicts)} DAGs ended, {done} of {max(tasks, expected)} task instances"


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Return the table: DAG, runs and task instances by state, time, whether all is as declared."""
    table = Table(caption=summary(verdicts), caption_justify="left")
    table.add_column("DAG", no_wrap=True)
    table.add_column("Runs")
    table.add_column("Task instances")
    table.add_column("Time", justify="right")
    table.add_column("As expected", no_wrap=True)
    for verdict in verdicts:
        table.add_row(
            verdict.dag_id,
            _states(verdict.run_states) or f"[dim]0 of {verdict.runs_expected}[/dim]",
            _states(verdict.task_states),
            f"{verdict.seconds:.1f} s" if verdict.seconds is not None else "",
            _mark(verdict),
        )
    return table


def _states(states: Mapping[str, int]) -> str:
    return ", ".join(
        f"[{COLOURS.get(state, 'yellow')}]{count} {state}[/]" for state, count in sorted(states.items())
    )


def _mark(verdict: Verdict) -> str:
    if not verdict.ended:
        return ""
    if not verdict.as_expected:
        return "[red]✗ no[/red]"
    return "[green]✓[/green] must fail" if "failed" in verdict.run_states else "[green]✓[/green]"
