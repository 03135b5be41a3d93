"""Agents on the real CLI: their tools, who permits them, where they work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from ccapi.schemas.settings.settings import PermissionSettings
from tests.support.joined import Joined, get, new_conversation, open_joined, post
from tests.support.live import Live, open_live_cli
from tests.support.messages_answers import Answer, ToolUse, call, say
from tests.support.messages_stub import Request
from tests.support.terminals import open_terminal

MODEL = "agent/claude-haiku-4-5"


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with open_live_cli(tmp_path) as live:
        yield live


def acting(*uses: ToolUse) -> Any:
    """A model that uses these tools one after another, then says what came of the last."""

    def answer(request: Request) -> Answer:
        done = sum(
            block["type"] == "tool_result"
            for message in request.body["messages"]
            if message["role"] == "user" and isinstance(message["content"], list)
            for block in message["content"]
        )
        if done < len(uses):
            return call(uses[done], text=f"Step {done + 1}." if done else "First.")
        return say(f"It says: {request.last_user_text}")

    return answer


def write(place: Path | str, text: str) -> ToolUse:
    return ToolUse("Write", {"file_path": str(place), "content": text})


async def open_agent(live: Live, **fields: Any) -> str:
    return await new_conversation(live.url, model=MODEL, **fields)


def workspace(tmp_path: Path, conversation_id: str) -> Path:
    return tmp_path / "state" / "workspaces" / conversation_id


async def start(live: Live, one: Joined, *uses: ToolUse) -> None:
    assert live.stub is not None
    live.stub.answer = acting(*uses)
    await one.say("turn.create", input="Do it.")


async def test_an_agent_uses_tools_of_its_own_and_all_watchers_see_it(live: Live) -> None:
    conversation_id = await open_agent(live, system="Be quick.")
    async with open_joined(live.url, conversation_id) as one:
        await start(live, one, ToolUse("Bash", {"command": "ls", "description": "List"}))
        done = await one.until("turn.finished", "turn.failed")
        assert done["type"] == "turn.finished", done
        started = next(e for e in one.seen if e["type"] == "activity.started")
        ended = next(e for e in one.seen if e["type"] == "activity.ended")
        assert (started["name"], ended["is_error"]) == ("Bash", False)
        assert started["call_id"] == ended["call_id"]
        kinds = [item["type"] for item in done["items"]]
        assert kinds == ["message", "mcp_call", "message"]
        assert done["items"][1]["name"] == "Bash"
        assert one.text.startswith("First.\n\nIt says: ")
    assert live.stub is not None
    asked = live.stub.requests[-1]
    assert asked.model == "claude-haiku-4-5"
    assert asked.system.endswith("Be quick.")
    assert "Write" in asked.tools


async def test_leave_is_given_and_the_input_changed(live: Live, tmp_path: Path) -> None:
    conversation_id = await open_agent(live)
    place = workspace(tmp_path, conversation_id) / "note.txt"
    async with open_joined(live.url, conversation_id) as one:
        await start(live, one, write(place, "draft"))
        asked = await one.until("permission.requested")
        assert (asked["tool"], asked["input"]["content"]) == ("Write", "draft")
        async with open_joined(live.url, conversation_id) as two:  # it is shown again
            assert [each["request_id"] for each in two.hello["permissions"]] == [
                asked["request_id"]
            ]
            changed = {**asked["input"], "content": "final"}
            await two.say(
                "permission.reply",
                request_id=asked["request_id"],
                behavior="allow",
                updated_input=changed,
            )
            settled = await one.until("permission.resolved")
            assert (settled["behavior"], settled["by"]) == ("allow", "watcher")
        assert (await one.until("turn.finished", "turn.failed"))["type"] == "turn.finished"
    assert place.read_text() == "final"


async def test_leave_is_refused_with_a_reason_over_http(live: Live, tmp_path: Path) -> None:
    conversation_id = await open_agent(live)
    place = workspace(tmp_path, conversation_id) / "note.txt"
    async with open_joined(live.url, conversation_id) as one:
        await start(live, one, write(place, "draft"))
        asked = await one.until("permission.requested")
        base = f"/v1/conversations/{conversation_id}/permissions"
        [pending] = (await get(live.url, base))["data"]
        assert pending["request_id"] == asked["request_id"]
        path = f"{base}/{asked['request_id']}"
        assert await post(live.url, path, {"behavior": "deny", "message": "Not there."}) == {
            "request_id": asked["request_id"],
            "behavior": "deny",
        }
        done = await one.until("turn.finished", "turn.failed")
        assert one.text.endswith("It says: Not there.")
        assert done["items"][1]["error"] is not None
        again = await post(live.url, path, {"behavior": "allow"})
        assert again["error"]["code"] == "permission_not_found"
    assert not place.exists()


async def test_always_holds_for_this_conversation_and_a_new_child(
    live: Live, tmp_path: Path
) -> None:
    conversation_id = await open_agent(live)
    folder = workspace(tmp_path, conversation_id)
    async with open_joined(live.url, conversation_id) as one:
        await start(live, one, write(folder / "a", "1"), write(folder / "b", "2"))
        asked = await one.until("permission.requested")
        await one.say(
            "permission.reply", request_id=asked["request_id"], behavior="allow", always=True
        )
        assert (await one.until("turn.finished", "permission.requested"))["type"] == "turn.finished"
        entry = live.gateway.loaded(conversation_id).entry
        await live.gateway.hibernate(entry)
        with trio.fail_after(10):
            while entry.state.phase.value != "asleep":
                await trio.sleep(0.01)
        assert live.stub is not None
        live.stub.answer = lambda request: (
            call(write(folder / "c", "3")) if request.last_user_text == "Again." else say("Done.")
        )
        await one.say("turn.create", input="Again.")
        assert (await one.until("turn.finished", "permission.requested"))["type"] == "turn.finished"
    assert [(folder / name).read_text() for name in "abc"] == ["1", "2", "3"]
    assert not (folder / ".claude").exists()


async def test_where_no_client_listens_the_model_gets_a_denial(live: Live, tmp_path: Path) -> None:
    assert live.stub is not None
    live.stub.answer = acting(write(tmp_path / "elsewhere.txt", "x"))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Do it."}]}
    answered = await post(live.url, "/v1/chat/completions", body)
    text = answered["choices"][0]["message"]["content"]
    assert "No client is connected" in text
    assert answered["choices"][0]["finish_reason"] == "stop"
    assert "tool_calls" not in answered["choices"][0]["message"]


async def test_permission_that_is_not_given_in_time_is_denied(tmp_path: Path) -> None:
    permissions = PermissionSettings(timeout_seconds=0.5)
    async with open_live_cli(tmp_path, permissions=permissions) as live:
        conversation_id = await open_agent(live)
        async with open_joined(live.url, conversation_id) as one:
            await start(live, one, write(tmp_path / "elsewhere.txt", "x"))
            await one.until("permission.requested")
            settled = await one.until("permission.resolved")
            assert (settled["behavior"], settled["by"]) == ("deny", "timeout")
            await one.until("turn.finished")
            assert "No client permitted this in time" in one.text


async def test_rules_in_the_settings_decide_first(tmp_path: Path) -> None:
    permissions = PermissionSettings(allow=("Bash(touch:*)",), deny=("Bash(ls:*)",))
    async with open_live_cli(tmp_path, permissions=permissions) as live:
        conversation_id = await open_agent(live)
        async with open_joined(live.url, conversation_id) as one:
            commands = ("touch made", "ls")
            uses = [ToolUse("Bash", {"command": each, "description": "x"}) for each in commands]
            await start(live, one, *uses)
            done = await one.until("turn.finished", "turn.failed", "permission.requested")
            assert done["type"] == "turn.finished"
            ends = [e for e in one.seen if e["type"] == "activity.ended"]
            assert [end["is_error"] for end in ends] == [False, True]
        assert (workspace(tmp_path, conversation_id) / "made").exists()


async def run_for_long(live: Live, one: Joined, seconds: int) -> str:
    """Have the agent sleep; returns what its command line has in it."""
    command = {"command": f"sleep {seconds}", "description": "Wait"}
    await start(live, one, ToolUse("Bash", command))
    await one.until("activity.started")
    with trio.move_on_after(2):
        asked = await one.until("permission.requested")
        await one.say("permission.reply", request_id=asked["request_id"], behavior="allow")
    await wait_until(lambda: _runs(f"sleep\x00{seconds}"))
    return f"sleep\x00{seconds}"


async def wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.05)


async def test_an_interrupted_agent_stops_what_it_runs(live: Live) -> None:
    async with open_joined(live.url, await open_agent(live)) as one:
        command = await run_for_long(live, one, 7654)
        await one.say("turn.interrupt")
        assert (await one.until("turn.failed"))["error"]["code"] == "turn_interrupted"
        await wait_until(lambda: not _runs(command))


async def test_what_an_agent_runs_ends_with_the_gateway(tmp_path: Path) -> None:
    async with open_live_cli(tmp_path, server={"graceful_seconds": 0.1}) as live:
        async with open_joined(live.url, await open_agent(live)) as one:
            command = await run_for_long(live, one, 7653)
    assert not _runs(command)


async def test_what_an_agent_runs_ends_with_its_conversation(live: Live) -> None:
    conversation_id = await open_agent(live)
    async with open_joined(live.url, conversation_id) as one:
        command = await run_for_long(live, one, 7652)
        await live.gateway.forget(conversation_id)
        await wait_until(lambda: not _runs(command))


def _runs(command: str) -> bool:
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if command in place.read_text():
                return True
        except OSError:
            continue
    return False


async def test_named_workspaces(live: Live, tmp_path: Path) -> None:
    (tmp_path / "state" / "workspaces" / "mine").mkdir(parents=True)
    (tmp_path / "state" / "workspaces" / "mine" / "hello.txt").write_text("plum")
    conversation_id = await open_agent(live, workspace="mine")
    async with open_joined(live.url, conversation_id) as one:
        await start(live, one, ToolUse("Bash", {"command": "ls", "description": "List"}))
        await one.until("turn.finished")
        assert "hello.txt" in one.text
    for fields in ({"workspace": "../up"}, {"workspace": "x", "model": "haiku"}):
        refused = await post(live.url, "/v1/conversations", {"model": MODEL, **fields})
        assert refused["error"]["param"] == "workspace"


async def test_leave_is_given_at_a_terminal(live: Live, tmp_path: Path) -> None:
    conversation_id = await open_agent(live)
    place = workspace(tmp_path, conversation_id) / "note.txt"
    assert live.stub is not None
    live.stub.answer = acting(write(place, "by hand"))
    arguments = ("chat", "--url", live.url, "--conversation", conversation_id)
    async with open_terminal(tmp_path, *arguments) as terminal:
        await terminal.until("> ")
        await terminal.type("Do it.\n")
        asked = await terminal.until("conversation: ")
        assert "* Write" in asked
        assert str(place) in asked
        await terminal.type("y\n")
        assert "\nIt says: " in await terminal.until("\n> ")
        await terminal.type("/quit\n")
        assert await terminal.ended() == 0
    assert place.read_text() == "by hand"


async def test_a_clients_tool_works_beside_the_agents_own_under_another_name(live: Live) -> None:
    assert live.stub is not None
    live.stub.answer = acting(ToolUse("look_up", {"word": "plum"}))
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    message = {"role": "user", "content": "Look."}
    body = {"model": MODEL, "messages": [message], "tools": [tool]}
    answered = await post(live.url, "/v1/chat/completions", body)
    [called] = answered["choices"][0]["message"]["tool_calls"]
    assert called["function"]["name"] == "look_up"


@pytest.mark.parametrize("name", ["Bash", "Read", "Task"])
async def test_a_clients_tool_that_the_agents_own_would_hide_is_refused(
    live: Live, name: str
) -> None:
    function = {"name": name, "parameters": {"type": "object"}}
    chat = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Do it."}],
        "tools": [{"type": "function", "function": function}],
    }
    new = await post(live.url, "/v1/chat/completions", chat)
    flat = {"type": "function", **function}
    fields = {"model": MODEL, "input": "Do it.", "tools": [flat]}
    conversation_id = await open_agent(live)
    held = await post(live.url, "/v1/responses", {**fields, "conversation": conversation_id})
    for refused in (new, held):
        assert refused["error"]["code"] == "tool_name_taken", refused
        assert (refused["error"]["param"], name in refused["error"]["message"]) == ("tools", True)
    plain = await post(live.url, "/v1/chat/completions", {**chat, "model": "claude-haiku-4-5"})
    assert plain["object"] == "chat.completion"
