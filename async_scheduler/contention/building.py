"""Makes the report of one trace."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from async_scheduler.contention import matrix, questions
from async_scheduler.contention.census import LockedRead, locked_reads, skip_events, skipped_by_routine
from async_scheduler.contention.joining import SLACK_NS, Joiner, LedgerIndex, logged_waits, sqlite_waits
from async_scheduler.contention.postgres_log import LoggedDeadlock, ServerLog, log_files, read_log
from async_scheduler.contention.reading import Trace, read_trace
from async_scheduler.contention.report import Failure, Quality, Report, SkipCount
from async_scheduler.contention.walltime import LockWaits, hold_times, routine_times
from async_scheduler.measure.events import Clock, Deadlock, Wait
from async_scheduler.measure.sampler import BACKEND

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass
class Joined:
    """A trace whose lock waits have been given their parties; what the exports and the report start from.

    ``waits`` are those that count: the database's from the best source there is, our own, and rows passed
    over where a census was taken. ``sampled`` are the sampler's, also where the log is better.
    """

    trace: Trace
    log: ServerLog
    waits: list[Wait]
    sampled: list[Wait]
    reads: list[LockedRead]
    wall_offset_ns: int

    @property
    def ours(self) -> frozenset[int]:
        """Return the backends that the ledger knows."""
        return frozenset(t.pid for t in self.trace.transactions)


def load(
    directory: Path,
    *,
    server_logs: Sequence[Path] = (),
    since_ns: int | None = None,
    database: str | None = None,
) -> Joined:
    """Read and join everything in *directory*: traces, and server logs (``*.json``).

    :param server_logs: logs that lie elsewhere.
    :param since_ns: leave out what ended before this (monotonic clock).
    :param database: leave out what the logs say about other databases of the same server.
    :raises UnreadableTrace: when there is no trace.
    """
    trace = read_trace(directory)
    if since_ns is not None:
        trace = trace.since(since_ns)
    logs = [*log_files(directory), *server_logs]
    return join(trace, read_log(logs, database=database), locked_reads(logs, database=database))


def join(trace: Trace, log: ServerLog, reads: Sequence[LockedRead] = ()) -> Joined:
    """Return *trace* and the server's *log* joined."""
    clocks = trace.of(Clock)
    offset = trace.wall_offset_ns + (clocks[-1].offset_ns if clocks else 0)
    joiner = Joiner(trace.transactions, trace.statements, {**_sampled_names(trace), **log.applications})
    logged = joiner.join(_within(trace, logged_waits(log, offset, trace.statements)))
    sampled = joiner.join(seen_once([w for w in trace.waits if w.source == "sampler"]))
    own = [w for w in trace.waits if w.source == "client"]
    totals = [w for w in trace.waits if w.source == "server-total"]
    lite = sqlite_waits(trace.transactions) if _is_sqlite(trace) else []
    database = logged or sampled or totals or lite
    skips = skip_events(reads, LedgerIndex(trace.transactions), offset, trace.statements)
    return Joined(trace, log, [*database, *own, *skips], sampled, list(reads), offset)


def seen_once(waits: Sequence[Wait]) -> list[Wait]:
    """Return *waits* without those that two samplers saw: several schedulers traced bring one each.

    A backend waits for one thing at a time, so of two waits of one backend that overlap one is a double.
    """
    kept: list[Wait] = []
    reached: dict[int | None, int] = {}
    for wait in sorted(waits, key=lambda w: (w.t_start, -w.t_end)):
        middle = (wait.t_start + wait.t_end) // 2
        if reached.get(wait.waiter.pid, -1) > middle:
            continue
        kept.append(wait)
        reached[wait.waiter.pid] = wait.t_end
    return kept


def _is_sqlite(trace: Trace) -> bool:
    return any(header.labels.get("backend") == "sqlite" for header in trace.headers)


def _sampled_names(trace: Trace) -> dict[int, str]:
    """Return the application names that the sampler saw."""
    sampled = [w for w in trace.waits if w.source == "sampler"]
    parties = [party for w in sampled for party in (w.waiter, *w.immediate_blockers, w.root_blocker)]
    return {p.pid: p.process for p in parties if p is not None and p.pid is not None and p.process}


def _within(trace: Trace, waits: Sequence[Wait]) -> list[Wait]:
    """Return the waits of the time that the trace covers: a server's log may be much longer."""
    start, end = trace.interval
    return [w for w in waits if w.t_end >= start and w.t_start <= end]


def _deadlocks_within(joined: Joined) -> list[LoggedDeadlock]:
    start, end = joined.trace.interval
    return [d for d in joined.log.deadlocks if start <= d.at - joined.wall_offset_ns <= end + SLACK_NS]


def build(joined: Joined, *, title: str = "Contention") -> Report:
    """Return the report of one joined trace."""
    trace, waits = joined.trace, joined.waits
    locks = LockWaits(waits)
    start, end = trace.interval
    labels: dict[str, str] = {}
    for header in trace.headers:
        labels |= header.labels
    report = Report(
        title=title,
        labels=labels,
        seconds=(end - start) / 1e9,
        verdict=[],
        questions=[],
        routines=routine_times(trace.iterations, trace.transactions, locks),
        holds=hold_times(trace.transactions, locks),
        pairs=matrix.pairs(waits),
        victims=matrix.victims(waits, joined.ours),
        skips=_skips(joined),
        statements=matrix.top_statements(waits, trace.statements),
        failures=_failures(joined),
        quality=_quality(joined),
    )
    report.questions = questions.of_one_trace(report)
    report.verdict = questions.verdict_of_one_trace(report)
    return report


