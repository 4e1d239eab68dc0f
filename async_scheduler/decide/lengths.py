"""How many task instances a mapped task has in a run (``get_mapped_ti_count``, ``get_task_map_length``)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Literal:
    """A length that stands in the dag."""

    length: int


@dataclass(frozen=True, slots=True)
class ResultOf:
    """The length of what a plain task returns, or how many values a mapped one does."""

    task: int
    mapped: bool


@dataclass(frozen=True, slots=True)
class Zip:
    """The shortest of several, or, with a value to fill in, the longest."""

    parts: tuple[Length, ...]
    filled: bool


@dataclass(frozen=True, slots=True)
class Concat:
    """Several, one after another."""

    parts: tuple[Length, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """Every combination of several."""

    parts: tuple[Length, ...]


Length: TypeAlias = "Literal | ResultOf | Zip | Concat | Product"


def length_of(length: Length, result_of: Callable[[ResultOf], int | None]) -> int | None:
    """Return a length, or None while a task it depends on has not delivered (``NotFullyPopulated``)."""
    if isinstance(length, Literal):
        return length.length
    if isinstance(length, ResultOf):
        return result_of(length)
    parts = [length_of(part, result_of) for part in length.parts]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if isinstance(length, Product):
        return math.prod(known)
    if isinstance(length, Concat):
        return sum(known)
    return max(known) if length.filled else min(known)


def tasks_in(length: Length) -> set[ResultOf]:
    """Return the results that a length depends on."""
    if isinstance(length, Literal):
        return set()
    if isinstance(length, ResultOf):
        return {length}
    return {found for part in length.parts for found in tasks_in(part)}
