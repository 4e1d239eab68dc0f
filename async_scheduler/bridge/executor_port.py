"""Owns one executor: the only place that calls it, always on its own thread, one call at a time.

What the loop wants of the executor is kept here until the next :meth:`ExecutorPort.beat` carries it over:
workloads of committed transactions, and calls that change its state. A beat hands them over, sends the
heartbeat and brings back the events. So ``queue_workload``, ``heartbeat``, ``sync`` and
``get_event_buffer`` of one executor never overlap, and an executor that hangs holds up nobody else.

Between two beats the thread may listen: it waits for news where the executor tells of them, beats by itself
where it does not, and asks for a beat of the loop's once there are events. A call ends that at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from async_scheduler.bridge import executor_ends
from async_scheduler.bridge.executor_log import log_sparingly
from async_scheduler.bridge.listening import Listening
from async_scheduler.bridge.threads import PurposeThread, with_own_session
from async_scheduler.errors import ExecutorUnresponsive

if TYPE_CHECKING:
    from uuid import UUID

    from airflow.executors.base_executor import BaseExecutor

    from async_scheduler.bridge.listening import Rhythm
    from async_scheduler.database.fence import Fence

log = logging.getLogger(__name__)

Events = dict[Any, tuple[Any, Any]]
"""Workload key → (state, info), as in ``BaseExecutor.event_buffer``."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What one beat did: workloads handed over, seconds the heartbeat took."""

    handed_over: int
    seconds: float


