"""What the demo CLI answers: on request, with tools, by a schema, and in the demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccapi.schemas.claude.tool_wishes import ToolWish
from ccapi.transport.demo_cli import answers
from tests.support.demo_cli import (
    DemoCli,
    Frame,
    control,
    is_delta,
    is_result,
    kind,
    open_demo_cli,
    text_of,
    user,
)
from tests.support.embedded import script

# --- what is answered ---------------------------------------------------------------------------


async def test_deltas_of_a_number_and_a_size(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        frames = await child.turn(script(deltas=3))
        texts = [f["event"]["delta"]["text"] for f in frames if is_delta(f)]
        assert texts == ["0000 ", "0001 ", "0002 "]
        frames = await child.turn(script(deltas=300, delta_chars=2))
        assert text_of(frames[:-1]) == frames[-1]["result"]
        assert [len(f["event"]["delta"]["text"]) for f in frames if is_delta(f)] == [2] * 300
        frames = await child.turn(script(answer="abcdefg", delta_chars=3))
        texts = [f["event"]["delta"]["text"] for f in frames if is_delta(f)]
        assert texts == ["abc", "def", "g"]


async def test_thousands_of_deltas_are_a_line_each(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        frames = await child.turn(script(deltas=20_000))
    assert sum(map(is_delta, frames)) == 20_000
    assert len({f["uuid"] for f in frames}) == len(frames)
    assert text_of(frames) == frames[-1]["result"]


async def test_an_interrupt_is_honoured_at_full_speed(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.send(user(script(deltas=100_000)))
        await child.until(is_delta)
        await child.send(control("interrupt"))
        assert kind((await child.until(is_result))[-1]) == "error_during_execution"
        assert child.printed.count(b"content_block_delta") < 100_000


async def test_pace_is_kept(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        result = (await child.turn(script(deltas=5, pace_ms=20, first_ms=50)))[-1]
        assert result["duration_ms"] >= 50 + 5 * 20


async def test_thinking(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        frames = await child.turn(script(answer="so", thinking=2))
    kinds = [f["event"]["delta"]["type"] for f in frames if is_delta(f)]
    assert kinds == ["thinking_delta", "thinking_delta", "signature_delta", "text_delta"]
    said = [f["message"]["content"][0] for f in frames if f["type"] == "assistant"]
    assert [block["type"] for block in said] == ["thinking", "text"]
    assert said[0]["thinking"] == "thought 1 thought 2 "
    assert frames[-1]["result"] == "so"


async def test_usage_and_stop_reason(tmp_path: Path) -> None:
    usage = {"input_tokens": 10**9, "output_tokens": 7}
    async with open_demo_cli(tmp_path) as child:
        frames = await child.turn(script(usage=usage, stop_reason="refusal"))
    result, end = frames[-1], frames[-3]
    assert result["usage"] == {**result["usage"], **usage}
    assert result["stop_reason"] == end["event"]["delta"]["stop_reason"] == "refusal"
    assert end["event"]["usage"] == {"output_tokens": 7}


# --- tools and structured answers ---------------------------------------------------------------


def mcp_reply(request: Frame, result: Frame) -> Frame:
    reply = {"jsonrpc": "2.0", "id": request["request"]["message"].get("id"), "result": result}
    response = {"request_id": request["request_id"], "response": {"mcp_response": reply}}
    return {"type": "control_response", "response": {"subtype": "success", **response}}


def asks(method: str) -> Any:
    return lambda frame: (
        frame["type"] == "control_request" and frame["request"]["message"]["method"] == method
    )


async def offer(child: DemoCli, *names: str) -> None:
    """Play the gateway's part of the handshake."""
    request = (await child.until(asks("initialize")))[-1]
    await child.send(mcp_reply(request, {"protocolVersion": "2025-11-25", "capabilities": {}}))
    request = (await child.until(asks("tools/list")))[-1]
    await child.send(mcp_reply(request, {"tools": [{"name": name} for name in names]}))


async def test_a_tool_round_trip(tmp_path: Path) -> None:
    calls = [{"name": f"mcp__x__{name}", "input": {"city": name}} for name in ("a_b", "c")]
    async with open_demo_cli(tmp_path) as child:
        await child.send(control("initialize", sdkMcpServers=["x"]), user(script(tool_calls=calls)))
        await offer(child, "a.b", "c")
        frames = await child.until(lambda f: kind(f) == "message_stop")
        requests = list(filter(asks("tools/call"), (f for f in frames if "request" in f)))
        uses = [f["message"]["content"][0] for f in frames if f["type"] == "assistant"]
        params = [r["request"]["message"]["params"] for r in requests]
        assert [(p["name"], p["arguments"]) for p in params] == [
            ("a.b", {"city": "a_b"}),
            ("c", {"city": "c"}),
        ]
        assert [p["_meta"]["claudecode/toolUseId"] for p in params] == [u["id"] for u in uses]
        assert [u["input"] for u in uses] == [c["input"] for c in calls]
        assert frames[-2]["event"]["delta"]["stop_reason"] == "tool_use"
        for request in reversed(requests):
            text = request["request"]["message"]["params"]["name"]
            await child.send(mcp_reply(request, {"content": [{"type": "text", "text": text}]}))
        frames = await child.until(is_result)
        assert text_of(frames) == "The tool answered:\n\n> c\n\nThe tool answered:\n\n> a.b"
        assert frames[-1]["result"] == text_of(frames)
        results = [f["message"]["content"][0] for f in frames if f["type"] == "user"]
        assert [r["tool_use_id"] for r in results] == [uses[1]["id"], uses[0]["id"]]


