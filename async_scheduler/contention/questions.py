"""The ten questions, answered from one trace as far as one trace can.

What needs two arms (what concurrency gained, what it added) is answered by
:mod:`async_scheduler.contention.comparison`.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from async_scheduler.contention.report import Answer, Pair, Question, Report

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from async_scheduler.contention.report import Quality

SHARE_WORTH_NAMING = 0.01
DOMINANT_PAIR = 0.2
SKIPPED_TOO_MANY = 0.2
REFUSED_TOO_OFTEN = 0.2
FAILURES_TOO_MANY = 1.0
ATTRIBUTED_ENOUGH = 0.95
UNEXPLAINED_ENOUGH = 0.05
SOURCES_AGREE = 0.2
COMPARABLE_NS = 1e8
"""Ten periods of the sampler: with less in the log, chance decides how much of it was sampled."""

TITLES = {
    1: "Speed-up of the same fixed work, concurrent against sequential",
    2: "Share of routine time spent waiting for locks and connections",
    3: "Which pairs of routines conflict",
    4: "What others wait for us",
    5: "Rows passed over and locks refused",
    6: "Deadlocks and serialization failures",
    7: "How much longer locks are held",
    8: "Scaling with the number of concurrent routines and schedulers",
    9: "Waits that more connections would remove",
    10: "Can these figures be trusted",
}
PROVES_RIGHT = {
    1: "the 95 % interval of the speed-up includes 1.0",
    2: "lock-seconds added by concurrency ≥ wall seconds saved by it",
    3: "one pair makes > 20 % of the lock time, and lock time is worth naming (≥ 1 % of routine time)",
    4: "others wait for us for ≥ 1 % of the run's time",
    5: "≥ 20 % of the rows examined are passed over, or ≥ 20 % of passes find the critical section taken",
    6: "≥ 1 per 10,000 transactions",
    7: "the median hold more than doubles",
    8: "the curve bends before all routines run at once",
    9: "most waits remain with four more connections",
    10: "less than 95 % attributed, more than 5 % unexplained, or sampler and log more than 20 % apart",
}


def seconds(ns: float) -> str:
    """Return a length of time for people."""
    if ns >= 1e9:
        return f"{ns / 1e9:.2f} s"
    return f"{ns / 1e6:.1f} ms" if ns >= 1e6 else f"{ns / 1e3:.0f} µs"


def percent(share: float | None) -> str:
    """Return a share for people."""
    return "–" if share is None else f"{100 * share:.1f} %"


def question(number: int, figure: str, detail: str, answer: Answer) -> Question:
    """Return the question of that number, answered."""
    return Question(
        number=number,
        title=TITLES[number],
        figure=figure,
        detail=detail,
        proves_right_if=PROVES_RIGHT[number],
        answer=answer,
    )


def unanswered(number: int, why: str) -> Question:
    """Return the question of that number as not measured."""
    return question(number, "–", why, "not measured")


def of_one_trace(report: Report) -> list[Question]:
    """Return the ten questions for a single trace."""
    two_arms = "needs the same work in two arms: poc-bench contention"
    return [
        unanswered(1, two_arms),
        lock_share(report),
        dominant_pairs(report),
        other_victims(report),
        skipped_rows(report),
        failures(report),
        unanswered(7, two_arms),
        unanswered(8, two_arms),
        unanswered(9, two_arms),
        trust(report),
    ]


def lock_share(report: Report) -> Question:
    """Question 2, without a second arm to compare with."""
    share = report.lock_share
    if share is None:
        return unanswered(2, "no pass of any routine ended during the trace")
    waited = {k: sum(r.categories[k].middle for r in report.routines) for k in LOCK_KINDS}
    detail = ", ".join(f"{kind} {seconds(ns)}" for kind, ns in waited.items())
    return question(2, percent(share), detail, "not measured")


LOCK_KINDS = ("database lock", "pool", "in-process lock")


def dominant_pairs(report: Report) -> Question:
    """Question 3."""
    database = [pair for pair in report.pairs if pair.layer == "database"]
    total = sum(pair.total_ns for pair in database)
    if not total:
        return question(3, "no lock wait", "nobody waited for a database lock", "objection wrong")
    biggest = database[0]
    negligible = (database_share(report) or 0.0) < SHARE_WORTH_NAMING
    answer: Answer = (
        "objection right"
        if biggest.total_ns / total > DOMINANT_PAIR and not negligible
        else "objection wrong"
    )
    return question(
        3,
        f"{biggest.waiter} ← {biggest.holder}: {percent(biggest.total_ns / total)} of lock time",
        "80 % of lock time: " + "; ".join(_named(pair, total) for pair in most(database)),
        answer,
    )


def database_share(report: Report) -> float | None:
    """Return the routines' wait for database locks as a share of their time."""
    wall = sum(r.wall_ns for r in report.routines)
    return sum(r.categories["database lock"].middle for r in report.routines) / wall if wall else None


def most(pairs: Iterable[Pair], share: float = 0.8) -> list[Pair]:
    """Return the fewest pairs, longest first, that make *share* of the time."""
    ordered = sorted(pairs, key=lambda pair: -pair.total_ns)
    total, reached, chosen = sum(p.total_ns for p in ordered), 0.0, list[Pair]()
    for pair in ordered:
        if reached >= share * total:
            break
        chosen.append(pair)
        reached += pair.total_ns
    return chosen


