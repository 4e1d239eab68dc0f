"""Assets that nothing refers to any more, for a database that cannot run Airflow's own statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.models.asset import AssetActive
from sqlalchemy import delete, select

if TYPE_CHECKING:
    from sqlalchemy import CTE, Delete
    from sqlalchemy.orm import Session


def inactive(orphaned: CTE) -> Delete:
    """Delete the entries of the assets that *orphaned* selects; MariaDB knows no WITH before DELETE."""
    active: Any = AssetActive.__table__
    query: Any = orphaned.element
    assets = query.subquery("orphaned")
    same = (active.c.name == assets.c.name) & (active.c.uri == assets.c.uri)
    return delete(active).where(select(1).select_from(assets).where(same).correlate(active).exists())


def deactivate_orphaned(session: Session, orphaned: CTE) -> int:
    """Delete the ``asset_active`` entries of orphaned assets; return how many. Locks: these rows; waits."""
    return int(session.execute(inactive(orphaned)).rowcount)  # type: ignore[attr-defined]
