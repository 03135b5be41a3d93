"""Three gateways with the real CLI on one database, behind haproxy as examples/deploy has it: a
client that does not know which of them it reaches is served as by one.

Each request comes on a connection of its own, so that the balancer gives it to the next gateway
(most often: it counts connections that are just being closed, too). The gateways' logs say which
had it.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import httpx2
import openai
import pytest
import trio
from attrs import define, frozen
from openai.types.chat import ChatCompletionToolUnionParam
from openai.types.responses import FunctionToolParam
from trio_websocket import open_websocket_url

from tests.support.balanced import Balanced, Gateway, open_balanced, wait_until
from tests.support.joined import Joined, open_joined
from tests.support.logins import login_environment
from tests.support.messages_stub import Answer, MessagesStub, Request, ToolUse, call, echo, say
from tests.support.postgres import Engine
from tests.support.raw_cli import cli_binary
from tests.support.stub_in_thread import StubInThread, open_stub_in_thread

from .served import JSON, MODEL, Spoken, spoken

AGENT = f"agent/{MODEL}"
CITY: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
WEATHER: ChatCompletionToolUnionParam = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather.", "parameters": CITY},
}
FLAT_WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather.",
    "parameters": CITY,
    "strict": False,
}
PATIENCE = 30.0

pytestmark = pytest.mark.timeout(240)


@frozen
class Cluster:
    """The gateways, and what all of them ask."""

    balanced: Balanced
    api: StubInThread

    @property
    def url(self) -> str:
        return self.balanced.url

    @property
    def stub(self) -> MessagesStub:
        return self.api.stub

    @property
    def told(self) -> Spoken:
        """What the API was given last."""
        return spoken(self.stub.requests[-1])

    def client(self, **options: Any) -> openai.OpenAI:
        """Of the SDK, with a connection for each request."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key="-",
            default_headers={"connection": "close"},
            http_client=openai.DefaultHttpxClient(trust_env=False, verify=False),
            timeout=PATIENCE,
            **options,
        )

    def post(self, path: str, body: JSON, request_id: str | None = None) -> httpx.Response:
        headers = {} if request_id is None else {"x-request-id": request_id}
        with httpx.Client(trust_env=False, verify=False, timeout=PATIENCE) as client:
            return client.post(f"{self.url}{path}", json=body, headers=headers)

    def ask(self, text: str, request_id: str | None = None, **fields: Any) -> httpx.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
        return self.post("/v1/chat/completions", body, request_id)

    def road(self, answered: httpx.Response) -> tuple[str, ...]:
        return self.balanced.road(answered.headers["x-request-id"])

    def owner(self, answered: httpx.Response) -> Gateway:
        """Which gateway has the conversation."""
        return self.balanced.by_name(self.road(answered)[-1])

    def turn_to(self, gateway: Gateway) -> None:
        """Have the balancer give the next request to this gateway: it goes round, where none has
        more connections than another."""
        last: list[str] = []
        for _ in range(12):
            [entry, *_] = self.road(self.post("/v1/nothing", {}))
            last = [*last[-1:], entry]
            if len(set(last)) == 2 and gateway.name not in last:
                return
        raise AssertionError("the balancer does not go round")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, postgres: Engine) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")

    def surroundings(name: str) -> dict[str, str]:
        machine = folder / f"machine-{name}"
        machine.mkdir()
        env = login_environment("key", machine, api.stub.url, api.proxy)
        return {"CLAUDE_CODE__CLAUDE__ENV": json.dumps(env)}

    with (
        open_stub_in_thread() as api,
        open_balanced(
            folder,
            postgres.new_place(),
            environments={name: surroundings(name) for name in ("one", "two", "three")},
            CLAUDE__COMMAND=cli_binary(),
            CLAUDE__PREWARM="1",
            CLAUDE__PREWARM_AGENTS="0",
            CLAUDE__MAX_RETRIES="0",
            CACHE__ENABLED="false",
            # A machine that runs other tests too is at times slow: no gateway is to be given up.
            CLUSTER__LEASE_SECONDS="5",
        ) as balanced,
    ):
        yield Cluster(balanced, api)


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    shared.stub.queue.clear()
    shared.stub.answer = echo
    return shared