def _named(pair: Pair, total: float) -> str:
    table = next(iter(pair.tables), "?")
    return f"{pair.waiter} ← {pair.holder} on {table} {percent(pair.total_ns / total)}"


def victims_share(report: Report) -> float:
    """Return how long others waited for us, as a share of the trace's length."""
    waited = sum(pair.total_ns for pair in report.victims)
    return waited / (report.seconds * 1e9) if report.seconds else 0.0


def other_victims(report: Report) -> Question:
    """Question 4."""
    waited, share = sum(pair.total_ns for pair in report.victims), victims_share(report)
    detail = "; ".join(f"{p.waiter} ← {p.holder} {seconds(p.total_ns)}" for p in report.victims[:5])
    if (
        report.quality.source == "none"
        and report.quality.log_ns is None
        and report.quality.sampler_ns is None
    ):
        return unanswered(4, "neither a server log nor a sampler watched the database")
    answer: Answer = "objection right" if share >= SHARE_WORTH_NAMING else "objection wrong"
    return question(4, f"{seconds(waited)} ({percent(share)} of the run)", detail or "nobody", answer)


def skipped_rows(report: Report) -> Question:
    """Question 5."""
    ours = [count for count in report.skips if count.ours]
    wanted = sum(count.wanted for count in ours)
    claimed = sum(count.claimed for count in ours)
    refused = sum(count.refused for count in ours)
    asking = sum(count.passes for count in ours if count.refused)
    censused = [count for count in ours if count.skipped is not None]
    skipped = sum(count.skipped or 0 for count in censused)
    examined = claimed + skipped
    skip_share = skipped / examined if censused and examined else None
    refuse_share = refused / asking if asking else 0.0
    figure = f"{percent(skip_share)} passed over, {percent(refuse_share)} refused"
    detail = f"{wanted} rows asked for, {claimed} got; {refused} locks refused"
    if skip_share is None:
        detail += "; rows passed over need a census"
    for other in (count for count in report.skips if not count.ours):
        detail += f"; {other.routine} passed over {other.skipped} of {other.wanted}"
    too_many = (skip_share or 0) >= SKIPPED_TOO_MANY or refuse_share >= REFUSED_TOO_OFTEN
    if skip_share is None and not too_many:
        return question(5, figure, detail, "not measured")
    return question(5, figure, detail, "objection right" if too_many else "objection wrong")


def failures(report: Report) -> Question:
    """Question 6."""
    transactions = report.quality.transactions
    if not transactions:
        return unanswered(6, "no transaction ended during the trace")
    rate = 10_000 * len(report.failures) / transactions
    detail = f"{len(report.failures)} in {transactions} transactions"
    return question(
        6,
        f"{rate:.2f} per 10,000",
        detail,
        "objection right" if rate >= FAILURES_TOO_MANY else "objection wrong",
    )


def trust(report: Report) -> Question:
    """Question 10."""
    return trust_of([report.quality])


def trust_of(qualities: Sequence[Quality]) -> Question:
    """Question 10 for several traces: their waits together, the least explained one's time."""
    waits = sum(q.waits for q in qualities)
    attributed = sum(q.attributed for q in qualities) / waits if waits else None
    unexplained = max((q.unexplained for q in qualities if q.unexplained is not None), default=None)
    both = [(q.sampler_ns, q.log_ns) for q in qualities if q.sampler_ns is not None and q.log_ns]
    logged = sum(log for _, log in both)
    apart = sum(sampled for sampled, _ in both) / logged if logged >= COMPARABLE_NS else None
    dropped = sum(q.dropped for q in qualities)
    named = attributed is None or attributed >= ATTRIBUTED_ENOUGH
    explained = unexplained is None or unexplained <= UNEXPLAINED_ENOUGH
    agree = apart is None or abs(apart - 1) <= SOURCES_AGREE
    sources = ", ".join(sorted({q.source for q in qualities if q.source != "none"})) or "none"
    sampler = [total for q in qualities if (total := q.sampler_total) is not None]
    figure = f"{percent(attributed)} of {waits} waits attributed, {percent(unexplained)} unexplained"
    detail = f"lock waits from: {sources}; sampler / log: {percent(apart)}; {dropped} records lost"
    if sampler:
        detail += f"; the sampler took {percent(median(sampler))} of a core"
    trusted = named and explained and agree and not dropped
    return question(10, figure, detail, "objection wrong" if trusted else "mixed")


def verdict_of_one_trace(report: Report) -> list[str]:
    """Return in plain words what a single trace shows, and what it cannot."""
    share = report.lock_share
    if share is None:
        return ["No pass of any routine ended while this trace was written: there is nothing to judge."]
    lines = [
        f"The routines spent {percent(share)} of their time waiting for locks and connections.",
        _worst(report),
    ]
    if report.failures:
        lines.append(f"{len(report.failures)} deadlocks were broken.")
    lines.append(
        "Whether concurrency pays cannot be read from one trace: it takes the same work in two arms"
        " (poc-bench contention)."
    )
    return lines


def _worst(report: Report) -> str:
    if not report.pairs:
        return "Nobody waited for anybody."
    worst = report.pairs[0]
    table = next(iter(worst.tables), "?")
    return (
        f"The longest waits: {worst.waiter} for {worst.holder} on {table},"
        f" {seconds(worst.total_ns)} in {worst.count} waits, the longest {seconds(worst.max_ns)}."
    )
