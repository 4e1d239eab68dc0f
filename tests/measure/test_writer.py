"""The trace on disk: private, readable while written, capped, honest about what was lost."""

from __future__ import annotations

import gzip
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from async_scheduler.measure.events import (
    VERSION,
    Header,
    Lag,
    StatementText,
    Transaction,
    json_schema,
)
from async_scheduler.measure.instrument import AlreadyTracing
from async_scheduler.measure.ring import Ring
from async_scheduler.measure.writer import TraceDirectoryUnusable, Writer

if TYPE_CHECKING:
    from pathlib import Path

    from async_scheduler.measure.instrument import Instrument


def header(part: int) -> Header:
    return Header(process="test", host="h", pid=1, level="ledger", wall_ns=1, monotonic_ns=1, part=part)


def lines_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def test_ring_drops_the_oldest_and_counts() -> None:
    ring: Ring[int] = Ring(3)
    for n in range(5):
        ring.put(n)
    assert (ring.take(), ring.dropped, ring.put_count, len(ring)) == ([2, 3, 4], 2, 5, 0)
    assert ring.take() == []


def test_file_is_private_and_starts_with_a_header(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "traces"
    writer = Writer(directory, "test", header)
    writer.put(Lag(5, 7))
    writer.close()
    (path,) = directory.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    first, second = lines_of(path)
    assert (first["kind"], first["schema"], first["version"]) == ("header", "async-scheduler-trace", VERSION)
    assert second == {"kind": "lag", "at": 5, "ns": 7, "busy": None}


def test_parts_rotate_and_each_can_be_read_alone(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "test", header, part_bytes=1, parts=2)
    writer.put(StatementText("abc", "SELECT 1", False))
    for n in range(4):
        writer.put(Lag(n, n))
        writer._flush()
    writer.close()
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 2
    for path in kept:
        head, statement = lines_of(path)[:2]
        assert head["part"] == int(path.name.split(".")[1])
        assert statement["text"] == "SELECT 1"


def test_loss_is_written_down(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "test", header, capacity=2)
    for n in range(10):
        writer.put(Lag(n, n))
    writer.close()
    (path,) = tmp_path.iterdir()
    kinds = {line["kind"]: line for line in lines_of(path)}
    assert kinds["dropped"]["count"] == writer.dropped > 0


def test_directory_that_cannot_be_used_is_refused_at_once(tmp_path: Path, instrument: Instrument) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(TraceDirectoryUnusable, match="No trace can be written"):
        instrument.start(blocker / "traces")
    assert not instrument.tracing
    assert not instrument.installed


def test_one_trace_at_a_time(tmp_path: Path, instrument: Instrument) -> None:
    instrument.start(tmp_path)
    with pytest.raises(AlreadyTracing):
        instrument.start(tmp_path)
    instrument.stop()
    instrument.stop()
    instrument.start(tmp_path, level="steps")
    instrument.stop()
    assert len(list(tmp_path.iterdir())) == 2


def test_schema_names_every_kind() -> None:
    kinds = {
        branch["properties"]["kind"]["enum"][0]
        for branch in json_schema()["$defs"].values()
        if "kind" in branch.get("properties", {})
    }
    assert {"header", "statement", "transaction", "iteration", "wait", "cycle", "stopped"} <= kinds
    assert Transaction.__struct_config__.tag == "transaction"