def said(*texts: str) -> Spoken:
    """A conversation of the user and the model in turn."""
    return [("assistant" if n % 2 else "user", [text]) for n, text in enumerate(texts)]


# -- one after the other ---------------------------------------------------------------------------


def test_a_conversation_goes_on_by_its_id_at_any_gateway(cluster: Cluster) -> None:
    known: list[str] = []
    roads = []
    fields: JSON = {}
    with cluster.client() as client:
        for number in range(5):
            raw = client.chat.completions.with_raw_response.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"Line {number}"}],
                extra_body=fields,
            )
            known += [f"Line {number}"]
            assert cluster.told == said(*known)
            answer = raw.parse().choices[0].message.content
            assert answer == f"turn {number + 1}: Line {number}"
            known += [answer]
            fields = {"conversation_id": raw.headers["x-conversation-id"]}
            roads.append(cluster.balanced.road(raw.headers["x-request-id"]))
    assert len({road[0] for road in roads}) > 1, roads
    assert len({road[-1] for road in roads}) == 1, roads


def test_a_history_is_gone_on_with_at_any_gateway(cluster: Cluster) -> None:
    messages: list[JSON] = []
    roads, names = [], set()
    for number in range(4):
        messages += [{"role": "user", "content": f"Verse {number}"}]
        answered = cluster.post("/v1/chat/completions", {"model": MODEL, "messages": messages})
        assert answered.status_code == 200, answered.text
        assert cluster.told == said(*(each["content"] for each in messages))
        assert answered.headers["x-ccapi-lineage"] == ("hit" if number else "miss")
        names.add(answered.headers["x-conversation-id"])
        messages += [answered.json()["choices"][0]["message"]]
        roads.append(cluster.road(answered))
    assert len(names) == 1
    assert len({road[0] for road in roads}) > 1, roads
    assert len({road[-1] for road in roads}) == 1


def call_and_answer(cluster: Cluster) -> bool:
    """Whether another gateway than the model's received the results."""
    paris, rome = (ToolUse("get_weather", {"city": city}) for city in ("Paris", "Rome"))
    cluster.stub.queue.extend([call(paris, rome), say("Sunny.")])
    asked = [{"role": "user", "content": f"Weather for {paris.id}?"}]
    body = {"model": MODEL, "messages": asked, "tools": [WEATHER]}
    first = cluster.post("/v1/chat/completions", body)
    message = first.json()["choices"][0]["message"]
    assert [each["id"] for each in message["tool_calls"]] == [paris.id, rome.id]
    results = [
        {"role": "tool", "tool_call_id": rome.id, "content": "18"},
        {"role": "tool", "tool_call_id": paris.id, "content": "21"},
    ]
    body = {"model": MODEL, "messages": [*asked, message, *results], "tools": [WEATHER]}
    second = cluster.post("/v1/chat/completions", body)
    assert second.json()["choices"][0]["message"]["content"] == "Sunny.", second.text
    assert second.headers["x-conversation-id"] == first.headers["x-conversation-id"]
    assert second.headers["x-ccapi-child"] == "warm"
    assert cluster.told[-1] == ("user", [(paris.id, ["21"], False), (rome.id, ["18"], False)])
    before, after = cluster.road(first), cluster.road(second)
    assert after[-1:] == before
    return len(after) == 2


