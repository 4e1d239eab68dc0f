"""The lists of our own and of inherited methods, against the installed Airflow and against what is there."""

from __future__ import annotations

import inspect

import pytest
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

from async_scheduler.compat import SyncFacadeRunner


def own_methods(of: type) -> set[str]:
    """Return the names of the methods that *of* itself defines, special ones left out."""
    return {name for name in vars(of) if not name.startswith("__") and callable(getattr(of, name))}


def test_every_method_of_airflows_runner_is_in_one_list() -> None:
    """A release that adds a method fails here, and one that is taken away too."""
    assert own_methods(SchedulerJobRunner) == SyncFacadeRunner.OURS | SyncFacadeRunner.INHERITED
    assert not SyncFacadeRunner.OURS & SyncFacadeRunner.INHERITED


def test_the_lists_say_what_is() -> None:
    """Ours are defined here, inherited ones are not."""
    here = own_methods(SyncFacadeRunner)
    assert here >= SyncFacadeRunner.OURS
    assert not here & SyncFacadeRunner.INHERITED


@pytest.mark.parametrize("name", ["__init__", *sorted(SyncFacadeRunner.OURS)])
def test_methods_take_what_airflows_take(name: str) -> None:
    """The same parameters, by the same names and in the same order."""
    theirs = inspect.signature(getattr(SchedulerJobRunner, name)).parameters
    ours = inspect.signature(getattr(SyncFacadeRunner, name)).parameters
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
