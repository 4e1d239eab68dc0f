"""Trigger rules: what the counted states of the upstream task instances do to one that waits for them.

Mirrors ``TriggerRuleDep._evaluate_direct_relatives`` and ``_evaluate_setup_constraint``: first the state
that the rule sets at once, without waiting for the rest of the upstream, then whether the rule lets the
task instance pass. Both are always looked at, so a state may be set on one that passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from async_scheduler.decide.states import REMOVED, SKIPPED, UPSTREAM_FAILED

if TYPE_CHECKING:
    from collections.abc import Callable

Ruling = tuple[int | None, bool]
"""The state to set, if any, and whether the task instance may go on."""


class Counts(NamedTuple):
    """Finished instances of a task set by state, and how many instances it should have in all."""

    success: int
    failed: int
    skipped: int
    upstream_failed: int
    removed: int
    done: int
    upstream: int


class Setups(NamedTuple):
    """The direct upstream setups: how many instances, and how many of them succeeded or were skipped."""

    upstream: int
    success: int
    skipped: int


NO_SETUPS = Setups(0, 0, 0)


def all_success(n: Counts, _: Setups, map_index: int) -> Ruling:
    """Every upstream succeeded. An index beyond the successes of a shrunken map is removed."""
    passes = n.upstream - n.success - n.removed <= 0
    if n.upstream_failed or n.failed:
        return UPSTREAM_FAILED, passes
    if n.skipped:
        return SKIPPED, passes
    if n.removed and n.success and -1 < map_index >= n.success:
        return REMOVED, passes
    return None, passes


def all_failed(n: Counts, _: Setups, __: int) -> Ruling:
    """Every upstream failed."""
    passes = n.upstream - n.failed - n.upstream_failed - n.removed <= 0
    return (SKIPPED if n.success or n.skipped else None), passes


def all_done(n: Counts, _: Setups, __: int) -> Ruling:
    """Every upstream finished, however."""
    return None, n.done >= n.upstream


def all_skipped(n: Counts, _: Setups, __: int) -> Ruling:
    """Every upstream was skipped."""
    return (SKIPPED if n.success or n.failed or n.upstream_failed else None), n.upstream - n.skipped <= 0


def one_success(n: Counts, _: Setups, __: int) -> Ruling:
    """One upstream succeeded."""
    passes = n.success > 0
    if n.done < n.upstream:
        return None, passes
    if n.done == n.skipped:
        return SKIPPED, passes
    return (None if passes else UPSTREAM_FAILED), passes


def one_failed(n: Counts, _: Setups, __: int) -> Ruling:
    """One upstream failed."""
    passes = bool(n.failed or n.upstream_failed)
    return (SKIPPED if n.done >= n.upstream and not passes else None), passes


def one_done(n: Counts, _: Setups, __: int) -> Ruling:
    """One upstream succeeded or failed; a skip does not count, nor does a failure further up."""
    passes = n.success + n.failed > 0
    return (SKIPPED if n.done >= n.upstream and not passes else None), passes


def none_failed(n: Counts, _: Setups, __: int) -> Ruling:
    """Every upstream succeeded or was skipped."""
    passes = n.upstream - n.success - n.skipped - n.removed <= 0
    return (UPSTREAM_FAILED if n.upstream_failed or n.failed else None), passes


def none_failed_min_one_success(n: Counts, _: Setups, __: int) -> Ruling:
    """Every upstream succeeded or was skipped, and one did succeed."""
    passes = n.upstream - n.success - n.skipped - n.removed <= 0 and n.success > 0
    if n.upstream_failed or n.failed:
        return UPSTREAM_FAILED, passes
    if n.skipped == n.upstream:
        return SKIPPED, passes
    return (UPSTREAM_FAILED if n.done >= n.upstream and n.success == 0 else None), passes


def none_skipped(n: Counts, _: Setups, __: int) -> Ruling:
    """Every upstream finished and none was skipped."""
    return (SKIPPED if n.skipped else None), n.done >= n.upstream and not n.skipped


def all_done_min_one_success(n: Counts, _: Setups, __: int) -> Ruling:
    """Every upstream finished without a skip, and one succeeded."""
    finished = n.success + n.failed + n.upstream_failed
    passes = not n.skipped and finished >= n.upstream - n.skipped - n.removed and n.success > 0
    if n.skipped:
        return SKIPPED, passes
    barren = finished + n.removed >= n.upstream - n.skipped and n.success == 0
    return (UPSTREAM_FAILED if barren else None), passes


def all_done_setup_success(n: Counts, setups: Setups, _: int) -> Ruling:
    """Every upstream finished, and one of its setups, if it has any, succeeded."""
    done = n.done >= n.upstream
    passes = done and not (setups.upstream and not setups.success)
    if not (done and setups.upstream):
        return None, passes
    if setups.skipped >= setups.upstream:
        return SKIPPED, passes
    return (UPSTREAM_FAILED if setups.success == 0 else None), passes


def never(_: Counts, __: Setups, ___: int) -> Ruling:
    """Airflow has no strategy for a rule it does not know: the task instance waits for ever."""
    return None, False


RULES: dict[str, Callable[[Counts, Setups, int], Ruling]] = {
    "all_success": all_success,
    "all_failed": all_failed,
    "all_done": all_done,
    "all_done_min_one_success": all_done_min_one_success,
    "all_done_setup_success": all_done_setup_success,
    "all_skipped": all_skipped,
    "one_success": one_success,
    "one_failed": one_failed,
    "one_done": one_done,
    "none_failed": none_failed,
    "none_failed_min_one_success": none_failed_min_one_success,
    "none_skipped": none_skipped,
}


PATIENT = frozenset(
    {
        "all_success",
        "all_done",
        "all_done_min_one_success",
        "all_done_setup_success",
        "none_failed",
        "none_failed_min_one_success",
        "none_skipped",
    }
)
"""Rules that decide nothing while there were only successes and something is still unfinished."""


def setup_constraint(n: Counts, map_index: int) -> Ruling:
    """Every relevant setup further up succeeded (``_evaluate_setup_constraint``).

    Sets the states that ``all_success`` sets, but forgives removed instances only to a mapped one.
    """
    state, _ = all_success(n, NO_SETUPS, map_index)
    missing = n.upstream - n.success - (n.removed if map_index > -1 else 0)
    return state, missing <= 0
