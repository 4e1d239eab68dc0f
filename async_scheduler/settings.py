"""The ``[async_scheduler]`` section of ``airflow.cfg``: declared once, read once, then frozen.

Each option is declared in :data:`OPTIONS`; from there come the documented provider configuration
(``airflow config list``), the defaults and the check of a user's value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from async_scheduler.errors import InvalidSetting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SECTION = "async_scheduler"

Mode = Literal["concurrent", "sequential", "shared_session"]
Algorithm = Literal["redesigned", "upstream"]
EventLoop = Literal["auto", "uvloop", "asyncio"]
Pooler = Literal["auto", "true", "false"]
TraceLevel = Literal["ledger", "steps"]


@dataclass(frozen=True, slots=True)
class Kind:
    """How to read a value: the name Airflow documents, the parser, and what is allowed in words.

    ``parse`` raises :class:`ValueError` for a value that is not allowed.
    """

    name: str
    parse: Callable[[str], Any]
    allowed: str


def _choice(values: tuple[str, ...]) -> Kind:
    def parse(text: str) -> str:
        value = text.strip().lower()
        if value not in values:
            raise ValueError(value)
        return value

    return Kind("string", parse, ", ".join(values))


def _boolean() -> Kind:
    def parse(text: str) -> bool:
        value = text.strip().lower()
        if value not in ("true", "false"):
            raise ValueError(value)
        return value == "true"

    return Kind("boolean", parse, "True, False")


def _text(allowed: str) -> Kind:
    return Kind("string", str.strip, allowed)


def _number(low: float, high: float, unit: str) -> Kind:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Kind("float", parse, f"a number from {low:g} to {high:g} ({unit})")


def _integer(low: int, high: int, unit: str) -> Kind:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Kind("integer", parse, f"a whole number from {low} to {high} ({unit})")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the section: its name, default as written in ``airflow.cfg``, kind and description."""

    name: str
    default: str
    kind: Kind
    description: str
    version_added: str = "0.1.0"
    section: str = SECTION

    def read(self, text: str) -> Any:
        """Return the parsed value of *text*; raise :class:`InvalidSetting` when it is not allowed."""
        try:
            return self.kind.parse(text)
        except ValueError:
            raise InvalidSetting(self.section, self.name, text, self.kind.allowed) from None

    def documented(self) -> dict[str, Any]:
        """Return the option as Airflow's provider configuration declares one."""
        values = f"Allowed: {self.kind.allowed}. Default: {self.default or 'empty'}."
        return {
            "description": f"{self.description}\n{values}\n",
            "version_added": self.version_added,
            "type": self.kind.name,
            "example": None,
            "default": self.default,
        }


