"""One visit in memory ends where Airflow's own passes over the same run come to rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from tests.oracle import ours
from tests.oracle.airflow import Oracle
from tests.oracle.dags import Dag, serialized
from tests.oracle.strategies import dags, mapped_dags

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    opened = Oracle()
    yield opened
    opened.close()


def agree(oracle: Oracle, dag: Dag) -> None:
    """Assert that both come to the same rest, or that the run is left to Airflow's code."""
    written = serialized(dag)
    decided = ours.rest(dag, written)
    if decided is None:
        return
    expected = oracle.rest(dag, written)
    assert decided == expected


@given(dag=dags())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(1800)
def test_a_visit_ends_where_airflow_comes_to_rest(oracle: Oracle, dag: Dag) -> None:
    agree(oracle, dag)


@pytest.mark.deep
@given(dag=dags(most=14))
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(3000)
def test_a_visit_ends_where_airflow_comes_to_rest_deeply(oracle: Oracle, dag: Dag) -> None:
    agree(oracle, dag)


@given(dag=mapped_dags())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(1800)
def test_a_visit_with_maps_ends_where_airflow_comes_to_rest(oracle: Oracle, dag: Dag) -> None:
    agree(oracle, dag)


@pytest.mark.deep
@given(dag=mapped_dags(most=9))
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(3000)
def test_a_visit_with_maps_ends_where_airflow_comes_to_rest_deeply(oracle: Oracle, dag: Dag) -> None:
    agree(oracle, dag)
