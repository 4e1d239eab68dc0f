"""No secret in a log, a representation, an exception or a metric, whatever goes well or wrong."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import io
import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models import Connection, Variable
from airflow.utils.session import create_session

from async_scheduler.secrets.adapter import AsyncBackendAdapter
from async_scheduler.secrets.chain import AsyncSecretsChain, ChainSettings
from async_scheduler.secrets.environment import AsyncEnvironmentVariablesBackend
from async_scheduler.secrets.local_file import AsyncLocalFilesystemBackend
from async_scheduler.secrets.metastore import AsyncMetastoreBackend
from async_scheduler.secrets.preload import preloaded
from async_scheduler.secrets.source import Lookup
from async_scheduler.secrets.threads import DaemonThreads
from async_scheduler.secrets.upstream import lookups_routed
from async_scheduler.secrets.vault import AsyncVaultBackend
from tests.secrets.backends import Steered, ThirdParty

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    from tests.secrets.vault_server import VaultServer

SECRET = "zzsecretzz"
"""In every value that is stored; whoever shows a value shows it."""

URI = f"http://{SECRET}:{SECRET}@{SECRET}/?{SECRET}={SECRET}"
BROKEN = f"a://b://c://{SECRET}"
"""Airflow's own message for such a URI holds it whole."""


class Everything(logging.Handler):
    """Keeps every record as text, with its traceback and whatever else hangs on it, unmasked."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = io.StringIO()

    def emit(self, record: logging.LogRecord) -> None:
        self.text.write(f"{record.getMessage()} {vars(record)}\n")
        if record.exc_info and record.exc_info[1]:
            self.text.write("".join(traceback.format_exception(record.exc_info[1])))


@pytest.fixture
def shown() -> Iterator[Everything]:
    """All that is logged by anyone, at any level."""
    handler, root = Everything(), logging.getLogger()
    level, disabled = root.level, logging.root.manager.disable
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.disable(logging.NOTSET)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)
    logging.disable(disabled)


class Failing(ThirdParty):
    """A third party's backend whose errors show what it was about to return."""

    def get_conn_value(self, conn_id: str) -> str | None:
        raise RuntimeError(f"cannot parse {URI}")

    def get_variable(self, key: str) -> str | None:
        raise KeyError(SECRET)


@pytest.fixture
async def chains(
    sessions: async_sessionmaker[AsyncSession],
    vault: VaultServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[list[AsyncSecretsChain]]:
    """Chains of one backend each, with the same secrets in all of them."""
    values = {"good": URI, "broken": BROKEN}
    for key, value in values.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{key.upper()}", value)
        monkeypatch.setenv(f"AIRFLOW_VAR_{key.upper()}", value)
        vault.kv2[f"connections/{key}"] = {"conn_uri": value}
        vault.kv2[f"variables/{key}"] = {"value": value}
    with create_session() as session:
        session.add(Connection("good", uri=URI))
        session.add(Variable("good", SECRET))
        undecryptable = Connection("broken", conn_type="http", password=SECRET)
        undecryptable._password = f"not encrypted: {SECRET}"
        session.add(undecryptable)
    broken_yaml = tmp_path / "broken.yaml"
    broken_yaml.write_text(f"good: {URI}\nbroken: [{SECRET}\n{SECRET}: '")
    good_json = tmp_path / "good.json"
    good_json.write_text(f'{{"good": "{URI}", "broken": {{"{SECRET}": "{SECRET}"}}}}')
    threads = DaemonThreads(2, "leaks")
    slow = Steered({"good": SECRET})
    slow.gate.clear()
    backends = [
        AsyncEnvironmentVariablesBackend(),
        AsyncMetastoreBackend(sessions),
        AsyncVaultBackend(url=vault.url, token=vault.root_token, retry_backoff=0),
        AsyncVaultBackend(
            url=vault.url, auth_type="approle", role_id=SECRET, secret_id=SECRET, retry_backoff=0
        ),
        AsyncVaultBackend(url="http://127.0.0.1:9", token=SECRET, retry_backoff=0),
        AsyncLocalFilesystemBackend(str(broken_yaml), str(broken_yaml)),
        AsyncLocalFilesystemBackend(str(good_json), str(good_json)),
        AsyncBackendAdapter(ThirdParty(values, values), threads),
        AsyncBackendAdapter(Failing({}, {}), threads),
        slow,
    ]
    settings = ChainSettings(ttl=60, timeout=2)
    quick = ChainSettings(ttl=60, timeout=0.01)
    yield [
        AsyncSecretsChain([one], quick if one is slow else settings, config_backend=one) for one in backends
    ]
    for backend in backends:
        await backend.aclose()
    threads.close()


async def _look_up_everything(chain: AsyncSecretsChain) -> list[str]:
    """Return the text of all that is not a value: errors, traces, counts and representations."""
    texts = []
    for key in ("good", "broken", "absent"):
        for look_up in (chain.aget_connection, chain.aget_variable, chain.aget_config):
            try:
                await look_up(key)
            except Exception as error:
                texts.append("".join(traceback.format_exception(error)))
        texts += [
            repr(await chain.trace(Lookup("variable", key))),
            repr(await chain.trace(Lookup("connection", key))),
        ]
    waiting = [asyncio.ensure_future(chain.aget_connection("good")) for _ in range(3)]
    await asyncio.wait(waiting, timeout=0)
    texts.append(repr(vars(chain._flights)))
    waiting[0].cancel()
    await asyncio.wait(waiting)
    parts = [chain, *vars(chain).values(), vars(chain._cache), *chain.backends, *chain._sources, chain.counts]
    return [*texts, *map(repr, parts)]


async def test_nothing_leaks(chains: list[AsyncSecretsChain], shown: Everything) -> None:
    texts = [text for chain in chains for text in await _look_up_everything(chain)]
    assert len(shown.text.getvalue()) > 1000, "the log was not watched"
    assert SECRET not in "\n".join(texts)
    assert SECRET not in shown.text.getvalue()


async def test_preloading_and_routing_leak_nothing(shown: Everything) -> None:
    backend = Steered({"v": SECRET, "c": Connection("c", uri=URI)})
    chain = AsyncSecretsChain([backend])
    async with lookups_routed(chain) as routed, preloaded(chain, variables=["v"], connections=["c"]):
        context = contextvars.copy_context()
        texts = [repr(routed), repr(vars(routed)), *(repr(value) for value in context.values())]
        await asyncio.to_thread(Variable.get, "v")
        await asyncio.to_thread(Connection.get_connection_from_secrets, "c")
    assert SECRET not in "\n".join(texts)
    assert SECRET not in shown.text.getvalue()


async def test_warnings_at_the_end_of_a_loop_leak_nothing(
    shown: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_V", SECRET)
    monkeypatch.setenv("AIRFLOW_CONN_BROKEN", BROKEN)

    def ends_early() -> Any:
        async def leave() -> None:
            chain = AsyncSecretsChain([AsyncEnvironmentVariablesBackend()])
            lookups = [asyncio.ensure_future(chain.aget_connection("broken")) for _ in range(3)]
            await asyncio.wait(lookups, timeout=0)
            raise RuntimeError

        with suppress(RuntimeError):
            asyncio.run(leave(), debug=True)

    await asyncio.to_thread(ends_early)
    gc.collect()
    assert SECRET not in shown.text.getvalue()