async def test_an_interrupt_while_a_tool_runs(tmp_path: Path) -> None:
    environment = {"CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1"}
    async with open_demo_cli(tmp_path, environment=environment) as child:
        await child.send(control("mcp_set_servers", servers={"x": {}}), user('use a.b {"c": 1}'))
        await offer(child, "a.b")
        call = (await child.until(asks("tools/call")))[-1]
        assert call["request"]["message"]["params"]["arguments"] == {"c": 1}
        await child.until(lambda f: kind(f) == "message_stop")
        await child.send(control("interrupt"))
        frames = await child.until(is_result)
        assert any(map(asks("notifications/cancelled"), (f for f in frames if "request" in f)))
        assert kind(frames[-1]) == "error_during_execution"
        refusal, _ = [f["message"]["content"][0] for f in frames if f["type"] == "user"]
        assert (refusal["type"], refusal["is_error"]) == ("tool_result", True)
        assert (await child.turn("repeat: fine"))[-1]["result"] == "fine"


async def test_an_interrupt_after_a_tool_has_answered(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        calls = [{"name": "nope"}]
        await child.send(user(script(tool_calls=calls, deltas=5000, pace_ms=2)))
        await child.until(lambda f: is_delta(f) and f["event"]["delta"]["type"] == "text_delta")
        await child.send(control("interrupt"))
        frames = await child.until(is_result)
        (marker,) = [f["message"]["content"][0] for f in frames if f["type"] == "user"]
        assert marker["type"] == "text"
        assert kind(frames[-1]) == "error_during_execution"


async def test_a_tool_that_is_not_offered(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        frames = await child.turn(script(tool_calls=[{"name": "nope"}]))
        assert "No such tool available: nope" in frames[-1]["result"]


@pytest.mark.parametrize(("wanted", "called"), [("second", "second"), (None, "first")])
def test_a_tool_that_has_to_be_called_is_found(wanted: str | None, called: str) -> None:
    words = ToolWish(wanted).words(again=False)
    text, order = answers.part_order(f"Hello\n{words}", ["first", "second"])
    assert (text, order) == ("Hello", called)
    assert answers.part_order("Hello", ["first"]) == ("Hello", None)


async def test_a_structured_answer(tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "count": {"type": ["integer", "null"]},
            "kind": {"enum": ["a", "b"]},
            "tags": {"type": "array", "items": {"type": "boolean"}},
        },
    }
    async with open_demo_cli(tmp_path) as child:
        await child.ask("initialize", jsonSchema=schema)
        frames = await child.turn("repeat: x")
    expected = {"name": "x", "count": 1, "kind": "a", "tags": [True]}
    assert frames[-1]["structured_output"] == json.loads(frames[-1]["result"]) == expected
    assert frames[-1]["stop_reason"] == "tool_use"
    fragments = [f["event"]["delta"]["partial_json"] for f in frames if is_delta(f)]
    assert json.loads("".join(fragments)) == expected


# --- what the demo answers ----------------------------------------------------------------------


def said(text: str, *earlier: str, **fields: Any) -> str:
    messages = 2 * len(earlier) + 1
    usual: dict[str, Any] = {"images": 0, "tool_results": [], "system": "", "model": "sonnet"}
    given = {"text": text, "earlier": list(earlier), "messages": messages, **usual, **fields}
    return answers.answer(answers.Prompt(**given))


def test_demo_answers() -> None:
    assert said("Count to 4!") == "1, 2, 3, 4."
    assert said("count to 0") == "I am there already."
    assert said("count to 999999999999").endswith("1000, and so on.")
    assert said("Repeat:  so it is ") == "so it is"
    assert said("what did I say first?", "one", "two\nlines").endswith("> one")
    assert said("What did I say before?", "one", "two\nlines").endswith("> two\n> lines")
    assert said("what did I say last?").startswith("Nothing before this")
    assert said("How many messages?", "one") == (
        "I have been given **3** messages so far; this is turn **2**."
    )
    assert said("what is your system prompt?", system="Be kind.").endswith("> Be kind.")
    assert said("what is your system prompt?") == "I was given no system prompt."
    assert "`sonnet`" in said("Which model are you?")
    assert "| You write |" in said("What can you do?")
    assert "```python" in said("show me some markdown")
    assert "turn **2**" in said("Hello there", "hi")
    assert said("x" * 5000).startswith("You said:\n\n> " + "x" * 1000 + " …\n")
    assert said("", tool_results=["sunny"]) == "The tool answered:\n\n> sunny"
    assert said("Look", "one", images=2) == (
        "You said:\n\n> Look\n\nThis is turn **2** of our conversation and sent 2 images;"
        " I have been given 3 messages so far."
    )


@pytest.mark.parametrize("text", ["", " ", "a", "two words ", "\n\n lead", "x" * 50, "日本語 ok\t"])
def test_tokens_are_the_text(text: str) -> None:
    assert "".join(answers.tokens(text)) == text


async def test_the_demo_streams_with_small_pauses(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path, "--pace-ms", "20", switches=None) as child:
        result = (await child.turn("count to 5"))[-1]
        assert result["result"] == "1, 2, 3, 4, 5."
        assert result["duration_ms"] >= 5 * 20
