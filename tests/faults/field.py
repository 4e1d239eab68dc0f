"""A field for faults: a database with work in it, workers, schedulers, and somebody who watches."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from poc_bench import correctness
from poc_bench.arms import ARMS
from poc_bench.database.rows import CellDatabase
from poc_bench.processes import Child, module
from poc_bench.workloads import sized
from tests.faults.audit import INSTALL, read_changes
from tests.faults.collecting import read_consequences
from tests.faults.environment import TUNED, environment
from tests.faults.invariants import Evidence, Given
from tests.faults.schedulers import Schedulers
from tests.faults.watch import OURS, Watch
from tests.faults.work import CONSUMER

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from poc_bench.database.address import Address
    from tests.faults.server import FaultServer

SEED = 7
RECORD = "record.jsonl"
"""The file in a field's folder that the workers write."""
_UNDISTURBED = {**TUNED, "AIRFLOW__CORE__EXECUTOR": "poc_bench.executor.bench.BenchExecutor"}
PATIENT = 300.0
"""Seconds within which a process has started, however busy the machine is."""

LEFT = """
SELECT (SELECT count(*) FROM dag_run WHERE state IN ('queued', 'running'))
           + (SELECT count(*) FROM asset_dag_run_queue),
       (SELECT count(*) FROM dag_run WHERE dag_id <> :consumer)"""


