"""Mapped tasks: both schedulers expand the same instances, and judge what depends on them alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstance import clear_task_instances as clear
from airflow.models.taskmap import TaskMap
from airflow.models.xcom import XComModel
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, Param, task, task_group
from sqlalchemy import select, update

from tests.parity.world import ENDED, World, both
from tests.support.dags import EPOCH, write_dags


class Taking(BaseOperator):  # type: ignore[misc]
    """Takes values."""

    def __init__(self, value: Any = None, other: Any = None, **arguments: Any) -> None:
        super().__init__(**arguments)


@task
def source() -> list[int]:
    """Return something to map over."""
    return []


@task
def taking(value: Any, other: Any = None) -> Any:
    """Take values."""
    return value


def mapped_dag(values: Any, **options: Any) -> None:
    """Store a dag of one task mapped over *values*."""
    with DAG("dag", start_date=EPOCH, schedule=None) as dag:
        Taking.partial(task_id="m", **options).expand(value=values)
    write_dags(dag)


def store(build: Callable[[], Any], **options: Any) -> None:
    """Store the dag that *build* fills."""
    with DAG("dag", start_date=EPOCH, schedule=None, **options) as dag:
        build()
    write_dags(dag)


def returned(w: World, name: str, length: int, run: int = 0) -> None:
    """Let task *name* have succeeded with a result of this length."""
    w.ti(name, "success", run=run, **ENDED)
    w.add(TaskMap("dag", name, f"run_{run}", -1, length, None))


def results(w: World, name: str, indexes: range, run: int = 0) -> None:
    """Let these instances of a mapped task have returned something."""
    with w.rows() as session:
        dag_run = session.scalars(select(DagRun).where(DagRun.run_id == f"run_{run}")).one()
        for index in indexes:
            session.add(
                XComModel(
                    dag_run_id=dag_run.id,
                    task_id=name,
                    map_index=index,
                    key="return_value",
                    dag_id="dag",
                    run_id=dag_run.run_id,
                    value="x",
                )
            )


def indexes(w: World, name: str) -> list[int]:
    """Return the map indexes of a task's instances."""
    with w.rows() as session:
        of_task = select(TaskInstance.map_index).where(TaskInstance.task_id == name)
        return sorted(session.scalars(of_task))


@both()
@pytest.mark.parametrize("decorated", [True, False])
def test_literals_are_expanded_when_the_run_is_made(w: World, decorated: bool) -> None:
    with DAG("dag", start_date=EPOCH, schedule="@daily", catchup=True, max_active_runs=1) as dag:
        if decorated:
            taking.override(task_id="m").expand(value=[1, 2], other={"a": 1, "b": 2})
        else:
            Taking.partial(task_id="m").expand(value=[1, 2, 3, 4])
        Taking.partial(task_id="empty").expand(value=[])
        Taking.partial(task_id="mixed").expand(value=[1, 2], other=source())
        Taking.partial(task_id="kwargs").expand_kwargs([{"value": 1}, {"value": 2}])
    write_dags(dag)
    w.loop()
    assert indexes(w, "m") == [0, 1, 2, 3]


LENGTHS = (None, 0, 1, 3)


@both()
def test_over_results(w: World) -> None:
    """Maps over results of every length, alone, two together, with literals, and through kwargs."""

    def build() -> None:
        sources = [source.override(task_id=f"s{number}")() for number, _ in enumerate(LENGTHS)]
        for number, one in enumerate(sources):
            Taking.partial(task_id=f"m{number}").expand(value=one)
            Taking.partial(task_id=f"l{number}").expand(value=one, other=[1, 2])
            Taking.partial(task_id=f"k{number}").expand_kwargs(one)
        for one, other in itertools.combinations(range(len(LENGTHS)), 2):
            Taking.partial(task_id=f"p{one}{other}").expand(value=sources[one], other=sources[other])

    store(build)
    w.run()
    for number, length in enumerate(LENGTHS):
        if length is None:
            w.ti(f"s{number}", "success", **ENDED)
        else:
            returned(w, f"s{number}", length)
    w.schedule()
    assert indexes(w, "l3") == [0, 1, 2, 3, 4, 5]


