"""The legacy completions route: it goes the way of chat completions, and words its answers in its
own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion

from ccapi.schemas.errors import ChildDied
from ccapi.schemas.settings.settings import ClaudeSettings, Settings
from ccapi.schemas.turn_items import ReasoningDelta, Refused

from ...support.asgi import Client, Response
from ...support.chat import HI, NO_STORE, ask, events, open_front
from ...support.embedded import script
from ...support.gateway_double import (
    Asked,
    GatewayDouble,
    app_of,
    failing,
    open_gateway_double,
    saying,
)

COMPLETIONS = "/v1/completions"


async def complete(
    client: Client, headers: dict[str, str] | None = None, /, **fields: Any
) -> Response:
    fields = {"model": "sonnet", "prompt": "Hi"} | fields
    return await client.request("POST", COMPLETIONS, json=fields, headers=headers)


def completion(response: Response) -> Completion:
    assert response.status == 200, response.body
    return Completion.model_validate_json(response.body, strict=True)


def chunks(response: Response) -> list[Completion]:
    """The chunks of a stream that ended well."""
    assert response.status == 200
    *parsed, done = events(response.body)
    assert done == "[DONE]"
    for choice in (choice for each in parsed for choice in each["choices"]):
        # The SDK's type is that of a whole answer, and knows nothing of chunks before the last.
        choice["finish_reason"] = choice["finish_reason"] or "stop"
    return [Completion.model_validate_json(json.dumps(each), strict=True) for each in parsed]


async def echo(asked: Asked) -> None:
    """A turn that says what it was asked."""
    await asked.say(*(message.text.upper() for message in asked.messages))
    asked.end()


# -- whole ---------------------------------------------------------------------------------------


async def test_a_whole_answer(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = saying("Hel", "lo", finish_reason="length")
    response = await complete(client)
    answer = completion(response)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    [choice] = answer.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, "Hello", "length")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 15
    [asked] = gateway.asked
    assert [message.text for message in asked.messages] == ["Hi"]
    assert asked.conversation.system == ""
    assert response.headers["x-conversation-id"] == asked.conversation.conversation_id
    assert response.json()["conversation_id"] == asked.conversation.conversation_id


async def test_prompts_and_n_are_choices_in_order(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = echo
    response = await complete(client, prompt=["a", "b"], n=2, echo=True)
    answer = completion(response)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == ["aA", "aA", "bB", "bB"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert "conversation_id" not in response.json()


async def test_parameters_are_those_of_a_chat(client: Client, gateway: GatewayDouble) -> None:
    fields = {"temperature": 0.5, "max_tokens": 16, "stop": ["x"], "user": "ada", "seed": 1}
    response = await complete(client, model="claude-haiku-4-5", **fields)
    assert response.headers["x-ccapi-ignored"] == "seed"
    options = gateway.asked[0].options
    assert (options.temperature, options.max_tokens, options.stop) == (0.5, 16, ("x",))
    assert options.user == "ada"
    assert options.whole


async def test_an_identical_request_is_answered_from_the_cache_whichever_route_it_took(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = gateway.remembered("Hello")
    for outcome in ("miss", "hit"):
        response = await complete(client)
        assert response.headers["x-ccapi-cache"] == outcome
        assert completion(response).choices[0].text == "Hello"
    assert (await ask(client, messages=[HI])).headers["x-ccapi-cache"] == "hit"
    assert chunks(await complete(client, stream=True))[1].choices[0].text == "Hello"
    assert "x-ccapi-cache" not in (await complete(client, NO_STORE)).headers


async def test_a_conversation_can_be_named_in_the_header(
    client: Client, gateway: GatewayDouble
) -> None:
    held = gateway.conversation()
    named = {"x-conversation-id": held.conversation_id}
    assert completion(await complete(client, named)).choices
    assert gateway.asked[0].conversation is held
    refused = await complete(client, named, prompt=["a", "b"])
    assert (refused.status, refused.error["param"]) == (400, "n")
    missing = await complete(client, {"x-conversation-id": "conv_x"})
    assert (missing.status, missing.error["code"]) == (404, "conversation_not_found")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["a", " "]}, "prompt[1]"),
        ({"suffix": "x"}, "suffix"),
        ({"logprobs": 2}, "logprobs"),
        ({"best_of": 3}, "best_of"),
        ({"temperature": 3}, "temperature"),
    ],
    ids=str,
)
async def test_what_cannot_be_asked_is_a_400(
    client: Client, gateway: GatewayDouble, fields: dict[str, Any], param: str
) -> None:
    refused = await complete(client, **fields)
    assert (refused.status, refused.error["param"]) == (400, param)
    assert gateway.asked == []


async def test_more_prompts_than_there_may_be_children_are_refused() -> None:
    small = Settings(claude=ClaudeSettings(max_concurrent_sessions=2, prewarm=0))
    async with open_gateway_double(small) as gateway:
        client = Client(app_of(gateway))
        for fields, param in (
            ({"prompt": ["a", "b", "c"]}, "prompt"),
            ({"prompt": ["a", "b"], "n": 2}, "n"),
        ):
            refused = await complete(client, **fields)
            assert (refused.status, refused.error["param"]) == (400, param)
            assert refused.error["code"] == "unsupported_parameter"
        assert gateway.made == []


async def test_a_failed_turn_is_its_own_status(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = failing(ChildDied("It died."), "Half")
    response = await complete(client)
    assert (response.status, response.error["code"]) == (502, "child_died")


# -- a stream --------------------------------------------------------------------------------------


async def test_a_stream(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = saying("Hel", "lo", finish_reason="length")
    response = await complete(client, stream=True, echo=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    said = chunks(response)
    assert [chunk.choices[0].text for chunk in said] == ["Hi", "Hel", "lo", ""]
    reasons = [event["choices"][0]["finish_reason"] for event in events(response.body)[:-1]]
    assert reasons == [None, None, None, "length"]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in said}) == 1
    assert response.headers["x-conversation-id"] == gateway.made[0].conversation_id


async def test_usage_in_a_stream_of_two(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = echo
    fields: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    *said, bill = chunks(await complete(client, prompt=["a", "b"], **fields))
    assert bill.choices == []
    assert bill.usage is not None
    assert bill.usage.completion_tokens == 6
    texts = ["", ""]
    for chunk in said:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == ["A", "B"]


async def test_a_failure_in_a_stream_is_an_event_without_an_end_mark(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = failing(ChildDied("It died."), "Half")
    response = await complete(client, stream=True)
    assert response.status == 200
    assert events(response.body)[-1] == {"error": ChildDied("It died.").body()["error"]}


async def test_what_is_no_text_has_no_place_in_it(client: Client, gateway: GatewayDouble) -> None:
    async def play(asked: Asked) -> None:
        await asked.port.deliver(ReasoningDelta("Hm."))
        await asked.port.deliver(Refused("I will not."))
        asked.end("content_filter")

    gateway.script = play
    for response in (await complete(client), await complete(client, stream=True)):
        assert "Hm." not in response.body.decode()
        assert "I will not." in response.body.decode()
        assert "content_filter" in response.body.decode()


# -- over real children ----------------------------------------------------------------------------


async def test_over_real_children(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, _):
        prompts = ["repeat: one", script(answer="two END three")]
        answer = completion(await complete(client, prompt=prompts, stop="END"))
        assert [choice.text for choice in answer.choices] == ["one", "two "]
        assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]