@dataclass(slots=True)
class Field:
    """One database under faults."""

    label: str
    address: Address
    """Where the server itself is."""
    folder: Path
    schedulers: Schedulers
    workers: Child
    database: CellDatabase
    watch: Watch
    oracle: correctness.EndState
    server: FaultServer
    engine: Engine

    def open(self, schedulers: int, arrival_rate: float | None = None) -> None:
        """Let the work begin as soon as so many schedulers turn."""
        self.await_ready(schedulers)
        self.database.open_gate(arrival_rate)
        self.watch.start()

    def await_ready(self, schedulers: int) -> None:
        """Return when so many schedulers have sent a first heartbeat to their executor."""
        until = time.monotonic() + PATIENT
        while len(list((self.folder / "ready").iterdir())) < schedulers:
            if time.monotonic() > until:
                logs = [one.text[-2000:] for one in self.schedulers.all]
                raise AssertionError(f"no scheduler loop after {PATIENT:g} s: {logs}")
            time.sleep(0.05)

    @property
    def left(self) -> int:
        """How many runs have not ended; those that asset events still ask for count."""
        try:
            with self.engine.begin() as connection:
                open_runs, ended = connection.execute(text(LEFT), {"consumer": CONSUMER}).one()
        except DBAPIError:
            return 1
        return int(open_runs or sized(self.label).plan(SEED).runs - ended)

    def wait(self, within: float) -> bool:
        """Return whether all runs end within so many seconds."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            if not self.left:
                return True
            time.sleep(0.1)
        return False

    def close(self) -> Evidence:
        """End all processes and return what was seen."""
        leftovers = self.schedulers.stop()
        self.watch.stop()
        engine = create_engine(self.address.sync_url, connect_args={"application_name": "faults-end"})
        leftovers += _leftovers(engine)
        changes = read_changes(engine)
        consequences = read_consequences(engine)
        engine.dispose()
        self.engine.dispose()
        self.workers.end()
        lines = (self.folder / RECORD).read_text().splitlines()
        return Evidence(
            plan=sized(self.label).plan(SEED),
            changes=changes,
            given=[Given(*json.loads(line)) for line in lines],
            runs=self.database.runs(),
            task_instances=self.database.task_instances(),
            earlier_tries=self.database.earlier_tries(),
            samples=self.watch.samples,
            oracle=self.oracle,
            leftovers=leftovers,
            endings=self.schedulers.bad_endings(),
            stock=frozenset(one.pid for one in self.schedulers.all if one.stock),
            consequences=consequences,
        )


def _leftovers(engine: Engine) -> list[str]:
    until = time.monotonic() + 60
    query = text(f"SELECT application_name, state, query FROM pg_stat_activity WHERE {OURS}")
    while True:
        with engine.begin() as connection:
            found = connection.execute(query).all()
            locks = connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))
        if not found and not locks:
            return []
        if time.monotonic() > until:
            lines = [f"a connection is left: {name} {state}: {what[:80]}" for name, state, what in found]
            return [*lines, *([f"{locks} advisory locks are left"] if locks else [])]
        time.sleep(0.1)


class Fields:
    """Makes fields: keeps one template database for each workload and knows how each has to end."""

    def __init__(self, server: FaultServer, folder: Path, keys: Mapping[str, str]) -> None:
        self.server = server
        self._folder = folder
        self._keys = keys
        self._templates: dict[str, str] = {}
        self._oracles: dict[str, correctness.EndState] = {}
        self._count = 0

    @contextmanager
    def field(
        self,
        label: str,
        *,
        link: Address | None = None,
        tablespace: str = "pg_default",
        more: Mapping[str, str] | None = None,
    ) -> Iterator[Field]:
        """Yield a field for the workload *label*; its schedulers reach the database by *link*, if given.

        *more* goes into the schedulers' environment.
        """
        label = sized(label).label
        oracle = self._oracle(label)
        with self._raw(label, link=link, oracle=oracle, more=more or {}, tablespace=tablespace) as one:
            yield one

    @contextmanager
    def unjudged(self, label: str, more: Mapping[str, str]) -> Iterator[Field]:
        """Yield a field of which nobody knows how it has to end."""
        with self._raw(sized(label).label, oracle={}, more=more, audited=False) as one:
            yield one

    @contextmanager
    def _raw(
        self,
        label: str,
        *,
        more: Mapping[str, str],
        oracle: correctness.EndState,
        link: Address | None = None,
        tablespace: str = "pg_default",
        audited: bool = True,
    ) -> Iterator[Field]:
        template = self._template(label)
        self._count += 1
        name = f"field_{self._count}"
        folder = self._folder / name
        (folder / "ready").mkdir(parents=True)
        with ExitStack() as stack:
            address = stack.enter_context(self.server.clone(template, name, tablespace))
            if audited:
                self.server.execute(INSTALL, name)
            seen_by_schedulers = link.named_database(name) if link else address
            schedulers = Schedulers({**environment(folder, seen_by_schedulers, self._keys), **more}, folder)
            stack.callback(schedulers.close)
            schedulers.open()
            workers = self._workers(label, address, folder, folder / RECORD if audited else Path(os.devnull))
            stack.callback(workers.end)
            database = CellDatabase(address)
            stack.callback(database.close)
            watch = Watch(database, address)
            stack.callback(watch.stop)
            engine = create_engine(
                address.sync_url, connect_args={"application_name": "faults-field"}, pool_pre_ping=True
            )
            stack.callback(engine.dispose)
            yield Field(
                *(label, address, folder, schedulers, workers, database, watch, oracle, self.server), engine
            )

    def _workers(self, label: str, address: Address, folder: Path, record: Path) -> Child:
        request = {
            "url": address.sync_url,
            "connect_arguments": {"application_name": "bench-workers"},
            "socket": str(folder / "socket"),
            "workload": label,
            "seed": SEED,
            "figures": str(folder / "workers.json"),
            "record": str(record),
        }
        file = folder / "workers-request.json"
        file.write_text(json.dumps(request))
        workers = Child(
            "workers",
            module("tests.faults.workers", str(file)),
            environment(folder, address, self._keys),
            folder,
        )
        until = time.monotonic() + PATIENT
        while not (folder / "socket").exists():
            if workers.exit_code is not None or time.monotonic() > until:
                raise AssertionError(f"the workers do not start: {workers.last_line()}")
            time.sleep(0.05)
        return workers

    def _oracle(self, label: str) -> correctness.EndState:
        """Return how the stock scheduler ends the workload, undisturbed."""
        if label not in self._oracles:
            with self._raw(label, oracle={}, more=_UNDISTURBED) as one:
                one.schedulers.start("oracle")
                one.open(1)
                assert one.wait(600), "the stock scheduler does not end the work"
                seen = one.close()
            self._oracles[label] = correctness.end_state(seen.runs, seen.task_instances)
        return self._oracles[label]

    def _template(self, label: str) -> str:
        if label not in self._templates:
            if not self._templates:
                self.server.execute("CREATE DATABASE fault_base")
                self._run(["-m", "airflow", "db", "migrate"], "fault_base")
            name = f"fault_template_{len(self._templates)}"
            self.server.execute(f"CREATE DATABASE {name} TEMPLATE fault_base")
            code = self._folder / "dags.py"
            code.write_text("# the text that is stored with the dags\n")
            self._run(["-m", "tests.faults.seed", label, str(SEED), str(code)], name)
            self._templates[label] = name
        return self._templates[label]

    def _run(self, arguments: list[str], database: str) -> None:
        folder = self._folder / "home"
        (folder / "ready").mkdir(parents=True, exist_ok=True)
        child = Child(
            f"{arguments[1]} {database}",
            module(*arguments[1:]),
            environment(folder, self.server.address(database), self._keys),
            folder,
        )
        if child.wait(300):
            raise AssertionError(f"{arguments} failed:\n{child.log.read_text()[-3000:]}")


ALGORITHMS: dict[str, Mapping[str, str]] = {
    "redesigned": ARMS["redesigned"].environment,
    "upstream": ARMS["naive"].environment,
}
"""What makes a scheduler use one algorithm or the other."""
