"""What conversations leave on the disk goes with them: on the real CLI, in each of its layouts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ccapi.actors.session import prompt, replay
from ccapi.schemas.settings.settings import PermissionSettings, WorkspaceSettings
from tests.support.joined import new_conversation, post
from tests.support.live import Live, open_live_cli
from tests.support.messages_answers import Answer, ToolUse, call, say
from tests.support.messages_stub import MessagesStub, Request
from tests.support.pictures import data_url, png

AGENT = "agent/claude-haiku-4-5"
SESSION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ALLOWED = PermissionSettings(allow=("Bash", "Write", "Edit", "TaskCreate", "Agent"))


def busy(request: Request) -> Answer:
    """A model that uses whatever leaves something behind."""
    if "Subtask" in str(request.body["messages"][0]["content"]):
        return say("Done.")
    uses = (
        ToolUse("Bash", {"command": "seq 1 40000", "description": "x"}),
        ToolUse("Bash", {"command": "echo x > made", "description": "x"}),
        ToolUse("TaskCreate", {"subject": "a", "description": "b", "activeForm": "c"}),
        ToolUse(
            "Agent",
            {"description": "x", "prompt": "Subtask", "subagent_type": "general-purpose"},
        ),
    )
    done = sum("tool_result" in str(message["content"]) for message in request.body["messages"])
    return call(uses[done]) if done < len(uses) and "Bash" in request.tools else say("Hello.")


def left(tmp_path: Path) -> list[str]:
    """What there is of any session: files and folders that have a session's name."""
    return sorted(str(path.relative_to(tmp_path)) for path in _sessions(tmp_path))


def _sessions(tmp_path: Path) -> Iterator[Path]:
    for folder, *names in os.walk(tmp_path):  # what vanishes meanwhile is no error to it
        for path in (Path(folder, name) for each in names for name in each):
            if SESSION.match(path.name) and path.suffix != ".list":
                yield path


async def wait_until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.05)


async def ask(live: Live, conversation_id: str) -> Any:
    image = {"type": "image_url", "image_url": {"url": data_url(png())}}
    text = {"type": "text", "text": "Do it."}
    body = {
        "conversation_id": conversation_id,
        "messages": [{"role": "user", "content": [image, text]}],
    }
    answered = await post(live.url, "/v1/chat/completions", body)
    return answered["choices"][0]["message"]["content"]


@asynccontextmanager
async def served(tmp_path: Path, **options: Any) -> Any:
    claude = {"prewarm": 0}
    async with open_live_cli(tmp_path, permissions=ALLOWED, claude=claude, **options) as live:
        assert live.stub is not None
        live.stub.answer = busy
        yield live


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (AGENT, {"workspaces": WorkspaceSettings(sandbox="off")}),
        (AGENT, {}),
        ("claude-haiku-4-5", {}),
        ("claude-haiku-4-5", {"login": "token"}),
    ],
    ids=["agent", "sandboxed", "key", "token"],
)
async def test_a_deleted_conversation_leaves_nothing(
    tmp_path: Path, model: str, options: dict[str, Any]
) -> None:
    async with served(tmp_path, **options) as live:
        conversation_id = await new_conversation(live.url, model=model)
        kept = await new_conversation(live.url, model=model)
        assert await ask(live, conversation_id) == "Hello."
        before = left(tmp_path)
        assert bool(before) == (model == AGENT)
        assert await ask(live, kept) == "Hello."
        both = left(tmp_path)
        await live.gateway.forget(conversation_id)
        await wait_until(lambda: not set(before) & set(left(tmp_path)))
        assert set(left(tmp_path)) >= set(both) - set(before)  # the other one's are there
        # Files are kept for some days.
        folder = tmp_path / "state" / "workspaces" / conversation_id / "made"
        assert folder.exists() == (model == AGENT)
    if model == AGENT:
        # The transcript is what the agent goes on from, with the next gateway too.
        assert set(left(tmp_path)) <= set(both) - set(before)
        assert [path for path in left(tmp_path) if path.endswith(".jsonl")]
        async with served(tmp_path, **options) as live:
            assert live.stub is not None
            assert await ask(live, kept) == "Hello."
            tools = [block for block in told(live.stub) if block["type"] == "tool_use"]
            assert len(tools) == 4  # all that it did, not just what it said
            await live.gateway.forget(kept)
    assert left(tmp_path) == []
    assert list((tmp_path / "state" / "sessions").iterdir()) == []


def told(stub: MessagesStub) -> list[Any]:
    """The blocks of all messages that the model was given last."""
    messages = stub.requests[-1].body["messages"]
    return [
        block for each in messages if isinstance(each["content"], list) for block in each["content"]
    ]


async def test_workspaces_go_when_their_days_are_over(tmp_path: Path) -> None:
    root = tmp_path / "state" / "workspaces"
    names = {
        "old": f"conv_{'0' * 32}",
        "young": f"conv_{'1' * 32}",
        "named": "conv",
        "mine": "mine",
    }
    for name in names.values():
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text("x")
    for name in ("old", "named", "mine"):
        os.utime(root / names[name], (0, 0))
    async with served(tmp_path):
        await wait_until(lambda: not (root / names["old"]).exists())
    assert {path.name for path in root.iterdir()} == set(names.values()) - {names["old"]}


async def test_what_a_killed_gateway_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that no process holds locked names sessions of a gateway that is gone. A plain model's
    child has a transcript where it is to resume a long history."""
    monkeypatch.setattr(replay, "RECORDED_FROM", 1)
    monkeypatch.setattr(prompt, "IN_BODY_FROM", 1000)
    saved: dict[Path, bytes] = {}
    async with served(tmp_path) as live:
        conversation_id = await new_conversation(live.url, model="claude-haiku-4-5")
        await ask(live, conversation_id)
        await live.gateway.hibernate(live.gateway.loaded(conversation_id).entry)
        await ask(live, conversation_id)
        for path in (*_sessions(tmp_path), *(tmp_path / "state" / "sessions").iterdir()):
            if path.is_file():
                saved[path] = path.read_bytes()
    for path, data in saved.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    [transcript] = [path for path in saved if path.suffix == ".jsonl"]
    foreign = transcript.with_name("00000000-0000-4000-8000-000000000000.jsonl")
    foreign.write_text("{}")
    async with served(tmp_path):
        await wait_until(lambda: not transcript.exists())
        assert foreign.exists()  # whose it is, is unknown
