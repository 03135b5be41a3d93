"""The Responses routes, driven in process, over turns that the tests play themselves."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing
from openai.types.responses import ResponseItemList

from ccapi.schemas.errors import ChildDied, RateLimited
from ccapi.schemas.settings.settings import (
    AuthSettings,
    ConversationSettings,
    ModelSettings,
    ServerSettings,
    Settings,
)
from ccapi.schemas.turn_items import ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStarted

from ...support.asgi import Client, Streamed
from ...support.chat import CHAT, HI, NO_STORE, never
from ...support.gateway_double import (
    Asked,
    GatewayDouble,
    app_of,
    failing,
    in_two_parts,
    open_gateway_double,
    saying,
)
from ...support.responses import (
    ASK,
    RESPONSES,
    STREAM,
    ask,
    deltas,
    events,
    get,
    kinds,
    output,
    read,
    text_of,
    tool,
    user,
    whole_stream,
)

BEHIND = {"previous_response_id": "resp_x"}
SEE = {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}


async def stream(client: Client, **fields: Any) -> list[dict[str, Any]]:
    response = await ask(client, NO_STORE, stream=True, **fields)
    assert response.status == 200, response.body
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.whole
    return events(response.body)


# -- whole -----------------------------------------------------------------------------------------


async def test_a_whole_response(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = saying("Hel", "lo")
    answered = await ask(client, instructions="Be brief.", metadata={"a": "b"})
    response = read(answered)
    assert (response.output_text, response.status) == ("Hello", "completed")
    assert response.usage is not None
    assert response.usage.total_tokens == 15
    assert (response.instructions, response.metadata) == ("Be brief.", {"a": "b"})
    assert response.conversation is None
    [conversation] = gateway.made
    assert answered.json()["conversation_id"] == conversation.conversation_id
    assert answered.headers["x-conversation-id"] == conversation.conversation_id
    assert (conversation.system, gateway.asked[0].options.whole) == ("Be brief.", True)


async def test_a_response_calls_tools(client: Client, gateway: GatewayDouble) -> None:
    async def calls(asked: Asked) -> None:
        await asked.port.deliver(ReasoningDelta("Hm."))
        await asked.port.deliver(ToolCallStarted(0, "c1", "f"))
        await asked.port.deliver(ToolCallDelta(0, '{"a":1}'))
        asked.end("tool_calls")

    gateway.script = calls
    response = read(await ask(client, tools=[tool("f")], reasoning={"summary": "auto"}))
    assert response.status == "completed"
    thought, call = response.output
    assert thought.type == "reasoning"
    assert call.type == "function_call"
    assert call.call_id == "c1"
    [asked] = gateway.asked
    assert asked.tools is not None
    assert asked.options.reasoning
    # The output goes on in the same conversation, whose model is offered no other tools.
    gateway.script = saying("Done")
    more = await ask(client, previous_response_id=response.id, input=[output("c1", "x")])
    assert read(more).output_text == "Done"
    assert len(gateway.made) == 1
    assert gateway.asked[1].tools is None
    assert gateway.asked[1].messages[0].results[0].call_id == "c1"


async def test_calls_that_were_made_must_be_answered(
    client: Client, gateway: GatewayDouble
) -> None:
    async def calls(asked: Asked) -> None:
        await asked.port.deliver(ToolCallStarted(0, "c1", "f"))
        await asked.port.deliver(ToolCallDelta(0, "{}"))
        asked.end("tool_calls")

    gateway.script = calls
    first = read(await ask(client, tools=[tool("f")]))
    for given, code in (
        ("Never mind", "missing_tool_results"),
        ([output("c2", "x")], "missing_tool_results"),
        ([output("c1", "x"), output("c2", "x")], "unknown_tool_call_id"),
    ):
        refused = await ask(client, previous_response_id=first.id, input=given)
        assert (refused.status, refused.error["code"]) == (400, code)
        assert refused.error["param"] == "input"
    assert len(gateway.asked) == 1


async def test_ignored_parameters_are_named(client: Client) -> None:
    haiku = {"model": "claude-haiku-4-5", "temperature": 1, "top_p": 0.5}
    answered = await ask(client, truncation="auto", **haiku)
    assert answered.headers["x-ccapi-ignored"] == "top_p, truncation"
    effort = await ask(client, model="opus", reasoning={"effort": "none"}, temperature=1)
    assert effort.headers["x-ccapi-ignored"] == "temperature, reasoning.effort"


async def test_a_response_that_failed_is_a_real_status(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = failing(RateLimited("Too much.", retry_after=3), "Hel")
    failed = await ask(client)
    assert (failed.status, failed.error["type"]) == (429, "rate_limit_error")
    assert failed.headers["retry-after"] == "3"
    assert len(gateway.responses) == 0
    assert gateway.abandoned == [gateway.made[0].conversation_id]


async def test_an_answer_that_was_cut_short(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = saying("Hel", finish_reason="length")
    response = read(await ask(client))
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"input": None}, 400, "missing_field", "input"),
        ({"tools": [{"type": "functoin"}]}, 400, "unsupported_parameter", "tools[0].type"),
        ({"model": "gpt-5"}, 404, "model_not_found", "model"),
        ({"conversation": "conv_x"}, 404, "conversation_not_found", "conversation_id"),
        (BEHIND, 400, "previous_response_not_found", "previous_response_id"),
        ({"input": [SEE]}, 400, "invalid_image_url", "input[0].content[0].image_url"),
    ],
)  # fmt: skip
async def test_what_is_refused(
    client: Client, gateway: GatewayDouble, fields: Any, status: int, code: str, param: str
) -> None:
    refused = await ask(client, **fields)
    assert (refused.status, refused.error["code"]) == (status, code)
    assert refused.error["param"] == param
    assert gateway.asked == []


async def test_images_reach_the_model_and_are_listed(
    client: Client, gateway: GatewayDouble
) -> None:
    url = "data:text/plain;base64,QQ=="
    content = [{"type": "input_file", "file_data": url}, {"type": "input_text", "text": "?"}]
    response = read(await ask(client, input=[{"role": "user", "content": content}]))
    [asked] = gateway.asked
    assert len(asked.messages[0].content) == 2
    listed = (await get(client, response.id, "/input_items")).json()
    assert listed["data"][0]["content"][0]["file_data"] == url


async def test_a_gateway_that_drains_takes_no_more(client: Client, gateway: GatewayDouble) -> None:
    gateway.draining = True
    refused = await ask(client)
    assert (refused.status, refused.error["code"]) == (503, "draining")


async def test_the_cache_answers_and_both_doors_share_it(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = gateway.remembered("Hel", "lo")
    await client.request("POST", CHAT, json={"model": "sonnet", "messages": [HI]})
    first, second = await ask(client), await ask(client)
    assert len(gateway.asked) == 1
    for each in (first, second):
        assert each.headers["x-ccapi-cache"] == "hit"
        assert read(each).output_text == "Hello"
    assert read(first).id != read(second).id
    streamed = await client.request("POST", RESPONSES, json=STREAM)
    assert deltas(events(streamed.body)) == ["Hel", "lo"]
    # What was answered from the cache can be gone on with.
    more = await ask(client, previous_response_id=read(first).id, input="More")
    assert read(more).status == "completed"
    assert "x-ccapi-cache" not in more.headers


# -- gone on with ----------------------------------------------------------------------------------


async def test_a_response_goes_on_in_its_conversation(
    client: Client, gateway: GatewayDouble
) -> None:
    first = read(await ask(client, instructions="Be brief.", tools=[tool("f")]))
    answered = await ask(client, previous_response_id=first.id, input="More")
    second = read(answered)
    assert second.previous_response_id == first.id
    assert answered.headers["x-ccapi-lineage"] == "hit"
    [conversation] = gateway.made
    assert conversation.private
    asked = gateway.asked[1]
    assert [message.text for message in asked.messages] == ["More"]
    # Neither the instructions nor the tools of the response before it are this one's.
    assert (asked.system, asked.tools, asked.model) == ("", (), "sonnet")


async def test_a_request_that_names_no_model_keeps_the_conversations(
    client: Client, gateway: GatewayDouble
) -> None:
    first = read(await ask(client, model="haiku"))
    second = read(await ask(client, model=None, previous_response_id=first.id))
    assert gateway.asked[1].model is None
    assert second.model == "haiku"


@pytest.mark.parametrize("change", ["busy", "moved on", "gone", "other"])
async def test_a_response_forks_where_its_conversation_is_not_what_it_was(
    client: Client, gateway: GatewayDouble, change: str
) -> None:
    gateway.script = saying("One")
    first = read(await ask(client, NO_STORE, input="1"))
    gateway.script = saying("Two")
    second = read(await ask(client, previous_response_id=first.id, input="2"))
    [conversation] = gateway.made
    match change:
        case "busy":
            conversation.is_free = False
        case "moved on":
            conversation.held = (b"x",)
        case "gone":
            gateway.made.clear()
        case "other":
            conversation.owner = "another owner"
    third = await ask(client, previous_response_id=second.id, input="3", instructions="Now.")
    assert third.headers["x-ccapi-lineage"] == "miss"
    asked = gateway.asked[2]
    assert [message.text for message in asked.messages] == ["1", "One", "2", "Two", "3"]
    assert asked.conversation is gateway.made[-1]
    assert asked.conversation is not conversation
    assert asked.conversation.system == "Now."
    assert third.headers["x-conversation-id"] == asked.conversation.conversation_id


async def test_a_fork_receives_the_whole_history_however_long() -> None:
    settings = Settings(conversation=ConversationSettings(max_history_messages=2))
    async with open_gateway_double(settings) as gateway:
        client = Client(app_of(gateway))
        last = None
        for number in range(4):
            given = {"previous_response_id": last, "input": str(number)}
            last = read(await ask(client, NO_STORE, **given)).id
        gateway.made[0].is_free = False
        forked = await ask(client, previous_response_id=last)
        assert len(gateway.asked[-1].messages) == 9
        assert gateway.asked[-1].history_limit is None
        assert "x-ccapi-history-omitted" not in forked.headers


async def test_two_at_once_behind_the_same_response_do_not_meet(
    client: Client, gateway: GatewayDouble
) -> None:
    first = read(await ask(client, NO_STORE))
    gateway.script = never
    async with client.stream(
        "POST", RESPONSES, json=STREAM | {"previous_response_id": first.id}
    ) as one:
        await one.open()
        gateway.made[0].is_free = False  # as the real one is not, while that runs
        gateway.script = saying("x")
        other = await ask(client, previous_response_id=first.id)
        assert other.headers["x-conversation-id"] != one.headers["x-conversation-id"]


async def test_a_response_that_runs_or_failed_cannot_be_gone_on_with(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = never
    running = read(await ask(client, background=True))
    refused = await ask(client, previous_response_id=running.id)
    assert (refused.status, refused.error["code"]) == (409, "response_in_progress")
    await client.request("POST", f"{RESPONSES}/{running.id}/cancel")
    refused = await ask(client, previous_response_id=running.id)
    assert (refused.status, refused.error["param"]) == (400, "previous_response_id")
    assert "cancelled" in refused.error["message"]


async def test_a_conversation_is_gone_on_with_by_its_id(
    client: Client, gateway: GatewayDouble
) -> None:
    conversation = gateway.conversation(system="Kept.")
    named = await ask(client, conversation={"id": conversation.conversation_id}, input="1")
    response = read(named)
    assert response.conversation is not None
    assert response.conversation.id == conversation.conversation_id
    assert gateway.asked[0].system is None  # it keeps its own
    header = {"x-conversation-id": conversation.conversation_id}
    again = await ask(client, header, input="2")
    assert read(again).conversation is not None
    both = await ask(client, header, previous_response_id=response.id)
    assert (both.status, both.error["param"]) == (400, "previous_response_id")
    # Where it stands now is where the second response has left it.
    conversation.is_free = False
    forked = await ask(client, previous_response_id=read(again).id, input="3")
    assert forked.status == 200
    assert [message.text for message in gateway.asked[-1].messages] == ["2", "", "3"]


async def test_a_busy_conversation_is_waited_for_or_not(
    client: Client, gateway: GatewayDouble
) -> None:
    conversation = gateway.conversation()
    conversation.busy = True
    named = {"conversation": conversation.conversation_id}
    refused = await ask(client, {"x-ccapi-on-busy": "reject"}, **named)
    assert refused.status == 409
    assert (await ask(client, **named)).status == 200


# -- streamed --------------------------------------------------------------------------------------


async def test_a_streamed_response(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = saying("Hel", "lo")
    found = await stream(client)
    response = whole_stream(found)
    assert (deltas(found), text_of(response)) == (["Hel", "lo"], "Hello")
    assert not gateway.asked[0].options.whole
    shown = await get(client, response["id"])
    assert shown.json() == response


async def test_deltas_go_out_as_they_come(client: Client, gateway: GatewayDouble) -> None:
    received = trio.Event()
    gateway.script = in_two_parts(["Hel"], received, ["lo"])
    async with client.stream("POST", RESPONSES, json=STREAM) as streamed:
        await streamed.open()
        first = events(await streamed.read() or b"")
        assert kinds(first)[:2] == ["created", "in_progress"]
        assert deltas(first) == ["Hel"]
        received.set()
        assert deltas(events(await streamed.rest())) == ["lo"]


async def test_a_failure_before_the_first_event_is_a_real_status(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = failing(ChildDied("The child died."))
    failed = await ask(client, stream=True)
    assert (failed.status, failed.error["code"]) == (502, "child_died")
    assert len(gateway.responses) == 0


async def test_a_failure_after_it_is_an_event_and_on_record(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = failing(ChildDied("The child died."), "Hel")
    found = await stream(client)
    response = whole_stream(found)
    assert found[-1]["type"] == "response.failed"
    assert response["error"]["message"] == "The child died."
    assert (await get(client, response["id"])).json() == response


async def test_a_client_that_goes_away_cancels_its_response(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = never
    async with client.stream("POST", RESPONSES, json=STREAM) as streamed:
        await streamed.open()
        [created, *_] = events(await streamed.read() or b"")
    await gateway.asked[0].port.over.wait()
    shown = await get(client, created["response"]["id"])
    assert shown.json()["status"] == "cancelled"
    assert shown.json()["output"][0]["status"] == "incomplete"


async def test_one_that_goes_away_early_leaves_nothing(
    client: Client, gateway: GatewayDouble
) -> None:
    async def silent(asked: Asked) -> None:
        await trio.sleep_forever()

    gateway.script = silent
    for body in (ASK, STREAM):
        async with client.stream("POST", RESPONSES, json=body):
            while len(gateway.asked) == len(gateway.abandoned):
                await trio.lowlevel.checkpoint()
    assert len(gateway.responses) == 0
    assert len(gateway.abandoned) == 2


async def test_silence_is_broken_by_heartbeats_and_a_failure_after_one_is_an_event(
    autojump_clock: trio.testing.MockClock,
) -> None:
    settings = Settings(server=ServerSettings(heartbeat_seconds=5.0))
    async with open_gateway_double(settings) as gateway:
        client = Client(app_of(gateway))

        async def late(asked: Asked) -> None:
            await trio.sleep(12)
            asked.fail(ChildDied("gone"))

        gateway.script = late
        response = await client.request("POST", RESPONSES, json=STREAM)
        assert response.body.count(b": heartbeat\n\n") == 2
        found = events(response.body)
        assert kinds(found) == ["created", "in_progress", "failed"]


# -- kept ------------------------------------------------------------------------------------------


async def test_a_response_can_be_fetched_streamed_again_and_deleted(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = saying("a", "b", "c")
    streamed = await ask(client, stream=True)
    found = events(streamed.body)
    response_id = found[0]["response"]["id"]
    again = await get(client, response_id, "?stream=true")
    assert again.body == streamed.body
    for after in (0, 4, len(found) - 1, 500):
        rest = await get(client, response_id, f"?stream=true&starting_after={after}")
        assert events(rest.body) == found[after + 1 :]
    deleted = await client.request("DELETE", f"{RESPONSES}/{response_id}")
    assert deleted.json() == {"id": response_id, "object": "response", "deleted": True}
    for method, more in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        missing = await client.request(method, f"{RESPONSES}/{response_id}{more}")
        assert (missing.status, missing.error["code"]) == (404, "response_not_found")


@pytest.mark.parametrize("after", ["-1", "x", "1" * 20])
async def test_an_event_that_there_cannot_be(client: Client, after: str) -> None:
    response = read(await ask(client))
    refused = await get(client, response.id, f"?stream=true&starting_after={after}")
    assert (refused.status, refused.error["param"]) == (400, "starting_after")


async def test_what_shall_not_be_stored_is_not(client: Client, gateway: GatewayDouble) -> None:
    response = read(await ask(client, store=False))
    assert len(gateway.responses) == 0
    assert (await get(client, response.id)).status == 404
    refused = await ask(client, previous_response_id=response.id)
    assert refused.error["code"] == "previous_response_not_found"


async def test_the_input_of_a_response_in_pages(client: Client) -> None:
    items = [{"role": "system", "content": "Be brief."}]
    items += [{"role": r, "content": f"{r} {n}"} for n in range(2) for r in ("user", "assistant")]
    response = read(await ask(client, input=[*items, user("last")]))
    whole = await get(client, response.id, "/input_items?order=asc")
    found = ResponseItemList.model_validate_json(whole.body, strict=True)
    texts = [item["content"][0]["text"] for item in whole.json()["data"]]
    assert texts == ["Be brief.", "user 0", "assistant 0", "user 1", "assistant 1", "last"]
    assert not found.has_more
    newest = (await get(client, response.id, "/input_items?limit=2")).json()
    assert [item["id"] for item in newest["data"]] == [found.data[5].id, found.data[4].id]
    assert newest["has_more"]
    more = f"/input_items?limit=9&after={newest['last_id']}"
    rest = (await get(client, response.id, more)).json()
    assert [item["id"] for item in rest["data"]] == [item.id for item in found.data[3::-1]]
    for wrong in ("limit=0", "limit=101", "order=up", "after=in_x"):
        refused = await get(client, response.id, f"/input_items?{wrong}")
        assert (refused.status, refused.error["param"]) == (400, wrong.partition("=")[0])


async def test_another_keys_responses_are_not_there() -> None:
    settings = Settings(auth=AuthSettings(api_keys=("key-a", "key-b")))
    async with open_gateway_double(settings) as gateway:
        clients = [
            Client(app_of(gateway), {"authorization": f"Bearer key-{name}"}) for name in "ab"
        ]
        mine = read(await ask(clients[0]))
        assert (await get(clients[0], mine.id)).status == 200
        assert (await get(clients[1], mine.id)).status == 404
        refused = await ask(clients[1], previous_response_id=mine.id)
        assert refused.error["code"] == "previous_response_not_found"
        assert (await get(Client(app_of(gateway)), mine.id)).status == 401


# -- in the background -----------------------------------------------------------------------------


async def test_a_response_in_the_background_outlives_its_client(
    client: Client, gateway: GatewayDouble
) -> None:
    received = trio.Event()
    gateway.script = in_two_parts(["Hel"], received, ["lo"])
    started = read(await ask(client, background=True))
    assert (started.status, started.background, started.output_text) == ("in_progress", True, "")
    await trio.testing.wait_all_tasks_blocked()
    shown = read(await get(client, started.id))
    assert (shown.status, shown.output_text) == ("in_progress", "Hel")
    received.set()
    await trio.testing.wait_all_tasks_blocked()
    shown = read(await get(client, started.id))
    assert (shown.status, shown.output_text) == ("completed", "Hello")


async def test_one_that_is_streamed_goes_on_when_its_client_goes_and_can_be_followed(
    client: Client, gateway: GatewayDouble
) -> None:
    go_on = trio.Event()
    gateway.script = in_two_parts(["a", "b"], go_on, ["c"])
    body = STREAM | {"background": True}
    seen: list[dict[str, Any]] = []
    async with client.stream("POST", RESPONSES, json=body) as streamed:
        await streamed.open()
        while len(deltas(seen)) < 2:
            seen += events(await streamed.read() or b"")
    response_id, last = seen[0]["response"]["id"], seen[-1]["sequence_number"]
    path = f"{RESPONSES}/{response_id}?stream=true&starting_after={last}"
    async with client.stream("GET", path) as one, client.stream("GET", path) as other:
        go_on.set()
        for reader in (one, other):
            rest = await _rest(reader)
            whole_stream(rest, first=last + 1)
            assert deltas(rest) == ["c"]
    whole = await get(client, response_id, "?stream=true")
    assert events(whole.body)[: len(seen)] == seen


async def _rest(streamed: Streamed) -> list[dict[str, Any]]:
    await streamed.open()
    return events(await streamed.rest())


async def test_a_response_in_the_background_can_be_cancelled(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = never
    started = read(await ask(client, background=True))
    path = f"{RESPONSES}/{started.id}"
    async with client.stream("GET", f"{path}?stream=true") as reader:
        await reader.open()
        await trio.testing.wait_all_tasks_blocked()
        cancelled = read(await client.request("POST", f"{path}/cancel"))
        assert cancelled.status == "cancelled"
        found = events(await reader.rest())
        assert found[-1]["response"]["status"] == "cancelled"
    assert gateway.asked[0].port.over.is_set()
    # Once more changes nothing, and one in the foreground cannot be.
    assert read(await client.request("POST", f"{path}/cancel")).status == "cancelled"
    gateway.script = saying("x")
    other = read(await ask(client))
    refused = await client.request("POST", f"{RESPONSES}/{other.id}/cancel")
    assert (refused.status, refused.error["type"]) == (400, "invalid_request_error")


async def test_one_that_is_deleted_ends(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = never
    started = read(await ask(client, background=True))
    await client.request("DELETE", f"{RESPONSES}/{started.id}")
    await gateway.asked[0].port.over.wait()
    assert len(gateway.responses) == 0


async def test_one_that_fails_says_so_on_its_record(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = failing(RateLimited("Too much."), "Hel")
    started = read(await ask(client, background=True))
    await trio.testing.wait_all_tasks_blocked()
    shown = read(await get(client, started.id))
    assert shown.status == "failed"
    assert shown.error is not None
    assert shown.error.code == "rate_limit_exceeded"


async def test_there_is_a_bound_on_what_runs_in_the_background(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = never
    for _ in range(8):
        assert (await ask(client, background=True)).status == 200
    refused = await ask(client, background=True)
    assert (refused.status, refused.error["type"]) == (429, "rate_limit_error")


async def test_an_open_gateway_says_which_models_answer() -> None:
    models = ModelSettings(aliases={"gpt-4o": "opus"}, default="gpt-4o")
    async with open_gateway_double(Settings(models=models)) as gateway:
        client = Client(app_of(gateway))
        assert read(await ask(client, NO_STORE, model="gpt-4o")).model == "gpt-4o"
        assert read(await ask(client, NO_STORE, model=None)).model == "opus"


async def test_reading_is_what_the_routes_are_for(client: Client) -> None:
    response = read(await ask(client))
    for method, more in (("PUT", ""), ("GET", "/cancel"), ("POST", "/input_items"), ("POST", "")):
        refused = await client.request(method, f"{RESPONSES}/{response.id}{more}", json={})
        assert (refused.status, refused.error["code"]) == (405, "method_not_allowed")


async def test_pieces_that_wait_go_out_together(client: Client, gateway: GatewayDouble) -> None:
    async def burst(asked: Asked) -> None:
        for _ in range(20):
            asked.port.deliver_nowait(TextDelta("x"))
        asked.end()

    gateway.script = burst
    async with client.stream("POST", RESPONSES, json=STREAM) as streamed:
        await streamed.open()
        writes = 0
        while await streamed.read() is not None:
            writes += 1
    assert writes == 2
