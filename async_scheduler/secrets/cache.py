"""What has been looked up, for a while: values and the absence of values."""

from __future__ import annotations

import copy
import random
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from cachetools import TLRUCache

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

JITTER = 0.1
"""The share by which an entry may live shorter, so that entries made together do not all end together."""

MISS: Final = object()
"""Returned for a key of which nothing is known. ``None`` means: known to be absent."""


class _Entry:
    """Hides a value from ``repr``: the cache's own shows its entries."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class LookupCache:
    """Keeps up to *size* results for at most *ttl* seconds; the least recently used goes first.

    With ``ttl=0`` nothing is kept. An absent key is kept like a present one.
    """

    def __init__(self, ttl: float, size: int, clock: Callable[[], float] = monotonic) -> None:
        self._enabled = ttl > 0
        self._entries: TLRUCache[Hashable, _Entry] = TLRUCache(
            maxsize=size,
            ttu=lambda _key, _entry, now: now + ttl * random.uniform(1 - JITTER, 1),
            timer=clock,
        )

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Any:
        """Return a copy of the value for *key*, ``None`` if it is absent, or :data:`MISS`."""
        if not self._enabled:
            return MISS
        entry = self._entries.get(key)
        return MISS if entry is None else fresh(entry.value)

    def put(self, key: Hashable, value: Any) -> None:
        """Remember *value* (``None``: absent) for *key*."""
        if self._enabled:
            self._entries[key] = _Entry(value)

    def forget(self, key: Hashable) -> None:
        """Forget what is known of *key*."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


def fresh(value: Any) -> Any:
    """Return *value*, or a copy of its own for the caller if it is a connection, which can be changed.

    Airflow's ORM connection cannot be copied by ``copy.copy`` (the copy would share its ORM state), and
    building it anew encrypts the password again; its loaded columns are carried over instead.
    """
    if value is None or isinstance(value, str):
        return value
    models = sys.modules.get("airflow.models.connection")
    if models is None or not isinstance(value, models.Connection):
        return copy.copy(value)
    twin = models.Connection.__mapper__.class_manager.new_instance()
    state = {name: item for name, item in vars(value).items() if name != "_sa_instance_state"}
    vars(twin).update(state)
    return twin