@both()
def test_zip_concat_and_map(w: World) -> None:
    def build() -> None:
        two, three = source.override(task_id="two")(), source.override(task_id="three")()
        Taking.partial(task_id="zipped").expand(value=two.zip(three))
        Taking.partial(task_id="filled").expand(value=two.zip(three, fillvalue=0))
        Taking.partial(task_id="joined").expand(value=two.concat(three))
        taking.override(task_id="changed").expand(value=two.map(lambda value: value))
        Taking.partial(task_id="nested").expand(value=two.concat(three).zip(three), other=[1, 2])

    store(build)
    w.run()
    returned(w, "two", 2)
    returned(w, "three", 3)
    w.schedule()
    assert [len(indexes(w, name)) for name in ("zipped", "filled", "joined", "nested")] == [2, 3, 5, 6]


INPUTS = ("success", "failed", "upstream_failed", "skipped", "removed", "running", None)


@both()
@pytest.mark.parametrize("rule", ["all_success", "all_done", "none_failed"])
def test_inputs_that_did_not_succeed(w: World, rule: str) -> None:
    pairs = list(itertools.combinations_with_replacement(range(len(INPUTS)), 2))

    def build() -> None:
        for number, _ in enumerate(pairs):
            one, other = (source.override(task_id=f"{name}{number}")() for name in "ab")
            Taking.partial(task_id=f"m{number}", trigger_rule=rule).expand(value=one, other=other)

    store(build)
    w.run()
    for number, pair in enumerate(pairs):
        for name, state in zip("ab", pair, strict=True):
            w.ti(f"{name}{number}", INPUTS[state], **ENDED)
            if INPUTS[state] == "success":
                w.add(TaskMap("dag", f"{name}{number}", "run_0", -1, 2, None))
    w.schedule()
    assert "upstream_failed" in w.states()


@both()
@pytest.mark.parametrize("state", ["failed", "upstream_failed", "skipped", "removed"])
def test_own_states_that_are_kept(w: World, state: str) -> None:
    def build() -> None:
        Taking.partial(task_id="m", trigger_rule="all_done").expand(value=source.override(task_id="s")())
        BaseOperator(task_id="other")

    store(build)
    w.run()
    w.ti("s", "failed", **ENDED)
    w.ti("m", state)
    w.schedule()
    assert w.runs() == ["running"]


@both()
@pytest.mark.parametrize("ends", ["success", "skipped", "failed"])
@pytest.mark.parametrize("rule", ["all_done", "all_success"])
def test_a_map_over_a_map(w: World, ends: str, rule: str) -> None:
    def build() -> None:
        first = taking.override(task_id="first").expand(value=[1, 2, 3])
        taking.override(task_id="second", trigger_rule=rule).expand(value=first)
        BaseOperator(task_id="other")

    store(build)
    w.run()
    w.ti("first", "success", **ENDED)
    w.ti("first", ends, index=1)
    results(w, "first", range(2))
    w.schedule()
    assert w.runs() == ["running"]


@both()
@pytest.mark.parametrize(
    "rule", ["all_success", "all_failed", "none_failed", "none_failed_min_one_success", "all_done"]
)
def test_below_a_map_with_removed_instances(w: World, rule: str) -> None:
    def build() -> None:
        first = taking.override(task_id="first").expand(value=[1, 2, 3, 4, 5])
        after = BaseOperator(task_id="after", trigger_rule=rule)
        taking.override(task_id="second", trigger_rule=rule).expand(value=[1, 2, 3, 4, 5]) << first
        taking.override(task_id="third", trigger_rule=rule).expand(value=first)
        first >> after
        BaseOperator(task_id="other")

    store(build)
    w.run()
    w.ti("first", "success", **ENDED)
    w.ti("first", "removed", index=3)
    w.ti("first", "removed", index=4)
    results(w, "first", range(3))
    w.schedule()
    assert w.runs() == ["running"]