class ExecutorPort:
    """One executor behind a thread of its own. Made on the event loop; *wake* asks for a beat.

    While *fence* is not fresh nothing is handed over and no heartbeat sent: others may have given the
    workloads to their executors.
    """

    def __init__(self, executor: BaseExecutor, wake: Callable[[], None], fence: Fence | None = None) -> None:
        self.executor = executor
        self._fence = fence
        self.name = _display_name(executor)
        self.events: Events = {}
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._listening = listening = Listening(self, lambda: self._thread.is_wanted)
        self._thread: PurposeThread = PurposeThread(
            f"executor-{self.name}", partial(_settle_in, executor), interrupt=listening.interrupt
        )
        self._beaten = Beat(0, 0.0)
        self.beaten_at = -inf
        self._failed: BaseException | None = None
        # By identity, in order. The loop adds, the executor's thread takes out, each in one step of its own.
        self._workloads: dict[int, Any] = {}
        self._calls: deque[Callable[[], object]] = deque()
        # Written by the executor's thread, so that nothing is lost with a beat nobody waits for any more.
        self._arrived: deque[Events] = deque()
        self._outstanding: Counter[Any] = Counter()
        self._ids: dict[Any, UUID] = {}
        self._runs: dict[Any, int] = {}
        self._expected: set[Any] = set()

    def expect(self, key: Any, run: int | None = None) -> None:
        """Count a workload with *key* as this executor's though it is still to be accepted.

        To be called before the commit that queues its task: whoever reads the row after the commit must not
        take it for one that no executor has. :meth:`accept` fulfils it, :meth:`cease_to_expect` ends it.

        :param run: the id of its dag run, to be asked for until its last event is settled.
        """
        self._expected.add(key)
        if run is not None:
            self._runs[key] = run

    def cease_to_expect(self, key: Any) -> None:
        """Expect no workload with *key* any more; nothing if it was accepted."""
        self._expected.discard(key)
        if key not in self._ids:
            self._runs.pop(key, None)

    def accept(self, workload: Any) -> None:
        """Take a workload whose transaction has committed; the next beat hands it over."""
        self._workloads[id(workload)] = workload
        self._outstanding[workload.key] += 1
        if (instance := getattr(workload, "ti", None)) is not None:
            self._ids[workload.key] = instance.id
        self._expected.discard(workload.key)
        self._wake()

    def call_later(self, function: Callable[[], object]) -> None:
        """Run *function* on the executor's thread at the next beat, before its heartbeat; from any thread."""
        self._calls.append(function)
        self._loop.call_soon_threadsafe(self._wake)

    def call_and_wait(self, function: Callable[[], Any], name: str, timeout: float) -> Any:
        """Run *function* on the executor's thread and wait; for callers on other threads.

        :raises ExecutorUnresponsive: when there is no answer within *timeout* seconds.
        """
        future = self._thread.submit(function)
        try:
            return future.result(timeout)
        except TimeoutError:
            if not future.done():  # else the executor's own code raised it
                future.cancel()
                raise ExecutorUnresponsive(self.name, name, timeout) from None
            raise
        finally:
            self.announce()  # which ends with listening again

    @property
    def may_beat(self) -> bool:
        """Whether the scheduler was found alive a moment ago, so that its executor may be given work."""
        return self._fence is None or self._fence.fresh

    @property
    def beat_seconds(self) -> float:
        """How long the executor took for its last heartbeat."""
        return self._beaten.seconds

    @property
    def waiting(self) -> int:
        """Workloads accepted and not yet handed over."""
        return len(self._workloads)

    @property
    def has_unfinished_work(self) -> bool:
        """Whether a workload handed over has not sent its last event yet."""
        return bool(self._outstanding or self._workloads or self._calls)

    def awaits(self, key: Any) -> bool:
        """Whether a workload with *key* is expected, or was accepted and its last event has not arrived."""
        return key in self._expected or (key in self._outstanding and self._outstanding[key] > 0)

    def id_of(self, key: Any) -> UUID | None:
        """Return the id of the task instance whose workload was accepted under *key*, if it is known."""
        return self._ids.get(key)

    def run_of(self, key: Any) -> int | None:
        """Return the id of the dag run of the workload accepted under *key*, if it is known."""
        return self._runs.get(key)

    def settle(self, key: Any, event: tuple[Any, Any]) -> None:
        """Drop *event* as processed, unless a newer one for the same *key* has come in meanwhile."""
        if self.events.get(key) == event:
            del self.events[key]
            if key not in self._outstanding and key not in self._expected:
                self._drop(key)

    def _drop(self, key: Any) -> None:
        self._ids.pop(key, None)
        self._runs.pop(key, None)

    def forget(self, key: Any) -> None:
        """Expect no more of the workload with *key*, and do not hand it over if that has not happened."""
        self._outstanding.pop(key, None)
        self._drop(key)
        for number, workload in list(self._workloads.items()):
            if workload.key == key:
                self._workloads.pop(number, None)

    async def beat(self, spacing: float = 0.0) -> Beat:
        """Hand over what waits, send the heartbeat, bring back events into :attr:`events`.

        Nothing of this happens while the fence is not fresh. Events that are there already are brought back
        without another heartbeat, if nothing waits; nor is one sent within *spacing* seconds of the last, if
        nothing waits. Raises what one raised while nobody waited for it.
        """
        if self._failed is not None:
            error, self._failed = self._failed, None
            raise error
        beat = self._beaten
        is_enough = self._arrived or monotonic() < self.beaten_at + spacing
        if self._workloads or self._calls or not is_enough:
            beat = await self._thread.call(self._beat)
        self._take_arrived()
        return beat

    def listen(self, rhythm: Rhythm, seconds: float) -> None:
        """Have the thread wait for news, *seconds* at most, and ask for a beat as soon as there are any.

        Where it does so already, it goes on for that long.
        """
        if self._listening.begin(seconds):
            self._thread.submit_waiting(self._listening.run, rhythm)

    @property
    def is_listening(self) -> bool:
        """Whether the thread waits for news, or is about to."""
        return self._listening.is_on

    @property
    def has_news(self) -> bool:
        """Whether events are there that no beat has brought back yet."""
        return bool(self._arrived)

    def announce(self, error: BaseException | None = None) -> None:
        """Ask for a beat, from any thread; it raises *error*."""
        if error is not None:
            self._failed = error
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            log.debug("Executor %s has news after the end of the loop", self.name)

    def _take_arrived(self) -> None:
        while self._arrived:
            events = self._arrived.popleft()
            # Events that were put back because their rows were locked are older: the new ones win.
            self.events.update(events)
            for key in [key for key, (state, _) in events.items() if _is_last(state)]:
                self._outstanding[key] -= 1
                if self._outstanding[key] <= 0:
                    del self._outstanding[key]

    def _beat(self) -> Beat:
        # Asked here, on the thread, too: the process may have been paused since the caller asked.
        if not self.may_beat:
            return Beat(0, 0.0)
        handed_over = self._hand_over()
        return Beat(handed_over, self._heartbeat())

    def heartbeat(self) -> None:
        """Send a heartbeat of the thread's own and take the events; on the thread."""
        with_own_session(self._heartbeat)

    def _heartbeat(self) -> float:
        """Send the heartbeat and take the events; return how long the executor took."""
        started = perf_counter()
        self.executor.heartbeat()
        if events := self.executor.get_event_buffer():
            self._arrived.append(events)
        seconds = perf_counter() - started
        self._beaten, self.beaten_at = Beat(0, seconds), monotonic()
        return seconds

    def _hand_over(self) -> int:
        from airflow.utils.session import create_session

        while self._calls:
            self._calls.popleft()()
        waiting = list(self._workloads.values())
        if waiting:
            with create_session() as session:
                for workload in waiting:
                    if id(workload) in self._workloads:  # not forgotten meanwhile
                        self.executor.queue_workload(workload, session=session)
        # Removed only now that the executor's own transaction, if it made one, has committed.
        for workload in waiting:
            self._workloads.pop(id(workload), None)
        return len(waiting)

    async def end(self, patience: float) -> None:
        """End the executor, on its thread, after the call under way; collect its last events.

        Ending may take as long as its tasks do. That the call before it does not return is waited for at
        most *patience* seconds.

        :raises ExecutorUnresponsive: when the executor is stuck in that call.
        """
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()
        ending = self._thread.submit(self._end, lambda: loop.call_soon_threadsafe(begun.set))
        try:
            async with asyncio.timeout(patience):
                await begun.wait()
        except TimeoutError:
            ending.cancel()
            raise ExecutorUnresponsive(self.name, "heartbeat", patience) from None
        try:
            await asyncio.wrap_future(ending)
        finally:
            self._take_arrived()

    def _end(self, begun: Callable[[], object]) -> None:
        begun()
        # A workload that was queued in the database but not handed over is handed over still: the
        # executors' end() waits for what they hold, and nothing stays queued for nobody.
        try:
            if self._workloads:
                self._beat()
        finally:
            executor_ends.end(self.executor)
            self._arrived.append(self.executor.get_event_buffer())

    def doing(self) -> str:
        """Return, for a log line, how many workloads have no end yet and where the executor's thread is."""
        without_end = sum(self._outstanding.values())
        return f"{self.name}: {without_end} workloads without an end; it is in {self._thread.where()}"

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.close()


def _settle_in(executor: BaseExecutor) -> None:
    """Make the calling thread one on which *executor* works as on the one that it was made on, and says less.

    Celery has a current app for each thread; CeleryExecutor relies on it when it adopts, and meets an app
    without a result backend where it is not set.
    """
    app = getattr(executor, "celery_app", None)
    if app is not None:
        app.set_current()
    log_sparingly(executor)


def _display_name(executor: BaseExecutor) -> str:
    name = executor.name
    if name is None or not (name.alias or name.module_path):
        return type(executor).__name__
    base = str(name.alias or name.module_path)
    return f"{name.team_name}:{base}" if name.team_name else base


def _is_last(state: Any) -> bool:
    return str(getattr(state, "value", state)) in {"success", "failed"}
