"""The audit log: what is a line in it, and what happens while its file cannot be written."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from attrs import define
from structlog.testing import capture_logs

from ccapi.actors.listeners import audit as module
from ccapi.actors.listeners.audit import Audit, open_audit
from ccapi.actors.runtime.bus import Bus
from ccapi.schemas.errors import TurnInterrupted
from ccapi.schemas.events import (
    CallerRefused,
    ChildAdopted,
    ChildSpawned,
    ConversationDeleted,
    ConversationExported,
    Event,
    McpFileRead,
    ToolAsked,
    ToolDecided,
    TurnFailed,
    TurnFinished,
)
from ccapi.schemas.settings.settings import AuditSettings, SettingsError
from ccapi.schemas.turn import Answer, Usage
from ccapi.transport import append_file

OWNER = "ab12cd34ef56" + "0" * 52
JSON = dict[str, Any]
TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def deleted(conversation_id: str = "conv_1") -> Event:
    return ConversationDeleted(conversation_id, OWNER)


def read(path: Path) -> list[JSON]:
    """The lines without their times, which are checked."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert all(TIME.fullmatch(line.pop("time")) for line in lines)
    return lines


def ids(path: Path) -> list[str | int]:
    """In the order of the lines: conversations deleted, and how many events a gap is."""
    wanted = ("conversation_deleted", "events_lost")
    lines = (line for line in read(path) if line["event"] in wanted)
    return [line.get("conversation_id") or line["lost"] for line in lines]


@define
class World:
    bus: Bus
    audit: Audit
    path: Path

    async def publish(self, *published: Event) -> None:
        for event in published:
            self.bus.publish(event)
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def open_world(path: Path, *, has_logins: bool = False) -> AsyncIterator[World]:
    bus = Bus()
    async with open_audit(AuditSettings(path=path), bus, has_logins=has_logins) as audit:
        assert audit is not None
        audit.name_of = {OWNER: "ann"}.get  # type: ignore[assignment]
        yield World(bus, audit, path)


