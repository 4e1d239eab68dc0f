"""The buffer between the code that is measured and the writer: bounded, never blocking, honest about loss."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Ring(Generic[T]):
    """The last *capacity* records that nobody has taken yet; older ones are dropped and counted.

    ``put`` may be called from any thread; one reader takes.
    """

    __slots__ = ("_records", "capacity", "dropped", "put_count")

    def __init__(self, capacity: int = 65_536) -> None:
        self.capacity = capacity
        self.dropped = 0
        self.put_count = 0
        self._records: deque[T] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: T) -> None:
        """Append *record*; when the ring is full the oldest one is lost."""
        if len(self._records) == self.capacity:
            self.dropped += 1
        self.put_count += 1
        self._records.append(record)

    def take(self) -> list[T]:
        """Remove and return everything in the ring, oldest first."""
        taken: list[T] = []
        try:
            while True:
                taken.append(self._records.popleft())
        except IndexError:
            return taken
