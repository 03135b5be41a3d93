"""Responses over a WebSocket, without a socket: messages in, messages out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing
from attrs import define, field
from trio.testing import wait_all_tasks_blocked

from ccapi.actors.gateway import Gateway
from ccapi.actors.keys.registry import LOCAL
from ccapi.actors.websocket.responses import (
    MAX_LANES,
    MAX_STEERS,
    MAX_WAITING,
    converse_over,
)
from ccapi.schemas.errors import ChildDied, RateLimited
from ccapi.schemas.turn_items import ActivityStarted, ToolCallDelta, ToolCallStarted

from ...support.chat import never
from ...support.gateway_double import (
    Asked,
    GatewayDouble,
    failing,
    in_two_parts,
    open_gateway_double,
    saying,
)
from ...support.responses import (
    TERMINAL,
    Event,
    deltas,
    kinds,
    output,
    server_event,
    text_of,
    tool,
    whole_stream,
)

PATIENCE = 5.0
BACKGROUND = {"type": "response.create", "input": "x", "background": True}


class Closed(Exception):
    """What a socket raises that is closed."""


@define(eq=False)
class Talk:
    """The client's side of one connection."""

    gateway: GatewayDouble
    says: trio.MemorySendChannel[str]
    hears: trio.MemoryReceiveChannel[bytes]
    received: list[Event] = field(factory=list)

    async def say(self, message: Any) -> None:
        await self.says.send(message if isinstance(message, str) else json.dumps(message))

    async def create(self, **fields: Any) -> None:
        await self.say({"type": "response.create", "model": "sonnet", "input": "Hi"} | fields)

    async def receive(self) -> Event:
        with trio.fail_after(PATIENCE):
            event = server_event(await self.hears.receive())
        self.received.append(event)
        return event

    async def until(self, *kinds: str) -> list[Event]:
        """What has come up to the first event of one of these types."""
        found = [await self.receive()]
        while found[-1]["type"] not in kinds:
            found.append(await self.receive())
        return found

    async def response(self) -> Event:
        """One whole response."""
        return whole_stream(await self.until(*TERMINAL))

    async def ask(self, **fields: Any) -> Event:
        await self.create(**fields)
        return await self.response()

    async def refused(self, message: Any) -> Event:
        await self.say(message)
        event = await self.receive()
        assert event["type"] == "error", event
        return event


@asynccontextmanager
async def open_talk(gateway: GatewayDouble) -> AsyncIterator[Talk]:
    """A connection while the block runs; then the client closes it."""
    says, listens = trio.open_memory_channel[str](0)
    tells, hears = trio.open_memory_channel[bytes](0)

    async def receive() -> bytes:
        try:
            return (await listens.receive()).encode()
        except trio.EndOfChannel:
            raise Closed from None

    async def serve() -> None:
        try:
            await converse_over(cast(Gateway, gateway), LOCAL, receive, tells.send)
        except* Closed:
            over.set()

    over = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield Talk(gateway, says, hears)
        says.close()
        with trio.fail_after(PATIENCE):
            await over.wait()


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayDouble]:
    async with open_gateway_double() as double:
        yield double


@pytest.fixture
async def talk(gateway: GatewayDouble) -> AsyncIterator[Talk]:
    async with open_talk(gateway) as opened:
        yield opened


# -- responses -------------------------------------------------------------------------------------


async def test_a_response(talk: Talk) -> None:
    talk.gateway.script = saying("Hel", "lo")
    response = await talk.ask()
    assert text_of(response) == "Hello"
    assert deltas(talk.received) == ["Hel", "lo"]
    assert "stream_id" not in talk.received[0]


async def test_the_fields_may_stand_under_response_too(talk: Talk) -> None:
    fields = {"model": "haiku", "input": "Hi"}
    await talk.say({"type": "response.create", "response": fields, "stream_id": "a"})
    assert (await talk.response())["model"] == "haiku"
    assert talk.received[0]["stream_id"] == "a"


async def test_a_response_begins_before_the_model_does(talk: Talk) -> None:
    async def silent(asked: Asked) -> None:
        await trio.sleep_forever()

    talk.gateway.script = silent
    await talk.create()
    assert kinds([await talk.receive(), await talk.receive()]) == ["created", "in_progress"]


