"""References to what the gateway keeps: of responses, of conversations, of one key alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ccapi.schemas.settings.settings import AuthSettings, Settings
from ccapi.schemas.turn_items import ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStarted

from ...support.asgi import Client
from ...support.gateway_double import Asked, app_of, open_gateway_double, saying
from ...support.live import open_live_demo
from ...support.responses import ask, get, output, read, tool, user


def refer(item_id: str) -> dict[str, Any]:
    return {"type": "item_reference", "id": item_id}


async def tool_turn(asked: Asked) -> None:
    await asked.port.deliver(ReasoningDelta("Hm."))
    await asked.port.deliver(TextDelta("Let me see."))
    await asked.port.deliver(ToolCallStarted(0, "call_1", "f"))
    await asked.port.deliver(ToolCallDelta(0, "{}"))
    asked.end("tool_calls")


async def test_a_tool_loop_by_reference() -> None:
    async with open_gateway_double() as gateway:
        client = Client(app_of(gateway))
        gateway.script = tool_turn
        first = read(await ask(client, tools=[tool("f")], reasoning={"summary": "auto"}))
        items = [str(item.id) for item in first.output]
        assert [each.split("_")[0] for each in items] == ["rs", "msg", "fc"]
        gateway.script = saying("Done.")
        listed = (await get(client, first.id, "/input_items")).json()["data"]
        again = [refer(listed[0]["id"]), *map(refer, items), output("call_1", "result")]
        second = await ask(client, input=again, tools=[tool("f")])
        assert second.status == 200, second.body
        said = [each.text for each in gateway.asked[-1].messages]
        assert said == ["Hi", "Let me see.", ""]
        assert gateway.asked[-1].messages[1].calls[0].id == "call_1"


async def test_what_is_not_there_or_anothers_is_not_found() -> None:
    settings = Settings(auth=AuthSettings(api_keys=("one", "two")))
    async with open_gateway_double(settings) as gateway:
        client = Client(app_of(gateway))
        gateway.script = saying("Yes.")
        mine, theirs = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
        first = read(await ask(client, mine))
        kept, unkept = str(first.output[0].id), "msg_00000000000000000000000000000000_0"
        alone = read(await ask(client, {**mine, "cache-control": "no-store"}, store=False))
        for headers, item in ((theirs, kept), (mine, unkept), (mine, str(alone.output[0].id))):
            refused = await ask(client, headers, input=[user("Hi"), refer(item), user("On")])
            assert refused.status == 404
            error = refused.json()["error"]
            assert (error["code"], error["param"]) == ("item_not_found", "input[1].id")
            assert item in error["message"]
        found = await ask(client, mine, input=[user("Hi"), refer(kept), user("On")])
        assert found.status == 200


@pytest.mark.parametrize("route", ["/v1/responses", "/v1/conversations"])
async def test_items_of_a_conversation(tmp_path: Path, route: str) -> None:
    async with open_live_demo(tmp_path) as live:
        client = Client(app_of(live.gateway))  # type: ignore[arg-type]
        opened = await client.request("POST", "/v1/conversations", json={})
        name = opened.json()["id"]
        assert (await ask(client, conversation=name, store=False)).status == 200
        listed = await client.request("GET", f"/v1/conversations/{name}/items?order=asc")
        ids = [item["id"] for item in listed.json()["data"]]
        assert [each.split("_")[0] for each in ids] == ["in", "msg"]
        items = [*map(refer, ids), user("On")]
        key = "items" if route.endswith("conversations") else "input"
        taken = await client.request("POST", route, json={"model": "sonnet", key: items})
        assert taken.status == 200, taken.body
