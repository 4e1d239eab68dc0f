"""Spares asyncpg its questions about PostgreSQL's own array types.

asyncpg knows the built-in types but not their arrays. It asks the server for each, once per connection, when
a statement first binds one: with a recursive query over the catalogue that takes longer to plan than most of
our statements to run, between two changes of ``jit``. Their ids are the same on every server.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import asyncpg

ARRAYS = {
    199: (114, "json"),
    1000: (16, "bool"),
    1001: (17, "bytea"),
    1005: (21, "int2"),
    1007: (23, "int4"),
    1009: (25, "text"),
    1015: (1043, "varchar"),
    1016: (20, "int8"),
    1021: (700, "float4"),
    1022: (701, "float8"),
    1115: (1114, "timestamp"),
    1182: (1082, "date"),
    1185: (1184, "timestamptz"),
    1187: (1186, "interval"),
    1231: (1700, "numeric"),
    2951: (2950, "uuid"),
    3807: (3802, "jsonb"),
}
"""The array types that statements may bind: id → id and name of the elements' type (``pg_type.dat``)."""


class _NotAsked(NamedTuple):
    """Stands for the statement that asked, of which asyncpg wants to know whether it was an unnamed one."""

    name: str = "not asked"


class Connection(asyncpg.Connection):  # type: ignore[misc]
    """An asyncpg connection that knows the arrays of built-in types.

    ``_introspect_types`` is asyncpg's own. Should it be called otherwise one day, it is not called here, and
    the server is asked as before.
    """

    async def _introspect_types(
        self,
        typeoids: Any,
        timeout: float | None,  # noqa: ASYNC109 (asyncpg's signature)
    ) -> tuple[list[Any], Any]:
        known = [_described(oid) for oid in typeoids if oid in ARRAYS]
        if len(known) == len(typeoids):
            return known, _NotAsked()
        found: tuple[list[Any], Any] = await super()._introspect_types(typeoids, timeout)
        return found


def _described(oid: int) -> dict[str, Any]:
    """Return what the catalogue says of an array type."""
    element, name = ARRAYS[oid]
    return {
        "oid": oid,
        "ns": "pg_catalog",
        "name": f"_{name}",
        "kind": b"b",
        "basetype": None,
        "elemtype": element,
        "elemdelim": ",",
        "range_subtype": None,
        "attrtypoids": None,
        "attrnames": None,
        "basetype_name": None,
        "elemtype_name": name,
        "range_subtype_name": None,
    }
