"""Values go to Airflow's masker, and the lazy one masks what Airflow's masks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from airflow._shared.secrets_masker import secrets_masker as core
from airflow.models import Connection
from hypothesis import given
from hypothesis import strategies as st

from async_scheduler.secrets.chain import AsyncSecretsChain
from async_scheduler.secrets.masking import LazyMasker, compile_masks_when_needed, secrets_of
from tests.secrets.backends import Steered


def _pair() -> tuple[core.SecretsMasker, LazyMasker]:
    maskers = core.SecretsMasker(), LazyMasker()
    for masker in maskers:
        masker.sensitive_variables_fields = ["password", "token"]
    return maskers


names = st.sampled_from([None, "password", "my_token", "harmless"])
texts = st.text(alphabet="abcdef.*+?()[]|\\ é☃", max_size=12)
secrets = st.recursive(
    texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)


@given(told=st.lists(st.tuples(secrets, names), max_size=8), text=texts)
def test_the_lazy_masker_masks_what_airflows_masks(told: list[tuple[Any, Any]], text: str) -> None:
    stock, lazy = _pair()
    for secret, name in told:
        stock.add_mask(secret, name)
        lazy.add_mask(secret, name)
    assert lazy.patterns == stock.patterns
    seen = [secret for secret, _ in told if isinstance(secret, str)]
    for sample in (text, " ".join(seen), f"({text})".join(seen), {"password": text, "other": [text]}):
        # One order of alternatives for both: what overlapping secrets leave over depends on it.
        lazy.patterns, lazy._compiled_size = stock.patterns, -1
        assert lazy.redact(copy.deepcopy(sample)) == stock.redact(copy.deepcopy(sample))


def test_the_expression_is_compiled_when_a_text_is_redacted() -> None:
    lazy = _pair()[1]
    for number in range(100):
        lazy.add_mask(f"secret-{number}")
    assert lazy._compiled is None
    assert lazy.redact("it is secret-7!") == "it is ***!"
    compiled = lazy._compiled
    lazy.redact("it is secret-8!")
    lazy.add_mask("secret-7")
    assert lazy._compiled is compiled
    lazy.add_mask("another-secret")
    assert lazy.redact("another-secret") == "***"


def test_a_reset_lazy_masker_masks_nothing() -> None:
    lazy = _pair()[1]
    lazy.add_mask("secret-value")
    lazy.redact("secret-value")
    lazy.reset_masker()
    assert lazy.redact("secret-value") == "secret-value"
    lazy.add_mask("other-secret")
    assert lazy.redact("secret-value other-secret") == "secret-value ***"


def test_the_process_masker_becomes_lazy_with_all_it_knows(own_masker: core.SecretsMasker) -> None:
    core.mask_secret("known-before")
    compile_masks_when_needed()
    core.mask_secret("known-after")
    assert type(own_masker) is LazyMasker
    assert core.redact("known-before known-after") == "*** ***"
    assert core.redact({"password": "x"}) == {"password": "***"}
    compile_masks_when_needed()
    assert core.redact("known-before known-after") == "*** ***"


def test_a_plugins_masker_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugins(core.SecretsMasker):  # type: ignore[misc]
        pass

    theirs = Plugins()
    monkeypatch.setattr(core, "_secrets_masker", lambda: theirs)
    compile_masks_when_needed()
    assert type(theirs) is Plugins


async def test_what_is_found_is_masked_before_anyone_gets_it() -> None:
    connection = Connection("c", uri="http://me:pass%2Fword@host/?extra_password=deep-secret&other=harmless")
    connection_values = {"c": connection}
    core._secrets_masker().reset_masker()  # the constructor has masked the password as well
    chain = AsyncSecretsChain(
        [Steered({**connection_values, "password_var": "hidden-value", "plain": "open-value"})]
    )
    await chain.aget_connection("c")
    await chain.aget_variable("password_var")
    await chain.aget_variable("plain")
    redacted = core.redact("pass/word pass%2Fword pass/word deep-secret hidden-value open-value harmless")
    assert redacted == "*** pass%2Fword *** *** *** open-value harmless"


async def test_configuration_values_are_always_masked() -> None:
    custom = Steered({"key": "a-config-value"})
    await AsyncSecretsChain([custom], config_backend=custom).aget_config("key")
    assert core.redact("a-config-value") == "***"


@pytest.mark.parametrize(
    ("text", "hidden", "shown"),
    [
        ('{"token": "inner-token", "x": "inner-open"}', ["inner-token"], ["inner-open"]),
        ('["in-a-list"]', [], ["in-a-list"]),
        ("no json", [], ["no json"]),
        ("{broken", [], ["{broken"]),
    ],
)
async def test_json_variables_are_masked_by_the_names_inside(
    text: str, hidden: list[str], shown: list[str]
) -> None:
    await AsyncSecretsChain([Steered({"key": text})]).aget_variable("key")
    assert [core.redact(value) for value in hidden] == ["***"] * len(hidden)
    assert [core.redact(value) for value in shown] == shown


async def test_a_sensitive_variable_is_masked_in_every_form() -> None:
    await AsyncSecretsChain([Steered({"my_token": '"quoted-token"'})]).aget_variable("my_token")
    assert core.redact("quoted-token") == "***"


def test_an_extra_that_cannot_be_decrypted_does_not_hide_the_connection() -> None:
    connection = Connection("c", uri="http://me:pass-word@host/?a=1")
    connection._extra, connection.is_extra_encrypted = "not encrypted by this key", True
    assert secrets_of("connection", "c", connection) == [("pass-word", None), ("pass-word", None)]