def _skips(joined: Joined) -> list[SkipCount]:
    trace = joined.trace
    census = skipped_by_routine(joined.reads, LedgerIndex(trace.transactions), joined.wall_offset_ns)
    refused = Counter(w.waiter.routine for w in joined.waits if w.what in matrix.REFUSED)
    counts: dict[str, SkipCount] = {}
    for iteration in trace.iterations:
        count = counts.setdefault(
            iteration.routine,
            SkipCount(routine=iteration.routine, passes=0, wanted=0, claimed=0, skipped=None, refused=0),
        )
        count.passes += 1
        count.wanted += iteration.wanted
        count.claimed += iteration.claimed
        if iteration.skipped is not None:
            count.skipped = (count.skipped or 0) + iteration.skipped
    for routine, count in counts.items():
        count.refused = refused[routine]
        if joined.reads:
            count.skipped = census.pop(routine, (0, 0))[1]
    return [*sorted(counts.values(), key=lambda c: c.routine), *map(_others_skips, census.items())]


def _others_skips(counted: tuple[str, tuple[int, int]]) -> SkipCount:
    name, (seen, skipped) = counted
    return SkipCount(
        routine=name, passes=0, wanted=seen, claimed=seen - skipped, skipped=skipped, refused=0, ours=False
    )


def _failures(joined: Joined) -> list[Failure]:
    start, _ = joined.trace.interval
    index = LedgerIndex(joined.trace.transactions)
    found = []
    for logged in _deadlocks_within(joined):
        at = logged.at - joined.wall_offset_ns
        names = {pid: _name(index, joined.log, pid, at) for pid in logged.statements}
        found.append(
            Failure(
                at_s=(at - start) / 1e9,
                source="server log",
                victim=names.get(logged.victim),
                parties=list(names.values()),
                details=list(logged.statements.values()),
            )
        )
    for cycle in joined.trace.of(Deadlock):
        parties = [matrix.label(party) for party in cycle.parties]
        found.append(
            Failure(
                at_s=(cycle.at - start) / 1e9,
                source="watchdog",
                victim=None if cycle.victim is None else parties[cycle.victim],
                parties=parties,
                details=["\n".join(stack) for stack in cycle.stacks],
            )
        )
    return found


def _name(index: LedgerIndex, log: ServerLog, pid: int, at: int) -> str:
    transaction = index.find(pid, at, at)
    if transaction is not None and transaction.routine is not None:
        return transaction.routine
    return log.applications.get(pid) or matrix.OUTSIDE


def _quality(joined: Joined) -> Quality:
    trace = joined.trace
    database = [w for w in joined.waits if w.what in matrix.DATABASE]
    named = [w for w in database if _is_named(w)]
    times = routine_times(trace.iterations, trace.transactions, LockWaits(joined.waits))
    wall = sum(t.wall_ns for t in times)
    ours = [s for s in trace.stopped if s.process not in ("sampler", BACKEND)]
    sampler = [h for h in trace.headers if h.process == "sampler"]
    log_ns = _sum([w for w in database if w.source == "server log"])
    clocks = trace.of(Clock)
    return Quality(
        source=database[0].source if database else "none",
        waits=len(database),
        attributed=len(named),
        unexplained=(
            sum(t.categories["unexplained"].middle for t in times) / wall
            if wall and all(i.loop_ns is not None for i in trace.iterations)
            else None
        ),
        transactions=len(trace.transactions),
        transactions_attributed=sum(t.routine is not None for t in trace.transactions),
        sampler_ns=_sum(joined.sampled) if sampler else None,
        log_ns=log_ns if joined.log.waits or log_ns else None,
        dropped=trace.dropped,
        clock_offset_ns=clocks[-1].offset_ns if clocks else None,
        truncated=len(trace.truncated),
        client_cpu_ns=max((s.cpu_ns for s in ours), default=None),
        writer_cpu_ns=max((s.writer_cpu_ns for s in ours), default=None),
        sampler_cpu_share=_cpu_share(trace, "sampler"),
        sampler_backend_cpu_share=_cpu_share(trace, BACKEND),
        level=next((h.level for h in trace.headers if h.level != "sampler"), "none"),
    )


def _is_named(wait: Wait) -> bool:
    return matrix.OUTSIDE not in (matrix.label(wait.waiter), matrix.label(wait.root_blocker))


def _sum(waits: Sequence[Wait]) -> float:
    return float(sum(w.t_end - w.t_start for w in waits))


def _cpu_share(trace: Trace, process: str) -> float | None:
    """Return the CPU of the sampler, or of its database backend, as a share of one core."""
    shares = [s.cpu_ns / s.wall_ns for s in trace.stopped if s.process == process and s.wall_ns]
    return max(shares, default=None)