async def test_responses_of_one_lane_come_one_after_the_other(talk: Talk) -> None:
    go_on = trio.Event()

    talk.gateway.script = in_two_parts([], go_on, ["x"])
    await talk.create(input="1")
    await talk.create(input="2", store=False)
    await talk.receive()
    assert len(talk.gateway.asked) == 1
    go_on.set()
    await talk.until(*TERMINAL)
    await talk.response()
    assert [asked.messages[0].text for asked in talk.gateway.asked] == ["1", "2"]


async def test_lanes_run_at_once_and_each_event_says_whose_it_is(talk: Talk) -> None:
    talk.gateway.script = never
    for lane in ("a", "b", None):
        fields = {} if lane is None else {"stream_id": lane}
        await talk.create(input=str(lane), **fields)
    delta = "response.output_text.delta"
    begun = [(await talk.until(delta))[-1] for _ in range(3)]
    assert {event.get("stream_id") for event in begun} == {"a", "b", None}
    for lane in ("a", "b"):
        await talk.say({"type": "response.cancel", "stream_id": lane})
        ended = (await talk.until(*TERMINAL))[-1]
        assert (ended["stream_id"], ended["response"]["status"]) == (lane, "cancelled")


async def test_a_lane_goes_on_behind_its_response(talk: Talk) -> None:
    first = await talk.ask(input="1")
    second = await talk.ask(input="2", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    assert len(talk.gateway.made) == 1
    assert [message.text for message in talk.gateway.asked[1].messages] == ["2"]


async def test_what_is_not_stored_goes_on_on_its_own_connection_alone(talk: Talk) -> None:
    first = await talk.ask(store=False)
    assert len(talk.gateway.responses) == 0
    second = await talk.ask(store=False, previous_response_id=first["id"])
    assert second["status"] == "completed"
    async with open_talk(talk.gateway) as other:
        await other.create(previous_response_id=first["id"])
        refused = await other.receive()
    assert refused["error"]["code"] == "previous_response_not_found"
    assert refused["status"] == 400


async def test_tools_make_their_round(talk: Talk) -> None:
    async def calls(asked: Asked) -> None:
        await asked.port.deliver(ToolCallStarted(0, "c1", "f"))
        await asked.port.deliver(ToolCallDelta(0, "{}"))
        asked.end("tool_calls")

    talk.gateway.script = calls
    first = await talk.ask(tools=[tool("f")])
    [call] = first["output"]
    talk.gateway.script = saying("Done")
    given = [output(call["call_id"], "x")]
    second = await talk.ask(tools=[tool("f")], input=given, previous_response_id=first["id"])
    assert text_of(second) == "Done"


async def test_a_failed_turn_is_the_end_of_its_response_alone(talk: Talk) -> None:
    talk.gateway.script = failing(ChildDied("gone"), "Hel")
    assert (await talk.ask())["status"] == "failed"
    talk.gateway.script = saying("x")
    assert (await talk.ask())["status"] == "completed"


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ("{", "invalid_json", None),
        ("[]", "invalid_type", None),
        ({}, "missing_field", "type"),
        ({"type": "response.sing"}, "invalid_value", "type"),
        ({"type": "response.create", "stream_id": ""}, "invalid_value", "stream_id"),
        ({"type": "response.create", "stream_id": 3}, "invalid_value", "stream_id"),
        ({"type": "response.create"}, "missing_field", "input"),
        ({"type": "response.create", "input": 3}, "invalid_type", "input"),
        (BACKGROUND, "invalid_value", "background"),
        ({"type": "response.create", "input": "x", "model": "gpt-5"}, "model_not_found", "model"),
        ({"type": "response.cancel"}, "response_not_found", None),
        ({"type": "response.cancel", "response_id": "r"}, "response_not_found", "response_id"),
        ({"type": "response.cancel", "response_id": 3}, "invalid_type", "response_id"),
        ({"type": "response.steer", "input": "x"}, "missing_field", "previous_response_id"),
    ],
)  # fmt: skip
async def test_a_wrong_message_is_an_error_event_and_the_connection_goes_on(
    talk: Talk, message: Any, code: str, param: str | None
) -> None:
    refused = await talk.refused(message)
    assert (refused["error"]["code"], refused["error"]["param"]) == (code, param)
    assert refused["status"] in (400, 404)
    assert (await talk.ask())["status"] == "completed"


async def test_an_error_says_whose_lane_it_is_and_when_to_come_again(talk: Talk) -> None:
    talk.gateway.draining = True
    await talk.create(stream_id="a")
    refused = await talk.receive()
    assert (refused["stream_id"], refused["status"]) == ("a", 503)
    assert refused["error"]["headers"]["retry-after"] == "5"


