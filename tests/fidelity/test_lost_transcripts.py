"""Where the CLI cannot take up an agent's conversation any more, or died before it saw the results
of tools, another child receives what is kept: the client notices nothing. (A plain model's child
writes no transcript, and every other one receives what the gateway keeps.)"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import structlog
import trio

from ccapi.schemas.settings.settings import CacheSettings
from tests.support.messages_stub import ToolUse, call, say

from .served import (
    JSON,
    MODEL,
    Served,
    Whole,
    assistant,
    function,
    open_served,
    spoken,
    tool,
    user,
)

AGENT = f"agent/{MODEL}"
TOOLS = [function("look")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[Served]:
    with open_served(folder, cache=CacheSettings(enabled=False)) as served:
        yield served


# -- what can happen to a transcript ---------------------------------------------------------------


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def garble(path: Path) -> None:
    path.write_bytes(b"\x00\xff" * 999)


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def block_file(path: Path) -> None:
    """Permissions do not bind root, a folder in the file's place binds all users."""
    path.unlink()
    path.mkdir()


def block_folder(path: Path) -> None:
    """Nothing can be read there, nor written ever again."""
    shutil.rmtree(path.parent)
    path.parent.write_text("in the way")


def rename(path: Path) -> None:
    """The message at which it is to be resumed is not there."""
    text = path.read_text()
    uuids = {json.loads(line).get("uuid") for line in text.splitlines()} - {None}
    for uuid in uuids:
        text = text.replace(uuid, str(uuid4()))
    path.write_text(text)


DAMAGES = (delete, empty, cut, garble, remove_folder, block_file, rename)


def transcript(served: Served, folder: Path, conversation_id: str) -> Path:
    resume = served.live.gateway.loaded(conversation_id).entry.memory.resume
    assert resume is not None
    (path,) = (folder / "config" / "projects").glob(f"*/{resume.session_id}.jsonl")
    return path


def converse(served: Served) -> str:
    """An agent's conversation of two turns, whose child has gone."""
    first = served.ask(user("one"), model=AGENT)
    served.ask(user("two"), model=AGENT, conversation_id=first.conversation_id)
    served.kill_child(first.conversation_id)
    served.begin()
    return first.conversation_id


def texts(served: Served) -> list[str]:
    """What the API received, but for what the CLI adds to an agent's."""
    return [text for _, said in served.last.conversation for text in said]


WHOLE = ["one", "turn 1: one", "two", "turn 2: two", "three"]


def check(served: Served, answer: Whole) -> None:
    assert answer.status == 200, answer.body
    assert answer.text == "turn 3: three"
    assert texts(served) == WHOLE
    assert len(served.requests) == 1
    # It has a transcript again, or receives it all again: it is not lost a second time.
    again = served.ask(user("four"), conversation_id=answer.conversation_id, model=None)
    assert texts(served) == [*WHOLE, "turn 3: three", "four"], again.body


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_lost_transcript_is_replayed_to_another_child(
    served: Served, folder: Path, damage: Callable[[Path], None]
) -> None:
    conversation_id = converse(served)
    path = transcript(served, folder, conversation_id)
    damage(path)
    with structlog.testing.capture_logs() as logs:
        answer = served.ask(user("three"), model=AGENT, conversation_id=conversation_id)
    if damage is block_file:
        path.rmdir()
    check(served, answer)
    (line,) = (log for log in logs if log["event"].startswith("transcript lost"))
    assert line["log_level"] == "warning"
    assert line["conversation_id"] == conversation_id
    assert (line["held"], line["kept"]) == (4, 4)


def test_where_nothing_can_be_written_a_conversation_goes_on(served: Served, folder: Path) -> None:
    conversation_id = converse(served)
    path = transcript(served, folder, conversation_id)
    block_folder(path)
    try:
        for number in (3, 4):
            answer = served.ask(
                user(f"turn {number}"), model=AGENT, conversation_id=conversation_id
            )
            assert answer.text == f"turn {number}: turn {number}"
            assert "one" in texts(served)
            served.kill_child(conversation_id)
    finally:
        path.parent.unlink()


