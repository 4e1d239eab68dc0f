"""Writes a trace: JSON Lines, gzip, readable by its owner only, in parts whose number and size are capped.

A thread of its own does the encoding and writing, twice a second, so the measured code only appends to a
ring. Every part begins with a header and the statements known by then, so any part can be read alone. A
part can be read while it is written: each flush ends at a whole line.
"""

from __future__ import annotations

import gzip
import os
import threading
from time import thread_time_ns
from typing import IO, TYPE_CHECKING

import msgspec

from async_scheduler.errors import AsyncSchedulerError
from async_scheduler.measure.events import Dropped, Event, Header, StatementText
from async_scheduler.measure.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SUFFIX = ".jsonl.gz"
PART_BYTES = 32 * 2**20
PARTS = 16
FLUSH_SECONDS = 0.5


class TraceDirectoryUnusable(AsyncSchedulerError):
    """The directory of a trace cannot be created or written."""

    def __init__(self, directory: Path, cause: OSError) -> None:
        super().__init__(f"No trace can be written to {directory}: {cause.strerror}")
        self.directory = directory


class Part:
    """One file of a trace, open for writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        self._raw: IO[bytes] = os.fdopen(os.open(path, flags, 0o600), "wb")
        self._gzip = gzip.GzipFile(fileobj=self._raw, mode="wb", compresslevel=1, mtime=0)

    @property
    def size(self) -> int:
        """Return the bytes on disk so far."""
        return self._raw.tell()

    def write(self, lines: bytes) -> None:
        """Append whole lines and make them readable."""
        self._gzip.write(lines)
        self._gzip.flush()
        self._raw.flush()

    def close(self) -> None:
        """Finish the file."""
        self._gzip.close()
        self._raw.close()


class Writer:
    """Writes the records of a ring to the parts ``<name>.<part>.jsonl.gz`` of a directory.

    :raises TraceDirectoryUnusable: at once, when the first part cannot be created.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        header: Callable[[int], Header],
        *,
        capacity: int = 65_536,
        part_bytes: int = PART_BYTES,
        parts: int = PARTS,
    ) -> None:
        self._directory, self._name, self._header = directory, name, header
        self._part_bytes, self._parts = part_bytes, parts
        self._ring: Ring[Event] = Ring(capacity)
        self._statements: dict[str, StatementText] = {}
        self._encoder = msgspec.json.Encoder()
        self._reported = self._number = 0
        self.cpu_ns = 0
        self._paths: list[Path] = []
        self._stopping = threading.Event()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._part = self._next_part()
        except OSError as error:
            raise TraceDirectoryUnusable(directory, error) from error
        self._thread = threading.Thread(target=self._run, name="trace-writer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Return how many records were lost so far."""
        return self._ring.dropped

    @property
    def taken(self) -> int:
        """Return how many records were given to it so far."""
        return self._ring.put_count

    def put(self, record: Event) -> None:
        """Take a record; it is written within half a second."""
        self._ring.put(record)

    def close(self) -> None:
        """Write what is left and end."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()
        self._part.close()

    def _flush(self) -> None:
        records = self._ring.take()
        if (lost := self._ring.dropped - self._reported) and records:
            self._reported += lost
            records.append(Dropped(_time_of(records), lost))
        if records:
            for record in records:
                if isinstance(record, StatementText):
                    self._statements[record.hash] = record
            self._part.write(self._lines(records))
            if self._part.size >= self._part_bytes:
                self._part.close()
                self._part = self._next_part()
        self.cpu_ns = thread_time_ns()

    def _next_part(self) -> Part:
        self._number += 1
        part = Part(self._directory / f"{self._name}.{self._number:04}{SUFFIX}")
        part.write(self._lines([self._header(self._number), *self._statements.values()]))
        self._paths.append(part.path)
        while len(self._paths) > self._parts:
            self._paths.pop(0).unlink(missing_ok=True)
        return part

    def _lines(self, records: list[Event]) -> bytes:
        return b"".join(self._encoder.encode(record) + b"\n" for record in records)


def _time_of(records: list[Event]) -> int:
    for record in reversed(records):
        for name in ("at", "end", "t_end"):
            if isinstance(at := getattr(record, name, None), int):
                return at
    return 0
