"""Backends for tests: one that the test steers, and one as a third party would write it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from airflow.secrets import BaseSecretsBackend

from async_scheduler.secrets import AsyncSecretsBackend


class Steered(AsyncSecretsBackend):
    """Answers from a dictionary, when the test lets it, with what the test wants."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self.values = dict(values or {})
        self.asked: Counter[str] = Counter()
        self.error: Exception | None = None
        self.arrived = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = 0
        self.most_under_way = 0

    async def aget_connection(self, conn_id: str, team_name: str | None = None) -> Any | None:
        return await self._answer(conn_id)

    async def aget_variable(self, key: str, team_name: str | None = None) -> str | None:
        value: str | None = await self._answer(key)
        return value

    async def aget_config(self, key: str) -> str | None:
        value: str | None = await self._answer(key)
        return value

    async def _answer(self, key: str) -> Any:
        self.asked[key] += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.arrived.set()
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error
        return self.values.get(key)


class Other(Steered):
    """A second backend with a name of its own."""


class ThirdParty(BaseSecretsBackend):  # type: ignore[misc]
    """A sync backend written before there were teams."""

    def __init__(self, connections: Mapping[str, str], variables: Mapping[str, str]) -> None:
        super().__init__()
        self.connections = connections
        self.variables = variables

    def get_conn_value(self, conn_id: str) -> str | None:
        return self.connections.get(conn_id)

    def get_variable(self, key: str) -> str | None:
        return self.variables.get(key)
