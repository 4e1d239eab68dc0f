"""What schedulers say on the side: metrics and log lines."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from airflow._shared.observability.metrics.base_stats_logger import NoStatsLogger
from airflow._shared.observability.metrics.protocols import Timer


class Metrics(NoStatsLogger):  # type: ignore[misc]
    """Counts what is sent, by name and tags; gauges with their value."""

    def __init__(self) -> None:
        self.sent: Counter[Any] = Counter()

    def incr(self, stat: str, count: int = 1, rate: int = 1, *, tags: Any = None) -> None:
        self.sent[stat, _flat(tags)] += count

    def gauge(self, stat: str, value: float, rate: int = 1, delta: bool = False, *, tags: Any = None) -> None:
        self.sent[stat, _flat(tags)] = value  # type: ignore[assignment]

    def timing(self, stat: str, dt: Any, *, tags: Any = None) -> None:
        self.sent[stat, _flat(tags)] += 1

    def timer(self, stat: str | None = None, *_: Any, tags: Any = None, **__: Any) -> Timer:
        """Return a timer whose end is noted."""
        return _Timed(self, stat, tags)


class _Timed(Timer):  # type: ignore[misc]
    def __init__(self, metrics: Metrics, stat: str | None, tags: Any) -> None:
        super().__init__()
        self._send: Callable[[], None] = lambda: metrics.timing(stat, 0, tags=tags) if stat else None

    def stop(self, send: bool = True) -> None:
        super().stop(send)
        if send:
            self._send()


def _flat(tags: Any) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(value)) for name, value in (tags or {}).items()))


class Lines(logging.Handler):
    """Keeps what one of Airflow's loggers is told."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text."""
        self.texts.append(record.getMessage())

    def about(self, *parts: str) -> list[str]:
        """Return the lines in which one of *parts* occurs, sorted."""
        return sorted(text for text in self.texts if any(part in text for part in parts))

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Listen to the logger *name* while the block runs."""
        logger = logging.getLogger(name)
        level = logger.level
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.setLevel(level)
