"""Which ids of tool calls lose their results on the way from the CLI's history to the API."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.messages_stub import MessagesStub
from tests.support.raw_cli import RawCli, assistant_frame

LOST = "[Tool result missing due to internal error]"


async def told(child: RawCli, stub: MessagesStub, turns: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Replay one answer with calls for each of `turns`, their results behind it, and return the
    results that the API got, by the ids of their calls."""
    for number, ids in enumerate(turns):
        more = {"shouldQuery": False} if number < len(turns) - 1 else {}
        await child.turn(f"question {number}", shouldQuery=False)
        uses = [{"type": "tool_use", "id": id, "name": "t", "input": {}} for id in ids]
        await child.send(assistant_frame(uses, id=f"msg_{number}"))
        results = [{"type": "tool_result", "tool_use_id": id, "content": "result"} for id in ids]
        await child.turn(results, **more)
        if more:
            text = [{"type": "text", "text": "ok"}]
            await child.send(assistant_frame(text, id=f"msg_{number}_end"))
    return {
        block["tool_use_id"]: block["content"]
        for message in stub.requests[-1].body["messages"]
        for block in message["content"]
        if isinstance(block, dict) and block["type"] == "tool_result"
    }


@pytest.mark.parametrize(
    ("turns", "lost"),
    [
        ([["call_0"], ["call_0_2"]], "call_0_2"),
        ([["abc"], ["abc_2"]], "abc_2"),
        ([["abc_2"], ["abc"]], "abc_2"),
        ([["call", "call_1"]], "call_1"),
    ],
)
async def test_the_result_of_an_id_with_digits_behind_another_id_is_dropped(
    child: RawCli, stub: MessagesStub, turns: list[list[str]], lost: str
) -> None:
    """The model reads that it is missing. `schemas.message.spell_calls` keeps such ids apart."""
    assert (await told(child, stub, turns))[lost] == LOST


@pytest.mark.parametrize(
    "turns",
    [
        [["call_0"], ["call_0-c8178446"]],
        [["abc"], ["abc_2x"]],
        [["abc"], ["abc_x"]],
        [["abc"], ["abc_2_3"]],
        [["call_1"], ["call_10"], ["call_2"]],
        [["toolu_1", "toolu_2"]],
    ],
)
async def test_the_results_of_other_ids_arrive(
    child: RawCli, stub: MessagesStub, turns: list[list[str]]
) -> None:
    got = await told(child, stub, turns)
    assert got == {id: "result" for ids in turns for id in ids}


async def test_the_second_call_of_an_id_that_comes_again_is_dropped(
    child: RawCli, stub: MessagesStub
) -> None:
    await told(child, stub, [["call_0"], ["call_0"]])
    (request,) = stub.requests
    blocks = [block for message in request.body["messages"] for block in message["content"]]
    uses = [b for b in blocks if isinstance(b, dict) and b["type"] == "tool_use"]
    assert len(uses) == 1
