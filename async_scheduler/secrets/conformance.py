"""What every backend must do, as checks that any backend can be run through.

Fill your store with :data:`CONNECTIONS`, :data:`VARIABLES` (and :data:`TEAM_VARIABLES` as those of team
:data:`TEAM`), then, for example with pytest::

    @pytest.mark.parametrize("check", CHECKS, ids=name_of)
    async def test_conformance(check: Check, my_filled_backend: MyBackend) -> None:
        await check(my_filled_backend)

Sync backends are taken as well; they run as the chain would run them. A check raises :class:`NotConforming`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from async_scheduler.secrets.assembly import make_async
from async_scheduler.secrets.threads import DaemonThreads

if TYPE_CHECKING:
    from async_scheduler.secrets.backend import AsyncSecretsBackend

Check = Callable[[Any], Awaitable[None]]

CONNECTIONS: Mapping[str, str] = {
    "uri_plain": "postgres://login:pass-word@host.example:5432/schema",
    "uri_extras": "postgres://login:pass-word@host:5432/db?sslmode=verify-full&timeout=10&flag=true",
    "uri_nested_extra": "http://host/?__extra__=%7B%22a%22%3A+%7B%22b%22%3A+%5B1%2C+null%5D%7D%7D",
    "uri_unusual": "mysql://us%40er:p%2Fa%3As%3F%23s%25%20w%C3%B6rd@h%2Fost:3306/sch%2Fema",
    "uri_protocol": "livy://https://login:pass-word@host.example:8998/path",
    "uri_no_host": "sqlite:///relative.db",
    "uri_dashes": "google-cloud-platform://?key_path=%2Fkeys%2Fkey.json",
    "json_full": '{"conn_type": "postgres", "description": "a description", "host": "host", "login": "me", '
    '"password": "sëcret-☃", "schema": "db", "port": 5432, "extra": {"a": 1, "b": {"c": [true, null]}}}',
    "json_text_fields": '{"conn_type": "aws", "port": "443", "extra": "{\\"region_name\\": \\"eu\\"}"}',
    "json_spaces": '  {"conn_type": "http", "host": "h"}\n',
    "UPPER.and-dots": "http://host",
}
"""Connections by id, as URI or JSON."""

VARIABLES: Mapping[str, str] = {
    "plain": "value",
    "json": '{"a": [1, 2, {"b": null}]}',
    "unusual": "wörd ☃ = 'quoted' \"twice\" \\ % #",
    "spaces": "  inner  and around  ",
    "number": "42",
    "long": "x" * 20_000,
}
"""Variables by key."""

TEAM = "blue"
TEAM_VARIABLES: Mapping[str, str] = {"of_the_team": "only for the team"}
"""Variables that belong to :data:`TEAM`; backends without teams leave them out, with :data:`TEAM_CHECKS`."""

FIELDS = ("conn_id", "conn_type", "host", "login", "password", "schema", "port", "extra_dejson")


class NotConforming(AssertionError):
    """A backend does not do what Airflow's own backends do."""


def name_of(check: Check) -> str:
    """Return the name of a check, for test ids."""
    return check.__name__


def _async(backend: Any) -> AsyncSecretsBackend:
    return make_async(backend, DaemonThreads(4, "conformance"))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise NotConforming(what)


def _airflows_own(conn_id: str) -> Any:
    """Return the connection as Airflow reads it from its text."""
    from airflow.models import Connection
    from airflow.secrets import BaseSecretsBackend

    return BaseSecretsBackend._deserialize_connection_value(Connection, conn_id, CONNECTIONS[conn_id])


def _require_same(conn_id: str, found: Any, wanted: Any) -> None:
    _require(found is not None, f"connection {conn_id!r} is not found")
    for field in FIELDS:
        _require(
            getattr(found, field) == getattr(wanted, field),
            f"connection {conn_id!r}: {field} differs from what Airflow reads",
        )


async def finds_every_connection(backend: Any) -> None:
    """Each connection has the fields that Airflow reads from its URI or JSON."""
    asked = _async(backend)
    for conn_id in CONNECTIONS:
        _require_same(conn_id, await asked.aget_connection(conn_id), _airflows_own(conn_id))