async def test_there_is_a_bound_on_lanes_and_on_what_waits(talk: Talk) -> None:
    talk.gateway.script = never
    for lane in range(MAX_LANES):
        # Each asks something else: who asks the same waits for the same answer.
        await talk.create(stream_id=str(lane), input=str(lane))
        await talk.until("response.output_text.delta")
    refused = await talk.refused({"type": "response.create", "input": "x", "stream_id": "more"})
    assert (refused["status"], refused["stream_id"]) == (429, "more")
    for _ in range(MAX_WAITING):
        await talk.create(stream_id="0")
    refused = await talk.refused({"type": "response.create", "input": "x", "stream_id": "1"})
    assert refused["status"] == 429


async def test_a_client_that_goes_away_interrupts_what_runs(gateway: GatewayDouble) -> None:
    gateway.script = never
    async with open_talk(gateway) as talk:
        await talk.create()
        created = await talk.receive()
        await talk.until("response.output_text.delta")
    assert gateway.asked[0].port.over.is_set()
    record = gateway.responses.find(created["response"]["id"], LOCAL, 0)
    assert record.ending is not None
    assert record.ending.status == "cancelled"


# -- warm-up ---------------------------------------------------------------------------------------


async def test_a_warm_up_generates_nothing_and_is_gone_on_with(talk: Talk) -> None:
    await talk.create(
        generate=False, input=None, instructions="Be brief.", tools=[tool("f")], model="haiku"
    )
    warm = await talk.response()
    assert kinds(talk.received) == ["created", "in_progress", "completed"]
    assert (warm["output"], warm["usage"]["total_tokens"]) == ([], 0)
    [conversation] = talk.gateway.made
    assert (conversation.warmed, conversation.system) == (1, "Be brief.")
    assert talk.gateway.asked == []
    response = await talk.ask(previous_response_id=warm["id"], model=None)
    assert (response["model"], len(talk.gateway.made)) == ("haiku", 1)
    [asked] = talk.gateway.asked
    assert [message.text for message in asked.messages] == ["Hi"]
    assert asked.system == "Be brief."
    assert asked.tools is not None
    assert [each.name for each in asked.tools] == ["f"]


async def test_what_a_warm_up_brings_is_sent_to_the_model_later(talk: Talk) -> None:
    await talk.create(generate=False, input="Remember this.")
    warm = await talk.response()
    await talk.ask(previous_response_id=warm["id"])
    [asked] = talk.gateway.asked
    assert [message.text for message in asked.messages] == ["Remember this.", "Hi"]
    # The same from another connection, and where the conversation is gone.
    talk.gateway.made[0].is_free = False
    async with open_talk(talk.gateway) as other:
        await other.ask(previous_response_id=warm["id"])
    assert [m.text for m in talk.gateway.asked[1].messages] == ["Remember this.", "Hi"]


async def test_a_warm_up_behind_a_response_warms_its_conversation(talk: Talk) -> None:
    first = await talk.ask()
    warm = await talk.ask(generate=False, input=None, previous_response_id=first["id"])
    assert talk.gateway.made[0].warmed == 1
    await talk.ask(input="More", previous_response_id=warm["id"])
    assert len(talk.gateway.made) == 1
    assert [message.text for message in talk.gateway.asked[1].messages] == ["More"]


async def test_a_warm_up_behind_a_response_may_say_something(talk: Talk) -> None:
    first = await talk.ask()
    warm = await talk.ask(generate=False, input="More", previous_response_id=first["id"])
    await talk.ask(input="And more", previous_response_id=warm["id"])
    texts = [message.text for message in talk.gateway.asked[1].messages]
    assert texts == ["Hi", "", "More", "And more"]  # of which the conversation sees what is new


# -- cancelled -------------------------------------------------------------------------------------


async def test_a_response_is_cancelled_by_its_id(talk: Talk) -> None:
    talk.gateway.script = never
    await talk.create(stream_id="a")
    begun = await talk.until("response.output_text.delta")
    response_id = begun[0]["response"]["id"]
    await talk.say({"type": "response.cancel", "response_id": response_id})
    ended = await talk.until(*TERMINAL)
    assert whole_stream([*begun, *ended])["status"] == "cancelled"
    await talk.gateway.asked[0].port.over.wait()
    talk.gateway.script = saying("x")
    assert (await talk.ask(stream_id="a"))["status"] == "completed"


