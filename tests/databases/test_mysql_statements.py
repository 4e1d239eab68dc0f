"""What MySQL 8 would be asked is what somebody has read."""

from __future__ import annotations

from tests.databases.mysql_statements import REVIEWED, render


def test_the_statements_are_the_reviewed_ones() -> None:
    assert render() == REVIEWED.read_text(), "read what has changed, then renew the file as its head says"
