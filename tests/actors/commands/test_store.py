"""``ccapi store``, and ``ccapi key`` beside gateways that share a database."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ccapi.actors.commands.main import main
from ccapi.transport.store.postgres.schema import MIGRATIONS
from tests.support.postgres import Engine


@pytest.fixture
def url(postgres: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    made = postgres.new_place()
    monkeypatch.setenv("CLAUDE_CODE__STORAGE__URL", made)
    monkeypatch.setenv("CLAUDE_CODE__STORAGE__PATH", str(tmp_path / "state"))
    return made


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_keys_go_from_a_folder_to_a_database_and_back(url: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    assert run("key", "create", "ann", "--storage-path", folder).exit_code == 0
    copied = run("store", "copy", "path", "url")
    assert (copied.exit_code, copied.output) == (0, "1 api_key\n")
    assert "ann" in run("key", "list").output
    assert run("key", "create", "bob").exit_code == 0
    again = run("store", "copy", "path", "url")
    assert again.exit_code == 1
    assert "is not empty: nothing was copied" in again.output
    back = run("store", "copy", url, str(tmp_path / "other"))
    assert (back.exit_code, back.output) == (0, "2 api_key\n")
    shown = run("key", "list", "--storage-path", str(tmp_path / "other")).output
    assert "ann" in shown
    assert "bob" in shown


def test_a_database_is_brought_to_this_version(url: str, tmp_path: Path) -> None:
    refused = run("key", "list")
    assert (refused.exit_code, "ccapi store migrate" in refused.output) == (1, True)
    migrated = run("store", "migrate")
    assert migrated.exit_code == 0
    assert f"is at version {len(MIGRATIONS)}" in migrated.output
    assert "options" not in migrated.output
    assert run("key", "list").exit_code == 0


def test_a_place_that_cannot_be_used_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_CODE__STORAGE__PATH", str(tmp_path / "state"))
    for words, said in (
        (("store", "copy", "path", "url"), "storage.url is not set"),
        (("store", "copy", "path", "postgresql://me:secret@127.0.0.1:9/x"), "There is no store in"),
        (("store", "copy", "postgresql://me:secret@127.0.0.1:9/x", "path"), "cannot be reached"),
        (("store", "copy", "postgresql://me@h/x?what=1", "path"), "cannot be read"),
    ):
        result = run(*words)
        assert result.exit_code == 1
        assert said in result.output
        assert result.output.count("\n") == 1
        assert "secret" not in result.output
