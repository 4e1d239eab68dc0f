"""The record of an experiment: the same work in several arms, measured in modes that never mix.

*timing*: nothing is traced; wall and CPU seconds. *lanes*: the same with so many transactions of one routine
at once. *attribution*: traced, the server logs every lock wait. *census*: the server explains every plan, so
rows passed over are counted. *overhead*: the cost of tracing, pair by pair. Each family of arms runs one
algorithm concurrently, one routine after another, and on one shared session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from async_scheduler.contention.reading import UnreadableTrace

if TYPE_CHECKING:
    from pathlib import Path

FILE = "contention.json"
SCHEMA = "async-scheduler-contention-experiment"
VERSION = 1

Mode = Literal["timing", "lanes", "attribution", "census", "overhead"]


class RunRecord(msgspec.Struct, kw_only=True):
    """One run of the work. ``trace`` is its folder within the experiment's; ``items`` are tasks done.

    ``workload`` is empty for the experiment's own. ``foreign_cores`` is how many cores were busy with what
    is no part of the run.
    """

    arm: str
    mode: Mode
    rtt_ms: float
    schedulers: int
    repeat: int
    wall_s: float
    cpu_s: float
    items: int
    trace: str | None = None
    traced: bool = False
    sqlstates: dict[str, int] = {}
    transactions: int = 0
    correct: bool = True
    failure: str | None = None
    lanes: int | None = None
    workload: str = ""
    foreign_cores: float | None = None


class Family(msgspec.Struct, kw_only=True):
    """An algorithm in its arms. ``fixed``: why the number of its routines at once cannot be varied, if so."""

    name: str
    concurrent: str
    sequential: str
    shared: str | None = None
    fixed: str = ""


class Experiment(msgspec.Struct, kw_only=True):
    """Everything measured, as ``contention.json`` in the experiment's folder.

    ``beside`` are other processes of Airflow that worked on the database meanwhile.
    """

    schema: str = SCHEMA
    version: int = VERSION
    created: str
    workload: str
    machine: dict[str, str]
    families: list[Family]
    reference: str | None = None
    beside: list[str] = []
    runs: list[RunRecord] = []


def write(experiment: Experiment, directory: Path) -> None:
    """Write *experiment* into *directory*, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f"{FILE}.new"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(experiment), indent=1))
    temporary.replace(directory / FILE)


def read(directory: Path) -> Experiment:
    """Return the experiment in *directory*.

    :raises UnreadableTrace: when there is none that this version can read.
    """
    try:
        found = msgspec.json.decode((directory / FILE).read_bytes(), type=Experiment)
    except OSError as error:
        raise UnreadableTrace(f"{directory} holds no experiment: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise UnreadableTrace(f"{directory / FILE} is damaged: {error}") from error
    if found.schema != SCHEMA or found.version != VERSION:
        raise UnreadableTrace(f"{directory / FILE} is of version {found.version}; this reads {VERSION}")
    return found
