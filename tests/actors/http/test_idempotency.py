"""``Idempotency-Key`` on the routes that begin a turn."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from ccapi.schemas.errors import ChildDied, GatewayError, InvalidRequest, RateLimited
from ccapi.schemas.settings.settings import (
    AuthSettings,
    IdempotencySettings,
    ServerSettings,
    Settings,
)
from ccapi.transport.store.interface import Unavailable

from ...support.asgi import Client, Response
from ...support.chat import ASK, CHAT, NO_STORE, STREAM, ask, chunks, completion, contents, events
from ...support.gateway_double import (
    Asked,
    GatewayDouble,
    app_of,
    failing,
    in_two_parts,
    open_gateway_double,
    saying,
)

KEY = {"idempotency-key": "key-1"}
REPLAYED = "idempotent-replayed"
RESPONSES = "/v1/responses"
COMPLETIONS = "/v1/completions"


def parts_of(response: Response) -> tuple[int, dict[str, str], bytes]:
    """A response without what is its own request's."""
    own = ("x-request-id", REPLAYED)
    headers = {name: value for name, value in response.headers.items() if name not in own}
    return response.status, headers, response.body


async def post(client: Client, path: str = CHAT, **fields: Any) -> Response:
    headers = fields.pop("headers", KEY)
    return await client.request("POST", path, json=ASK | fields, headers=headers)


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, ASK),
    "chat streamed": (CHAT, STREAM),
    "choices": (CHAT, {**ASK, "n": 2}),
    "completion": (COMPLETIONS, {"model": "sonnet", "prompt": "Hi"}),
    "completion streamed": (COMPLETIONS, {"model": "sonnet", "prompt": "Hi", "stream": True}),
    "response": (RESPONSES, {"model": "sonnet", "input": "Hi"}),
    "response streamed": (RESPONSES, {"model": "sonnet", "input": "Hi", "stream": True}),
    "compaction": (f"{RESPONSES}/compact", {"model": "sonnet", "input": "Hi"}),
}


@pytest.mark.parametrize(("path", "body"), BODIES.values(), ids=BODIES)
async def test_the_same_request_has_one_turn_and_one_answer(
    client: Client, gateway: GatewayDouble, path: str, body: dict[str, Any]
) -> None:
    gateway.script = saying("Hel", "lo")
    first = await client.request("POST", path, json=body, headers=KEY)
    asked = len(gateway.asked)
    again = await client.request(
        "POST", path, json=body, headers={**KEY, "x-request-id": "another"}
    )
    assert first.status == 200
    assert len(gateway.asked) == asked >= 1
    assert parts_of(again) == parts_of(first)
    assert (first.headers.get(REPLAYED), again.headers[REPLAYED]) == (None, "true")
    assert first.headers["x-request-id"] != again.headers["x-request-id"] == "another"


