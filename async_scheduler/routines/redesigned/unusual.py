"""Which runs are left to Airflow's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow import settings as airflow_settings

if TYPE_CHECKING:
    from datetime import datetime

    from async_scheduler.plans.cache import CompiledDag
    from async_scheduler.store.running import ClaimedRun


def is_unusual(run: ClaimedRun, compiled: CompiledDag, now: datetime) -> bool:
    """Whether the run has timed out, lies in the future, or its dag has features not decided here."""
    plan = compiled.plan
    timed_out = (
        plan.dagrun_timeout is not None
        and run.start_date is not None
        and run.start_date < now - plan.dagrun_timeout
    )
    future = run.logical_date is not None and run.logical_date > now
    unexpandable = plan.maps and not _can_expand(compiled)
    return bool(timed_out or future or plan.needs_upstream or unexpandable)


def _can_expand(compiled: CompiledDag) -> bool:
    """Whether new instances can be made here: no hook and no weight rule of the user wants to see them."""
    hook = airflow_settings.task_instance_mutation_hook
    return compiled.templates is not None and bool(getattr(hook, "is_noop", False))
