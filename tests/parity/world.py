"""A story told to both schedulers: rows are written, phases run, and the ends compared.

``@both`` turns a story, a function of a :class:`World`, into a test: it runs once with Airflow's own
scheduler and once with ours, each on an empty database, and all rows of the database, what executors were
given and the metrics asked for are compared. Assertions in the story are made on both ends, and only to
show that what it is about did happen.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from airflow._shared.observability.metrics import stats
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import RemovedInAirflow4Warning
from airflow.utils.session import create_session
from sqlalchemy import func, select, update

from tests.parity.arms import Arm, MakeArm, Scripted, facade, redesigned, stock
from tests.parity.listening import Metrics
from tests.parity.rows import Reading, differences, read, task_instance_names, wipe
from tests.support.dags import EPOCH, create_run, write_dags

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

DAY = timedelta(days=1)
ENDED: dict[str, Any] = {"start_date": EPOCH, "end_date": EPOCH}
"""The dates of a task instance that ran."""
Executors = Callable[[], list[Scripted]]
OURS = [
    pytest.param(redesigned, id="stages"),
    pytest.param(facade, id="facade", marks=pytest.mark.deep),
]


class World:
    """One scheduler, its database, and what a story says to them."""

    def __init__(self, arm: Arm, executors: list[Scripted], began: datetime, metrics: Counter[Any]) -> None:
        self.arm = arm
        self.executors = executors
        self.now = began
        self.job = arm.runner.job.id
        self.metrics = metrics
        self.notes: list[Any] = []
        self.numbers = itertools.count()
        self._reading = Reading(began)
        self._wanted: tuple[str, ...] = ()
        self._named = False

    # --- rows -----------------------------------------------------------------------------------------

    def dag(self, dag_id: str = "dag", tasks: Any = "a", edges: str = "", **options: Any) -> str:
        """Store a dag. *tasks*: ids, or ids with arguments of the operator; *edges* such as ``a>b b>c``."""
        write_dags(make_dag(dag_id, tasks, edges, **options))
        return dag_id

    def run(self, dag_id: str = "dag", number: int = 0, state: str = "running", **columns: Any) -> DagRun:
        """Store the run ``run_<number>`` with its task instances."""
        run = create_run(dag_id, number)
        if state != "queued":
            columns.setdefault("start_date", EPOCH + number * DAY)
        with create_session() as session:
            of_run = DagRun.__table__.update().where(DagRun.id == run.id)
            session.execute(of_run.values(state=state, **columns))
        return run

    def ti(self, task: str = "a", state: Any = ..., run: int = 0, dag: str = "dag", **columns: Any) -> None:
        """Change the instances of *task* in a run; ``index`` picks one of a mapped task."""
        c, index = TaskInstance.__table__.c, columns.pop("index", None)
        values = columns if state is ... else {"state": state, **columns}
        query = TaskInstance.__table__.update().where(
            c.dag_id == dag, c.run_id == f"run_{run}", c.task_id == task
        )
        if index is not None:
            query = query.where(c.map_index == index)
        with create_session() as session:
            assert session.execute(query.values(values)).rowcount, f"no {task} in run {run} of {dag}"

    def remove(self, task: str, run: int = 0, dag: str = "dag") -> None:
        """Delete the instances of *task* in a run."""
        c = TaskInstance.__table__.c
        of_task = (c.dag_id == dag, c.run_id == f"run_{run}", c.task_id == task)
        with create_session() as session:
            session.execute(TaskInstance.__table__.delete().where(*of_task))

    def of_dag(self, dag_id: str = "dag", **columns: Any) -> None:
        """Change the row of a dag."""
        with create_session() as session:
            session.execute(update(DagModel).where(DagModel.dag_id == dag_id).values(columns))

    def pool(self, name: str, slots: int, include_deferred: bool = False) -> None:
        """Store a pool, or change it."""
        with create_session() as session:
            Pool.create_or_update_pool(name, slots, "", include_deferred, session=session)

    def add(self, *rows: Any) -> None:
        """Store ORM objects."""
        with create_session() as session:
            session.add_all(rows)

    @contextmanager
    def rows(self) -> Iterator[Session]:
        """Yield a session for whatever else the story stores or reads."""
        with create_session() as session:
            yield session

    # --- phases ---------------------------------------------------------------------------------------

    def _begin(self) -> Arm:
        if not self._named:
            self._reading.names |= task_instance_names()
            self._named = True
        return self.arm

    def create(self) -> None:
        """Create the runs that are due."""
        self._begin().create()

    def start(self) -> None:
        """Start the runs that may start."""
        self._begin().start()

    def schedule(self) -> None:
        """Examine the running runs until nothing changes."""
        self._begin().schedule()

    def enqueue(self) -> None:
        """Queue what fits."""
        self._begin().enqueue()

    def loop(self, times: int = 1) -> None:
        """Let all phases but the executors' follow each other."""
        for _ in range(times):
            self.create()
            self.start()
            self.schedule()
            self.enqueue()

    def report(self, *events: tuple[Any, Any], executor: int = 0) -> None:
        """Let an executor report (key, state) or (key, (state, info)), and process that."""
        given = {key: state if isinstance(state, tuple) else (state, None) for key, state in events}
        self._begin().report(self.executors[executor], given)

    def beat(self, executor: int = 0) -> None:
        """Send an executor its heartbeat, and process what it has to report."""
        self._begin().beat(self.executors[executor])

    def listened(self) -> None:
        """Wait until listeners have heard what there is to hear."""
        self._begin().listened()

    def timer(self, name: str) -> None:
        """Run one of the interval timers."""
        self._begin().timer(name)

    def step(self, name: str) -> None:
        """Run ``deadlines``, ``executor_callbacks`` or ``connection_tests``."""
        self._begin().step(name)

    # --- what became of it ----------------------------------------------------------------------------

    def key(self, task: str = "a", tries: int = 1, run: int = 0, dag: str = "dag", index: int = -1) -> Any:
        """Return the key of a task instance."""
        return TaskInstanceKey(dag, task, f"run_{run}", tries, index)

    def states(self) -> dict[Any, int]:
        """Return how many task instances are in which state."""
        with create_session() as session:
            rows = session.execute(select(TaskInstance.state, func.count()).group_by(TaskInstance.state))
            return {state if state is None else str(state): count for state, count in rows}

    def state(self, task: str = "a", run: int = 0, dag: str = "dag", index: int = -1) -> str | None:
        """Return the state of one task instance."""
        c = TaskInstance.__table__.c
        with create_session() as session:
            found = session.scalar(
                select(c.state).where(
                    c.dag_id == dag, c.run_id == f"run_{run}", c.task_id == task, c.map_index == index
                )
            )
        return None if found is None else str(found)

    def runs(self) -> list[str]:
        """Return the states of all runs."""
        with create_session() as session:
            return [str(state) for state in session.scalars(select(DagRun.state).order_by(DagRun.id))]

    def count(self, model: Any, *where: Any) -> int:
        """Return how many rows *model* has."""
        with create_session() as session:
            return int(session.scalar(select(func.count()).select_from(model).where(*where)) or 0)

    def note(self, *values: Any) -> None:
        """Keep something to compare that is not in the database at the end."""
        self.notes.append([self._reading.value(value) for value in values])

    def check(self) -> None:
        """Compare all rows as they are now, not only at the end."""
        self._begin()
        self.notes.append(read(self._reading))

    def compare_metrics(self, *names: str) -> None:
        """Compare how often metrics whose names begin so were sent, by name and tags.

        Of names that end in ``?`` only whether they were sent: how often depends on the number of passes.
        """
        self._wanted = names

    def _sent(self) -> dict[Any, int]:
        counted = tuple(name for name in self._wanted if not name.endswith("?"))
        seen = tuple(name[:-1] for name in self._wanted if name.endswith("?"))
        return {key: n for key, n in self.metrics.items() if key[0].startswith(counted)} | {
            key: 1 for key in self.metrics if key[0].startswith(seen)
        }

    def end(self) -> dict[str, Any]:
        """Return everything that is compared."""
        self._begin()
        return {
            "notes": self.notes,
            "rows": read(self._reading),
            "asked": [(one.offered, one.revoked) for one in self.executors],
            "given": [
                sorted(self._reading.value(_described(workload)) for workload in one.given)
                for one in self.executors
            ],
            "metrics": self._sent(),
        }