@define
class Disk:
    """`os.write`, that has room for so many bytes."""

    room: float = 0

    def write(self, file: int, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(file, data[: int(min(self.room, len(data)))])
        self.room -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk(room=float(10**9))

    class Os:
        def __getattr__(self, name: str) -> Any:
            return made.write if name == "write" else getattr(os, name)

    monkeypatch.setattr(append_file, "os", Os())
    return made


# -- lines -----------------------------------------------------------------------------------------


async def test_each_event_is_a_line(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    answer, key = (
        Answer(("the secret answer",), "stop", Usage()),
        {"key": OWNER[:12], "name": "ann"},
    )
    ran = TurnFinished("t1", "c1", "opus", Usage(), 1.0, None, "k", answer, "work", OWNER)
    cut = TurnFailed("t2", "c1", "opus", TurnInterrupted("Cut."), 1.0, None, "", "other")
    async with open_world(tmp_path / "audit.jsonl", has_logins=True) as world:
        await world.publish(
            ran,
            cut,
            ToolAsked("c1", OWNER, "t1", "r1", "Bash"),
            ToolDecided("c1", OWNER, "t1", "r1", "Bash", "allow", "http", always=True),
            ToolDecided("c1", OWNER, "t1", "", "mcp__a__b", "deny", "rule"),
            ChildSpawned(1, False),
            ChildAdopted(1, "c1", True, 0.0, "work", OWNER),
            CallerRefused("req_1", "", 401, "invalid_api_key"),
            deleted("c1"),
            ConversationExported("c2", OWNER),
            McpFileRead(refused=True),
        )
        assert world.audit.snapshot() == {
            "written": 11, "waiting": 0, "lost": 0, "failed_writes": 0,
        }  # fmt: skip
    c1, pid = {"conversation_id": "c1"}, os.getpid()
    t1 = c1 | {"turn_id": "t1"}
    asked = t1 | {"permission_id": "r1", "tool": "Bash"}
    other = {"key": "other"}
    assert read(world.path) == [
        {"event": "gateway_started", "pid": pid},
        {"event": "turn", **key, **t1, "model": "opus", "login": "work", "outcome": "finished"},
        {"event": "turn", **other, **c1, "turn_id": "t2", "model": "opus",
         "outcome": "turn_interrupted"},
        {"event": "tool_asked", **key, **asked},
        {"event": "tool_decided", **key, **asked, "decision": "allow", "by": "http",
         "always": True},
        {"event": "tool_decided", **key, **t1, "tool": "mcp__a__b", "decision": "deny",
         "by": "rule"},
        {"event": "login_taken", **key, **c1, "login": "work"},
        {"event": "refused", "request_id": "req_1", "status": 401, "code": "invalid_api_key"},
        {"event": "conversation_deleted", **key, **c1},
        {"event": "conversation_exported", **key, "conversation_id": "c2"},
        {"event": "mcp_file_read", "outcome": "refused"},
        {"event": "gateway_stopped", "pid": pid},
    ]  # fmt: skip
    assert OWNER not in world.path.read_text()
    assert "secret" not in world.path.read_text()
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600


async def test_of_one_login_it_is_not_written_which_was_taken(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with open_world(tmp_path / "audit.jsonl") as world:
        await world.publish(ChildAdopted(1, "c1", True, 0.0, "default", OWNER))
    assert [line["event"] for line in read(world.path)] == ["gateway_started", "gateway_stopped"]


async def test_a_line_is_appended_and_what_was_cut_short_stays_a_line_of_its_own(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"event":"gateway_sto')
    path.chmod(0o640)
    async with open_world(path) as world:
        await world.publish(deleted())
    first, *lines = path.read_bytes().splitlines()
    assert first == b'{"event":"gateway_sto'
    assert len([json.loads(line) for line in lines]) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_what_was_published_before_the_end_is_written(tmp_path: Path) -> None:
    async with open_world(tmp_path / "audit.jsonl") as world:
        for number in range(100):
            world.bus.publish(deleted(f"c{number}"))
        world.bus.close()
    assert ids(world.path) == [f"c{number}" for number in range(100)]
    assert read(world.path)[-1]["event"] == "gateway_stopped"


# -- what goes wrong -------------------------------------------------------------------------------


async def test_without_a_path_nothing_listens() -> None:
    bus = Bus()
    async with open_audit(AuditSettings(), bus) as audit:
        assert audit is None
        assert repr(bus) == "<Bus 0 listeners>"


@pytest.mark.parametrize("kind", ["folder", "missing", "pipe"])
async def test_a_path_that_cannot_be_written_refuses_the_start(kind: str, tmp_path: Path) -> None:
    path = {"folder": tmp_path, "missing": tmp_path / "no" / "log", "pipe": tmp_path / "pipe"}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(SettingsError) as refused, trio.fail_after(5):
        async with open_world(path):
            raise AssertionError("it has started")
    words = {"folder": "Is a directory", "missing": "No such file", "pipe": "not a regular file"}
    (problem,) = refused.value.problems
    assert problem.key == "audit.path"
    assert f"{path} cannot be written: " in problem.reason
    assert words[kind] in problem.reason


async def test_lines_wait_for_a_full_disk(
    autojump_clock: trio.testing.MockClock, tmp_path: Path, disk: Disk
) -> None:
    with capture_logs() as logged:
        async with open_world(tmp_path / "audit.jsonl") as world:
            disk.room = 30  # in the middle of a line
            await world.publish(deleted("c1"))
            for number in range(2, 5):
                await trio.sleep(module.RETRY_SECONDS)
                await world.publish(deleted(f"c{number}"))
            stats = world.audit.snapshot()
            assert (stats["waiting"], stats["lost"]) == (4, 0)
            assert stats["failed_writes"] >= 3
            disk.room = 10**9
            await trio.sleep(module.RETRY_SECONDS * 1.5)
            assert ids(world.path) == ["c1", "c2", "c3", "c4"]
            assert world.audit.snapshot()["waiting"] == 0
    errors = [line for line in logged if line["log_level"] in ("warning", "error")]
    assert [line["event"] for line in errors] == ["the audit log cannot be written: its lines wait"]
    assert "No space left" in errors[0]["error"]


async def test_what_is_lost_is_a_line_where_it_would_be(
    autojump_clock: trio.testing.MockClock, tmp_path: Path, disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "WAITING", 3)
    async with open_world(tmp_path / "audit.jsonl") as world:
        disk.room = 0
        for number in range(8):
            await world.publish(deleted(f"c{number}"))
        disk.room = 10**9
        await trio.sleep(module.RETRY_SECONDS * 1.5)
        await world.publish(deleted("c8"))
        assert ids(world.path) == ["c0", "c1", "c2", 5, "c8"]
        assert world.audit.snapshot()["lost"] == 5


async def test_what_the_bus_drops_is_a_line_too(
    autojump_clock: trio.testing.MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUFFER", 2)
    async with open_world(tmp_path / "audit.jsonl") as world:
        await world.publish(*(deleted(f"c{number}") for number in range(6)))
        await world.publish(deleted("c6"))
        assert ids(world.path) == ["c0", "c1", 4, "c6"]


async def test_a_disk_that_stays_full_is_said_at_the_end(tmp_path: Path, disk: Disk) -> None:
    with capture_logs() as logged:
        async with open_world(tmp_path / "audit.jsonl") as world:
            disk.room = 0
            await world.publish(deleted())
    assert logged[-1]["event"] == "the audit log was not written to its end"
    assert logged[-1]["lines"] == 2


async def test_it_goes_on_in_a_new_file(
    autojump_clock: trio.testing.MockClock, tmp_path: Path, disk: Disk
) -> None:
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    async with open_world(path) as world:
        await world.publish(deleted("c1"))
        path.rename(old)
        await world.publish(deleted("c2"))
        disk.room = 20
        await world.publish(deleted("c3"))
        disk.room = 10**9
        world.audit.reopen()
        await world.publish(deleted("c4"))
        assert ids(path) == ["c3", "c4"], "a line that was cut short is whole in the new file"
        path.rename(tmp_path / "audit.jsonl.2")
        path.mkdir()
        world.audit.reopen()
        await world.publish(deleted("c5"))
    assert ids(tmp_path / "audit.jsonl.2") == ["c3", "c4", "c5"]
    assert old.read_bytes().count(b"\n") == 3