@both()
def test_one_instance_of_a_map(w: World) -> None:
    mapped_dag([1, 2, 3])
    w.run()
    w.ti("m", "success", index=0, **ENDED)
    w.ti("m", "success", index=2, **ENDED)
    w.schedule()
    assert w.states() == {"success": 2, "scheduled": 1}


@both()
@pytest.mark.parametrize("rule", ["all_success", "all_done"])
def test_a_reduction_waits_for_all_instances(w: World, rule: str) -> None:
    def build() -> None:
        mapped = taking.override(task_id="m").expand(value=[1, 2, 3])
        taking.override(task_id="after", trigger_rule=rule)(mapped)

    store(build)
    w.run()
    for index, state in enumerate(("success", "skipped", "success")):
        w.schedule()
        w.check()
        w.ti("m", state, index=index, **ENDED)
    w.schedule()
    assert w.state("after") == ("skipped" if rule == "all_success" else "scheduled")


@both()
def test_chains_of_empty_maps(w: World) -> None:
    def build() -> None:
        first = taking.override(task_id="first").expand(value=[])
        second = taking.override(task_id="second").expand(value=first)
        taking.override(task_id="third").expand(value=second)
        BaseOperator(task_id="plain") >> Taking.partial(task_id="fourth").expand(value=[])

    store(build)
    w.run()
    w.ti("plain", "success", **ENDED)
    w.schedule()
    assert w.runs() == ["success"]


@both()
@pytest.mark.parametrize("rule", ["all_done", "all_success"])
def test_a_source_that_failed(w: World, rule: str) -> None:
    def build() -> None:
        taking.override(task_id="m", trigger_rule=rule).expand(value=source())

    store(build)
    w.run()
    w.ti("source", "failed", **ENDED)
    w.schedule()
    assert w.runs() == ["failed"]


@both()
@pytest.mark.parametrize("after", [2, 3, 5, 0, "result"])
def test_a_literal_changed_under_a_run(w: World, after: Any) -> None:
    mapped_dag([1, 2, 3])
    w.run()
    w.ti("m", "success", index=0, **ENDED)
    if after == "result":
        store(lambda: Taking.partial(task_id="m").expand(value=source()))
    else:
        mapped_dag(list(range(after)))
    w.schedule()
    assert w.states()


@both()
@pytest.mark.parametrize("length", [4, 2, 1, 0])
def test_a_cleared_source_returns_another_length(w: World, length: int) -> None:
    def build() -> None:
        mapped = taking.override(task_id="m").expand(value=source())
        taking.override(task_id="after")(mapped)

    store(build)
    run = w.run()
    returned(w, "source", 3)
    w.schedule()
    w.check()
    w.ti("m", "success", **ENDED)
    w.schedule()
    w.ti("after", "success", **ENDED)
    with w.rows() as session:
        clear(list(session.scalars(select(TaskInstance))), session)
        session.execute(update(DagRun).where(DagRun.id == run.id).values(_state="running"))
    w.schedule()
    w.check()
    w.ti("source", "success", **ENDED)
    with w.rows() as session:
        session.execute(update(TaskMap).values(length=length))
    w.schedule()
    w.check()
    with w.rows() as session:
        scheduled = (
            update(TaskInstance).where(TaskInstance.state == "scheduled").values(state="success", **ENDED)
        )
        session.execute(scheduled.execution_options(synchronize_session=False))
    w.schedule()
    assert w.state("source") == "success"


@both()
def test_a_stray_instance(w: World) -> None:
    mapped_dag([1, 2])
    w.run()
    with w.rows() as session:
        serialized = SerializedDagModel.get("dag", session=session)
        assert serialized is not None
        first = session.scalars(select(TaskInstance)).first()
        assert first is not None
        stray = TaskInstance(
            serialized.dag.get_task("m"), run_id="run_0", dag_version_id=first.dag_version_id, map_index=-1
        )
        session.add(stray)
    w.schedule()
    assert w.states()["scheduled"] >= 2