async def finds_every_variable(backend: Any) -> None:
    """Each variable is given back to the character."""
    asked = _async(backend)
    for key, value in VARIABLES.items():
        _require(await asked.aget_variable(key) == value, f"variable {key!r} is not what was stored")


async def answers_none_for_absent_keys(backend: Any) -> None:
    """What is not there is None, never an error."""
    asked = _async(backend)
    _require(await asked.aget_connection("no_such_connection") is None, "an absent connection is not None")
    _require(await asked.aget_variable("no_such_variable") is None, "an absent variable is not None")
    _require(await asked.aget_config("no_such_value") is None, "an absent configuration value is not None")


async def answers_as_its_sync_methods(backend: Any) -> None:
    """Sync methods and async methods of the backend agree."""
    asked, threads = _async(backend), DaemonThreads(1, "conformance-sync")
    for conn_id in CONNECTIONS:
        blocking = await threads.run(partial(backend.get_connection, conn_id))
        _require_same(conn_id, await asked.aget_connection(conn_id), blocking)
    for key in [*VARIABLES, "no_such_variable"]:
        blocking = await threads.run(partial(backend.get_variable, key))
        _require(await asked.aget_variable(key) == blocking, f"variable {key!r}: sync and async differ")
    threads.close()


async def answers_many_at_once(backend: Any) -> None:
    """Look-ups that run together each get their own answer."""
    asked = _async(backend)
    keys = [key for key in (*VARIABLES, "no_such_variable") for _ in range(10)]
    answers = await asyncio.gather(*(asked.aget_variable(key) for key in keys))
    for key, answer in zip(keys, answers, strict=True):
        _require(answer == VARIABLES.get(key), f"variable {key!r}: a wrong answer among concurrent ones")


async def survives_cancelled_lookups(backend: Any) -> None:
    """A cancelled look-up leaves nothing behind that disturbs the next one."""
    asked = _async(backend)
    for _ in range(3):
        lookup = asyncio.ensure_future(asked.aget_variable("plain"))
        await asyncio.wait([lookup], timeout=0)
        lookup.cancel()
        await asyncio.wait([lookup])
    _require(await asked.aget_variable("plain") == VARIABLES["plain"], "no answer after a cancelled look-up")


async def hands_out_connections_of_the_callers_own(backend: Any) -> None:
    """What one caller does to a connection is not seen by the next."""
    asked = _async(backend)
    first = await asked.aget_connection("uri_plain")
    _require(first is not None, "connection 'uri_plain' is not found")
    vars(first)["host"] = "changed"
    _require_same("uri_plain", await asked.aget_connection("uri_plain"), _airflows_own("uri_plain"))


async def shows_no_value_in_its_repr(backend: Any) -> None:
    """The representation of the backend holds no value that was looked up."""
    asked = _async(backend)
    await asked.aget_connection("uri_plain")
    await asked.aget_variable("unusual")
    text = repr(backend)
    for secret in ("pass-word", VARIABLES["unusual"]):
        _require(secret not in text, "a value stands in the representation")


async def keeps_teams_apart(backend: Any) -> None:
    """A team's variable is found for the team and for nobody else."""
    asked = _async(backend)
    for key, value in TEAM_VARIABLES.items():
        _require(await asked.aget_variable(key, TEAM) == value, f"{key!r} is not found for its team")
        _require(await asked.aget_variable(key, "red") is None, f"{key!r} is found for another team")
        _require(await asked.aget_variable(key) is None, f"{key!r} is found without a team")


CHECKS: tuple[Check, ...] = (
    finds_every_connection,
    finds_every_variable,
    answers_none_for_absent_keys,
    answers_as_its_sync_methods,
    answers_many_at_once,
    survives_cancelled_lookups,
    hands_out_connections_of_the_callers_own,
    shows_no_value_in_its_repr,
)
"""For every backend."""

TEAM_CHECKS: tuple[Check, ...] = (keeps_teams_apart,)
"""For backends that know teams; multi-team mode must be on."""
