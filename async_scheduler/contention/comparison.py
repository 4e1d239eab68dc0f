"""The ten questions answered for a family of arms: the concurrent one against the sequential one."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from async_scheduler.contention import questions
from async_scheduler.contention.evidence import (
    database_seconds,
    kind_seconds,
    lock_seconds,
    loop_share,
    place,
)
from async_scheduler.contention.intervals import rate_limit
from async_scheduler.contention.questions import percent, question, unanswered
from async_scheduler.measure.sqlstate import contention

if TYPE_CHECKING:
    from collections.abc import Sequence

    from async_scheduler.contention.evidence import Evidence, Gain, Place
    from async_scheduler.contention.experiment import RunRecord
    from async_scheduler.contention.report import Answer, Question, Report


def shown(gain: Gain) -> str:
    """Return a speed-up with its interval."""
    return "{:.2f} ({:.2f}–{:.2f})".format(*gain)


def speed_up(evidence: Evidence) -> Question:
    """Question 1, at every round-trip time."""
    rtts = [rtt for rtt, schedulers in evidence.places("timing") if schedulers == 1]
    measured = {rtt: evidence.gain(evidence.family.concurrent, rtt) for rtt in rtts}
    gains = {rtt: gain for rtt, gain in measured.items() if gain is not None}
    if 0.0 not in gains:
        return unanswered(1, "needs at least three timed repeats of both arms")
    answer: Answer = "objection wrong" if gains[0.0][1] > 1 else "objection right"
    if answer == "objection right" and any(gain[1] > 1 for gain in gains.values()):
        answer = "mixed"
    parts = [f"{rtt:g} ms: {shown(gain)}" for rtt, gain in gains.items() if rtt]
    return question(1, f"{shown(gains[0.0])} at RTT 0", "; ".join([*parts, _work_done(evidence)]), answer)


def _work_done(evidence: Evidence) -> str:
    """Return what else differs between the arms: an arm that passes less often does less work."""
    arms = (evidence.family.concurrent, evidence.family.sequential)
    cpu = [median(run.cpu_s for run in evidence.runs(arm, "timing")) for arm in arms]
    text = f"CPU {cpu[0]:.2f} s against {cpu[1]:.2f} s"
    traced = [evidence.report(arm, "attribution") for arm in arms]
    passes = [sum(r.passes for r in found.routines) for found in traced if found is not None]
    return text if len(passes) < 2 else f"{text}, {passes[0]} passes against {passes[1]}"


def locks_against_gain(evidence: Evidence) -> Question:
    """Question 2, at every place where both arms were timed and traced."""
    rows = [row for where in evidence.places("attribution") if (row := _saved(evidence, where)) is not None]
    if not rows:
        return unanswered(2, "needs attribution and timing runs of both arms")
    lost = [added >= saved for _, added, saved, _ in rows]
    answer: Answer = "objection wrong" if not any(lost) else "objection right" if lost[0] else "mixed"
    _, added, saved, _ = rows[0]
    detail = "; ".join(f"{place(w)}: {a:+.3f} for {s:+.2f} s{more}" for w, a, s, more in rows)
    return question(2, f"{added:+.3f} lock-seconds for {saved:+.2f} s of wall time saved", detail, answer)


def _saved(evidence: Evidence, where: Place) -> tuple[Place, float, float, str] | None:
    family = evidence.family
    sequential, concurrent = (
        evidence.report(arm, "attribution", *where) for arm in (family.sequential, family.concurrent)
    )
    timed = [evidence.runs(arm, "timing", *where) for arm in (family.sequential, family.concurrent)]
    if concurrent is None or sequential is None or not all(timed):
        return None
    saved = median(r.wall_s for r in timed[0]) - median(r.wall_s for r in timed[1])
    more = (
        f" (lock share {percent(concurrent.lock_share)}, sequential {percent(sequential.lock_share)};"
        f" waiting for the event loop {_loop(concurrent)}, sequential {_loop(sequential)})"
    )
    return where, lock_seconds(concurrent) - lock_seconds(sequential), saved, more


def _loop(report: Report) -> str:
    share = loop_share(report)
    return "–" if share is None else f"{percent(share[0])} to {percent(share[1])}"


def dominant_pair(evidence: Evidence) -> Question:
    """Question 3, where most time was lost to locks of the database."""
    traced = evidence.traced(evidence.family.concurrent)
    if not traced:
        return unanswered(3, "needs an attribution run")
    where, worst = max(traced, key=lambda found: database_seconds(found[1]))
    asked = questions.dominant_pairs(worst)
    if database_seconds(worst):
        share = f"database locks are {percent(questions.database_share(worst))} of routine time"
        asked.detail = f"at {place(where)}, where most is waited, {share}; {asked.detail}"
    return asked


def other_victims(evidence: Evidence) -> Question:
    """Question 4, where others waited for us most."""
    traced = evidence.traced(evidence.family.concurrent)
    if not traced:
        return unanswered(4, "needs an attribution run")
    asked = [(where, questions.victims_share(report), report) for where, report in traced]
    where, _, worst = max(asked, key=lambda found: found[1])
    answered = questions.other_victims(worst)
    answered.detail = f"at {place(where)}: {answered.detail}"
    return answered


def skipped(evidence: Evidence) -> Question:
    """Question 5, by the census, at every number of schedulers."""
    arm = evidence.family.concurrent
    found = evidence.traced(arm, "census") or evidence.traced(arm)
    if not found:
        return unanswered(5, "needs a census run")
    asked = [(where, questions.skipped_rows(report)) for where, report in found]
    rank = ("objection wrong", "not measured", "mixed", "objection right")
    _, worst = max(asked, key=lambda one: rank.index(one[1].answer))
    figures = "; ".join(f"{place(where)}: {one.figure}" for where, one in asked)
    return question(5, figures, "; ".join(one.detail for _, one in asked), worst.answer)


def failures(evidence: Evidence) -> Question:
    """Question 6, over all runs at production settings; the limit is that of the 95 % interval."""
    arms = (evidence.family.concurrent, evidence.family.sequential)
    counts = {arm: failed(evidence.at_production_settings(arm)) for arm in arms}
    own, transactions = counts[evidence.family.concurrent]
    if not transactions:
        return unanswered(6, "needs timed runs")
    limit = rate_limit(own, transactions)
    detail = "; ".join(f"{arm}: {n} in {total} transactions" for arm, (n, total) in counts.items())
    rate = 10_000 * own / transactions
    answer: Answer = "objection wrong" if limit < questions.FAILURES_TOO_MANY else "mixed"
    if rate >= questions.FAILURES_TOO_MANY:
        answer = "objection right"
    figure = f"{rate:.2f} per 10,000 (95 %: at most {limit:.2f})"
    return question(6, figure, f"{detail}, at production settings", answer)


def failed(runs: Sequence[RunRecord]) -> tuple[int, int]:
    """Return deadlocks and serialization failures, and transactions."""
    counted = [(code, count) for run in runs for code, count in run.sqlstates.items()]
    bad = sum(count for code, count in counted if contention(code) in ("deadlock", "serialization"))
    return bad, sum(run.transactions for run in runs)


def failure_rate(runs: Sequence[RunRecord]) -> float | None:
    """Return deadlocks and serialization failures per 10,000 transactions."""
    bad, transactions = failed(runs)
    return 10_000 * bad / transactions if transactions else None


def holds(evidence: Evidence) -> Question:
    """Question 7, at every place; the answer is that of the worst."""
    family = evidence.family
    rows = []
    for where, concurrent in evidence.traced(family.concurrent):
        sequential = evidence.report(family.sequential, "attribution", *where)
        if sequential is not None and (grown := _growth(concurrent, sequential)):
            rows.append((where, grown, concurrent))
    if not rows:
        return unanswered(7, "needs attribution runs of both arms")
    worst = max(max(grown.values()) for _, grown, _ in rows)
    detail = "; ".join(
        f"{place(where)}: " + ", ".join(f"{n} × {v:.2f}" for n, v in grown.items()) + _while_busy(report)
        for where, grown, report in rows
    )
    answer: Answer = "objection right" if worst > 2 else "objection wrong"
    return question(7, f"× {worst:.2f} at worst", detail, answer)


def _growth(concurrent: Report, sequential: Report) -> dict[str, float]:
    before = {hold.routine: hold.median_ns for hold in sequential.holds if hold.median_ns}
    return {
        hold.routine: hold.median_ns / before[hold.routine]
        for hold in concurrent.holds
        if hold.routine in before
    }


def _while_busy(report: Report) -> str:
    loop = sum(hold.loop.high for hold in report.holds if hold.loop is not None)
    total = sum(hold.total_ns for hold in report.holds)
    return f" (loop busy with others for at most {percent(loop / total if total else None)} of the holds)"


def scaling(evidence: Evidence) -> Question:
    """Question 8: lanes of one routine, and schedulers."""
    curves = [*_lane_curves(evidence), *_scheduler_curves(evidence)]
    fixed = evidence.family.fixed
    if not curves:
        return unanswered(8, fixed or "needs timed runs with more than one number of schedulers or lanes")
    bends = [ordered[-1][0] <= ordered[0][2] for _, ordered in curves]
    answer: Answer = "objection right" if all(bends) else "mixed" if any(bends) else "objection wrong"
    details = [*(text for text, _ in curves[1:]), *([fixed] if fixed else [])]
    return question(8, curves[0][0], "; ".join(details), answer)


def _lane_curves(evidence: Evidence) -> list[tuple[str, list[Gain]]]:
    curves = []
    for rtt, _ in evidence.places("lanes"):
        gains = {n: evidence.lane_gain(n, rtt) for n in evidence.lanes()}
        known = {n: gain for n, gain in gains.items() if gain is not None}
        if len(known) > 1:
            text = ", ".join(f"{n}: {shown(gain)}" for n, gain in known.items())
            curves.append((f"transactions of one routine at once, RTT {rtt:g} ms: {text}", [*known.values()]))
    return curves


def _scheduler_curves(evidence: Evidence) -> list[tuple[str, list[Gain]]]:
    arm, places = evidence.family.concurrent, evidence.places("timing")
    curves = []
    for rtt in dict.fromkeys(rtt for rtt, _ in places):
        gains = {n: evidence.gain(arm, rtt, n) for r, n in places if r == rtt}
        known = {n: gain for n, gain in gains.items() if gain is not None}
        if len(known) > 1:
            text = ", ".join(f"{n}: {shown(gain)}" for n, gain in known.items())
            curves.append(
                (f"schedulers, RTT {rtt:g} ms, against a sequential one: {text}", [*known.values()])
            )
    return curves


def pool(evidence: Evidence) -> Question:
    """Question 9, where the pool was waited for most."""
    traced = evidence.traced(evidence.family.concurrent)
    shares = [
        (kind_seconds(report, "pool") / wall, where, kind_seconds(report, "pool"))
        for where, report in traced
        if (wall := sum(r.wall_ns for r in report.routines) / 1e9)
    ]
    if not shares:
        return unanswered(9, "needs an attribution run")
    share, where, waited = max(shares)
    if share < questions.SHARE_WORTH_NAMING:
        detail = f"{waited:.3f} s in all, at {place(where)}; more connections can remove no more"
        return question(9, "nobody waits for a connection", detail, "objection wrong")
    return question(9, f"{percent(share)} of routine time", f"{waited:.2f} s, at {place(where)}", "mixed")


def trust(evidence: Evidence) -> Question:
    """Question 10, over all traces of the family at once."""
    names = (evidence.family.sequential, evidence.family.shared, evidence.family.concurrent)
    traced = [report for arm in names if arm is not None for _, report in evidence.traced(arm)]
    if not traced:
        return unanswered(10, "needs an attribution run")
    asked = questions.trust_of([report.quality for report in traced])
    cost = evidence.overhead()
    if cost is not None:
        middle, low, high = (100 * (value - 1) for value in cost[0])
        asked.detail += f"; the ledger costs {middle:+.1f} % CPU ({low:+.1f} to {high:+.1f}, {cost[1]} pairs)"
    return asked
