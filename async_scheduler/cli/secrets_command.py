"""``airflow async-scheduler secrets check``: which backends there are and which of them answer."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from airflow.cli.simple_table import AirflowConsole
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from async_scheduler.database.engine import create_engine
from async_scheduler.database.sessions import new_session
from async_scheduler.errors import AsyncSchedulerError
from async_scheduler.secrets.adapter import AsyncBackendAdapter
from async_scheduler.secrets.assembly import make_chain
from async_scheduler.secrets.source import Lookup
from async_scheduler.settings import Settings

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from async_scheduler.secrets.backend import AsyncSecretsBackend
    from async_scheduler.secrets.chain import AsyncSecretsChain, Attempt


@providers_configuration_loaded  # type: ignore[untyped-decorator]
def check(args: Namespace) -> None:
    """Print the search order, or for connections and variables what each backend answered; never a value.

    Ends with exit code 1 when something was asked for that no backend has, or when a backend failed, and with
    2 when it cannot ask because of a wrong setting.
    """
    lookups = [Lookup("connection", conn_id, args.team) for conn_id in args.conn or ()]
    lookups += [Lookup("variable", key, args.team) for key in args.var or ()]
    try:
        backends, attempts = asyncio.run(_look_up(lookups))
    except (ValueError, AsyncSchedulerError) as error:
        print(f"airflow async-scheduler secrets check: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    rows = [_attempt_row(*item) for item in attempts] or [_backend_row(*i) for i in enumerate(backends, 1)]
    AirflowConsole().print_as(rows, args.output)
    if not _all_well(lookups, attempts):
        raise SystemExit(1)


async def _look_up(
    lookups: Sequence[Lookup],
) -> tuple[tuple[AsyncSecretsBackend, ...], list[tuple[Lookup, Attempt]]]:
    settings = Settings.from_airflow()
    # As the scheduler connects; a few look-ups do not pay for finding out whether a pooler is there.
    engine = create_engine(1, settings.pool_timeout, pgbouncer=True, reads_only=True)
    chain: AsyncSecretsChain = make_chain(settings, lambda: new_session(engine))
    try:
        return chain.backends, [(lookup, tried) for lookup in lookups for tried in await chain.trace(lookup)]
    finally:
        await chain.aclose()
        await engine.dispose()


def _backend_row(number: int, backend: AsyncSecretsBackend) -> dict[str, str]:
    asked = backend.backend if isinstance(backend, AsyncBackendAdapter) else backend
    kind = type(asked)
    native = not isinstance(backend, AsyncBackendAdapter) or hasattr(asked, "aget_connection")
    return {
        "order": str(number),
        "backend": f"{kind.__module__}.{kind.__qualname__}",
        "asked": "async" if native else "in threads",
    }


def _attempt_row(lookup: Lookup, attempt: Attempt) -> dict[str, str]:
    return {
        "kind": lookup.kind,
        "key": lookup.key,
        "backend": attempt.backend,
        "answer": attempt.outcome,
        "ms": "" if attempt.outcome == "not asked" else f"{attempt.seconds * 1000:.2f}",
        "reason": attempt.reason,
    }


def _all_well(lookups: Sequence[Lookup], attempts: Sequence[tuple[Lookup, Attempt]]) -> bool:
    found = {lookup for lookup, attempt in attempts if attempt.outcome == "found"}
    failed = any(attempt.outcome == "failed" for _, attempt in attempts)
    return found == set(lookups) and not failed
