"""What a workload is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from poc_bench.errors import UsageError
from poc_bench.plan import Plan

Number = int | float
HISTORY = "history"
Build = Callable[[Mapping[str, Number], int], Plan]


@dataclass(frozen=True, slots=True)
class Workload:
    """A named family of plans. ``build(parameters, seed)`` is deterministic."""

    name: str
    description: str
    defaults: Mapping[str, Number]
    quick: Mapping[str, Number]
    """Parameters that make a cell of a few seconds."""
    full: Mapping[str, Number]
    """Parameters for the published matrix: hundreds of cells have to fit in an hour or so."""
    build: Build
    primary: str
    """The figure that arms are compared by (a name of :data:`poc_bench.figures.FIGURES`)."""

    def sized(self, assignments: str = "", base: Mapping[str, Number] | None = None) -> Sized:
        """Return this workload with ``name=value,…`` put over *base*, or over its defaults.

        Every workload takes ``history``: finished task instances that the database holds beforehand.

        :raises UsageError: for an unknown parameter or a value that is not a number.
        """
        parameters = {HISTORY: 0, **(self.defaults if base is None else base)}
        for assignment in filter(None, assignments.split(",")):
            name, _, value = assignment.partition("=")
            if name not in parameters:
                raise UsageError(f"Workload {self.name} has no {name!r}. It has: {', '.join(parameters)}")
            parameters[name] = _number(f"{self.name}:{name}", value)
        return Sized(self, parameters)


@dataclass(frozen=True, slots=True)
class Sized:
    """A workload with all its parameters set."""

    workload: Workload
    parameters: Mapping[str, Number]

    @property
    def label(self) -> str:
        """The text that names this size on the command line."""
        shown = (f"{k}={v}" for k, v in self.parameters.items() if v or k != HISTORY)
        return f"{self.workload.name}:{','.join(shown)}"

    def plan(self, seed: int) -> Plan:
        """Return the plan for *seed*."""
        plan = self.workload.build(self.parameters, seed)
        return replace(plan, history=int(self.parameters[HISTORY]))


def _number(what: str, text: str) -> Number:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    raise UsageError(f"{what} wants a number, not {text!r}")
