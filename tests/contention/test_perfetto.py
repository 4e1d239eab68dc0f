"""The export keeps Perfetto's rules: slices nest, arrows lead from the waiter to the holder."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from async_scheduler.contention import perfetto
from async_scheduler.contention.building import join, load
from async_scheduler.contention.perfetto import HOLDS, WAITS, Exporter
from async_scheduler.contention.postgres_log import ServerLog
from async_scheduler.contention.reading import Trace
from async_scheduler.measure.events import Header, Party
from tests.contention.traces import iteration, row_wait, transaction, two_routines, write_trace

if TYPE_CHECKING:
    import pytest

HEADER = Header(process="p", host="h", pid=1, level="ledger", wall_ns=0, monotonic_ns=0)


def assert_nested(events: list[dict[str, Any]]) -> None:
    """Check that on each track every two slices are apart or one holds the other."""
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for slices in tracks.values():
        open_ends: list[float] = []
        for start, end in sorted(slices, key=lambda s: (s[0], -s[1])):
            while open_ends and open_ends[-1] <= start + 1e-6:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1] + 1e-6
            open_ends.append(end)


def test_arrow_leads_from_the_wait_to_the_holder(tmp_path: Path) -> None:
    joined = load(write_trace(tmp_path / "trace", *two_routines()))
    path = tmp_path / "trace.json.gz"
    assert perfetto.write(joined, path) == 0
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert_nested(events)
    waits = [e for e in events if e["ph"] == "X" and e["pid"] == WAITS]
    assert {e["name"] for e in waits} == {"for schedule on dag_run", "for schedule on task_instance"}
    starts = {e["id"]: e for e in events if e["ph"] == "s"}
    ends = {e["id"]: e for e in events if e["ph"] == "f"}
    assert set(starts) == set(ends)
    assert len(starts) == 2
    markers = [e for e in events if e["pid"] == HOLDS and e["name"].startswith("blocks")]
    for flow, end in ends.items():
        assert any(m["ts"] <= end["ts"] <= m["ts"] + m["dur"] and m["tid"] == end["tid"] for m in markers)
        assert starts[flow]["ts"] < end["ts"]
    names = {e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    assert {"schedule", "start", "start waits", "schedule holds"} <= names


spans = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), min_size=1, max_size=12)


@given(spans, spans)
def test_slices_nest_whatever_overlaps(held: list[tuple[int, int]], waited: list[tuple[int, int]]) -> None:
    trace = Trace(Path(), [HEADER])
    for number, (start, length) in enumerate(held, start=1):
        trace.iterations.append(iteration("r", start, start + length, activity=number))
        trace.transactions.append(
            transaction("r", start, start + length, number=number, pid=number, activity=number)
        )
    for start, length in waited:
        trace.waits.append(row_wait(Party(pid=50), Party(pid=1), start, start + length))
    trace.iterations.sort(key=lambda i: i.start)
    assert_nested(Exporter(join(trace, ServerLog())).events())


def test_details_beyond_the_cap_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perfetto, "MAX_EVENTS", 10)
    joined = load(write_trace(tmp_path / "trace", *two_routines()))
    assert perfetto.write(joined, tmp_path / "trace.json") > 0