def respond_and_answer(cluster: Cluster) -> bool:
    """The same with Responses."""
    paris = ToolUse("get_weather", {"city": "Paris"})
    cluster.stub.queue.extend([call(paris, text="Let me see."), say("Sunny.")])
    with cluster.client() as client:
        asking = client.responses.with_raw_response
        raw = asking.create(model=MODEL, input="Weather?", tools=[FLAT_WEATHER])
        first, before = raw.parse(), cluster.balanced.road(raw.headers["x-request-id"])
        [made] = [each for each in first.output if each.type == "function_call"]
        raw = asking.create(
            model=MODEL,
            previous_response_id=first.id,
            input=[{"type": "function_call_output", "call_id": made.call_id, "output": "21"}],
            tools=[FLAT_WEATHER],
        )
        second, after = raw.parse(), cluster.balanced.road(raw.headers["x-request-id"])
        third = client.responses.create(
            model=MODEL, previous_response_id=second.id, input="Sure?", tools=[FLAT_WEATHER]
        )
    assert second.output_text == "Sunny."
    assert third.output_text == "turn 3: Sure?"
    assert cluster.told == [
        ("user", ["Weather?"]),
        ("assistant", ["Let me see.", (paris.id, "get_weather", {"city": "Paris"})]),
        ("user", [(paris.id, ["21"], False)]),
        ("assistant", ["Sunny."]),
        ("user", ["Sure?"]),
    ]
    assert after[-1:] == before
    return len(after) == 2


@pytest.mark.parametrize("talk", [call_and_answer, respond_and_answer])
def test_tools_are_called_by_one_gateway_and_answered_through_another(
    cluster: Cluster, talk: Callable[[Cluster], bool]
) -> None:
    assert any(talk(cluster) for _ in range(5)), "all came to one gateway"


# -- at the same time ------------------------------------------------------------------------------


async def test_watchers_at_all_gateways_see_a_turn_once_and_in_order(cluster: Cluster) -> None:
    first = await trio.to_thread.run_sync(cluster.ask, "Hello")
    name, owner = first.json()["conversation_id"], cluster.owner(first)
    path = f"/v1/conversations/{name}/events"
    words = " ".join(f"w{number}" for number in range(24))
    cluster.stub.queue.append(say(words, chunks=24, pause=0.02))
    async with (
        open_joined(cluster.url, name) as one,
        open_joined(cluster.url, name) as two,
        open_joined(cluster.url, name) as three,
    ):
        watchers = [one, two, three]
        passed = {each.name for each in cluster.balanced.gateways if each.logged(
            "passed on", path=path, websocket=True
        )}  # fmt: skip
        assert {*passed} - {owner.name}, "all came to one gateway"
        asked = await trio.to_thread.run_sync(partial(cluster.ask, "More", conversation_id=name))
        assert asked.json()["choices"][0]["message"]["content"] == words
        for each in watchers:
            ended = await each.until("turn.finished", "turn.failed")
            assert ended["type"] == "turn.finished", ended
        check_alike(watchers, words)


def check_alike(watchers: list[Joined], words: str) -> None:
    seen = [turn_of(each) for each in watchers]
    assert seen[0] == seen[1] == seen[2]
    numbers = [event["event_id"] for event in seen[0]]
    assert numbers == [*range(numbers[0], numbers[0] + len(numbers))]
    deltas = [event["text"] for event in seen[0] if event["type"] == "text.delta"]
    assert "".join(deltas) == words
    assert len(deltas) > 5, "as they came, not at the end"


def turn_of(watcher: Joined) -> list[JSON]:
    kinds = watcher.kinds()
    begun = kinds.index("turn.started")
    return watcher.seen[begun : kinds.index("turn.finished") + 1]


def test_a_response_in_the_background_is_read_on_at_another(cluster: Cluster) -> None:
    cluster.stub.queue.append(say(" ".join("abcdefghijkl"), chunks=12, pause=0.08))
    with cluster.client() as client:
        raw = client.responses.with_raw_response.create(model=MODEL, input="Spell", background=True)
        made, owner = raw.parse(), cluster.balanced.road(raw.headers["x-request-id"])
        assert made.status == "in_progress"
        ids = [f"background-{uuid4().hex}" for _ in range(3)]
        events: list[Any] = []
        for number, request_id in enumerate(ids):
            with client.responses.retrieve(
                made.id,
                stream=True,
                extra_query={"starting_after": len(events) - 1} if events else {},
                extra_headers={"x-request-id": request_id},
            ) as stream:
                for event in stream:
                    events.append(event)
                    if number < 2 and len(events) == 6 * (number + 1):
                        break
        shown = client.responses.retrieve(made.id)
    assert [event.sequence_number for event in events] == [*range(len(events))]
    assert events[-1].type == "response.completed"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == shown.output_text == " ".join("abcdefghijkl")
    assert len(deltas) > 5
    roads = [cluster.balanced.road(each) for each in ids]
    assert len({road[0] for road in roads}) > 1, roads
    assert {road[-1:] for road in roads[:2]} == {owner[-1:]}