async def test_no_message_is_cut_where_a_response_is_cancelled(talk: Talk) -> None:
    """A socket that was left in the middle of a message is no WebSocket any more."""

    async def endless(asked: Asked) -> None:
        while True:
            await asked.say("x")

    talk.gateway.script = endless
    await talk.create(stream_id="a")
    begun = await talk.until("response.output_text.delta")
    await wait_all_tasks_blocked()  # the next one is on its way
    await talk.say({"type": "response.cancel", "stream_id": "a"})
    await wait_all_tasks_blocked()
    ended = await talk.until(*TERMINAL)
    assert whole_stream([*begun, *ended])["status"] == "cancelled"


# -- steered ---------------------------------------------------------------------------------------


def steer(response_id: str, given: Any) -> dict[str, Any]:
    return {"type": "response.steer", "previous_response_id": response_id, "input": given}


async def test_a_response_is_steered(talk: Talk) -> None:
    talk.gateway.script = never
    await talk.create(input="Count", instructions="Be brief.", stream_id="a", metadata={"m": "1"})
    begun = await talk.until("response.output_text.delta")
    first_id = begun[0]["response"]["id"]
    talk.gateway.script = saying("Two")
    await talk.say(steer(first_id, "By two"))
    accepted = await talk.receive()
    assert accepted["type"] == "response.steer.accepted"
    assert accepted["steer"]["previous_response_id"] == first_id
    assert accepted["steer"]["id"].startswith("steer_")
    ended = await talk.until(*TERMINAL)
    first = whole_stream([*begun, *ended])
    assert (first["status"], first["incomplete_details"]["reason"]) == ("incomplete", "steered")
    second = await talk.response()
    assert text_of(second) == "Two"
    assert second["previous_response_id"] == first_id
    assert (second["metadata"], second["instructions"]) == ({"m": "1"}, "Be brief.")
    assert {event["stream_id"] for event in talk.received} == {"a"}
    one, other = talk.gateway.asked
    assert one.port.over.is_set()
    assert [message.text for message in other.messages] == ["Count", "a", "By two"]
    assert other.conversation is one.conversation
    assert (other.system, other.options) == ("Be brief.", one.options)
    # What comes next goes on behind the second.
    third = await talk.ask(previous_response_id=second["id"], input="More")
    assert third["status"] == "completed"


async def test_several_say_something_into_the_same_response(talk: Talk) -> None:
    talk.gateway.script = never
    await talk.create()
    begun = await talk.until("response.output_text.delta")
    talk.gateway.script = saying("x")
    response_id = begun[0]["response"]["id"]
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "2"}]}
    await talk.say(steer(response_id, "1"))
    await talk.receive()
    await talk.say(steer(response_id, [item]))
    assert "steer.accepted" in kinds(await talk.until(*TERMINAL))
    await talk.response()
    assert [m.text for m in talk.gateway.asked[1].messages] == ["Hi", "a", "1", "2"]


@pytest.mark.parametrize(
    "given",
    [
        "",
        [],
        None,
        3,
        [{"role": "assistant", "content": "x"}],
        [{"type": "function_call_output", "call_id": "c", "output": "x"}],
    ],
)
async def test_only_what_a_user_says_can_steer(talk: Talk, given: Any) -> None:
    talk.gateway.script = never
    await talk.create()
    begun = await talk.until("response.output_text.delta")
    await talk.say(steer(begun[0]["response"]["id"], given))
    failed = json.loads(await talk.hears.receive())
    assert failed["type"] == "response.steer.failed"
    assert failed["error"]["code"] == "invalid_input"
    assert failed["steer"]["input"] == given
    assert not talk.gateway.asked[0].port.over.is_set()


async def test_what_has_ended_or_never_was_cannot_be_steered(talk: Talk) -> None:
    ended = await talk.ask()
    for response_id, code in (
        (ended["id"], "response_already_completed"),
        ("resp_x", "response_not_found"),
    ):
        await talk.say(steer(response_id, "x"))
        failed = await talk.receive()
        assert (failed["type"], failed["error"]["code"]) == ("response.steer.failed", code)
        assert "id" not in failed["steer"]