OPTIONS: tuple[Option, ...] = (
    Option(
        "mode",
        "concurrent",
        _choice(get_args(Mode)),
        "How the routines of the scheduler run: all at once (``concurrent``), one after another in the "
        "order of the sync loop (``sequential``), or all at once on one database session behind a fair "
        "lock, one transaction at a time (``shared_session``).",
    ),
    Option(
        "algorithm",
        "redesigned",
        _choice(get_args(Algorithm)),
        "Who decides: the redesigned stages, which work on sets of rows and wake on events "
        "(``redesigned``), or Airflow's own functions as coroutines (``upstream``). With "
        "``[core] multi_team`` it is always Airflow's functions.",
    ),
    Option(
        "runs_per_visit",
        "32",
        _integer(1, 10_000, "dag runs"),
        "How many running dag runs the redesigned scheduler examines in one transaction at most; in the "
        "place of ``[scheduler] max_dagruns_per_loop_to_schedule``.",
    ),
    Option(
        "visits_at_once",
        "4",
        _integer(1, 100, "transactions"),
        "How many such transactions may be open at the same time, each with a connection of its own. Far "
        "from the database they overlap their waiting. Always 1 unless ``mode`` is ``concurrent``.",
    ),
    Option(
        "dags_per_creation",
        "50",
        _integer(1, 10_000, "dags"),
        "For how many due dags the redesigned scheduler creates dag runs in one transaction at most; in the "
        "place of ``[scheduler] max_dagruns_to_create_per_loop``.",
    ),
    Option(
        "instances_per_creation",
        "5000",
        _integer(1, 1_000_000, "task instances"),
        "After how many new task instances the redesigned scheduler commits the dag runs it creates. A dag "
        "that is due for several runs gets them at once as far as ``max_active_runs`` allows.",
    ),
    Option(
        "starts_per_pass",
        "200",
        _integer(1, 10_000, "dag runs"),
        "How many queued dag runs the redesigned scheduler starts in one transaction at most.",
    ),
    Option(
        "queue_batch",
        "256",
        _integer(1, 100_000, "task instances"),
        "How many task instances the redesigned scheduler queues in one critical section at most; in the "
        "place of ``[scheduler] max_tis_per_query``. Executor slots and ``[core] parallelism`` hold as ever.",
    ),
    Option(
        "probe_interval",
        "0.25",
        _number(0.01, 60, "seconds"),
        "How often the redesigned scheduler looks, with one statement for all stages, for new work that "
        "others have made: queued runs, dags that are due, asset events, deadlines, callbacks. Beside other "
        "schedulers at least every 0.15 seconds while no queued run waits, beside a stock one always.",
    ),
    Option(
        "sweep_interval",
        "1.0",
        _number(0.05, 600, "seconds"),
        "How often the redesigned scheduler looks for changes that nobody reported to it: by users, the API "
        "server, triggerers and other schedulers.",
    ),
    Option(
        "examine_all_interval",
        "30.0",
        _number(1, 86400, "seconds"),
        "How often the redesigned scheduler examines every running dag run, changed or not.",
    ),
    Option(
        "event_loop",
        "auto",
        _choice(get_args(EventLoop)),
        "The event loop; ``auto`` takes uvloop where it is installed and asyncio elsewhere.",
    ),
    Option(
        "shutdown_grace",
        "10.0",
        _number(0, 3600, "seconds"),
        "After SIGTERM or SIGINT: how long routines may take to finish their transaction before they are "
        "cancelled and rolled back. Executors get their own time after that, as in the sync scheduler.",
    ),
    Option(
        "routine_timeout",
        "600.0",
        _number(1, 86400, "seconds"),
        "A single pass of a routine that takes longer is cancelled, rolled back and retried.",
    ),
    Option(
        "retry_give_up_after",
        "300.0",
        _number(0, 86400, "seconds"),
        "A routine whose passes keep failing for a passing reason (lost race, deadlock, lock time-out, "
        "dropped connection) is retried with back-off; after this time without one success the scheduler "
        "ends with exit code 1.",
    ),
    Option(
        "retry_max_backoff",
        "5.0",
        _number(0.01, 300, "seconds"),
        "The longest wait between two tries of a failing routine. Waits grow exponentially, with jitter.",
    ),
    Option(
        "executor_poll_interval",
        "0.1",
        _number(0.001, 60, "seconds"),
        "How often an executor that holds unfinished work is asked for events. While events come it is asked "
        "more often; the LocalExecutor tells of them by itself. An idle executor gets its heartbeat every "
        "``[scheduler] scheduler_idle_sleep_time``.",
    ),
    Option(
        "executor_call_timeout",
        "60.0",
        _number(0.1, 3600, "seconds"),
        "How long orphan adoption and the check for stuck tasks wait for an executor's answer before the "
        "pass is given up and retried. A heartbeat has no such limit: a slow executor delays only itself.",
    ),
    Option(
        "pool_size",
        "0",
        _integer(0, 1000, "connections; 0 = one for each routine that can run at once"),
        "Connections that the async engine keeps open. There is no overflow beyond it. Where Airflow takes "
        "no row locks (SQLite, MariaDB) the routines share one, whatever is set here.",
    ),
    Option(
        "pool_timeout",
        "30.0",
        _number(0.1, 3600, "seconds"),
        "How long a routine waits for a free connection before its pass is given up and retried.",
    ),
    Option(
        "pgbouncer",
        "auto",
        _choice(get_args(Pooler)),
        "Whether PgBouncer, or a pooler like it, stands before PostgreSQL in transaction mode, so that "
        "nothing may be prepared by name. ``auto`` finds out at start: a pooler does not tell the process id "
        "of the server.",
    ),
    Option(
        "loop_lag_interval",
        "0.5",
        _number(0.01, 60, "seconds"),
        "How often the lag of the event loop is measured (metric ``async_scheduler.loop_lag``).",
    ),
    Option(
        "trace_directory",
        "",
        _text("a directory, or nothing"),
        "Write a contention trace to this directory from the start (``airflow scheduler --async --trace "
        "DIR`` does the same). Empty: no trace, until ``airflow async-scheduler trace on`` asks for one.",
    ),
    Option(
        "trace_level",
        "ledger",
        _choice(get_args(TraceLevel)),
        "How deep a trace from the start goes. ``ledger``: transactions, statements, locks, the pool. "
        "``steps``: also CPU per routine and how busy the event loop is; runs on asyncio's own event loop.",
    ),
    Option(
        "trace_sampler",
        "True",
        _boolean(),
        "Let a process of its own sample the database's lock waits while a trace is written. Not needed "
        "where the server's log of lock waits is at hand (``log_lock_waits``).",
    ),
    Option(
        "control_socket",
        "",
        _text("a path, nothing or none"),
        "The unix socket on which ``airflow async-scheduler top`` and ``trace`` reach a running scheduler. "
        "Empty: ``async-scheduler/PID.sock`` in Airflow's home. ``none``: there is no such socket.",
    ),
    Option(
        "secrets_ttl",
        "0.0",
        _number(0, 86400, "seconds; 0 = look up every time"),
        "How long a connection, a variable, a configuration value, or the absence of one, is remembered by "
        "the async secrets chain. Up to a tenth shorter, at random.",
    ),
    Option(
        "secrets_cache_size",
        "10000",
        _integer(1, 10_000_000, "entries"),
        "How much the async secrets chain remembers at most.",
    ),
    Option(
        "secrets_timeout",
        "10.0",
        _number(0.01, 3600, "seconds"),
        "How long one secrets backend may take for an answer before the next one is asked.",
    ),
    Option(
        "secrets_breaker_failures",
        "5",
        _integer(0, 1000, "failures in a row; 0 = always ask"),
        "After how many failures or time-outs in a row a secrets backend is left alone for a while.",
    ),
    Option(
        "secrets_breaker_pause",
        "30.0",
        _number(0.01, 86400, "seconds"),
        "How long a failing secrets backend is left alone before it is tried again.",
    ),
    Option(
        "secrets_threads",
        "16",
        _integer(1, 1000, "threads"),
        "How many look-ups may run at once in secrets backends that have no async methods.",
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The values of ``[async_scheduler]``, read once at start. Times are in seconds."""

    mode: Mode = "concurrent"
    algorithm: Algorithm = "redesigned"
    runs_per_visit: int = 32
    visits_at_once: int = 4
    dags_per_creation: int = 50
    instances_per_creation: int = 5000
    starts_per_pass: int = 200
    queue_batch: int = 256
    probe_interval: float = 0.25
    sweep_interval: float = 1.0
    examine_all_interval: float = 30.0
    event_loop: EventLoop = "auto"
    shutdown_grace: float = 10.0
    routine_timeout: float = 600.0
    retry_give_up_after: float = 300.0
    retry_max_backoff: float = 5.0
    executor_poll_interval: float = 0.1
    executor_call_timeout: float = 60.0
    pool_size: int = 0
    pool_timeout: float = 30.0
    pgbouncer: Pooler = "auto"
    loop_lag_interval: float = 0.5
    trace_directory: str = ""
    trace_level: TraceLevel = "ledger"
    trace_sampler: bool = True
    control_socket: str = ""
    secrets_ttl: float = 0.0
    secrets_cache_size: int = 10_000
    secrets_timeout: float = 10.0
    secrets_breaker_failures: int = 5
    secrets_breaker_pause: float = 30.0
    secrets_threads: int = 16

    @property
    def lanes(self) -> int:
        """How many transactions the redesigned schedule stage may have open at the same time."""
        return self.visits_at_once if self.mode == "concurrent" else 1

    @property
    def dags_at_once(self) -> int:
        """How many dags the redesigned stages may need at the same time: fewer in memory would let them wait
        for each other's without end."""
        return self.starts_per_pass + self.dags_per_creation + self.lanes * self.runs_per_visit

    @classmethod
    def from_values(cls, values: Mapping[str, str]) -> Settings:
        """Return the settings for *values* (option name → text), defaults for those left out.

        :raises InvalidSetting: for the first value that is not allowed.
        """
        return cls(**{o.name: o.read(values.get(o.name, o.default)) for o in OPTIONS})

    @classmethod
    def from_airflow(cls) -> Settings:
        """Return the settings of Airflow's configuration (file, environment, commands, secrets).

        :raises InvalidSetting: for the first value that is not allowed.
        """
        from airflow.configuration import conf

        return cls.from_values({o.name: conf.get(SECTION, o.name, fallback=o.default) for o in OPTIONS})