async def test_a_stream_is_given_again_event_by_event(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = saying("Hel", "lo")
    first, again = [await post(client, stream=True) for _ in range(2)]
    assert chunks(again.body) == chunks(first.body)
    assert contents(again.body)[1:3] == ["Hel", "lo"]
    assert again.headers["x-conversation-id"] == gateway.made[0].conversation_id


async def test_without_the_header_each_request_has_its_turn(
    client: Client, gateway: GatewayDouble
) -> None:
    for _ in range(2):
        assert REPLAYED not in (await ask(client, {"cache-control": "no-store"})).headers
    assert len(gateway.asked) == 2


OTHERS: dict[str, dict[str, Any]] = {
    "body": {"temperature": 0.5},
    "path": {"path": COMPLETIONS, "prompt": "Hi"},
    "conversation": {"headers": {**KEY, "x-conversation-id": "conv_1"}},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_another_request_with_the_same_key_is_refused(
    client: Client, gateway: GatewayDouble, other: dict[str, Any]
) -> None:
    go_on = trio.Event()
    gateway.script = in_two_parts(["a"], go_on, ["b"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post, client)
        await trio.testing.wait_all_tasks_blocked()
        refused = [await post(client, **other)]  # while the first one runs
        go_on.set()
    refused.append(await post(client, **other))
    for each in refused:
        assert (each.status, each.error["code"]) == (422, "idempotency_key_reused")
        assert each.error["param"] == "idempotency-key"
    assert len(gateway.asked) == 1
    assert completion(await post(client)).choices[0].message.content == "ab"


async def test_each_api_key_has_its_own() -> None:
    auth = AuthSettings(api_keys=("one-long-enough-key", "two-long-enough-key"))
    async with open_gateway_double(Settings(auth=auth)) as gateway:
        client = Client(app_of(gateway))
        for key in ("one", "two", "one"):
            headers = {**KEY, "authorization": f"Bearer {key}-long-enough-key"}
            assert (await post(client, headers=headers)).status == 200
        assert len(gateway.asked) == 2
        denied = await post(client, headers={**KEY, "authorization": "Bearer wrong"})
        assert denied.status == 401
        assert REPLAYED not in denied.headers


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é", "a\tb"])
async def test_a_key_that_is_none(client: Client, gateway: GatewayDouble, key: str) -> None:
    response = await post(client, headers={"idempotency-key": key})
    assert (response.status, response.error["param"]) == (400, "idempotency-key")
    assert not gateway.asked


async def test_the_longest_key(client: Client) -> None:
    key = {"idempotency-key": "~" * 255}
    assert [(await post(client, headers=key)).status for _ in range(2)] == [200, 200]


# -- failures --------------------------------------------------------------------------------------

NOTHING_DONE = (
    RateLimited("Later.", retry_after=1),
    InvalidRequest("No.", param="messages"),
    ChildDied("It died."),
)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("error", NOTHING_DONE, ids=repr)
async def test_a_failure_that_did_nothing_is_tried_again(
    client: Client, gateway: GatewayDouble, error: GatewayError, streams: bool
) -> None:
    gateway.script = failing(error)
    first = await post(client, stream=streams)
    assert first.status == error.status
    gateway.script = saying("Hello")
    again = await post(client, stream=streams)
    assert again.status == 200
    assert REPLAYED not in again.headers
    assert len(gateway.asked) == 2


async def test_a_failure_inside_a_stream_that_did_nothing_is_tried_again(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = failing(ChildDied("It died."), "Hel")
    assert events((await post(client, stream=True)).body)[-1]["error"]["code"] == "child_died"
    gateway.script = saying("Hello")
    assert contents((await post(client, stream=True)).body)[1] == "Hello"


@pytest.mark.parametrize("streams", [False, True])
async def test_a_failure_behind_which_something_is_done_is_the_answer(
    client: Client, gateway: GatewayDouble, streams: bool
) -> None:
    gateway.script = failing(ChildDied("It died.").for_good(), "Hel")
    first = await post(client, stream=streams)
    gateway.script = saying("Hello")
    again = await post(client, stream=streams)
    assert parts_of(again) == parts_of(first)
    assert again.headers[REPLAYED] == "true"
    assert again.headers.get("x-should-retry") == (None if streams else "false")
    assert len(gateway.asked) == 1


async def test_a_draining_gateway_claims_nothing(client: Client, gateway: GatewayDouble) -> None:
    gateway.draining = True
    assert (await post(client)).error["code"] == "draining"
    gateway.draining = False
    assert (await post(client)).status == 200


async def test_a_store_that_is_out_of_order(
    client: Client, gateway: GatewayDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is begun whose key cannot be kept. An answer that cannot be kept is given all the
    same; a second try learns that it was lost."""

    async def fail(*_: object, **__: object) -> None:
        raise Unavailable("The disk is full.")

    store = gateway.idempotent._store
    with monkeypatch.context() as patch:
        patch.setattr(store, "claim_request", fail)
        refused = await post(client)
        assert (refused.status, refused.error["code"]) == (503, "storage_unavailable")
        assert "retry-after" in refused.headers
    assert not gateway.asked
    with monkeypatch.context() as patch:
        patch.setattr(store, "settle_request", fail)
        assert (await post(client)).status == 200
    lost = await post(client)
    assert (lost.status, lost.error["code"]) == (409, "turn_lost")
    assert lost.headers["x-should-retry"] == "false"
    assert len(gateway.asked) == 1


# -- joined ----------------------------------------------------------------------------------------


async def test_a_request_that_runs_is_joined(client: Client, gateway: GatewayDouble) -> None:
    go_on = trio.Event()
    gateway.script = in_two_parts(["Hel"], go_on, ["lo"])
    got: list[Response] = []

    async def join() -> None:
        got.append(await post(client))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(join)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert len(gateway.asked) == 1
    assert len({parts_of(each)[2] for each in got}) == 1
    assert sorted(each.headers.get(REPLAYED, "") for each in got) == ["", "true", "true"]
    assert len({each.headers["x-request-id"] for each in got}) == 3


async def test_a_stream_is_joined_live(client: Client, gateway: GatewayDouble) -> None:
    go_on = trio.Event()
    gateway.script = in_two_parts(["Hel"], go_on, ["lo"])
    stream: dict[str, Any] = {"json": STREAM, "headers": KEY}
    async with client.stream("POST", CHAT, **stream) as first:
        await first.open()
        begun = await first.read()
        assert begun is not None
        async with client.stream("POST", CHAT, **stream) as joined:
            await joined.open()
            assert joined.headers[REPLAYED] == "true"
            assert await joined.read() == begun
            go_on.set()
            assert await joined.rest() == await first.rest()


async def test_a_joiner_that_does_not_read_holds_nothing_up(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = saying(*(["word "] * 2000))
    stream: dict[str, Any] = {"json": STREAM, "headers": KEY}
    async with client.stream("POST", CHAT, **stream) as first:
        await first.open()
        async with client.stream("POST", CHAT, **stream) as joined:
            await joined.open()
            with trio.fail_after(20):
                body = await first.rest()
            assert len(contents(body)) > 2000
            assert await joined.rest() == body


async def wait_over(gateway: GatewayDouble) -> None:
    with trio.fail_after(5):
        while gateway.idempotent._running:
            await trio.sleep(0.005)


@pytest.mark.parametrize("streams", [False, True])
async def test_a_turn_runs_on_for_a_joiner_and_without_any_client(
    client: Client, gateway: GatewayDouble, streams: bool
) -> None:
    go_on = trio.Event()
    gateway.script = in_two_parts(["Hel"], go_on, ["lo"])
    body = ASK | {"stream": streams}
    async with client.stream("POST", CHAT, json=body, headers=KEY) as joined:
        async with client.stream("POST", CHAT, json=body, headers=KEY):
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
    assert gateway.idempotent._unattended == 1
    go_on.set()
    await wait_over(gateway)
    assert gateway.idempotent._unattended == 0
    assert not joined.status
    again = await post(client, stream=streams)
    assert again.headers[REPLAYED] == "true"
    assert b"lo" in again.body
    assert len(gateway.asked) == 1


async def test_so_many_may_run_without_a_client(client: Client, gateway: GatewayDouble) -> None:
    """The double lets two; the third is given up, and says so later."""
    gateway.script = in_two_parts(["Hel"], trio.Event(), ["lo"])
    for number in range(3):
        headers = {"idempotency-key": f"key-{number}", **NO_STORE}
        async with client.stream("POST", CHAT, json=ASK, headers=headers):
            await trio.testing.wait_all_tasks_blocked()
    await trio.testing.wait_all_tasks_blocked()
    assert gateway.idempotent._unattended == 2
    assert len(gateway.idempotent._running) == 2
    lost = await post(client, headers={"idempotency-key": "key-2"})
    assert (lost.status, lost.error["code"]) == (409, "turn_lost")
    assert len(gateway.asked) == 3


async def test_heartbeats_go_to_all_and_are_not_kept(autojump_clock: trio.abc.Clock) -> None:
    settings = Settings(server=ServerSettings(heartbeat_seconds=5))
    async with open_gateway_double(settings) as gateway:
        client = Client(app_of(gateway))

        async def script(asked: Asked) -> None:
            await trio.sleep(12)
            await asked.say("Hello")
            asked.end()

        gateway.script = script
        first = await post(client, stream=True)
        again = await post(client, stream=True)
    assert first.body.count(b": heartbeat\n\n") == 2
    assert b"heartbeat" not in again.body
    assert contents(again.body) == contents(first.body)


# -- bounds ----------------------------------------------------------------------------------------


@pytest.fixture
async def small() -> AsyncIterator[GatewayDouble]:
    bounds = IdempotencySettings(max_answer_bytes=2000, max_stored=2)
    async with open_gateway_double(Settings(idempotency=bounds)) as double:
        yield double


@pytest.mark.parametrize("streams", [False, True])
async def test_a_long_answer_is_given_whole_and_not_kept(
    small: GatewayDouble, streams: bool
) -> None:
    client = Client(app_of(small))
    small.script = saying(*(["word "] * 1000))
    first = await post(client, stream=streams)
    assert first.status == 200
    assert first.body.count(b"word ") == 1000
    again = await post(client, stream=streams)
    assert (again.status, again.error["code"]) == (409, "idempotent_answer_not_kept")
    assert again.headers["x-should-retry"] == "false"
    assert len(small.asked) == 1


async def test_the_oldest_answers_are_forgotten(small: GatewayDouble) -> None:
    client = Client(app_of(small))
    small.script = saying("Hello")

    async def replays(number: int) -> bool:
        response = await post(client, headers={"idempotency-key": f"{number}"})
        return REPLAYED in response.headers

    assert [await replays(number) for number in (0, 1, 2)] == [False] * 3
    assert [await replays(number) for number in (2, 1, 0)] == [True, True, False]


async def test_what_an_answer_keeps_of_its_moment(client: Client, gateway: GatewayDouble) -> None:
    """Limits are of the request that reads them; CORS of the page that asks."""
    origin = {"origin": "http://localhost:8080"}
    first = await post(client, headers={**KEY, **origin})
    again = await post(client)
    assert first.headers["access-control-allow-origin"]
    assert "access-control-allow-origin" not in again.headers
    assert (
        REPLAYED
        in (await post(client, headers={**KEY, **origin})).headers["access-control-expose-headers"]
    )
    assert json.loads(again.body) == json.loads(first.body)