async def test_steering_that_cannot_be_followed_is_given_back(talk: Talk) -> None:
    talk.gateway.script = never
    await talk.create()
    begun = await talk.until("response.output_text.delta")
    part = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    item = {"type": "message", "role": "user", "content": [part]}
    await talk.say(steer(begun[0]["response"]["id"], [item]))
    accepted = await talk.receive()
    found = await talk.until("response.steer.failed")
    assert kinds(found)[-2] == "incomplete"
    failed = found[-1]
    assert failed["error"]["code"] == "successor_creation_failed"
    assert failed["steer"]["id"] == accepted["steer"]["id"]
    assert failed["steer"]["input"] == [item]


async def test_there_is_a_bound_on_steering(talk: Talk) -> None:
    async def busily(asked: Asked) -> None:
        for number in range(MAX_STEERS):  # so that its end takes long to tell
            await asked.port.deliver(ActivityStarted(str(number), "Bash"))
        await asked.say("a")
        await trio.sleep_forever()

    talk.gateway.script = busily
    await talk.create()
    begun = await talk.until("response.output_text.delta")
    response_id = begun[0]["response"]["id"]
    accepted, failed = "response.steer.accepted", "response.steer.failed"
    for _ in range(MAX_STEERS):
        await talk.say(steer(response_id, "x"))
        assert (await talk.until(accepted, failed))[-1]["type"] == accepted
    await talk.say(steer(response_id, "x"))
    last = (await talk.until(accepted, failed))[-1]
    assert last["error"]["code"] == "too_many_pending_steers"


async def test_a_rate_limit_of_the_turn_ends_the_response(talk: Talk) -> None:
    talk.gateway.script = failing(RateLimited("Too much."))
    response = await talk.ask()
    assert response["error"]["code"] == "rate_limit_exceeded"


# -- what could not be gone on with ----------------------------------------------------------------


@pytest.mark.parametrize("store", [False, True])
async def test_what_failed_to_go_on_is_forgotten_unless_it_is_stored(store: bool) -> None:
    async with open_gateway_double() as gateway, open_talk(gateway) as talk:
        gateway.script = saying("OK.")
        kept = (await talk.ask(store=store))["id"]
        behind = {"type": "response.create", "previous_response_id": kept, "store": False}
        failed = await talk.refused({**behind, "input": [output("call_x", "nothing")]})
        assert failed["error"]["code"] == "unknown_tool_call_id"
        if store:
            await talk.ask(previous_response_id=kept)
            return
        gone = await talk.refused({**behind, "input": "Go on"})
        assert gone["error"]["code"] == "previous_response_not_found"


async def test_what_failed_while_it_went_on_is_forgotten() -> None:
    async with open_gateway_double() as gateway, open_talk(gateway) as talk:
        gateway.script = saying("OK.")
        kept = (await talk.ask(store=False))["id"]
        gateway.script = failing(ChildDied("It died."), "Ha")
        failed = await talk.ask(store=False, previous_response_id=kept)
        assert failed["status"] == "failed"
        await talk.create(store=False, previous_response_id=kept)
        assert (await talk.receive())["error"]["code"] == "previous_response_not_found"


# -- what stood in the input stays -----------------------------------------------------------------


async def test_a_warm_up_needs_no_question(talk: Talk) -> None:
    """As Codex begins: the developer's word and the tools first, the user's behind them."""
    brought = {"type": "additional_tools", "role": "developer", "tools": [tool("f")]}
    rules = {"type": "message", "role": "developer", "content": "Be brief."}
    await talk.create(generate=False, input=[brought, rules], store=False)
    warm = await talk.response()
    more = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    first = await talk.ask(input=more, previous_response_id=warm["id"], store=False)
    await talk.ask(input="On", previous_response_id=first["id"], store=False, tools=[tool("g")])
    one, two = talk.gateway.asked
    assert one.system == two.system == "Be brief.\n\nBe kind."
    assert one.tools is not None
    assert two.tools is not None
    assert [each.name for each in one.tools] == ["f"]
    assert [each.name for each in two.tools] == ["g", "f"]


async def test_instructions_are_one_requests_own(talk: Talk) -> None:
    given = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    first = await talk.ask(input=given, instructions="Rhyme.")
    await talk.ask(previous_response_id=first["id"])
    await talk.ask(previous_response_id=first["id"], instructions="Sing.")
    systems = [asked.system or talk.gateway.made[0].system for asked in talk.gateway.asked]
    assert systems == ["Rhyme.\n\nBe brief.", "Be brief.", "Sing.\n\nBe brief."]
