"""What a database backend on this machine has cost: the part of the sampler's price that the server pays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

LOCAL = ("localhost", "127.0.0.1", "::1")


def is_local(url: URL) -> bool:
    """Whether the database of *url* is on this machine, as far as its address tells."""
    host = url.host or url.query.get("host") or "localhost"
    return isinstance(host, str) and (host.startswith("/") or host in LOCAL)


def cpu_ns(url: URL, pid: int) -> int | None:
    """Return what the PostgreSQL backend *pid* has used so far, None where it cannot be known (Linux only).

    The name is compared: a server in a container has process ids of its own.
    """
    process = Path("/proc", str(pid))
    try:
        if not is_local(url) or not (process / "comm").read_text().startswith("postgres"):
            return None
        return int((process / "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
