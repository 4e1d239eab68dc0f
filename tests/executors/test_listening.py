"""An executor's thread between two beats: it hears of news, asks where nothing tells, and makes way."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from multiprocessing import SimpleQueue
from threading import Event
from time import monotonic
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.executors.base_executor import BaseExecutor

from async_scheduler.bridge.executor_port import ExecutorPort
from async_scheduler.bridge.listening import Bell, news_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from async_scheduler.bridge.listening import Rhythm

LONG = 60.0
"""Seconds that no test lasts."""


class Silent(BaseExecutor):  # type: ignore[misc]  # Airflow is untyped here
    """An executor that has to be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.beats = 0
        self.came: dict[Any, Any] = {}
        self.beaten = Event()
        self.trouble: Exception | None = None

    def heartbeat(self) -> None:
        """Count it."""
        self.beats += 1
        self.beaten.set()
        if self.trouble is not None:
            raise self.trouble
        self.event_buffer.update(self.came)
        self.came = {}


class Telling(Silent):
    """An executor that says when it has news."""

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.theirs = socket.socketpair()

    def readable_with_news(self) -> list[socket.socket]:
        """Return where it says so."""
        return [self.ours]

    def heartbeat(self) -> None:
        """Take what was said."""
        super().heartbeat()
        self.ours.setblocking(False)
        with suppress(BlockingIOError):
            self.ours.recv(100)

    def end_one(self) -> None:
        """Let a task end."""
        self.came["key"] = ("success", None)
        self.theirs.send(b"!")


class Steady(SimpleNamespace):
    """A rhythm that never changes."""

    def __init__(self, spacing: float = 0.0, pause: float = LONG) -> None:
        super().__init__(spacing=lambda: spacing, pause=lambda: pause)


class Listened:
    """An executor that is listened to, and whether its news have been heard."""

    def __init__(self, executor: Silent, **arguments: Any) -> None:
        self.executor = executor
        self.heard = asyncio.Event()
        self.port = ExecutorPort(executor, wake=self.heard.set, **arguments)
        self._over = Event()
        run = self.port._listening.run

        def run_and_tell(rhythm: Rhythm) -> None:
            run(rhythm)
            self._over.set()

        self.port._listening.run = run_and_tell  # type: ignore[method-assign]

    def listen(self, rhythm: Any, seconds: float = LONG) -> None:
        """Have it listened to."""
        self.port.listen(rhythm, seconds)

    async def listened(self) -> None:
        """Return once the listening has ended by itself: a call of the thread's would end it."""
        assert await asyncio.to_thread(self._over.wait, LONG)


@pytest.fixture
def telling() -> Iterator[Telling]:
    executor = Telling()
    yield executor
    for end in (executor.ours, executor.theirs):
        end.close()


async def test_an_executor_that_tells_is_beaten_when_it_has_told(telling: Telling) -> None:
    it = Listened(telling)
    it.listen(Steady())
    await asyncio.sleep(0.05)
    assert telling.beats == 0
    telling.end_one()
    await it.heard.wait()
    assert telling.beats == 1
    await it.port.beat()
    assert it.port.events == {"key": ("success", None)}
    assert telling.beats == 1, "what has arrived needs no other heartbeat"
    it.port.close()


async def test_what_comes_soon_after_a_beat_is_taken_together(telling: Telling) -> None:
    it = Listened(telling)
    await it.port.beat()
    it.listen(Steady(spacing=LONG))
    telling.end_one()
    await asyncio.sleep(0.05)
    assert telling.beats == 1
    await it.port.beat()
    assert it.port.events == {"key": ("success", None)}
    it.port.close()


async def test_one_that_does_not_tell_is_asked_until_it_has_news() -> None:
    executor = Silent()
    it = Listened(executor)
    it.listen(Steady(pause=0.01))
    for _ in range(3):
        await asyncio.to_thread(executor.beaten.wait, LONG)
        executor.beaten.clear()
    assert not it.heard.is_set(), "nothing came"
    executor.came["key"] = ("success", None)
    await it.heard.wait()
    it.port.close()


async def test_news_that_were_none_do_not_keep_the_thread_busy(telling: Telling) -> None:
    """A connection whose other end is gone can be read all the time."""
    telling.theirs.shutdown(socket.SHUT_WR)
    it, began = Listened(telling), monotonic()
    it.listen(Steady(spacing=0.01, pause=0.05), 0.3)
    await it.listened()
    assert 1 <= telling.beats <= (monotonic() - began) / 0.01 + 1
    it.port.close()


async def test_a_call_ends_the_listening(telling: Telling) -> None:
    it = Listened(telling)
    it.listen(Steady())
    assert await asyncio.to_thread(it.port.call_and_wait, lambda: 7, "ask", LONG) == 7
    await it.heard.wait()  # so that it is listened to again
    it.heard.clear()
    it.listen(Steady())
    it.port.call_later(lambda: None)
    await it.heard.wait()
    await it.port.beat()
    assert telling.beats == 1
    it.port.close()


