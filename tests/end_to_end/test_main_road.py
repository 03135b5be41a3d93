"""The main road over a real port, with the demo CLI's misbehaviour on the other end.

What a client sees when a child dies, hangs, floods or stalls, and when it misbehaves itself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.support.live import Live, open_live_demo

SILENT = '!script {"first_ms": 600000}'


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with open_live_demo(tmp_path) as running:
        yield running


@pytest.fixture
async def client(live: Live) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live.url, timeout=30) as running:
        yield running


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "sonnet", "messages": [{"role": "user", "content": text}], **fields}


async def post(client: httpx.AsyncClient, text: str, **fields: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=chat(text, **fields))


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def script(**switches: Any) -> str:
    return "!script " + json.dumps(switches)


async def test_a_child_that_dies_is_a_502_and_the_conversation_goes_on(
    client: httpx.AsyncClient,
) -> None:
    first = await post(client, "Hello")
    conversation = {"conversation_id": first.json()["conversation_id"]}
    died = await post(client, script(die_at="delta", after=2, exit_code=-9), **conversation)
    assert died.status_code == 502
    assert died.json()["error"]["code"] == "child_died"
    again = await post(client, "what did I say first?", **conversation)
    assert "Hello" in text_of(again)


async def test_a_stream_whose_child_dies_ends_in_an_error_and_no_end_mark(
    client: httpx.AsyncClient,
) -> None:
    died = await post(client, script(deltas=9, die_at="delta", after=3), stream=True)
    assert died.status_code == 200
    events = [line[6:] for line in died.text.splitlines() if line.startswith("data: ")]
    assert json.loads(events[-1])["error"]["code"] == "child_died"
    assert "[DONE]" not in events
    assert all(
        not choice["finish_reason"]
        for event in events[:-1]
        for choice in json.loads(event)["choices"]
    )


async def test_siblings_of_a_dying_child_are_untouched(client: httpx.AsyncClient) -> None:
    answers: dict[str, httpx.Response] = {}

    async def ask(name: str, text: str) -> None:
        answers[name] = await post(client, text)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "dies", script(deltas=50, die_at="delta", after=5, pace_ms=5))
        nursery.start_soon(ask, "lives", script(deltas=50, pace_ms=5))
    assert answers["dies"].status_code == 502
    assert len(text_of(answers["lives"])) == 250


@pytest.mark.parametrize("garbage", ["text", "half_line", "utf8"])
async def test_a_child_that_answers_garbage_is_a_502(
    client: httpx.AsyncClient, garbage: str
) -> None:
    answer = await post(client, script(garbage=garbage, after=1))
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "upstream_error"
    assert text_of(await post(client, "Hello"))


async def test_a_line_of_20_megabytes_is_read(client: httpx.AsyncClient) -> None:
    answer = await post(client, script(long_line_bytes=20_000_000, answer="still here"))
    assert text_of(answer) == "still here"


async def test_an_answer_of_a_megabyte_is_whole(client: httpx.AsyncClient) -> None:
    answer = await post(client, script(deltas=1000, delta_chars=1000, pace_ms=0))
    assert len(text_of(answer)) == 1_000_000


async def test_a_flood_on_stderr_holds_nothing_up(client: httpx.AsyncClient) -> None:
    answer = await post(client, script(stderr_bytes=4_000_000, answer="still here"))
    assert text_of(answer) == "still here"


async def test_output_cut_anywhere_gives_the_same_answer(client: httpx.AsyncClient) -> None:
    answer = await post(client, script(write_bytes=7, answer="äöü → cut anywhere", pace_ms=0))
    assert text_of(answer) == "äöü → cut anywhere"


async def test_turns_of_one_conversation_run_in_order(
    live: Live, client: httpx.AsyncClient
) -> None:
    opened = (await client.post("/v1/conversations", json={})).json()
    order: list[str] = []

    async def ask(text: str) -> None:
        answer = await post(client, script(answer=text, first_ms=50), conversation_id=opened["id"])
        order.append(text_of(answer))

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(ask, str(number))
            await trio.sleep(0.05)
    assert order == ["0", "1", "2", "3"]
    assert live.gateway.loaded(opened["id"]).info.turns == 4


async def test_a_busy_conversation_refuses_when_asked_to(
    live: Live, client: httpx.AsyncClient
) -> None:
    opened = (await client.post("/v1/conversations", json={})).json()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: post(client, SILENT, conversation_id=opened["id"]))
        with trio.fail_after(10):
            while live.gateway.loaded(opened["id"]).info.phase != "busy":
                await trio.sleep(0.01)
        refused = await client.post(
            "/v1/chat/completions",
            json=chat("Hello", conversation_id=opened["id"]),
            headers={"x-ccapi-on-busy": "reject"},
        )
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "conversation_busy"
        nursery.cancel_scope.cancel()


async def test_a_silent_child_times_out_with_a_504(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path, claude={"idle_timeout_seconds": 0.5}) as live:
        async with httpx.AsyncClient(base_url=live.url, timeout=30) as client:
            answer = await post(client, SILENT)
            assert answer.status_code == 504
            assert answer.json()["error"]["code"] == "turn_timeout"
            assert text_of(await post(client, "Hello"))


async def test_a_turn_that_takes_too_long_ends_its_stream_with_an_error(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path, claude={"timeout_seconds": 3.0}) as live:
        async with httpx.AsyncClient(base_url=live.url, timeout=30) as client:
            answer = await post(client, script(deltas=100000, pace_ms=20), stream=True)
    assert answer.status_code == 200
    assert '"turn_timeout"' in answer.text
    assert "[DONE]" not in answer.text


async def test_a_silent_stream_is_kept_open_by_heartbeats(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path, server={"heartbeat_seconds": 0.2}) as live:
        async with httpx.AsyncClient(base_url=live.url, timeout=30) as client:
            answer = await post(client, script(first_ms=700, answer="late"), stream=True)
    assert answer.text.startswith(":")
    assert answer.text.count("\n:") >= 1
    assert answer.text.rstrip().endswith("[DONE]")


async def test_all_children_busy_is_a_429_with_a_time_to_come_back(tmp_path: Path) -> None:
    claude = {
        "max_concurrent_sessions": 1,
        "prewarm": 1,
        "max_waiting_turns": 1,
        "queue_timeout_seconds": 0.3,
    }
    async with open_live_demo(tmp_path, claude=claude) as live:
        async with httpx.AsyncClient(base_url=live.url, timeout=30) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(post, client, SILENT)
                with trio.fail_after(10):
                    while live.gateway.statistics().sessions.get("busy") != 1:
                        await trio.sleep(0.01)
                waited = await post(client, "Hello")
                assert waited.status_code == 429
                assert waited.json()["error"]["type"] == "rate_limit_error"
                assert int(waited.headers["retry-after"]) >= 1
                nursery.cancel_scope.cancel()


async def test_more_conversations_than_children_all_go_on(tmp_path: Path) -> None:
    """Hibernation: three conversations take turns on two children."""
    async with open_live_demo(
        tmp_path, claude={"max_concurrent_sessions": 2, "prewarm": 1}
    ) as live:
        async with httpx.AsyncClient(base_url=live.url, timeout=30) as client:
            ids = []
            for name in ("Ada", "Bob", "Cyd"):
                first = await post(client, f"I am {name}")
                ids.append(first.json()["conversation_id"])
            for name, conversation_id in zip(("Ada", "Bob", "Cyd"), ids, strict=True):
                answer = await post(
                    client, "what did I say first?", conversation_id=conversation_id
                )
                assert f"I am {name}" in text_of(answer)
            assert live.gateway.statistics().children.live <= 2


async def test_a_client_that_stops_reading_loses_its_turn_alone(tmp_path: Path) -> None:
    server = {"stall_seconds": 0.5}
    async with open_live_demo(tmp_path, server=server) as live:
        host, _, port = live.url.removeprefix("http://").partition(":")
        body = json.dumps(chat(script(deltas=200_000, delta_chars=200, pace_ms=0), stream=True))
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream, httpx.AsyncClient(base_url=live.url, timeout=30) as client:
            await stream.send_all(
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                f"{body}".encode()
            )
            with trio.fail_after(20):
                while not live.gateway.stats.snapshot()["turns"]["failed"]:
                    assert text_of(await post(client, "Hello"))
                    await trio.sleep(0.05)
            assert live.gateway.stats.snapshot()["turns"]["failed"] == {"turn_interrupted": 1}


async def test_deltas_that_wait_share_a_write_and_none_is_lost(
    client: httpx.AsyncClient,
) -> None:
    answer = await post(client, script(deltas=5000, pace_ms=0), stream=True)
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    pieces = [
        choice["delta"].get("content", "")
        for event in events[:-1]
        for choice in json.loads(event)["choices"]
    ]
    assert len([piece for piece in pieces if piece]) == 5000


async def test_a_request_that_fails_leaves_no_conversation_behind(
    live: Live, client: httpx.AsyncClient
) -> None:
    failed = await post(client, script(error_status=529))
    assert failed.status_code == 503
    assert "x-conversation-id" not in failed.headers
    assert live.gateway.statistics().conversations == 0
    assert text_of(await post(client, "Hello"))
    assert live.gateway.statistics().conversations == 1


async def test_a_stream_that_fails_later_leaves_the_conversation_it_has_named(
    client: httpx.AsyncClient,
) -> None:
    died = await post(client, script(deltas=9, die_at="delta", after=3), stream=True)
    named = died.headers["x-conversation-id"]
    assert text_of(await post(client, "Hello", conversation_id=named))