def test_a_long_history_that_cannot_be_written_is_sent(served: Served, folder: Path) -> None:
    history: list[JSON] = []
    for number in range(40):
        history += [user(f"question {number}"), assistant(f"answer {number}")]
    written = served.ask(*history, user("and?"), tools=TOOLS)
    assert written.text == "turn 41: and?"
    (projects,) = (folder / "config" / "projects").glob("*-chat")
    aside = projects.with_name("aside")
    projects.rename(aside)
    projects.write_text("in the way")
    try:
        answer = served.ask(*history, user("last"), tools=TOOLS)
    finally:
        projects.unlink()
        aside.rename(projects)
    assert answer.text == "turn 41: last"
    assert len(spoken(served.last)) == 81


def test_calls_of_a_lost_transcript_keep_their_ids(served: Served, folder: Path) -> None:
    tools: list[JSON] = [function("look")]
    served.answers(call(ToolUse("look", {}, "call_1")), say("Sunny."), say("Yes."))
    first = served.ask(user("Weather?"), tools=tools, model=AGENT)
    fields: JSON = {"tools": tools, "conversation_id": first.conversation_id, "model": AGENT}
    served.ask(tool("call_1", "sun"), **fields)
    served.kill_child(first.conversation_id)
    delete(transcript(served, folder, first.conversation_id))
    assert served.ask(user("Sure?"), **fields).text == "Yes."
    said = [block for _, blocks in spoken(served.last) for block in blocks]
    called_as, told_as = (block for block in said if isinstance(block, tuple))
    assert called_as == ("call_1", "look", {})
    assert told_as[0] == "call_1"
    assert told_as[1][0].startswith("sun")  # an agent's CLI adds the date


# -- results of tools, after the child's death -----------------------------------------------------


def hibernate(served: Served, conversation_id: str) -> None:
    gateway = served.live.gateway
    entry = gateway.loaded(conversation_id).entry
    trio.from_thread.run(gateway.hibernate, entry, trio_token=served._token)


ENDS = (Served.kill_unseen, Served.kill_child, Served.freeze_and_kill, hibernate)


CASES = (*((end, MODEL) for end in ENDS), (Served.kill_unseen, AGENT))


@pytest.mark.parametrize(("end", "model"), CASES)
@pytest.mark.parametrize("by", ["history", "id", "response"])
def test_results_are_sent_to_another_child(
    served: Served, end: Callable[[Served, str], None], by: str, model: str
) -> None:
    served.answers(call(ToolUse("look", {"at": 1}), text="Let me see."))
    if by == "response":
        function_tool = {"type": "function", "name": "look", "parameters": {"type": "object"}}
        first = served._client.post(
            "/v1/responses", json={"model": model, "input": "look", "tools": [function_tool]}
        ).json()
        (called,) = (item for item in first["output"] if item["type"] == "function_call")
        end(served, first["conversation_id"])
        told = {"type": "function_call_output", "call_id": called["call_id"], "output": "sunny"}
        second = served._client.post(
            "/v1/responses",
            json={"model": model, "previous_response_id": first["id"], "input": [told]},
        )
        assert second.status_code == 200, second.json()
    else:
        more: JSON = {}
        whole = served.ask(user("look"), model=model, tools=TOOLS)
        end(served, whole.conversation_id)
        told = tool(whole.calls[0]["id"], "sunny")
        if by == "id":
            messages = [told]
            more = {"conversation_id": whole.conversation_id}
        else:
            messages = [user("look"), assistant(whole.text, *whole.calls), told]
        answer = served.ask(*messages, model=model, tools=TOOLS, **more)
        assert answer.status == 200, answer.body
    asked = [block for _, blocks in spoken(served.last) for block in blocks]
    assert "look" in asked
    called_as, told_as = (block for block in asked if isinstance(block, tuple))
    assert called_as[1:] == ("look", {"at": 1})
    assert told_as[1][0].startswith("sunny")  # an agent's CLI adds the date
    assert told_as[2] is False