async def test_news_are_heard_again_after_some_that_were_none(telling: Telling) -> None:
    it = Listened(telling)
    it.listen(Steady())
    telling.theirs.send(b"half a line")
    await asyncio.to_thread(telling.beaten.wait, LONG)
    telling.end_one()
    await it.heard.wait()
    await it.port.beat()
    assert it.port.events == {"key": ("success", None)}
    it.port.close()


async def test_it_is_over_after_so_many_seconds(telling: Telling) -> None:
    it = Listened(telling)
    it.listen(Steady(), 0.01)
    await it.listened()
    assert not it.heard.is_set()
    assert telling.beats == 0
    it.port.close()


async def test_what_a_heartbeat_raises_meanwhile_the_next_beat_raises() -> None:
    executor = Silent()
    executor.trouble = RuntimeError("no broker")
    it = Listened(executor)
    it.listen(Steady(pause=0.0))
    await it.heard.wait()
    with pytest.raises(RuntimeError, match="no broker"):
        await it.port.beat()
    executor.trouble = None
    await it.port.beat()
    it.port.close()


async def test_nothing_is_sent_while_others_may_have_declared_the_scheduler_dead() -> None:
    executor = Silent()
    it = Listened(executor, fence=SimpleNamespace(fresh=False))
    it.listen(Steady(pause=0.0), 0.05)
    await it.listened()
    assert executor.beats == 0
    it.port.close()


async def test_a_port_that_is_closed_listens_no_more(telling: Telling) -> None:
    it = Listened(telling)
    it.listen(Steady())
    it.port.close()
    thread = it.port._thread._thread
    assert thread is not None
    await asyncio.to_thread(thread.join, LONG)
    assert not thread.is_alive()


def test_an_executor_that_holds_work_back_is_asked(telling: Telling) -> None:
    """A place may be free for it only after one more heartbeat, and nothing tells."""
    assert news_of(telling) == [telling.ours]
    telling.queued_tasks["key"] = "workload"
    assert news_of(telling) is None


def test_the_local_executor_tells_by_its_pipe() -> None:
    from airflow.executors.local_executor import LocalExecutor

    executor = LocalExecutor()
    assert news_of(executor) is None, "not started"
    executor.result_queue = SimpleQueue()
    bell = Bell()
    news = news_of(executor)
    assert news
    assert not bell.wait(0.0, news)
    executor.result_queue.put(("key", "success", None))
    assert not bell.wait(LONG, news)
    assert not executor.result_queue.empty()
    executor.result_queue.close()
    assert news_of(executor) is None


def test_a_bell_is_heard_once_and_its_pipe_ends_with_it() -> None:
    bell = Bell()
    for _ in range(100_000):
        bell.ring()
    assert bell.wait(LONG)
    bell.silence()
    assert not bell.wait(0.0)
    ends = bell._reader, bell._writer
    del bell
    for end in ends:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(end)


async def test_listening_goes_on_for_as_long_as_was_asked_for_last(telling: Telling) -> None:
    it = Listened(telling)
    it.listen(Steady(), 0.05)
    it.listen(Steady(), LONG)
    await asyncio.sleep(0.1)
    assert telling.beats == 0, "that the first time is over is no news"
    telling.end_one()
    await asyncio.wait_for(it.heard.wait(), LONG)
    it.port.close()


async def test_listening_goes_on_where_that_is_asked_for_just_as_it_ends(
    telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = Listened(telling)
    hears, ended, asked_again = it.port._listening._hears, asyncio.Event(), Event()

    def hears_until_asked_again(rhythm: Rhythm) -> bool:
        heard = hears(rhythm)
        if not asked_again.is_set():
            it.port._loop.call_soon_threadsafe(ended.set)
            asked_again.wait(LONG)  # the loop finds it listening still
        return heard

    monkeypatch.setattr(it.port._listening, "_hears", hears_until_asked_again)
    it.listen(Steady(), 0.01)
    await ended.wait()
    it.listen(Steady(), LONG)
    asked_again.set()
    telling.end_one()
    await asyncio.wait_for(it.heard.wait(), LONG)
    assert telling.beats == 1
    it.port.close()


async def test_who_is_sent_to_listen_while_he_still_does_makes_way(
    telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent between the end of the time and the look whether it was to go on."""
    it = Listened(telling)
    listening, again = it.port._listening, list[bool]()
    wanted = listening._is_wanted

    def is_wanted() -> bool:
        if not listening.is_on and not again:
            again.append(listening.begin(LONG))
            it.port._thread.submit_waiting(listening.run, Steady())
            return False
        return wanted()

    monkeypatch.setattr(listening, "_is_wanted", is_wanted)
    it.listen(Steady(), 0.01)
    await it.listened()
    await asyncio.sleep(0.1)
    assert again == [True]
    assert it.port.is_listening
    await asyncio.wait_for(it.port.beat(), LONG / 2)
    it.port.close()


async def test_a_pass_with_nothing_to_hand_over_sends_no_heartbeat_soon_after_another() -> None:
    it = Listened(Silent())
    await it.port.beat(LONG)
    await it.port.beat(LONG)
    assert it.executor.beats == 1
    await it.port.beat()
    assert it.executor.beats == 2
    it.port.call_later(lambda: None)
    await it.port.beat(LONG)
    assert it.executor.beats == 3
    it.port.close()
