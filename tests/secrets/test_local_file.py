"""Local files: Airflow's formats and errors, read once per change."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from airflow.exceptions import AirflowException, AirflowFileParseException
from airflow.secrets import local_filesystem as stock

from async_scheduler.secrets.chain import AsyncSecretsChain
from async_scheduler.secrets.local_file import AsyncLocalFilesystemBackend


class Files:
    """A backend on files that the test writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.backends: list[AsyncLocalFilesystemBackend] = []

    def write(self, name: str, text: str) -> str:
        path = self._folder / name
        path.write_text(text)
        # Two writes within the clock's grain would look alike.
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + len(self.backends) + 1))
        return str(path)

    def backend(self, **paths: str) -> AsyncLocalFilesystemBackend:
        self.backends.append(AsyncLocalFilesystemBackend(**paths))
        return self.backends[-1]


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Files]:
    made = Files(tmp_path)
    yield made
    for backend in made.backends:
        await backend.aclose()


GOOD = {
    "a.env": "# a comment\n\none=http://me:pass-word@host/\ntwo=x://?a=1\n",
    "a.json": '{"one": "http://me@host", "two": {"conn_type": "x", "extra_dejson": {"a": 1}}, "three": ["http://h"]}',
    "a.yaml": "one: http://me@host\ntwo:\n  conn_type: x\n  extra: {a: 1}\nthree: []\n",
    "a.yml": "one: http://me@host\n",
    "a.JSON": '{"one": "http://me@host"}',
}


@pytest.mark.parametrize("name", GOOD)
async def test_connections_are_those_of_airflows_backend(files: Files, name: str) -> None:
    path = files.write(name, GOOD[name])
    ours, theirs = files.backend(connections_file_path=path), stock.LocalFilesystemBackend(None, path)
    for conn_id in ("one", "two", "three", "four"):
        found, wanted = await ours.aget_connection(conn_id), theirs.get_connection(conn_id)
        assert (found and found.get_uri()) == (wanted and wanted.get_uri())


@pytest.mark.parametrize("name", ["v.env", "v.json", "v.yaml"])
async def test_variables_and_configs_are_those_of_airflows_backend(files: Files, name: str) -> None:
    text = {"v.env": "one=a = b\ntwo=ü", "v.json": '{"one": "a", "two": 2}', "v.yaml": "one: a\ntwo: [b]\n"}[
        name
    ]
    path = files.write(name, text)
    ours = files.backend(variables_file_path=path, configs_file_path=path)
    theirs = stock.LocalFilesystemBackend(path, None, path)
    for key in ("one", "two", "three"):
        assert await ours.aget_variable(key) == theirs.get_variable(key)
        assert await ours.aget_config(key) == theirs.get_config(key)


BAD = {
    "no-equals.env": "one=http://h\nbroken\n",
    "no-key.env": "one=http://h\n\n=value\n",
    "no-value.env": "one=\n",
    "twice.env": "one=http://h\none=http://i\n",
    "broken.json": '{"one": "http://h",\n "two" "x"}',
    "empty.json": "",
    "list.json": "[1]",
    "broken.yaml": "one: http://h\ntwo: [unclosed\n",
    "number.yaml": "1",
    "strange.txt": "one=http://h",
}


@pytest.mark.parametrize("name", BAD)
async def test_mistakes_are_reported_as_airflow_does(files: Files, name: str) -> None:
    path = files.write(name, BAD[name])
    with pytest.raises(AirflowException) as wanted:
        stock.LocalFilesystemBackend(None, path).get_connection("one")
    with pytest.raises(type(wanted.value)) as found:
        await files.backend(connections_file_path=path).aget_connection("one")
    if isinstance(wanted.value, AirflowFileParseException):
        assert found.value.parse_errors == wanted.value.parse_errors
        assert f"Line number:  {wanted.value.parse_errors[0].line_no}" in str(found.value)
        assert path in str(found.value)
    else:
        assert str(found.value) == str(wanted.value)


@pytest.mark.parametrize(
    "value", [{"conn_type": "x", "illegal": 1}, {"conn_id": "other"}, 3, {"extra": "{}", "extra_dejson": {}}]
)
async def test_a_connection_that_cannot_be_built_fails_as_in_airflow_but_alone(
    files: Files, value: Any
) -> None:
    path = files.write("c.json", json.dumps({"bad": value, "good": "http://host"}))
    with pytest.raises(AirflowException) as wanted:
        stock.LocalFilesystemBackend(None, path).get_connection("bad")
    backend = files.backend(connections_file_path=path)
    with pytest.raises(AirflowException) as found:
        await backend.aget_connection("bad")
    assert sorted(str(found.value)) == sorted(str(wanted.value))  # it lists a set
    good = await backend.aget_connection("good")
    assert good is not None
    assert good.host == "host"


async def test_an_error_shows_no_line_of_the_file(files: Files) -> None:
    text = "one: http://me:a-secret-value@host\ntwo: {a: 'another-secret'\n"
    path = files.write("c.yaml", text)
    backend = files.backend(connections_file_path=path)
    pure_python_yaml = patch("airflow.utils.yaml.safe_load", __import__("yaml").safe_load)
    with pure_python_yaml, patch("airflow.utils.platform.is_tty", return_value=True):
        with pytest.raises(AirflowFileParseException) as caught:
            await backend.aget_connection("one")
        shown = str(caught.value) + repr(caught.value)
    assert "a-secret-value" not in shown
    assert "another-secret" not in shown
    assert "Line number" in shown


async def test_a_file_is_parsed_once_until_it_changes(files: Files) -> None:
    path = files.write("v.json", '{"a": "1"}')
    backend = files.backend(variables_file_path=path)
    with patch.object(stock, "_parse_secret_file", wraps=stock._parse_secret_file) as parse:
        assert [await backend.aget_variable("a") for _ in range(5)] == ["1"] * 5
        assert parse.call_count == 1
        files.write("v.json", '{"a": "22"}')
        assert await asyncio.gather(*(backend.aget_variable("a") for _ in range(5))) == ["22"] * 5
        assert parse.call_count == 2


async def test_a_file_mended_is_read_again(files: Files) -> None:
    path = files.write("v.json", "{")
    backend = files.backend(variables_file_path=path)
    chain = AsyncSecretsChain([backend])
    assert await chain.aget_variable("a") is None
    files.write("v.json", '{"a": "mended"}')
    assert await chain.aget_variable("a") == "mended"


async def test_a_missing_file_is_an_error_and_no_file_is_none(files: Files) -> None:
    with pytest.raises(FileNotFoundError):
        await files.backend(variables_file_path="/nowhere/v.json").aget_variable("a")
    backend = files.backend()
    assert await backend.aget_variable("a") is None
    assert await backend.aget_connection("a") is None
    assert await backend.aget_config("a") is None


async def test_ten_thousand_connections(files: Files) -> None:
    path = files.write("c.json", json.dumps({f"c{n}": f"http://me:pass-{n}@host{n}" for n in range(10_000)}))
    backend = files.backend(connections_file_path=path)
    wanted = range(0, 10_000, 200)
    found = await asyncio.gather(*(backend.aget_connection(f"c{n}") for n in wanted))
    assert [c and c.password for c in found] == [f"pass-{n}" for n in wanted]
