"""The Messages routes, driven in process, over turns that the tests play themselves."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from ccapi.schemas.errors import (
    ChildDied,
    CliUnusable,
    Forbidden,
    GatewayError,
    InternalError,
    QuotaExhausted,
    RateLimited,
    TurnTimeout,
    draining,
)
from ccapi.schemas.message import RedactedThinking, Thinking
from ccapi.schemas.settings.settings import (
    AuthSettings,
    ModelSettings,
    ServerSettings,
    Settings,
)
from ccapi.schemas.turn import Completed, ThinkingWish
from ccapi.schemas.turn_items import (
    ReasoningDelta,
    ReasoningEnded,
    Refused,
    TextDelta,
    TextEnded,
    ToolCallDelta,
    ToolCallStarted,
)

from ...support.anthropic_messages import (
    ASK,
    HI,
    JSON,
    MESSAGES,
    ask,
    check_model,
    error_of,
    events_of,
    message_of,
    put_together,
    raw_events,
)
from ...support.asgi import Client
from ...support.chat import CHAT, NO_STORE
from ...support.gateway_double import (
    USAGE,
    Asked,
    GatewayDouble,
    app_of,
    failing,
    open_gateway_double,
    saying,
)

STREAM = ASK | {"stream": True}
ADD = {"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "number"}}}}

# -- a message -------------------------------------------------------------------------------------


async def test_a_whole_message(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = saying("Hel", "lo")
    response = await ask(client, system="Be brief.")
    message = message_of(response.body)
    assert [block.model_dump(exclude_none=True) for block in message.content] == [
        {"type": "text", "text": "Hello"}
    ]
    assert (message.model, message.stop_reason) == ("sonnet", "end_turn")
    assert message.usage.input_tokens == 2, "what was cached is no part of it"
    assert message.usage.cache_read_input_tokens == 10
    assert message.usage.output_tokens == 3
    assert response.headers["x-conversation-id"] == gateway.made[0].conversation_id
    assert response.headers["request-id"] == response.headers["x-request-id"]
    assert gateway.made[0].system == "Be brief."
    [asked] = gateway.asked
    assert (asked.options.max_tokens, asked.options.blocks, asked.options.whole) == (
        1000,
        True,
        True,
    )
    assert asked.options.thinking == ThinkingWish("disabled")


async def everything(asked: Asked) -> None:
    """A turn that says one of everything."""
    for item in (
        ReasoningDelta("Hm."),
        ReasoningEnded(Thinking("Hm.", "sig")),
        ReasoningEnded(RedactedThinking("cipher")),
        TextDelta("Let me "),
        TextDelta("see."),
        TextEnded(),
        ToolCallStarted(0, "toolu_1", "add"),
        ToolCallDelta(0, '{"a"'),
        ToolCallDelta(0, ": 1}"),
    ):
        await asked.port.deliver(item)
    asked.end("tool_calls")


CONTENT = [
    {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
    {"type": "redacted_thinking", "data": "cipher"},
    {"type": "text", "text": "Let me see."},
    {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}},
]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_message_of_everything(
    client: Client, gateway: GatewayDouble, stream: bool
) -> None:
    gateway.script = everything
    fields = {"tools": [ADD], "thinking": {"type": "enabled", "budget_tokens": 2000}}
    response = await ask(client, max_tokens=4000, stream=stream, **fields)
    assert response.status == 200
    if stream:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        message = put_together(response.body)
    else:
        message = response.json()
        message_of(response.body)
    assert message["content"] == CONTENT
    assert message["stop_reason"] == "tool_use"
    assert message["usage"]["input_tokens"] == 2
    [asked] = gateway.asked
    assert asked.options.thinking == ThinkingWish("enabled", 2000)
    assert asked.options.reasoning
    assert asked.tools is not None
    assert [tool.name for tool in asked.tools] == ["add"]
    assert "x-ccapi-cache" not in response.headers


async def test_a_stop_sequence_is_named(client: Client, gateway: GatewayDouble) -> None:
    async def script(asked: Asked) -> None:
        await asked.say("Hello")
        asked.port.end(Completed("stop", USAGE, stop_text="END"))

    gateway.script = script
    message = message_of((await ask(client, stop_sequences=["END"])).body)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")
    assert gateway.asked[0].options.stop == ("END",)
    streamed = put_together((await ask(client, stop_sequences=["END"], stream=True)).body)
    assert (streamed["stop_reason"], streamed["stop_sequence"]) == ("stop_sequence", "END")


async def test_a_refusal(client: Client, gateway: GatewayDouble) -> None:
    async def script(asked: Asked) -> None:
        await asked.port.deliver(Refused("I will not."))
        asked.end("content_filter")

    gateway.script = script
    message = message_of((await ask(client)).body)
    assert (message.content, message.stop_reason) == ([], "refusal")
    assert message.stop_details is not None
    assert message.stop_details.explanation == "I will not."
    assert put_together((await ask(client, stream=True)).body)["stop_reason"] == "refusal"


async def test_an_identical_request_is_answered_once(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = gateway.remembered("Hello")
    first, second = await ask(client), await ask(client)
    assert [each.headers["x-ccapi-cache"] for each in (first, second)] == ["miss", "hit"]
    assert message_of(second.body).content == message_of(first.body).content
    assert "x-ccapi-cache" not in (await ask(client, NO_STORE)).headers
    for other in (
        {"top_k": 3},
        {"messages": [{"role": "user", "content": [text("H"), text("i")]}]},
    ):
        assert (await ask(client, **other)).headers["x-ccapi-cache"] == "miss"
    chat = await client.request("POST", CHAT, json={"model": "sonnet", "messages": [HI]})
    assert chat.headers["x-ccapi-cache"] == "miss"


def text(said: str) -> JSON:
    return {"type": "text", "text": said}


async def test_a_conversation_is_named_by_a_header(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = saying("Hello")
    named = (await ask(client)).headers["x-conversation-id"]
    response = await ask(client, {"x-conversation-id": named}, messages=[HI])
    assert response.headers["x-conversation-id"] == named
    lost = await ask(client, {"x-conversation-id": "conv_none"})
    assert (lost.status, error_of(lost.body)) == (
        404,
        {"type": "not_found_error", "message": "x-conversation-id: No such conversation."},
    )


async def test_a_request_with_a_key_is_done_once(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = saying("Hello")
    key = {"idempotency-key": "once", **NO_STORE}
    first, second = await ask(client, key), await ask(client, key)
    assert first.body == second.body
    assert (len(gateway.asked), second.headers["idempotent-replayed"]) == (1, "true")
    other = await ask(client, key, max_tokens=9)
    assert (other.status, error_of(other.body)["type"]) == (422, "invalid_request_error")
    gateway.script = failing(draining())
    failed = await ask(client, {"idempotency-key": "other", **NO_STORE})
    assert (failed.status, error_of(failed.body)["type"]) == (529, "overloaded_error")


# -- a stream --------------------------------------------------------------------------------------


async def test_pieces_come_as_they_are_said(client: Client, gateway: GatewayDouble) -> None:
    go_on = trio.Event()

    async def script(asked: Asked) -> None:
        await asked.say("One")
        await go_on.wait()
        await asked.say("Two")
        asked.end()

    gateway.script = script
    async with client.stream("POST", MESSAGES, json=STREAM) as streamed:
        await streamed.open()
        begun = await streamed.read() or b""
        assert b'"text":"One"' in begun
        go_on.set()
        body = begun + await streamed.rest()
    kinds = [event.type for event in events_of(body)]
    assert kinds == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta",
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip


async def test_a_failure_in_the_middle_is_an_event(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = failing(ChildDied("It died."), "Half")
    response = await client.request("POST", MESSAGES, json=STREAM)
    assert response.status == 200
    last = raw_events(response.body)[-1]
    assert last["type"] == "error"
    assert last["error"] == {"type": "api_error", "message": "It died."}
    assert last["request_id"] == response.headers["request-id"]


async def test_a_failure_before_it_is_a_status(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = failing(RateLimited("Slow down.", retry_after=1.5))
    response = await client.request("POST", MESSAGES, json=STREAM)
    assert (response.status, error_of(response.body)["type"]) == (429, "rate_limit_error")
    assert response.headers["retry-after-ms"] == "1500"


async def test_silence_is_broken_by_comments(autojump_clock: trio.testing.MockClock) -> None:
    beating = Settings(server=ServerSettings(heartbeat_seconds=5))
    async with open_gateway_double(beating) as gateway:

        async def script(asked: Asked) -> None:
            await trio.sleep(12)
            await asked.say("Hello")
            asked.end()

        gateway.script = script
        response = await Client(app_of(gateway)).request("POST", MESSAGES, json=STREAM)
    assert response.body.count(b": heartbeat") == 2
    assert put_together(response.body)["content"][0]["text"] == "Hello"


# -- what has no effect ----------------------------------------------------------------------------


async def test_what_has_no_effect_is_named(client: Client) -> None:
    marked = {**text("Hi"), "cache_control": {"type": "ephemeral"}}
    response = await ask(
        client,
        {"anthropic-beta": "claude-code-20250219,context-1m-2025-08-07"},
        messages=[{"role": "user", "content": [marked]}],
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        top_k=5,
        nonsense=1,
    )
    assert response.status == 200
    assert response.headers["x-ccapi-ignored"].split(", ") == [
        "context_management", "cache_control", "nonsense",
        "anthropic-beta:context-1m-2025-08-07", "top_k",
    ]  # fmt: skip


async def test_a_beta_that_would_change_the_answer_is_refused(client: Client) -> None:
    response = await ask(client, {"anthropic-beta": "dev-full-thinking-2025-05-14"})
    error = error_of(response.body)
    assert (response.status, error["type"]) == (400, "invalid_request_error")
    assert "dev-full-thinking-2025-05-14" in error["message"]


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (draining(), 529, "overloaded_error"),
        (CliUnusable("No CLI."), 503, "api_error"),
        (RateLimited("Slow down."), 429, "rate_limit_error"),
        (QuotaExhausted("No credit.", code="insufficient_quota"), 402, "billing_error"),
        (TurnTimeout("Too long."), 504, "timeout_error"),
        (InternalError("Ours."), 500, "api_error"),
        (ChildDied("It died."), 502, "api_error"),
        (Forbidden("No."), 403, "permission_error"),
    ],
)
async def test_every_failure_has_its_type(
    client: Client, gateway: GatewayDouble, error: GatewayError, status: int, kind: str
) -> None:
    gateway.script = failing(error)
    response = await ask(client)
    assert response.status == status
    assert error_of(response.body) == {"type": kind, "message": error.message}
    assert response.json()["request_id"] == response.headers["request-id"]
    unusable = isinstance(error, CliUnusable | QuotaExhausted)
    assert response.headers.get("x-should-retry") == ("false" if unusable else None)


async def test_what_the_framework_refuses_has_the_envelope_too() -> None:
    settings = Settings(
        auth=AuthSettings(api_keys=("one-long-enough-key",)),
        server=ServerSettings(max_body_bytes=4096),
    )
    async with open_gateway_double(settings) as gateway:
        client = Client(app_of(gateway))
        key = {"x-api-key": "one-long-enough-key"}
        bearer = {"authorization": "Bearer one-long-enough-key"}
        cases: list[tuple[str, JSON, int, str]] = [
            ("POST", {"json": ASK}, 401, "authentication_error"),
            ("POST", {"json": ASK, "headers": {"x-api-key": "x"}}, 401, "authentication_error"),
            ("GET", {"headers": key}, 405, "invalid_request_error"),
            ("POST", {"body": [b"{"], "headers": key}, 400, "invalid_request_error"),
            ("POST", {"body": [b"x" * 5000], "headers": key}, 413, "request_too_large"),
            (
                "POST",
                {"body": [b"{}"], "headers": key | {"content-type": "text/plain"}},
                415,
                "invalid_request_error",
            ),
            (
                "POST",
                {"json": ASK, "headers": key | {"host": "elsewhere.example"}},
                403,
                "permission_error",
            ),
            (
                "POST",
                {"json": ASK, "headers": key | {"anthropic-version": "2023-01-01"}},
                400,
                "invalid_request_error",
            ),
        ]
        for method, options, status, kind in cases:
            response = await client.request(method, MESSAGES, **options)
            assert (response.status, error_of(response.body)["type"]) == (status, kind), options
            assert response.headers["request-id"]
            # Otherwise Claude Code goes on with a wrong key for minutes.
            assert (response.headers.get("x-should-retry") == "false") == (status == 401)
        gateway.script = saying("Hello")
        versions = [{"anthropic-version": each} for each in ("2023-06-01", "2026-10-21")]
        for headers in (key, bearer, *(key | version for version in versions)):
            assert (await ask(client, headers)).status == 200


async def test_the_dialect_is_that_of_the_path_or_of_the_header(client: Client) -> None:
    version = {"anthropic-version": "2023-06-01"}
    for path, headers, is_theirs in (
        ("/v1/messages/nothing", {}, True),
        ("/v1/nothing", {}, False),
        ("/v1/nothing", version, True),
        ("/v1/messagesmore", {}, False),
        ("/v1/chat/nothing", version, False),
    ):
        response = await client.request("GET", path, headers=headers)
        assert response.status == 404
        assert ("type" in response.json()) == is_theirs, path
        if is_theirs:
            assert error_of(response.body)["type"] == "not_found_error"


# -- counting --------------------------------------------------------------------------------------

COUNT = f"{MESSAGES}/count_tokens"


async def test_tokens_are_counted(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    async def count(_: Any, setup: Any, messages: Any) -> int:
        seen.append((setup, messages))
        return 42

    monkeypatch.setattr(GatewayDouble, "count_tokens", count)
    body = {"model": "sonnet", "system": "Be brief.", "messages": [HI], "tools": [ADD]}
    response = await client.request("POST", COUNT, json=body)
    assert (response.status, response.json()) == (200, {"input_tokens": 42})
    [(setup, messages)] = seen
    assert (setup.system, [tool.name for tool in setup.tools]) == ("Be brief.", ["add"])
    assert [message.text for message in messages] == ["Hi"]
    wrong = await client.request("POST", COUNT, json={"messages": [HI]})
    assert error_of(wrong.body)["message"] == "model is required."


# -- models ----------------------------------------------------------------------------------------

VERSION = {"anthropic-version": "2026-10-21"}


async def test_models_in_this_dialect() -> None:
    available = ("opus", "sonnet", "haiku", "elsewhere/model")
    settings = Settings(models=ModelSettings(available=available, agents=False))
    async with open_gateway_double(settings) as gateway:
        client = Client(app_of(gateway))

        async def page(query: str = "") -> JSON:
            response = await client.request("GET", f"/v1/models{query}", headers=VERSION)
            assert response.status == 200
            found: JSON = response.json()
            for each in found["data"]:
                check_model(each)
            return found

        whole = await page()
        assert [model["id"] for model in whole["data"]] == [*available]
        assert (whole["has_more"], whole["first_id"], whole["last_id"]) == (
            False, "opus", "elsewhere/model",
        )  # fmt: skip
        assert whole["data"][0]["display_name"] == "Claude Opus"
        assert whole["data"][3]["capabilities"] is None
        offered = whole["data"][0]["capabilities"]
        assert (offered["batch"], offered["server_tools"]["web_search"]) == (
            {"supported": True}, {"supported": True},
        )  # fmt: skip
        first = await page("?limit=2")
        assert ([model["id"] for model in first["data"]], first["has_more"]) == (
            ["opus", "sonnet"], True,
        )  # fmt: skip
        rest = await page(f"?limit=2&after_id={first['last_id']}")
        assert (rest["first_id"], rest["has_more"]) == ("haiku", False)
        before = await page("?limit=1&before_id=haiku")
        assert (before["first_id"], before["has_more"]) == ("sonnet", True)
        one = await client.request("GET", "/v1/models/haiku", headers=VERSION)
        assert one.json() == whole["data"][2]
        for query, status in (
            ("?limit=0", 400), ("?limit=1001", 400), ("?after_id=none", 400),
            ("?after_id=opus&before_id=haiku", 400), ("/none", 404),
        ):  # fmt: skip
            wrong = await client.request("GET", f"/v1/models{query}", headers=VERSION)
            assert wrong.status == status
            error_of(wrong.body)
        old = await client.request("GET", "/v1/models", headers={"anthropic-version": "2020-01-01"})
        assert "anthropic-version" in error_of(old.body)["message"]
        plain = await client.request("GET", "/v1/models?limit=0")
        assert plain.json()["object"] == "list"
