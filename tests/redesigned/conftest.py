"""What tests of the stages share."""

from __future__ import annotations

import pytest

from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    """Return a clock that is moved by hand."""
    return Clock()
