"""The [async_scheduler] section: defaults, parsing, and one clear line for a wrong value."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_scheduler.errors import InvalidSetting
from async_scheduler.settings import OPTIONS, Option, Settings


def test_every_option_has_a_field_and_its_default() -> None:
    assert [o.name for o in OPTIONS] == [f.name for f in fields(Settings)]
    assert Settings.from_values({}) == Settings()


@pytest.mark.parametrize(
    ("key", "text", "allowed"),
    [
        ("mode", "parallel", "concurrent, sequential, shared_session"),
        ("shutdown_grace", "-1", "a number from 0 to 3600 (seconds)"),
        ("shutdown_grace", "soon", "a number from 0 to 3600 (seconds)"),
        ("pool_size", "1.5", "a whole number from 0 to 1000"),
    ],
)
def test_wrong_value_names_section_key_value_and_allowed(key: str, text: str, allowed: str) -> None:
    with pytest.raises(InvalidSetting) as error:
        Settings.from_values({key: text})
    message = str(error.value)
    assert f"[async_scheduler] {key} = {text!r}" in message
    assert allowed in message


@given(st.sampled_from(OPTIONS), st.text(max_size=20))
def test_any_text_is_read_or_refused_with_invalid_setting(option: Option, text: str) -> None:
    try:
        value = option.read(text)
    except InvalidSetting as error:
        assert option.name in str(error)  # noqa: PT017
    else:
        assert value is not None