async def test_responses_over_a_websocket_go_on_with_those_of_another(cluster: Cluster) -> None:
    """Of three conversations one at most is the gateway's that has the WebSocket."""
    url = f"ws{cluster.url.removeprefix('http')}/v1/responses"

    def respond() -> JSON:
        made: JSON = cluster.post("/v1/responses", {"model": MODEL, "input": "One"}).json()
        return made

    made = [await trio.to_thread.run_sync(respond) for _ in range(3)]
    with trio.fail_after(PATIENCE):
        async with open_websocket_url(url) as connection:
            for first in made:
                create = {"model": MODEL, "input": "Two", "previous_response_id": first["id"]}
                await connection.send_message(json.dumps({"type": "response.create", **create}))
                event: JSON = {}
                while event.get("type") not in ("response.completed", "response.failed", "error"):
                    event = json.loads(await connection.get_message())
                assert event["type"] == "response.completed", event
                assert event["response"]["conversation_id"] == first["conversation_id"]
                assert cluster.told == said("One", "turn 1: One", "Two")


async def test_an_agents_permission_is_given_at_another(cluster: Cluster) -> None:
    made = await trio.to_thread.run_sync(cluster.post, "/v1/conversations", {"model": AGENT})
    name = made.json()["id"]
    path = f"/v1/conversations/{name}/permissions"

    def act(request: Request) -> Answer:
        """Two files are written, and each needs a permission."""
        done = sum("toolu_" in str(each) for role, each in spoken(request) if role == "user")
        if done == 2:
            return say("Done.")
        file = {"file_path": f"{place}/note-{done}", "content": "written"}
        return call(ToolUse("Write", file))

    place = ""
    async with open_joined(cluster.url, name) as one:
        [owner] = [
            each
            for each in cluster.balanced.gateways
            if each.logged("websocket_opened", path=f"/v1/conversations/{name}/events")
        ]
        place = str(owner.folder / "state" / "workspaces" / name)
        cluster.stub.answer = act
        await one.say("turn.create", input="Do it.")
        roads = []
        for _ in range(2):
            asked = await one.until("permission.requested")
            request_id = f"permission-{uuid4().hex}"
            replied = await trio.to_thread.run_sync(
                cluster.post,
                f"{path}/{asked['request_id']}",
                {"behavior": "allow"},
                request_id,
            )
            assert replied.json() == {"request_id": asked["request_id"], "behavior": "allow"}
            roads.append(await trio.to_thread.run_sync(cluster.balanced.road, request_id))
        ended = await one.until("turn.finished", "turn.failed")
        assert ended["type"] == "turn.finished", ended
    assert {road[-1] for road in roads} == {owner.name}, roads
    assert any(road[0] != owner.name for road in roads), roads
    assert [(Path(place) / f"note-{n}").read_text() for n in range(2)] == ["written"] * 2


# -- one is killed ---------------------------------------------------------------------------------


@define(eq=False)
class Cut:
    """A turn during which a gateway is killed: what its client, the SDK with its retries, saw."""

    conversation_id: str
    text: str
    stream: bool
    seen: str = ""
    failure: Exception | None = None
    thread: threading.Thread | None = None

    def begin(self, cluster: Cluster) -> None:
        self.thread = threading.Thread(target=self._ask, args=(cluster,))
        self.thread.start()

    def _ask(self, cluster: Cluster) -> None:
        with cluster.client() as client:
            asked: Any = {
                "model": MODEL,
                "messages": [{"role": "user", "content": self.text}],
                "extra_body": {"conversation_id": self.conversation_id},
            }
            try:
                if self.stream:
                    with client.chat.completions.create(**asked, stream=True) as chunks:
                        for chunk in chunks:
                            self.seen += chunk.choices[0].delta.content or ""
                else:
                    client.chat.completions.create(**asked)
            except (openai.OpenAIError, httpx2.HTTPError) as error:
                self.failure = error

    def end(self) -> None:
        assert self.thread is not None
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "its client waits for ever"


