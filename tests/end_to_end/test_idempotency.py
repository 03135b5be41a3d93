"""A request with an ``Idempotency-Key`` over a restart and a kill, and by the openai Python SDK."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
import trio
from openai.types.chat import ChatCompletion

from tests.actors.commands.test_serve import ENDLESS, open_server
from tests.support.joined import get
from tests.support.live import Live, open_live_demo

CHAT = "/v1/chat/completions"
KEY = {"idempotency-key": "key-1"}


def asking(text: str, **fields: object) -> dict[str, Any]:
    return {"model": "haiku", "messages": [{"role": "user", "content": text}], **fields}


async def post(url: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        return await client.post(CHAT, json=body, headers={**KEY, **headers})


async def post_in_vain(url: str, body: dict[str, Any]) -> None:
    with pytest.raises(httpx.TransportError):
        await post(url, body)


async def listed(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await get(url, "/v1/conversations"))["data"]
    return found


async def turns(url: str) -> int:
    return sum(each["turns"] for each in await listed(url))


async def test_an_answer_is_given_again_by_another_gateway(tmp_path: Path) -> None:
    bodies = [asking("Hello"), asking("count to 30", stream=True)]
    first: list[httpx.Response] = []
    async with open_live_demo(tmp_path) as live:
        for number, body in enumerate(bodies):
            first.append(await post(live.url, body, **{"idempotency-key": str(number)}))
    async with open_live_demo(tmp_path) as live:
        for number, body in enumerate(bodies):
            again = await post(live.url, body, **{"idempotency-key": str(number)})
            assert again.content == first[number].content
            assert again.headers["idempotent-replayed"] == "true"
            name = "x-conversation-id"
            assert again.headers[name] == first[number].headers[name]
        assert await turns(live.url) == 2
        other = await post(live.url, asking("Bye"), **{"idempotency-key": "0"})
        assert (other.status_code, other.json()["error"]["code"]) == (
            422,
            "idempotency_key_reused",
        )


async def test_a_turn_that_ran_at_a_kill_is_lost_and_not_done_again(tmp_path: Path) -> None:
    body = asking(ENDLESS, stream=True)
    async with open_server(tmp_path) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(post_in_vain, server.url, body)
            with trio.fail_after(20):
                while not [each for each in await listed(server.url) if each["phase"] == "busy"]:
                    await trio.sleep(0.02)
            server.process.send_signal(signal.SIGKILL)
            await server.ended()
    async with open_server(tmp_path) as server:
        for _ in range(2):
            lost = await post(server.url, body)
            assert (lost.status_code, lost.json()["error"]["code"]) == (409, "turn_lost")
            assert lost.headers["x-should-retry"] == "false"
        [conversation] = await listed(server.url)
        assert conversation["turns"] == 0


async def test_the_python_sdk_tries_again_and_gets_the_answer_that_it_missed(
    tmp_path: Path,
) -> None:
    """Its connection breaks while the gateway answers; its own second try is the same request."""
    asked: list[httpx2.Request] = []
    statuses: list[tuple[int, str | None]] = []

    class Breaking(httpx2.HTTPTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            asked.append(request)
            response = super().handle_request(request)
            response.read()
            replayed = response.headers.get("idempotent-replayed")
            statuses.append((response.status_code, replayed))
            if len(asked) == 1:
                raise httpx2.ReadError("The connection broke.")
            return response

    def talk(live: Live) -> list[ChatCompletion]:
        transport = Breaking()
        with openai.OpenAI(
            base_url=live.base_url,
            api_key="unused",
            http_client=httpx2.Client(transport=transport),
        ) as client:
            options = client.with_options(max_retries=2)
            ask: Any = partial(
                options.chat.completions.create,
                model="haiku",
                messages=[{"role": "user", "content": "Hello"}],
                extra_headers={"Idempotency-Key": "sdk-1"},
            )
            answers = [ask(), ask()]
            with pytest.raises(openai.UnprocessableEntityError, match="idempotency key"):
                ask(temperature=0.5)
            streamed = ask(stream=True, extra_headers={"Idempotency-Key": "sdk-2"})
            pieces = [chunk.choices[0].delta.content for chunk in streamed]
            again = ask(stream=True, extra_headers={"Idempotency-Key": "sdk-2"})
            assert [chunk.choices[0].delta.content for chunk in again] == pieces
            return answers

    async with open_live_demo(tmp_path) as live:
        first, second = await trio.to_thread.run_sync(talk, live)
        assert first == second
        assert statuses[:3] == [(200, None), (200, "true"), (200, "true")]
        assert asked[0].content == asked[1].content
        assert await turns(live.url) == 1  # the stream was answered by the cache
