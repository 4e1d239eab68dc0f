"""Loads the files of one trace."""

from __future__ import annotations

import gzip
import lzma
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from async_scheduler.errors import AsyncSchedulerError
from async_scheduler.measure.events import (
    SCHEMA,
    VERSION,
    Dropped,
    Event,
    Header,
    Iteration,
    StatementText,
    Stopped,
    Transaction,
    Wait,
)
from async_scheduler.measure.writer import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

E = TypeVar("E")

PACKED = ".jsonl.xz"


class UnreadableTrace(AsyncSchedulerError):
    """A directory holds no trace, or one of another version."""


@dataclass
class Trace:
    """Everything in the files of a directory, each kind in order of time."""

    directory: Path
    headers: list[Header] = field(default_factory=list)
    statements: dict[str, StatementText] = field(default_factory=dict)
    transactions: list[Transaction] = field(default_factory=list)
    iterations: list[Iteration] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    stopped: list[Stopped] = field(default_factory=list)
    others: list[Event] = field(default_factory=list)
    truncated: list[Path] = field(default_factory=list)

    def of(self, kind: type[E]) -> list[E]:
        """Return the records of a kind that has no list of its own."""
        return [record for record in self.others if isinstance(record, kind)]

    @property
    def dropped(self) -> int:
        """Return how many records were lost."""
        return sum(record.count for record in self.of(Dropped))

    @property
    def interval(self) -> tuple[int, int]:
        """Return when the measured work began and ended; (0, 0) when there is none."""
        spans = [(i.start, i.end) for i in self.iterations] or [(t.start, t.end) for t in self.transactions]
        return (min(s for s, _ in spans), max(e for _, e in spans)) if spans else (0, 0)

    def wall_clock(self, monotonic_ns: int) -> int:
        """Return a monotonic time as nanoseconds of the wall clock, by the nearest earlier header."""
        return monotonic_ns + self.wall_offset_ns

    @property
    def wall_offset_ns(self) -> int:
        """Return the wall clock minus the monotonic one, as of the first header."""
        header = self.headers[0]
        return header.wall_ns - header.monotonic_ns

    def since(self, start: int) -> Trace:
        """Return what ended at *start* (monotonic) or later."""
        return Trace(
            self.directory,
            self.headers,
            self.statements,
            [t for t in self.transactions if t.end >= start],
            [i for i in self.iterations if i.end >= start],
            [w for w in self.waits if w.t_end >= start],
            self.stopped,
            [o for o in self.others if getattr(o, "at", start) >= start],
            self.truncated,
        )


def read_trace(directory: Path) -> Trace:
    """Return the trace in *directory*. A file that breaks off is read as far as it goes.

    Files that were packed anew with ``xz``, to be kept, are read too.

    :raises UnreadableTrace: when there is none, or one that this version cannot read.
    """
    paths = sorted([*directory.glob(f"*{SUFFIX}"), *directory.glob(f"*{PACKED}")])
    if not paths:
        raise UnreadableTrace(f"{directory} holds no trace (*{SUFFIX})")
    trace = Trace(directory)
    for path in paths:
        _read_file(path, trace)
    if not trace.headers:
        raise UnreadableTrace(f"{directory} holds no trace that can be read: {paths[0].name} is damaged")
    trace.transactions.sort(key=lambda t: t.start)
    trace.iterations.sort(key=lambda i: i.start)
    trace.waits.sort(key=lambda w: w.t_start)
    return trace


def _read_file(path: Path, trace: Trace) -> None:
    decoder = msgspec.json.Decoder(Event)
    first = True
    for line in _lines(path, trace):
        if first:
            _check_version(path, line)
            first = False
        try:
            record = decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise UnreadableTrace(f"{path} is damaged: {error}") from error
        _sort_in(record, trace)


def _lines(path: Path, trace: Trace) -> Iterator[bytes]:
    try:
        opener: Any = lzma.open if path.suffix == ".xz" else gzip.open
        with opener(path, "rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line
                else:
                    trace.truncated.append(path)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile):
        trace.truncated.append(path)


def _check_version(path: Path, line: bytes) -> None:
    try:
        head = msgspec.json.decode(line, type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise UnreadableTrace(f"{path} is not a trace") from error
    if head.get("kind") != "header" or head.get("schema") != SCHEMA:
        raise UnreadableTrace(f"{path} is not a trace")
    if head.get("version") != VERSION:
        raise UnreadableTrace(f"{path} is of version {head.get('version')}; this reads {VERSION}")


def _sort_in(record: Event, trace: Trace) -> None:
    match record:
        case Transaction():
            trace.transactions.append(record)
        case Iteration():
            trace.iterations.append(record)
        case Wait():
            trace.waits.append(record)
        case StatementText():
            trace.statements[record.hash] = record
        case Header():
            trace.headers.append(record)
        case Stopped():
            trace.stopped.append(record)
        case _:
            trace.others.append(record)
