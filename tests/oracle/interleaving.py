"""A story whose routines, workers and users all act at once, in steps that somebody else chooses."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg
from airflow.exceptions import AirflowException

from async_scheduler.database.faults import classify
from async_scheduler.database.transaction import transaction
from tests.oracle import users
from tests.oracle.histories import Life
from tests.oracle.invariants import Watch
from tests.oracle.stepping import Stepper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from async_scheduler.assembly import Assembly
    from tests.oracle.clock import Clock
    from tests.oracle.histories import Rest
    from tests.oracle.lives import Redesigned
    from tests.oracle.stepping import Actor
    from tests.oracle.story import Step, Story
    from tests.oracle.workers import Held, HeldExecutor
    from tests.support.postgres import Database

MOVING = ("schedule", "schedule:2", "enqueue", "executor:HeldExecutor")
ROUTINES = ("create", "start", "sweep", *MOVING, *MOVING)
"""What may begin; what moves a story on is there twice."""
STRIDES = (1, 2, 5, 40, 40)
"""For how many stops somebody goes on, before somebody else may; or as far as the next commit."""
MOST_STOPS = 500


class InterleavedLife(Life):
    """A life in which the story's steps, and all routines, happen at once. Each turn takes two *choices*."""

    def __init__(
        self,
        story: Story,
        scheduler: Redesigned,
        executor: HeldExecutor,
        clock: Clock,
        database: Database,
        choices: bytes,
    ) -> None:
        super().__init__(story, scheduler, executor, clock)
        self._redesigned = scheduler
        self._database = database
        self._choices = iter(choices)
        self._turns = max(0, len(choices) - 1) // 2
        self._steps = list(story.steps)
        self._at_work: dict[str, Held] = {}

    def _history(self) -> Iterator[Rest]:
        if next(self._choices, 0) % 4:
            yield self._rest("its beginning")
        self._redesigned.during(self._interleave)
        yield self._rest("all at once")

    async def _interleave(self, assembly: Assembly) -> None:
        monitor = await asyncpg.connect(
            user="postgres", database=self._database.name, host=self._database.socket_dir
        )
        async with transaction(assembly._sessions):
            pass  # the engine's very first connection asks the server who it is: nobody's step
        self._assembly = assembly
        self._stepper = Stepper(assembly.engine, monitor)
        self._watch = Watch(monitor, self.story, self._executor)
        try:
            with self._stepper.stopping():
                await self._play()
                await self._stepper.release()
                self._reap()
            await self._watch.look()
        finally:
            await self._stepper.abandon()
            await monitor.close()

    async def _play(self) -> None:
        for _ in range(self._turns):
            await self._turn()
            await self._watch.look()

    async def _go_on_until(self, actor: Actor, where: str) -> None:
        """Let *actor* go on until it stops there."""
        await self._stepper.settle()
        while actor.at != where:
            actor.go_on()
            await self._stepper.settle()

    async def _turn(self) -> None:
        """Let one go on for some stops, or begin something."""
        options = self._options()
        stopped = self._stepper.stopped()
        chosen = next(self._choices) % (len(stopped) + len(options))
        actor = stopped[chosen] if chosen < len(stopped) else options[chosen - len(stopped)]()
        if actor is None:
            return
        await self._stepper.settle()
        await self._stride(actor, next(self._choices) % (len(STRIDES) + 2))
        self._reap()

    async def _stride(self, actor: Actor, kind: int) -> None:
        most = STRIDES[kind] if kind < len(STRIDES) else MOST_STOPS
        for _ in range(most):
            if not actor.is_stopped:
                return
            actor.go_on()
            await self._stepper.settle()
            if most == MOST_STOPS and actor.at == "after its commit":
                return

    def _options(self) -> list[Callable[[], Actor | None]]:
        """What may begin, the likelier the more it moves the story on."""
        actors = self._stepper.actors
        return [
            *(lambda name=name: self._begin(name) for name in ROUTINES if name not in actors),
            *(lambda held=held: self._work(held) for held in self._idle_workers() for _ in range(3)),
            *([self._use] if self._steps and "user" not in actors else ()),
            *([self._wait] if self._all_is_told() else ()),
        ]

    def _all_is_told(self) -> bool:
        """Whether no end of a try is still to be heard of: that never takes an hour."""
        busy = self._at_work or "executor:HeldExecutor" in self._stepper.actors
        return not (busy or self._executor.event_buffer or any(port.events for port in self._assembly.ports))

    def _wait(self) -> None:
        self._clock.put_forward()

    def _reap(self) -> None:
        """Forget actors that have ended; raise what they raised, unless their driver would try again."""
        for actor in [one for one in self._stepper.actors.values() if one.is_done]:
            del self._stepper.actors[actor.name]
            self._at_work.pop(actor.name, None)
            assert actor.task is not None
            error = actor.task.exception()
            if error is not None and not classify(error).passing:
                raise error

    def _begin(self, name: str) -> Actor:
        return self._stepper.start(name, self._assembly.supervisor.drivers[name].routine.run_once())

    def _idle_workers(self) -> list[Held]:
        busy = list(self._at_work.values())
        return [held for held in self._workers.in_order() if held not in busy][:3]

    def _work(self, held: Held) -> Actor:
        name = f"worker {held.place}"
        self._at_work[name] = held
        return self._stepper.start(name, self._end_one(held))

    async def _end_one(self, held: Held) -> None:
        async with transaction(self._assembly._sessions) as tx:
            afterwards = await tx.run(self._workers.end, tx.sync_session, held)
        afterwards()

    def _use(self) -> Actor:
        step = self._steps.pop(0)
        self._watch.touched = True
        if step.kind == "version":
            return self._stepper.start("user", asyncio.to_thread(self._version, step))
        return self._stepper.start("user", self._act(step))

    async def _act(self, step: Step) -> None:
        with suppress(AirflowException, ValueError):  # what Airflow refuses is refused
            async with transaction(self._assembly._sessions) as tx:
                await tx.run(users.act, tx.sync_session, self.dag_id, step)
