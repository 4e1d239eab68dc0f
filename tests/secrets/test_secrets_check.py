"""``airflow async-scheduler secrets check``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow.cli import cli_parser
from airflow.models import Connection, Variable
from airflow.utils.session import create_session

from async_scheduler.cli import secrets_command

if TYPE_CHECKING:
    import pytest

    from tests.support.postgres import Database


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """Return exit code, rows, and everything printed."""
    parser = cli_parser.get_parser()
    args = parser.parse_args(["async-scheduler", "secrets", "check", *arguments, "-o", "json"])
    code = 0
    try:
        secrets_command.check(args)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    printed = capsys.readouterr()
    rows = [line for line in printed.out.splitlines() if line.startswith("[{")]
    return code, json.loads(rows[0]) if rows else None, printed.out + printed.err


def test_it_lists_the_backends(airflow_db: Database, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows, _ = _run(capsys)
    assert code == 0
    assert [(row["order"], row["backend"].rpartition(".")[2], row["asked"]) for row in rows] == [
        ("1", "AsyncEnvironmentVariablesBackend", "async"),
        ("2", "AsyncMetastoreBackend", "async"),
    ]


def test_it_says_who_answered_and_never_what(
    airflow_db: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_IN_ENV", "zz-secret-1")
    with create_session() as session:
        session.add(Connection("in_db", uri="http://me:zz-secret-2@host?x=zz-secret-3"))
        session.add(Variable("in_db", "zz-secret-4"))
    code, rows, printed = _run(capsys, "--conn", "in_db", "--var", "in_env", "--var", "in_db")
    assert code == 0
    assert [(row["kind"], row["key"], row["answer"]) for row in rows] == [
        ("connection", "in_db", "absent"),
        ("connection", "in_db", "found"),
        ("variable", "in_env", "found"),
        ("variable", "in_env", "not asked"),
        ("variable", "in_db", "absent"),
        ("variable", "in_db", "found"),
    ]
    assert all(float(row["ms"]) >= 0 for row in rows if row["answer"] != "not asked")
    assert "zz-secret" not in printed


def test_what_is_nowhere_ends_with_an_error(airflow_db: Database, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows, _ = _run(capsys, "--conn", "nowhere")
    assert code == 1
    assert [row["answer"] for row in rows] == ["absent", "absent"]


def test_a_failing_backend_ends_with_an_error_and_its_reason(
    airflow_db: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "async_scheduler.secrets.vault.AsyncVaultBackend")
    monkeypatch.setenv(
        "AIRFLOW__SECRETS__BACKEND_KWARGS",
        json.dumps({"url": "http://127.0.0.1:9", "token": "zz-secret", "retry_backoff": 0}),
    )
    monkeypatch.setenv("AIRFLOW_CONN_IN_ENV", "http://host")
    code, rows, printed = _run(capsys, "--conn", "in_env")
    assert code == 1
    assert [(row["backend"], row["answer"]) for row in rows] == [
        ("AsyncVaultBackend", "failed"),
        ("AsyncEnvironmentVariablesBackend", "found"),
        ("AsyncMetastoreBackend", "not asked"),
    ]
    assert "ConnectError" in rows[0]["reason"]
    assert "zz-secret" not in printed


def test_a_team_without_multi_team_mode_is_named(
    airflow_db: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows, _ = _run(capsys, "--var", "v", "--team", "blue")
    assert (code, rows) == (2, None)


def test_a_wrong_setting_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__ASYNC_SCHEDULER__SECRETS_TTL", "-1")
    code, _, printed = _run(capsys)
    assert code == 2
    assert printed == (
        "airflow async-scheduler secrets check: [async_scheduler] secrets_ttl = '-1' is not allowed; "
        "allowed: a number from 0 to 86400 (seconds; 0 = look up every time)\n"
    )