def test_a_gateway_is_frozen_in_a_turn(cluster: Cluster) -> None:
    """Neither it nor the connection says anything: the balancer's checks do."""
    first = cluster.ask("Kept")
    victim, name = cluster.owner(first), first.json()["conversation_id"]
    cluster.turn_to(victim)
    cluster.stub.answer = lambda request: (
        say("Half of an answer", chunks=4, pause=0.01, hang_after=2)
        if request.last_user_text == "Lost"
        else echo(request)
    )
    before = len(cluster.stub.requests)
    cut = Cut(name, "Lost", stream=True)
    cut.begin(cluster)
    wait_until(lambda: cut.seen == "Half of a", "deltas have come")
    ups = cluster.balanced.count_up(victim)
    victim.send(signal.SIGSTOP)
    try:
        cut.end()
        assert cut.failure is not None, cut
        answered = cluster.ask("Next", conversation_id=name)
        assert answered.status_code == 200, answered.text
        assert answered.headers["x-ccapi-lost-turn"]
        assert cluster.told == said("Kept", "turn 1: Kept", "Next")
        assert cluster.owner(answered) is not victim
    finally:
        victim.send(signal.SIGCONT)
    texts = [each.last_user_text for each in cluster.stub.requests[before:]]
    assert sorted(texts) == ["Lost", "Next"]
    wait_until(lambda: cluster.balanced.count_up(victim) > ups, "the balancer has it again")


def test_a_gateway_is_killed_in_a_turn(cluster: Cluster) -> None:
    """Turns that came to it, and turns that others passed on to it."""
    first = cluster.ask("Kept")
    victim, names = cluster.owner(first), [first.json()["conversation_id"]]
    for _ in range(12):
        cluster.turn_to(victim)
        another = cluster.ask("Kept")
        if cluster.owner(another) is victim:
            names.append(another.json()["conversation_id"])
        if len(names) == 4:
            break
    cluster.stub.answer = lambda request: (
        say("Half of an answer", chunks=4, pause=0.01, hang_after=2)
        if request.last_user_text.startswith("Lost")
        else echo(request)
    )
    cuts = [Cut(name, f"Lost {n}", stream=n % 2 == 1) for n, name in enumerate(names)]
    before = len(cluster.stub.requests)
    # The balancer gives a request to the gateway with the fewest: the first to the victim, the
    # next two to the others, which pass them on; and then all have one.
    for number, cut in enumerate(cuts):
        if number in (0, 3):
            cluster.turn_to(victim)
        cut.begin(cluster)
        asked = partial(lambda count: len(cluster.stub.requests) > count, before + number)
        wait_until(asked, "the model is asked")
    streams = cuts[1::2]
    wait_until(lambda: all(cut.seen == "Half of a" for cut in streams), "deltas have come")
    victim.send(signal.SIGKILL)
    for cut in cuts:
        cut.end()
    others = [each for each in cluster.balanced.gateways if each is not victim]
    passed_on = sum(len(each.logged("a node broke off", url=victim.url)) for each in others)
    assert 0 < passed_on < 4, "some were asked at the victim itself"
    for cut in cuts:
        assert cut.failure is not None, cut
    for cut in cuts[::2]:
        assert isinstance(cut.failure, openai.APIStatusError), cut
        assert cut.failure.code == "node_lost"
        assert cut.failure.response.headers["x-should-retry"] == "false"
    for name in names:
        answered = cluster.ask("Next", conversation_id=name)
        assert answered.status_code == 200, answered.text
        assert answered.headers["x-ccapi-lost-turn"]
        assert cluster.told == said("Kept", "turn 1: Kept", "Next")
        assert cluster.owner(answered) is not victim
    texts = [each.last_user_text for each in cluster.stub.requests[before:]]
    assert sorted(texts) == [*(f"Lost {n}" for n in range(4)), *["Next"] * 4], "none ran twice"