@both()
def test_a_task_that_becomes_mapped(w: World) -> None:
    def build(mapped: bool) -> Callable[[], Any]:
        def fill() -> None:
            if mapped:
                Taking.partial(task_id="m").expand(value=source())
            else:
                source() >> BaseOperator(task_id="m")

        return fill

    store(build(False))
    run = w.run()
    returned(w, "source", 2)
    results(w, "m", range(-1, 0))
    w.ti("m", None, try_number=1)
    store(build(True))
    w.schedule()
    assert run.run_id
    assert indexes(w, "m") == [0, 1]


@both()
@pytest.mark.parametrize("partial", [{}, {"params": {"b": 2}}, {"params": {"a": 2}}], ids=str)
def test_over_params(w: World, partial: dict[str, Any]) -> None:
    store(
        lambda: BaseOperator.partial(task_id="m", **partial).expand(params=[{"c": "x"}, {"d": 1}]),
        params={"a": Param(1)},
    )
    w.run()
    w.schedule()
    assert w.states() == {"scheduled": 2}


@both()
def test_a_mapped_sensor_waits_per_index(w: World) -> None:
    from datetime import timedelta

    from airflow.models.taskreschedule import TaskReschedule

    with DAG("dag", start_date=EPOCH, schedule=None) as dag:
        BaseSensorOperator.partial(task_id="m", mode="reschedule").expand(poke_interval=[60, 61, 62, 63])
    write_dags(dag)
    w.run()
    with w.rows() as session:
        for instance in session.scalars(select(TaskInstance)):
            instance.state = "up_for_reschedule" if instance.map_index < 2 else None
            when = w.now + timedelta(minutes=5 if instance.map_index % 2 else -5)
            session.add(TaskReschedule(instance.id, EPOCH, EPOCH, when))
    w.schedule()
    assert w.states()["scheduled"] == 2


def groups() -> None:
    """Mapped groups: over a literal, over a result, one after another, and a task below them all."""

    @task_group  # type: ignore[untyped-decorator]
    def first(value: Any) -> Any:
        return taking.override(task_id="b")(taking.override(task_id="a")(value))

    @task_group  # type: ignore[untyped-decorator]
    def second(value: Any) -> None:
        taking.override(task_id="c")(value)

    over_literal = first.override(group_id="one").expand(value=[1, 2, 3])
    second.override(group_id="two").expand(value=over_literal) >> BaseOperator(task_id="last")
    second.override(group_id="three").expand(value=source())

    @task_group  # type: ignore[untyped-decorator]
    def with_empty(value: Any) -> None:
        EmptyOperator(task_id="empty") >> taking.override(task_id="d")(value)

    with_empty.override(group_id="four").expand(value=[1, 2])


@both()
@pytest.mark.parametrize("length", [None, 0, 2])
def test_mapped_groups(w: World, length: int | None) -> None:
    store(groups)
    w.run()
    w.schedule()
    w.check()
    w.ti("one.a", "success", index=1, **ENDED)
    if length is None:
        w.ti("source", "failed", **ENDED)
    else:
        returned(w, "source", length)
    w.schedule()
    w.check()
    w.ti("one.a", "success", **ENDED)
    w.schedule()
    w.ti("one.b", "success", **ENDED)
    results(w, "one.b", range(3))
    w.schedule()
    w.check()
    if len(indexes(w, "two.c")) == 3:
        w.ti("two.c", "success", **ENDED)
        w.schedule()
    assert w.state("one.b", index=1) == "success"


@both()
@pytest.mark.parametrize("state", ["failed", "skipped", "success", None])
def test_mapped_setups(w: World, state: str | None) -> None:
    def build() -> None:
        setup = taking.override(task_id="setup").expand(value=[1, 2]).as_setup()
        work = taking.override(task_id="work").expand(value=[1, 2])
        after = taking.override(task_id="after", trigger_rule="all_done").expand(value=[1, 2])
        down = BaseOperator(task_id="down").as_teardown()
        setup >> work >> after >> down
        setup >> down

    store(build)
    w.run()
    w.ti("setup", "success", index=0, **ENDED)
    w.ti("setup", state, index=1)
    w.schedule()
    w.ti("work", "removed", index=1)
    w.schedule()
    assert w.state("setup", index=1) in (state, "scheduled")
