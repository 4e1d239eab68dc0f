"""An instrument does not end what it measures."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from async_scheduler.settings import Settings
from async_scheduler.tracing import Tracing

if TYPE_CHECKING:
    import pytest


async def test_a_failing_instrument_is_logged_and_ends_by_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: object) -> None:
        raise RuntimeError("planted")

    tracing = Tracing(Settings(control_socket="none"), [], make_url("sqlite://"))
    monkeypatch.setattr("async_scheduler.measure.service.MeasureService.run", fail)
    with caplog.at_level(logging.ERROR, "async_scheduler.tracing"):
        await tracing.run()
    assert "The instrument has failed" in caplog.text
    assert "planted" in caplog.text
