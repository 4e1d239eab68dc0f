"""Sorts the task instances of a run onto a board, and remembers how: the next visit reads only states."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from async_scheduler.decide.board import Board
from async_scheduler.decide.states import CODES
from async_scheduler.store.instances import PackedStates, StateRows, load_packed, load_states, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from decimal import Decimal

    from sqlalchemy.ext.asyncio import AsyncSession

    from async_scheduler.decide.plan import DagPlan

ROOM = 500_000
"""Task instances whose places are remembered, some 25 bytes each; runs visited the longest ago give way."""
ID_BYTES = 16


class UnknownTasks(Exception):
    """A task instance belongs to a task that the dag version does not have."""


class Ids(Protocol):
    """The ids of a run's task instances by position; None for finished ones where they were not read."""

    def __getitem__(self, position: int, /) -> UUID | None:
        """Return the id at *position*."""


class PackedIds:
    """Ids as bytes: a tenth of what as many objects take."""

    __slots__ = ("_bytes",)

    def __init__(self, ids: Iterable[UUID]) -> None:
        self._bytes = b"".join(instance.bytes for instance in ids)

    def __getitem__(self, position: int, /) -> UUID:
        """Return the id at *position*."""
        return UUID(bytes=self._bytes[position * ID_BYTES : (position + 1) * ID_BYTES])


@dataclass(frozen=True, slots=True)
class Layout:
    """Which task instance of a run lies where on its board.

    ``ranks`` holds for each position the place of its instance in the order of ids, which is the order of
    :class:`~async_scheduler.store.instances.PackedStates`. ``digest`` identifies the set of ids and map
    indexes: a retry or a clear gives an instance another id, an expansion adds some and gives one an index.
    """

    plan: DagPlan
    digest: Decimal
    tasks: Sequence[int]
    map_indexes: Sequence[int]
    ranks: array[int]
    ids: PackedIds

    def board(self, packed: PackedStates) -> Board | None:
        """Return a board with the states of *packed*, None if these are not of the same instances.

        :raises UnknownTasks: for a state that Airflow does not know.
        """
        if packed.digest != self.digest or packed.size != len(self.ranks):
            return None
        try:
            states = unpack(packed.states)
        except KeyError:
            raise UnknownTasks from None
        return Board(self.plan, self.tasks, self.map_indexes, list(map(states.__getitem__, self.ranks)))