def _described(workload: Any) -> str:
    dumped = workload.model_dump(exclude={"token"}, mode="json")
    for inner in (dumped.get("ti"), dumped.get("callback")):
        if inner:
            inner.pop("id", None)
            inner.pop("context_carrier", None)
            inner.pop("dag_version_id", None)
    return repr(dumped)


def in_a_thread(change: Callable[[], None]) -> None:
    """Let *change* happen on a thread, which does not inherit what makes sessions join a transaction."""
    thread = threading.Thread(target=change)
    thread.start()
    thread.join()


def make_dag(dag_id: str, tasks: Any, edges: str = "", **options: Any) -> DAG:
    """Return a dag of plain tasks, which do not succeed at once as empty ones do."""
    given = {task: {} for task in tasks.split()} if isinstance(tasks, str) else tasks
    with (
        warnings.catch_warnings(action="ignore", category=RemovedInAirflow4Warning),
        DAG(dag_id, **{"start_date": EPOCH, "schedule": None, **options}) as dag,
    ):
        made = {task: BaseOperator(task_id=task, **arguments) for task, arguments in given.items()}
        for edge in edges.split():
            before, after = edge.split(">")
            made[before].set_downstream(made[after])
    return dag


def both(
    executors: Executors = lambda: [Scripted()], *, differing: Collection[str] = (), **conf: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a test of a story: both schedulers, the same rows, the same end.

    :param executors: makes the executors of each scheduler, the default one first.
    :param differing: places where the stages' end has to differ, on purpose: the story says why. The
        facade's does not: there it is the caller's own session that Airflow's code closes.
    :param conf: Airflow's options as ``section__key``.
    """

    def decorate(story: Callable[..., None]) -> Callable[..., None]:
        parameters = list(inspect.signature(story).parameters.values())[1:]
        own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("parity_db", "ours")]

        @functools.wraps(story)
        def test(parity_db: None, ours: MakeArm, **arguments: Any) -> None:
            with _configured(conf):
                expected, end = _tell(story, (stock, ours), executors, arguments)
            found = differences(expected, end)
            allowed = set(differing) if ours is redesigned else set()
            if {line.partition(":")[0] for line in found} != allowed:
                pytest.fail("The schedulers differ:\n" + "\n".join(found), pytrace=False)

        keywords = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        test.__signature__ = inspect.Signature([*keywords, *own])  # type: ignore[attr-defined]
        marked: Callable[..., None] = pytest.mark.parametrize("ours", OURS)(test)
        return marked

    return decorate


def _tell(
    story: Callable[..., None], arms: tuple[MakeArm, MakeArm], executors: Executors, arguments: dict[str, Any]
) -> Iterator[Any]:
    began = datetime.now(UTC)
    for arm in arms:
        with world(arm, executors, began) as w:
            story(w, **arguments)
            yield w.end()


@contextmanager
def world(
    arm: MakeArm,
    executors: Executors = lambda: [Scripted()],
    began: datetime | None = None,
) -> Iterator[World]:
    """Yield the world of one scheduler, on an emptied database."""
    wipe()
    made, metrics = executors(), Metrics()
    with patch.object(stats, "_backend", metrics), arm(made) as scheduler:
        yield World(scheduler, made, began or datetime.now(UTC), metrics.sent)


@contextmanager
def _configured(conf: dict[str, Any]) -> Iterator[None]:
    # A dag written again is a new version at once, and both schedulers look.
    conf = {"core__min_serialized_dag_update_interval": 0, **conf}
    variables = {f"AIRFLOW__{name.upper()}": str(value) for name, value in conf.items()}
    with patch.dict("os.environ", variables):
        yield
