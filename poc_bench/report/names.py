"""Names of positions in the matrix, as short as they can be told apart. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Position = tuple[str, float, int]
"""Size of workload, RTT in ms, schedulers."""


def full_name(position: Position) -> str:
    """Return a position in words, with every parameter of its workload."""
    return _name(position, position[0])


def names(positions: Iterable[Position]) -> dict[Position, str]:
    """Return a name for each position: the workload's, and the parameters in which its sizes differ."""
    found = list(dict.fromkeys(positions))
    sizes: defaultdict[str, set[str]] = defaultdict(set)
    for size, _, _ in found:
        sizes[size.partition(":")[0]].add(size)
    return {position: _name(position, _short(position[0], sizes)) for position in found}


def _short(size: str, sizes: dict[str, set[str]]) -> str:
    workload = size.partition(":")[0]
    mine = _parameters(size)
    others = [_parameters(other) for other in sizes[workload]]
    differing = [
        f"{name}={value}" for name, value in mine.items() if any(other.get(name) != value for other in others)
    ]
    return f"{workload} ({' '.join(differing)})" if differing else workload


def _parameters(size: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in size.partition(":")[2].split(",") if part)
    return {name: value for name, _, value in pairs}


def _name(position: Position, workload: str) -> str:
    _, rtt, schedulers = position
    words = [workload]
    if rtt:
        words.append(f"RTT {rtt:g} ms")
    if schedulers != 1:
        words.append(f"{schedulers} schedulers")
    return ", ".join(words)
