"""A story told: stored, led from step to step under one scheduler, its pictures kept."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from airflow.exceptions import AirflowException
from airflow.models.backfill import Backfill, _create_backfill
from airflow.models.dag import DagModel
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import delete, func, select, update

from tests.oracle import pictures, users
from tests.oracle.airflow import DEPENDENCY_ORDER
from tests.oracle.clock import story_clock
from tests.oracle.lives import Redesigned, Stock
from tests.oracle.pictures import Picture, forget, picture
from tests.oracle.story import POOLS, revised, written
from tests.oracle.workers import HeldExecutor, Workers
from tests.support.dags import EPOCH, write_dags

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.oracle.clock import Clock
    from tests.oracle.story import Step, Story
    from tests.oracle.workers import Held

MOST_ENDS = 1000
"""So many times all that is held ends, at the end of a story; then it must be over."""
WAITS_FOR_EVER = 3
"""When time has passed so often and nothing ended or changed, what waits does not wait for time: for a task,
say, that another version of the dag has put into a pool without slots."""
numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Rest:
    """One rest of a life: what brought it about, what the database shows, what executors were given."""

    after: object
    picture: Picture
    given: Counter[tuple[Any, ...]]


def differences(ours: Rest, airflows: Rest) -> list[str]:
    """Return in words how two rests differ, whatever brought them about."""
    found = pictures.differences(ours.picture, airflows.picture)
    for whose, extra in (("ours", ours.given - airflows.given), ("Airflow's", airflows.given - ours.given)):
        found += [f"given only by {whose}: {key} {count} times" for key, count in extra.items()]
    return found


class Life:
    """One life of a story under one scheduler."""

    def __init__(
        self, story: Story, scheduler: Stock | Redesigned, executor: HeldExecutor, clock: Clock
    ) -> None:
        self.story = story
        self._scheduler = scheduler
        self._executor = executor
        self._workers = Workers(story, executor)
        self._clock = clock
        self.dag_id = f"dag_{next(numbers)}"

    def store(self) -> None:
        """Store the dag and the pools it uses."""
        write_dags(written(self.story, self.dag_id))
        with create_session() as session:
            session.execute(delete(Pool).where(Pool.pool != "default_pool"))
            for number in range(POOLS):
                session.add(
                    Pool(
                        pool=f"pool_{number}",
                        slots=self.story.pools[number],
                        include_deferred=self.story.include_deferred,
                        description="",
                    )
                )

    def rests(self) -> Iterator[Rest]:
        """Live; yield every rest."""
        yield from self._history()
        self._take_up()
        yield self._rest("its taking up again")
        before, unchanged = None, 0
        for _ in range(MOST_ENDS):
            ended = self._all_end()
            if not ended and (unchanged >= WAITS_FOR_EVER or not self._any_waits()):
                return
            rest = self._rest("the end of all that was held")
            unchanged = 0 if ended or rest.picture != before else unchanged + 1
            before = rest.picture
            yield rest
        raise AssertionError("the story does not come to an end")

    def _history(self) -> Iterator[Rest]:
        yield self._rest("its beginning")
        for step in self.story.steps:
            yield self._rest((step, self._take(step)))

    def _rest(self, after: object) -> Rest:
        self._scheduler.rest()
        with create_session() as session:
            self._workers.start_all(session)
        given = Counter(
            {(k.run_id, k.task_id, k.map_index, k.try_number): n for k, n in self._executor.given.items()}
        )
        return Rest(after, picture(self.dag_id), given)

    def _take(self, step: Step) -> str:
        """Take a step; return the name of the error that it met, if it met one that Airflow foresees."""
        try:
            if step.kind in users.ACTIONS:
                with create_session() as session:
                    users.act(session, self.dag_id, step)
            else:
                getattr(self, f"_{step.kind}")(step)
        except (AirflowException, ValueError) as error:
            return type(error).__name__
        return ""

    def _end(self, step: Step) -> None:
        """Let some of what is held end: the first, the last, every other, or all."""
        held = self._workers.in_order()
        self._let_end((held[:1], held[-1:], held[::2], held)[step.flag % 4])

    def _let_end(self, chosen: Sequence[Held]) -> None:
        for held in chosen:
            with create_session() as session:
                afterwards = self._workers.end(session, held)
            afterwards()

    def _later(self, _step: Step) -> None:
        self._clock.put_forward()

    def _version(self, step: Step) -> None:
        """The DAG processor stores another version of the dag."""
        self.story = self._workers.story = revised(self.story, step.flag)
        with create_session() as session:
            paused = bool(session.scalar(select(DagModel.is_paused).where(DagModel.dag_id == self.dag_id)))
        with patch.dict(os.environ, {"AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0"}):
            write_dags(written(self.story, self.dag_id), paused=paused)

    def _backfill(self, step: Step) -> None:
        """A user backfills the days of the story once more."""
        _create_backfill(
            dag_id=self.dag_id,
            from_date=EPOCH,
            to_date=EPOCH,
            max_active_runs=1 + step.flag % 2,
            reverse=False,
            dag_run_conf={},
            triggering_user_name=None,
            reprocess_behavior="completed",
        )

    def _take_up(self) -> None:
        """Whatever users held back goes on."""
        with create_session() as session:
            session.execute(update(DagModel).values(is_paused=False))
            session.execute(update(Backfill).values(is_paused=False))

    def _all_end(self) -> bool:
        """Let time pass and all end that is held; return whether anything was.

        In this order: what is to go on later must not be due before its executor has said that it left. That
        would be a race under any scheduler.
        """
        held = self._workers.in_order()
        self._clock.put_forward()
        self._let_end(held)
        return bool(held)

    def _any_waits(self) -> bool:
        """Whether a task instance is to go on when its time has come."""
        with create_session() as session:
            waiting = TaskInstance.state.in_(("up_for_retry", "up_for_reschedule"))
            return bool(session.scalar(select(func.count()).select_from(TaskInstance).where(waiting)))


def airflows_life(story: Story, order: Sequence[str] = DEPENDENCY_ORDER) -> list[Rest]:
    """Lead *story* under Airflow's scheduler, with dependency classes in this order."""
    executor = HeldExecutor()
    with story_clock() as clock:
        try:
            life = Life(story, Stock(executor, order), executor, clock)
            life.store()
            return list(life.rests())
        finally:
            forget()


def our_life(story: Story, order: Sequence[str] = DEPENDENCY_ORDER) -> Iterator[Rest]:
    """Lead *story* under the redesigned stages; *order* is for what they hand over to Airflow's code."""
    executor = HeldExecutor()
    with story_clock() as clock, asyncio.Runner() as loop:
        scheduler = Redesigned(executor, order, loop)
        try:
            life = Life(story, scheduler, executor, clock)
            life.store()
            yield from life.rests()
        finally:
            scheduler.close()
            forget()
