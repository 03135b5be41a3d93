"""The copy of a login in a sandbox: whichever of both is newer, and nothing that is no login."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ccapi.transport.sandbox.login_copy import LARGEST, LoginCopy


def login(token: str, due: float) -> bytes:
    return json.dumps({"claudeAiOauth": {"accessToken": token, "expiresAt": due}}).encode()


OLD, NEW = login("old", 1000), login("new", 2000)


@pytest.fixture
def pair(tmp_path: Path) -> LoginCopy:
    (tmp_path / "inside").mkdir()
    (tmp_path / "kept").write_bytes(OLD)
    pair = LoginCopy(tmp_path / "kept", tmp_path / "inside" / "copy")
    assert pair.make()
    assert pair.copy.read_bytes() == OLD
    assert pair.copy.stat().st_mode & 0o777 == 0o600
    return pair


def test_without_a_login_there_is_no_copy(tmp_path: Path) -> None:
    pair = LoginCopy(tmp_path / "kept", tmp_path / "copy")
    assert not pair.make()
    pair.kept.write_bytes(b"{}")
    assert not pair.make()
    assert not pair.copy.exists()


def test_a_token_renewed_inside_reaches_all_others(pair: LoginCopy) -> None:
    pair.copy.write_bytes(NEW)
    pair.agree()
    assert pair.kept.read_bytes() == NEW
    assert pair.kept.stat().st_mode & 0o777 == 0o600


def test_a_token_renewed_outside_reaches_the_child(pair: LoginCopy) -> None:
    aside = pair.kept.with_name("aside")
    aside.write_bytes(NEW)
    aside.replace(pair.kept)
    pair.agree()
    assert pair.copy.read_bytes() == NEW
    pair.kept.unlink()
    pair.agree()
    assert not pair.copy.exists()


@pytest.mark.parametrize(
    "junk",
    [b"", b"{", b"[]", b'{"claudeAiOauth": 1}', login("x", 9000) + b" " * LARGEST, login("x", 999)],
    ids=len,
)
def test_what_is_no_newer_login_is_put_right(pair: LoginCopy, junk: bytes) -> None:
    pair.copy.write_bytes(junk)
    pair.agree()
    assert (pair.kept.read_bytes(), pair.copy.read_bytes()) == (OLD, OLD)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_the_child_puts_there_is_not_followed(
    pair: LoginCopy, tmp_path: Path, kind: str
) -> None:
    other = tmp_path / "of another"
    other.write_bytes(NEW)
    pair.copy.unlink()
    if kind == "link":
        pair.copy.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(pair.copy)
    else:
        pair.copy.mkdir()
    pair.agree()
    assert pair.kept.read_bytes() == OLD
    assert other.read_bytes() == NEW


async def test_it_is_followed_to_the_end(pair: LoginCopy, autojump_clock: MockClock) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.follow)
            await trio.sleep(1.1)
            pair.copy.write_bytes(NEW)
            await trio.sleep(1.1)
            assert pair.kept.read_bytes() == NEW
            pair.copy.write_bytes(login("last", 3000))
            nursery.cancel_scope.cancel()
    assert pair.kept.read_bytes() == login("last", 3000)