class Layouts:
    """The layouts of runs visited lately, within *room* task instances. Belongs to one event loop."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._kept: OrderedDict[int, Layout] = OrderedDict()
        self._instances = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, run: int, plan: DagPlan) -> Layout | None:
        """Return the layout of *run*, unless it is of another dag version than *plan*."""
        layout = self._kept.get(run)
        if layout is None or layout.plan is not plan:
            return None
        self._kept.move_to_end(run)
        return layout

    def keep(self, run: int, layout: Layout) -> None:
        """Remember the layout of *run*."""
        self.forget(run)
        self._kept[run] = layout
        self._instances += len(layout.ranks)
        while self._instances > self._room:
            self.forget(next(iter(self._kept)))

    def forget(self, run: int) -> None:
        """Drop what is remembered of *run*."""
        layout = self._kept.pop(run, None)
        if layout is not None:
            self._instances -= len(layout.ranks)


Laid = tuple[Board, Ids]


async def lay_out_runs(
    session: AsyncSession,
    plans: dict[int, DagPlan],
    layouts: Layouts,
    seen: Mapping[int, PackedStates] | None = None,
) -> tuple[dict[int, Laid], set[int]]:
    """Return the boards of the runs with these ids, and the ids of those with unknown tasks or states.

    Reads one statement for the runs whose layout is known, and one for the others.

    :param seen: the states of the runs, where they were read together with them.
    """
    laid, strange = await _lay_out_known(session, plans, layouts, seen)
    unknown = {run: plan for run, plan in plans.items() if run not in laid and run not in strange}
    loaded = await load_states(session, list(unknown)) if unknown else {}
    for run, plan in unknown.items():
        try:
            board, ids, layout = lay_out(plan, loaded.get(run) or StateRows())
        except UnknownTasks:
            strange.add(run)
        else:
            laid[run] = board, ids
            if layout is not None:
                layouts.keep(run, layout)
    return laid, strange


async def _lay_out_known(
    session: AsyncSession,
    plans: dict[int, DagPlan],
    layouts: Layouts,
    seen: Mapping[int, PackedStates] | None,
) -> tuple[dict[int, Laid], set[int]]:
    known = {run: layout for run, plan in plans.items() if (layout := layouts.get(run, plan)) is not None}
    laid: dict[int, Laid] = {}
    strange: set[int] = set()
    if not known:
        return laid, strange
    if seen is None:
        seen = await load_packed(session, list(known))
    for run in known.keys() & seen.keys():
        packed = seen[run]
        try:
            board = known[run].board(packed)
        except UnknownTasks:
            strange.add(run)
            continue
        if board is None:
            layouts.forget(run)
        else:
            laid[run] = board, known[run].ids
    return laid, strange


def lay_out(plan: DagPlan, rows: StateRows) -> tuple[Board, Ids, Layout | None]:
    """Return *rows* sorted onto a board, the ids by position, and the layout where it can be remembered.

    Removed instances of tasks that are no longer in the dag are left out, as Airflow does.

    :raises UnknownTasks: for any other instance of such a task, and for a state that Airflow does not know.
    """
    index = plan.index
    try:
        tasks = [index[task_id] for task_id in rows.task_ids]
        states = [CODES[state] for state in rows.states]
    except KeyError:
        return lay_out(plan, _without_removed(plan, rows))
    order, mapped = _order(len(plan.tasks), tasks, rows.map_indexes)
    board = Board(
        plan,
        range(len(plan.tasks)) if mapped is None else [tasks[row] for row in order],
        [-1] * len(order) if mapped is None else [mapped[row] for row in order],
        [states[row] for row in order],
    )
    if rows.digest is None:
        return board, [rows.ids[row] for row in order], None
    layout = _layout(board, rows, order)
    return board, layout.ids, layout


def _order(count: int, tasks: list[int], map_indexes: list[int] | None) -> tuple[list[int], list[int] | None]:
    """Return the rows in the order of positions, and their map indexes; None where each task has one row."""
    if map_indexes is None and len(tasks) == count:
        order = [0] * count
        for row, task in enumerate(tasks):
            order[task] = row
        return order, None
    mapped = map_indexes or [-1] * len(tasks)
    return sorted(range(len(tasks)), key=lambda row: (tasks[row], mapped[row])), mapped


def _layout(board: Board, rows: StateRows, order: list[int]) -> Layout:
    by_id = sorted(range(len(order)), key=lambda row: rows.known_ids[row].bytes)
    rank_of_row = array("I", [0]) * len(order)
    for rank, row in enumerate(by_id):
        rank_of_row[row] = rank
    assert rows.digest is not None
    return Layout(
        plan=board.plan,
        digest=rows.digest,
        tasks=board.tasks if isinstance(board.tasks, range) else array("I", board.tasks),
        map_indexes=array("i", board.map_indexes),
        ranks=array("I", [rank_of_row[row] for row in order]),
        ids=PackedIds(rows.known_ids[row] for row in order),
    )


def _without_removed(plan: DagPlan, rows: StateRows) -> StateRows:
    kept = [
        row
        for row, task_id in enumerate(rows.task_ids)
        if task_id in plan.index or rows.states[row] != "removed"
    ]
    known = all(rows.task_ids[row] in plan.index and rows.states[row] in CODES for row in kept)
    if not known:
        raise UnknownTasks
    return StateRows(
        [rows.task_ids[row] for row in kept],
        [rows.states[row] for row in kept],
        [rows.ids[row] for row in kept],
        None if rows.map_indexes is None else [rows.map_indexes[row] for row in kept],
    )
