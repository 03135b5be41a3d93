"""What a gateway received is there after it has ended and another has begun on the same folder."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from ccapi.schemas.settings.settings import AuthSettings
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


async def test_an_item_is_referred_to(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        first = await post(live.url, "/v1/responses", {"model": "haiku", "input": "repeat: one"})
    async with open_live_demo(tmp_path) as live:
        given = [
            {"role": "user", "content": "repeat: one"},
            {"type": "item_reference", "id": first["output"][0]["id"]},
            {"role": "user", "content": "how many messages?"},
        ]
        second = await post(live.url, "/v1/responses", {"model": "haiku", "input": given})
        assert "**3**" in second["output"][0]["content"][0]["text"]


async def test_the_events_of_a_response_come_again(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live, httpx.AsyncClient(base_url=live.url) as client:
        body = {"model": "haiku", "input": "Hello", "stream": True}
        streamed = (await client.post("/v1/responses", json=body)).text
        response_id = re.findall(r'"id":"(resp_\w+)"', streamed)[0]
    async with open_live_demo(tmp_path) as live, httpx.AsyncClient(base_url=live.url) as client:
        path = f"/v1/responses/{response_id}?stream=true"
        assert (await client.get(path)).text == streamed
        rest = (await client.get(f"{path}&starting_after=3")).text
        assert rest
        assert streamed.endswith(rest)


async def test_one_that_shall_not_be_stored_is_not(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        body = {"model": "haiku", "input": "secret", "store": False}
        assert (await post(live.url, "/v1/responses", body))["status"] == "completed"
        assert (await get(live.url, "/v1/conversations"))["data"] == []
    assert not [p for p in (tmp_path / "state").glob("ccapi.db*") if b"secret" in p.read_bytes()]


async def test_anothers_stay_unknown(tmp_path: Path) -> None:
    keys = AuthSettings(api_keys=("one-key-of-some-length", "two-key-of-some-length"))
    one, two = ({"authorization": f"Bearer {key}"} for key in keys.api_keys)
    async with open_live_demo(tmp_path, auth=keys) as live:
        async with httpx.AsyncClient(base_url=live.url, headers=one) as client:
            made = (
                await client.post("/v1/responses", json={"model": "haiku", "input": "x"})
            ).json()
            [conversation] = (await client.get("/v1/conversations")).json()["data"]
    async with open_live_demo(tmp_path, auth=keys) as live:
        async with httpx.AsyncClient(base_url=live.url, headers=two) as client:
            for path in (
                f"/v1/responses/{made['id']}",
                f"/v1/conversations/{conversation['id']}",
                f"/v1/conversations/{conversation['id']}/items",
                f"/v1/conversations/{conversation['id']}/export",
            ):
                assert (await client.get(path)).status_code == 404
                if "/items" not in path and "/export" not in path:
                    assert (await client.delete(path)).status_code == 404
            assert (await client.get("/v1/conversations?q=x")).json()["data"] == []
        async with httpx.AsyncClient(base_url=live.url, headers=one) as client:
            assert (await client.get(f"/v1/responses/{made['id']}")).json() == made
            assert (await client.get("/v1/conversations?q=x")).json()["data"] != []


async def test_a_deleted_one_stays_deleted(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        first = await ask(live.url, "Hello")
        [conversation] = (await get(live.url, "/v1/conversations"))["data"]
        assert first["choices"]
    async with open_live_demo(tmp_path) as live, httpx.AsyncClient(base_url=live.url) as client:
        path = f"/v1/conversations/{conversation['id']}"
        assert (await client.delete(path)).json()["deleted"] is True
        assert (await client.delete(path)).status_code == 404
    async with open_live_demo(tmp_path) as live:
        assert (await get(live.url, "/v1/conversations"))["data"] == []
