"""The kinds of work that schedulers are compared on, one module each.

A workload turns parameters and a seed into a :class:`~poc_bench.plan.Plan`; the same input gives the same
plan in every process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from poc_bench.errors import UsageError
from poc_bench.workloads import (
    catch_up,
    history,
    idle,
    layers,
    linear,
    many_small,
    mapped,
    mixed_rules,
    slow_executor,
    star,
    starved,
    steady,
)

if TYPE_CHECKING:
    from poc_bench.workloads.model import Sized, Workload

Preset = Literal["defaults", "quick", "full"]

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        layers.WORKLOAD,
        linear.WORKLOAD,
        star.WORKLOAD,
        many_small.WORKLOAD,
        catch_up.WORKLOAD,
        mapped.WORKLOAD,
        mixed_rules.WORKLOAD,
        starved.WORKLOAD,
        slow_executor.WORKLOAD,
        steady.WORKLOAD,
        idle.WORKLOAD,
        history.WORKLOAD,
    )
}


def sized(text: str, preset: Preset = "defaults") -> Sized:
    """Return the workload *text* names: ``layers`` or ``layers:dags=10,runs=10,tasks=200``.

    Parameters that are not named come from *preset*.

    :raises UsageError: for an unknown workload or parameter, or a value that is not a number.
    """
    name, _, assignments = text.partition(":")
    if name not in WORKLOADS:
        raise UsageError(f"There is no workload {name!r}. There are: {', '.join(WORKLOADS)}")
    workload = WORKLOADS[name]
    return workload.sized(
        assignments, {"defaults": workload.defaults, "quick": workload.quick, "full": workload.full}[preset]
    )


def sized_list(text: str, overrides: str = "", preset: Preset = "defaults") -> list[Sized]:
    """Return the workloads of ``W[:name=value,…],W…``, each with *overrides* put over its parameters.

    :raises UsageError: as :func:`sized`.
    """
    items: list[str] = []
    for part in text.split(","):
        if items and "=" in part and ":" not in part:
            items[-1] += f",{part}"
        else:
            items.append(part)
    return [sized(_with(item, overrides), preset) for item in items]


def _with(item: str, overrides: str) -> str:
    if not overrides:
        return item
    return f"{item},{overrides}" if ":" in item else f"{item}:{overrides}"
