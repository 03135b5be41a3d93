"""What a gateway was told is there after it has ended and another has begun on the same folder."""

from __future__ import annotations

from pathlib import Path

from tests.support.joined import JSON, get, post
from tests.support.live import open_live_demo


async def ask(url: str, text: str, **fields: object) -> JSON:
    body = {"model": "haiku", "messages": [{"role": "user", "content": text}], **fields}
    return await post(url, "/v1/chat/completions", body)


async def test_a_conversation_goes_on_by_its_id(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        made = await post(live.url, "/v1/conversations", {"metadata": {"a": "b"}})
        conversation_id = made["id"]
        await ask(live.url, "Hello", conversation_id=conversation_id)
        items = await get(live.url, f"/v1/conversations/{conversation_id}/items?order=asc")
    async with open_live_demo(tmp_path) as live:
        shown = await get(live.url, f"/v1/conversations/{conversation_id}")
        assert (shown["metadata"], shown["turns"], shown["title"]) == ({"a": "b"}, 1, "Hello")
        assert await get(live.url, f"/v1/conversations/{conversation_id}/items?order=asc") == items
        counted = await ask(live.url, "how many messages?", conversation_id=conversation_id)
        assert "**3**" in counted["choices"][0]["message"]["content"]
        listed = await get(live.url, "/v1/conversations")
        assert [each["id"] for each in listed["data"]] == [conversation_id]
        found = await get(live.url, "/v1/conversations?q=hello")
        assert [each["id"] for each in found["data"]] == [conversation_id]
        assert (await get(live.url, "/v1/conversations?q=absent"))["data"] == []


async def test_a_response_goes_on_by_its_id(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        first = await post(live.url, "/v1/responses", {"model": "haiku", "input": "Hello"})
    async with open_live_demo(tmp_path) as live:
        again = await get(live.url, f"/v1/responses/{first['id']}")
        assert again == first
        second = await post(
            live.url, "/v1/responses",
            {"model": "haiku", "input": "how many messages?", "previous_response_id": first["id"]},
        )  # fmt: skip
        assert "**3**" in second["output"][0]["content"][0]["text"]


async def test_a_history_is_found(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        first = await ask(live.url, "Hello")
    history = [
        {"role": "user", "content": "Hello"},
        first["choices"][0]["message"] | {},
        {"role": "user", "content": "how many messages?"},
    ]
    async with open_live_demo(tmp_path) as live:
        second = await post(
            live.url, "/v1/chat/completions", {"model": "haiku", "messages": history}
        )
        assert "**3**" in second["choices"][0]["message"]["content"]
        assert len((await get(live.url, "/v1/conversations"))["data"]) == 1
