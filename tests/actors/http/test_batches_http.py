"""The Batches routes and the engine behind them, driven in process over turns that the tests play:
on a clock that jumps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ccapi.schemas.errors import (
    ChildDied,
    GatewayError,
    InvalidRequest,
    LimitReached,
    Overloaded,
    QuotaExhausted,
    RateLimited,
)
from ccapi.schemas.settings.settings import (
    AuthSettings,
    BatchSettings,
    ServerSettings,
    Settings,
)
from ccapi.transport.store.batch_interface import BatchLease, StoredBatch
from ccapi.transport.store.interface import Unknown

from ...support.asgi import Client
from ...support.batches import begin, create, jsonl, line, lines_in, show, until, upload
from ...support.gateway_double import (
    Asked,
    GatewayDouble,
    app_of,
    failing,
    open_gateway_double,
    saying,
)


def text_of(asked: Asked) -> str:
    return asked.messages[-1].text


def by_text(**scripts: Callable[[Asked], Awaitable[None]]) -> Callable[[Asked], Awaitable[None]]:
    """A turn that goes by its prompt."""

    async def script(asked: Asked) -> None:
        await scripts.get(text_of(asked), saying("fine"))(asked)

    return script


async def test_a_batch_is_answered(
    client: Client, gateway: GatewayDouble, autojump_clock: MockClock
) -> None:
    gateway.script = by_text(bad=failing(ChildDied("It died.")), good=saying("Well", " done"))
    lines = [line("one", "good"), line("two", "bad"), line("three", "good")]
    lines[2]["body"]["messages"] = "none"
    batch = await begin(client, lines, metadata={"job": "7"})
    assert (batch["status"], batch["object"], batch["endpoint"]) == (
        "validating",
        "batch",
        "/v1/chat/completions",
    )
    ended = await until(client, batch["id"])
    assert ended["status"] == "completed"
    assert ended["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    assert ended["metadata"] == {"job": "7"}
    assert ended["in_progress_at"]
    assert ended["finalizing_at"]
    assert ended["completed_at"]
    assert ended["cancelled_at"] is None
    [good] = await lines_in(client, ended["output_file_id"])
    assert (good["custom_id"], good["error"]) == ("one", None)
    assert good["id"].startswith("batch_req_")
    assert good["response"]["status_code"] == 200
    answer = good["response"]["body"]
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"] == "Well done"
    assert "conversation_id" not in answer, "it is gone"
    two, three = await lines_in(client, ended["error_file_id"])
    assert (two["custom_id"], two["response"]["status_code"]) == ("two", 502)
    assert two["response"]["body"]["error"]["code"] == "child_died"
    assert (three["custom_id"], three["response"]["status_code"]) == ("three", 400)
    assert three["response"]["body"]["error"]["param"] == "messages"
    kept = [each for each in gateway.made if each.conversation_id not in gateway.abandoned]
    assert kept == [], "its conversations are forgotten"
    output = (await client.request("GET", f"/v1/files/{ended['output_file_id']}")).json()
    assert output["purpose"] == "batch_output"
    held = await gateway.batches.store.batches.results(batch["id"], "local")
    assert held == (), "what is in the files is kept once"


async def test_responses_and_completions_can_be_asked_for(
    client: Client, gateway: GatewayDouble, autojump_clock: MockClock
) -> None:
    gateway.script = saying("Hello")
    for endpoint, body, kind in (
        ("/v1/responses", {"model": "haiku", "input": "Hi"}, "response"),
        ("/v1/completions", {"model": "haiku", "prompt": ["a", "b"]}, "text_completion"),
    ):
        asked = [line("a", url=endpoint, body=body)]
        batch = await begin(client, asked, endpoint=endpoint)
        ended = await until(client, batch["id"])
        [good] = await lines_in(client, ended["output_file_id"])
        answer = good["response"]["body"]
        assert answer["object"] == kind
        assert gateway.made == [], "also where a request has several answers"
        if kind == "response":
            shown = await client.request("GET", f"/v1/responses/{answer['id']}")
            assert shown.status == 404, "it is not stored"


BAD = [
    (b"{", "invalid_json_line", None),
    (b"[]", "invalid_json_line", None),
    (b"[" * 10_000 + b"]" * 10_000, "invalid_json_line", None),
    (b'{"custom_id": "a", "x": ' + b"[1," * 5000 + b"1" + b"]" * 5000 + b"}", "invalid_json_line",
     None),
    (jsonl([line("")]), "invalid_custom_id", "custom_id"),
    (jsonl([line("x" * 513)]), "invalid_custom_id", "custom_id"),
    (jsonl([line("b", method="GET")]), "invalid_method", "method"),
    (jsonl([line("b", url="/v1/responses")]), "mismatched_endpoint", "url"),
    (jsonl([line("b", body=[])]), "invalid_body", "body"),
    (jsonl([line("b", body={"stream": True})]), "unsupported_parameter", "body.stream"),
    (jsonl([line("b", body={"conversation": "c"})]), "unsupported_parameter", "body.conversation"),
    (jsonl([line("a")]), "duplicate_custom_id", "custom_id"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "code", "param"), BAD)
async def test_a_line_that_is_no_request_fails_the_batch(
    client: Client,
    gateway: GatewayDouble,
    autojump_clock: MockClock,
    bad: bytes,
    code: str,
    param: str | None,
) -> None:
    file_id = await upload(client, jsonl([line("a")]) + b"\n" + bad.rstrip() + b"\n")
    batch = (await create(client, input_file_id=file_id)).json()
    ended = await until(client, batch["id"])
    assert ended["status"] == "failed"
    [error] = ended["errors"]["data"]
    assert (error["code"], error["param"], error["line"]) == (code, param, 3)
    assert gateway.asked == [], "nothing of it was run"
    assert ended["request_counts"]["total"] == 0


async def test_a_batch_is_bounded(autojump_clock: MockClock) -> None:
    settings = Settings(
        batches=BatchSettings(max_requests=2, max_open=1),
        server=ServerSettings(max_body_bytes=1000),
    )
    async with open_gateway_double(settings) as gateway:
        client = Client(app_of(gateway))
        for content, code in (
            (jsonl([line(str(n)) for n in range(3)]), "too_many_requests"),
            (jsonl([line("a", "x" * 1000)]), "line_too_long"),
            (jsonl([line("a", "x" * 500_000)]), "line_too_long"),
            (b"\n \n", "empty_file"),
            (b"\n" * 2000, "too_many_requests"),
            (b"{\n" * 1000, "invalid_json_line"),
        ):
            file_id = await upload(client, content)
            batch = (await create(client, input_file_id=file_id)).json()
            ended = await until(client, batch["id"])
            assert ended["status"] == "failed"
            codes = [each["code"] for each in ended["errors"]["data"]]
            assert codes[0] == code
            assert len(codes) <= 51
        forever = trio.Event()
        gateway.script = lambda _: forever.wait()
        await begin(client, [line("a")])
        response = await create(client, input_file_id=await upload(client, b"{}"))
        assert (response.status, response.error["code"]) == (429, "too_many_batches")


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint"),
        ({"completion_window": "7d"}, 400, "completion_window"),
        ({"input_file_id": 5}, 400, "input_file_id"),
        ({"input_file_id": "file-1"}, 404, "input_file_id"),
        ({"metadata": {"a": 5}}, 400, "metadata"),
    ],
)
async def test_what_is_no_batch_is_refused(
    client: Client, fields: dict[str, Any], status: int, param: str
) -> None:
    file_id = await upload(client, b"{}")
    response = await create(client, **{"input_file_id": file_id, **fields})
    assert (response.status, response.error["param"]) == (status, param)
    other = await upload(client, b"{}", "user_data")
    assert (await create(client, input_file_id=other)).error["param"] == "input_file_id"


LIMITS: list[tuple[GatewayError, float]] = [
    (RateLimited("Slow down.", retry_after=20), 20),
    (QuotaExhausted("Used up.", retry_after=7200), 7200),
    (QuotaExhausted("Used up."), 1),
    (Overloaded("No room.", code="no_capacity"), 1),
    (LimitReached("A day's.", limit="tokens_per_day", now=0, resets_at=3600), 3600),
]


@pytest.mark.parametrize(("error", "seconds"), LIMITS)
async def test_a_limit_is_waited_for(
    client: Client,
    gateway: GatewayDouble,
    autojump_clock: MockClock,
    error: GatewayError,
    seconds: float,
) -> None:
    begun_at = trio.current_time()

    async def limited(asked: Asked) -> None:
        over = trio.current_time() - begun_at > seconds - 0.5
        await (saying("fine") if over else failing(error))(asked)

    gateway.script = limited
    batch = await begin(client, [line(str(n)) for n in range(5)])
    ended = await until(client, batch["id"], every=60)
    assert ended["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
    assert len(gateway.asked) <= 5 + 2 + seconds // 600, "it does not ask all the time"
    names = [each["custom_id"] for each in await lines_in(client, ended["output_file_id"])]
    assert names == list("01234")


async def test_what_has_begun_is_not_run_again(
    client: Client, gateway: GatewayDouble, autojump_clock: MockClock
) -> None:
    gateway.script = failing(RateLimited("Slow down.", retry_after=5).for_good())
    batch = await begin(client, [line("a")])
    ended = await until(client, batch["id"])
    assert ended["request_counts"]["failed"] == 1
    assert len(gateway.asked) == 1


async def test_a_cancelled_batch_keeps_what_it_has(
    client: Client, gateway: GatewayDouble, autojump_clock: MockClock
) -> None:
    hung_up: list[str] = []

    async def script(asked: Asked) -> None:
        if text_of(asked) == "quick":
            await saying("fine")(asked)
            return
        try:
            await trio.sleep_forever()
        finally:
            hung_up.append(text_of(asked))

    gateway.script = script
    lines = [line("a", "quick"), *(line(f"b{n}", "slow") for n in range(5))]
    batch = await begin(client, lines)
    while (await show(client, batch["id"]))["request_counts"]["completed"] < 1:
        await trio.sleep(0.1)
    response = await client.request("POST", f"/v1/batches/{batch['id']}/cancel")
    assert response.json()["status"] == "cancelling"
    ended = await until(client, batch["id"])
    assert ended["status"] == "cancelled"
    assert ended["request_counts"] == {"total": 6, "completed": 1, "failed": 0}
    [good] = await lines_in(client, ended["output_file_id"])
    assert good["custom_id"] == "a"
    rest = await lines_in(client, ended["error_file_id"])
    assert [each["custom_id"] for each in rest] == [f"b{n}" for n in range(5)]
    assert {each["error"]["code"] for each in rest} == {"batch_cancelled"}
    assert len(gateway.asked) == 3, "no more than could run at once"
    again = await client.request("POST", f"/v1/batches/{batch['id']}/cancel")
    assert (again.status, again.error["code"]) == (409, "batch_ended")


async def test_a_batch_that_takes_too_long_expires(autojump_clock: MockClock) -> None:
    settings = Settings(batches=BatchSettings(window_hours=0.001))
    async with open_gateway_double(settings) as gateway:
        client = Client(app_of(gateway))

        async def script(asked: Asked) -> None:
            if text_of(asked) == "slow":
                await trio.sleep_forever()
            await saying("fine")(asked)

        gateway.script = script
        batch = await begin(client, [line("a"), *(line(f"b{n}", "slow") for n in range(3))])
        ended = await until(client, batch["id"])
        assert ended["status"] == "expired"
        assert ended["expired_at"]
        assert [each["custom_id"] for each in await lines_in(client, ended["output_file_id"])] == [
            "a"
        ]
        rest = await lines_in(client, ended["error_file_id"])
        assert {each["error"]["code"] for each in rest} == {"batch_expired"}
        assert len(rest) == 3


async def test_keys_take_turns_and_see_their_own_alone(autojump_clock: MockClock) -> None:
    settings = Settings(auth=AuthSettings(api_keys=("alice", "bob")))
    async with open_gateway_double(settings) as gateway:
        app = app_of(gateway)
        alice, bob = (Client(app, {"x-api-key": name}) for name in ("alice", "bob"))
        order: list[str] = []

        async def script(asked: Asked) -> None:
            order.append(text_of(asked))
            await trio.sleep(1)
            await saying("fine")(asked)

        gateway.script = script
        long = await begin(alice, [line(str(n), "alice") for n in range(20)])
        short = await begin(bob, [line(str(n), "bob") for n in range(5)])
        await until(bob, short["id"])
        assert order.count("alice") < 10, order
        response = await bob.request("GET", f"/v1/batches/{long['id']}")
        assert (response.status, response.error["code"]) == (404, "batch_not_found")
        assert (await bob.request("POST", f"/v1/batches/{long['id']}/cancel")).status == 404
        assert (await bob.request("GET", f"/v1/batches?after={long['id']}")).status == 400
        listed = (await bob.request("GET", "/v1/batches")).json()
        assert [each["id"] for each in listed["data"]] == [short["id"]]
        stolen = await create(bob, input_file_id=long["input_file_id"])
        assert stolen.status == 404
        ended = await until(alice, long["id"])
        assert (await bob.request("GET", f"/v1/files/{ended['output_file_id']}")).status == 404


async def test_batches_are_listed(client: Client, autojump_clock: MockClock) -> None:
    names = [(await begin(client, [line("a")]))["id"] for _ in range(3)]
    page = (await client.request("GET", "/v1/batches?limit=2")).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (names[:0:-1], True)
    page = (await client.request("GET", f"/v1/batches?after={names[1]}")).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (names[:1], False)


async def test_a_batch_is_made_once_for_one_idempotency_key(
    client: Client, autojump_clock: MockClock
) -> None:
    file_id = await upload(client, jsonl([line("a")]))
    asked = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    ids = set()
    for _ in range(2):
        response = await client.request(
            "POST", "/v1/batches", json=asked, headers={"idempotency-key": "k"}
        )
        ids.add(response.json()["id"])
    assert len(ids) == 1


async def test_a_gateway_that_drains_begins_no_request(
    client: Client, gateway: GatewayDouble, autojump_clock: MockClock
) -> None:
    go_on = trio.Event()

    async def script(asked: Asked) -> None:
        await go_on.wait()
        await saying("fine")(asked)

    gateway.script = script
    batch = await begin(client, [line(str(n)) for n in range(5)])
    while len(gateway.asked) < 2:
        await trio.sleep(0.1)
    gateway.batches.drain()
    go_on.set()
    await trio.sleep(10)
    shown = await show(client, batch["id"])
    assert shown["status"] == "in_progress"
    assert shown["request_counts"]["completed"] == 2, "what ran came to its end"
    assert len(gateway.asked) == 2


async def test_the_error_of_a_batch_is_not_that_of_another(
    client: Client, gateway: GatewayDouble, autojump_clock: MockClock
) -> None:
    gateway.script = by_text(bad=failing(InvalidRequest("No.", code="upstream_rejected")))
    first = await begin(client, [line("a", "bad")])
    second = await begin(client, [line("a", "good")])
    assert (await until(client, first["id"]))["request_counts"]["failed"] == 1
    assert (await until(client, second["id"]))["request_counts"]["completed"] == 1


@pytest.mark.parametrize("is_done", [False, True])
async def test_a_batch_whose_client_had_no_answer_does_not_run(
    client: Client, gateway: GatewayDouble, autojump_clock: MockClock, is_done: bool
) -> None:
    file_id = await upload(client, jsonl([line("a")]))
    store = gateway.batches.store.batches
    add = store.add

    async def fail(batch: StoredBatch, *, max_open: int) -> BatchLease:
        if is_done:
            await add(batch, max_open=max_open)
        raise Unknown("?")

    store.add = fail  # type: ignore[method-assign]
    response = await create(client, input_file_id=file_id)
    assert (response.status, response.error["code"]) == (503, "storage_unavailable")
    assert (await client.request("GET", "/v1/batches")).json()["data"] == []
    await trio.sleep(100)
    assert gateway.asked == []
