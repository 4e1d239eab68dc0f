"""What Airflow is told about this distribution, and what it makes of it."""

from __future__ import annotations

import sys

import pytest
from airflow.cli.cli_parser import get_parser
from airflow.providers_manager import ProvidersManager

from async_scheduler.driver.event_loop import loop_factory
from async_scheduler.settings import OPTIONS
from async_scheduler.version import __version__


def test_airflow_lists_the_provider_with_its_configuration() -> None:
    provider = ProvidersManager().providers["airflow-async-scheduler"]
    assert provider.version == __version__
    options = provider.data["config"]["async_scheduler"]["options"]
    assert list(options) == [option.name for option in OPTIONS]
    assert options["mode"]["default"] == "concurrent"


@pytest.mark.parametrize(
    "command", [["contention"], ["top"], ["trace"], ["trace", "on"], ["secrets", "check"]]
)
def test_each_command_has_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        get_parser().parse_args(["async-scheduler", *command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out.partition("Examples:")[2]
    assert f"airflow async-scheduler {' '.join(command)}" in shown


@pytest.mark.parametrize("arguments", [[], ["--async"]])
def test_every_flag_of_the_scheduler_goes_with_async(arguments: list[str]) -> None:
    stock = ["--num-runs", "3", "--only-idle", "--daemon", "--pid", "p", "--log-file", "l"]
    parsed = get_parser().parse_args(["scheduler", *stock, "--skip-serve-logs", "--dev", *arguments])
    assert parsed.use_async == bool(arguments)
    assert (parsed.num_runs, parsed.only_idle, parsed.daemon, parsed.pid) == (3, True, True, "p")


def test_uvloop_where_it_is_installed_and_asyncio_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loop_factory("auto").__module__ == "uvloop"
    assert loop_factory("asyncio").__module__ == "asyncio.events"
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory("auto").__module__ == "asyncio.events"
    with pytest.raises(ModuleNotFoundError):
        loop_factory("uvloop")
