"""Sealed texts: whose they are, what cannot be opened, and the key's file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ccapi.schemas.errors import InternalError
from ccapi.transport.seals import Seals


def test_what_was_sealed_is_opened_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "state" / "key"
    sealed = Seals(file).seal("me", "A secret ✓")
    assert "secret" not in sealed
    assert Seals(file).open("me", sealed) == "A secret ✓"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["key"]


def test_what_is_anothers_or_was_changed_is_not_opened(tmp_path: Path) -> None:
    seals = Seals(tmp_path / "key")
    sealed = seals.seal("me", "A secret")
    assert seals.open("you", sealed) is None
    for place in range(len(sealed)):
        other = "A" if sealed[place] != "A" else "B"
        assert seals.open("me", sealed[:place] + other + sealed[place + 1 :]) is None
    for broken in ("", "x", "é", sealed[:-5], sealed * 2):
        assert seals.open("me", broken) is None
    assert Seals(tmp_path / "other").open("me", sealed) is None


def test_two_processes_make_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Seals(tmp_path / "key"), Seals(tmp_path / "key")
    make = Seals._make

    def late(self: Seals) -> None:
        """Another process makes it just before."""
        monkeypatch.setattr(Seals, "_make", make)
        second.seal("me", "x")
        make(self)

    monkeypatch.setattr(Seals, "_make", late)
    assert second.open("me", first.seal("me", "A secret")) == "A secret"


def test_a_key_that_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("file/key", "file"):
        with pytest.raises(InternalError):
            Seals(tmp_path / place).seal("me", "x")


def test_gateways_that_share_a_secret_open_each_others(tmp_path: Path) -> None:
    one, other = (
        Seals(tmp_path / "one", "what all share"),
        Seals(tmp_path / "other", "what all share"),
    )
    sealed = one.seal("me", "A secret")
    assert other.open("me", sealed) == "A secret"
    assert other.open("you", sealed) is None
    assert Seals(tmp_path / "third", "another secret").open("me", sealed) is None
    assert not [*tmp_path.iterdir()], "no file is needed"
