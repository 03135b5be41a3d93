"""Where an answer comes from: the cache first, then the conversation that holds the history, then a
new one. The fronts' own words are left out: questions are asked as a front asks them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest
import trio
import trio.testing
from attrs import evolve, field, frozen

from ccapi.actors.answering import (
    CachedAnswer,
    Source,
    accept,
    answering,
    rejects_if_busy,
    setup_of,
)
from ccapi.actors.gateway import Gateway
from ccapi.actors.runtime.reply_channel import REPLY_SLOTS
from ccapi.schemas.errors import ChildDied, Conflict, GatewayError, InvalidRequest, NotFound
from ccapi.schemas.message import Message
from ccapi.schemas.settings.settings import CacheSettings, ConversationSettings, Settings
from ccapi.schemas.turn import Answer, Options, Setup, Tool, TurnRequest, Usage
from ccapi.schemas.turn_items import TextDelta, TextEnded

from ..support.gateway_double import (
    ConversationDouble,
    GatewayDouble,
    failing,
    open_gateway_double,
)

HI = Message("user", ("Hi",))
HELLO = Message("assistant", ("Hello",))
MORE = Message("user", ("More",))
ADD = Tool("add")


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayDouble]:
    async with open_gateway_double() as double:
        double.script = double.remembered("Hello")
        yield double


@frozen
class Question:
    """A request as a front has it answered."""

    gateway: GatewayDouble
    request: TurnRequest
    headers: dict[str, str] = field(factory=dict)

    def answered(self, has_begun: Callable[[], bool]) -> AbstractAsyncContextManager[Source]:
        return answering(cast(Gateway, self.gateway), self.request, self.headers, has_begun)


def question(
    gateway: GatewayDouble, messages: Sequence[Message] = (HI,), **fields: Any
) -> Question:
    plain = {"model": "sonnet", "named_model": "sonnet", "owner": "local"}
    return Question(gateway, TurnRequest(messages=tuple(messages), **{**plain, **fields}))


def untold() -> bool:
    return False


async def text_of(source: Source) -> str:
    return (await source.reply()).text


async def test_an_answer_of_the_cache_is_read_as_a_turn_is() -> None:
    pieces = tuple(str(number) for number in range(REPLY_SLOTS + 1))
    cached = CachedAnswer(Answer(pieces, "stop", Usage()), "conv_1", "sonnet")
    read = []
    while items := await cached.receive_items():
        read.append([item.text for item in items if isinstance(item, TextDelta)])
    assert read == [list(pieces[:REPLY_SLOTS]), [pieces[-1]]]
    assert (await cached.reply()).text == "".join(pieces)
    assert (cached.finish_reason, cached.usage) == ("stop", Usage())


async def test_a_client_of_blocks_receives_the_end_of_an_answer_of_the_cache() -> None:
    answer = Answer(("a", "b"), "stop", Usage(), "END", "stop_sequence")
    cached = CachedAnswer(answer, "conv_1", "sonnet", blocks=True)
    assert await cached.receive_items() == [TextDelta("a"), TextDelta("b"), TextEnded()]
    assert await cached.receive_items() == []
    assert (cached.stop_text, cached.stop_reason) == ("END", "stop_sequence")


async def answer(asked: Question) -> str:
    async with asked.answered(untold) as source:
        assert source.conversation_id == asked.headers["x-conversation-id"]
        return await text_of(source)


def holding(gateway: GatewayDouble) -> ConversationDouble:
    """A conversation that holds whatever history is brought."""
    gateway.holds = gateway.conversation()
    return gateway.holds


# -- which of them ---------------------------------------------------------------------------------


async def test_without_a_holder_a_conversation_begins(gateway: GatewayDouble) -> None:
    asked = question(gateway, (HI, HELLO, MORE), system="Be brief.", tools=(ADD,))
    assert await answer(asked) == "Hello"
    [made], [turn] = gateway.made, gateway.asked
    assert (made.system, made.model, made.seed) == ("Be brief.", "sonnet", ())
    assert not made.private
    assert turn.conversation is made
    assert turn.messages == (HI, HELLO, MORE)
    assert (turn.tools, turn.history_limit) == ((ADD,), 20)
    assert asked.headers == {
        "x-ccapi-lineage": "miss",
        "x-conversation-id": made.conversation_id,
    }


async def test_the_holder_is_asked_what_is_new_and_all_it_receives_is_whole(
    gateway: GatewayDouble,
) -> None:
    held = holding(gateway)
    options = Options(temperature=0.5)
    asked = question(
        gateway, (HI, HELLO, MORE), system="Be brief.", tools=(ADD,), schema="{}", options=options
    )
    assert await answer(asked) == "Hello"
    [turn] = gateway.asked
    assert turn.conversation is held
    assert turn.messages == (MORE,)
    assert turn.history_limit is None
    assert (turn.tools, turn.schema, turn.options) == ((ADD,), "{}", options)
    assert asked.headers == {
        "x-ccapi-lineage": "hit",
        "x-conversation-id": held.conversation_id,
    }
    assert gateway.made == [held]


async def test_the_cache_is_asked_first(gateway: GatewayDouble) -> None:
    assert await answer(question(gateway, cacheable=True)) == "Hello"
    holding(gateway)
    asked = question(gateway, cacheable=True)
    async with asked.answered(untold) as source:
        assert isinstance(source, CachedAnswer)
        assert source.model == "sonnet"
    assert len(gateway.asked) == 1
    assert asked.headers["x-ccapi-cache"] == "hit"
    assert "x-ccapi-lineage" not in asked.headers
    # The hit can be gone on with: it is a conversation that holds what was said.
    assert gateway.made[-1].seed == (HI, HELLO)
    assert asked.headers["x-conversation-id"] == gateway.made[-1].conversation_id


async def test_a_miss_of_the_cache_may_be_a_hit_of_lineage(gateway: GatewayDouble) -> None:
    held = holding(gateway)
    asked = question(gateway, (HI, HELLO, MORE), cacheable=True)
    assert await answer(asked) == "Hello"
    assert (asked.headers["x-ccapi-cache"], asked.headers["x-ccapi-lineage"]) == ("miss", "hit")
    [turn] = gateway.asked
    assert turn.conversation is held
    assert turn.cache_key is not None, "the cache learns from it all the same"


async def test_a_conversation_that_is_named_is_asked_and_no_other(
    gateway: GatewayDouble,
) -> None:
    holding(gateway)
    named = gateway.conversation(private=False)
    asked = question(gateway)
    request = TurnRequest(messages=(HI,), conversation_id=named.conversation_id, cacheable=True)
    accepted = await accept(cast(Gateway, gateway), request, "local", asked.headers)
    asked = evolve(asked, request=accepted)
    async with asked.answered(untold) as source:
        assert await text_of(source) == "Hello"
    [turn] = gateway.asked
    assert turn.conversation is named
    assert named.private, "from now on it is theirs"
    assert (turn.model, turn.system, turn.tools, turn.cache_key) == (None, None, None, None)
    assert turn.history_limit is None
    assert asked.headers == {"x-conversation-id": named.conversation_id}


async def test_what_a_request_says_changes_a_conversation_that_is_named(
    gateway: GatewayDouble,
) -> None:
    named = cast(Any, gateway.conversation())
    fields: dict[str, Any]
    fields = {"model": "opus", "system": "Be brief.", "tools": (ADD,), "schema": "{}"}
    asked = question(gateway, conversation_id=named.conversation_id, **fields)
    async with asked.answered(untold) as source:
        assert source.model == "opus"
        await text_of(source)
    [turn] = gateway.asked
    assert (turn.model, turn.system, turn.tools, turn.schema) == tuple(fields.values())


@pytest.mark.parametrize(
    "change",
    [
        {"owner": "bob"},
        {"model": "opus"},
        {"system": "Be brief."},
        {"tools": (ADD,)},
        {"schema": "{}"},
        {"cache_fields": {"seed": 1}},
        {"messages": (MORE,)},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_the_cache_knows_all_that_makes_an_answer(
    gateway: GatewayDouble, change: dict[str, Any]
) -> None:
    same: dict[str, Any] = {}
    for fields, outcome in [(same, "miss"), (change, "miss"), (same, "hit"), (change, "hit")]:
        asked = question(gateway, cacheable=True, **fields)
        await answer(asked)
        assert asked.headers["x-ccapi-cache"] == outcome


async def test_a_question_that_is_not_cacheable_or_a_cache_that_is_off() -> None:
    async with open_gateway_double() as on:
        on.script = on.remembered("Hello")
        for _ in range(2):
            asked = question(on)
            await answer(asked)
            assert "x-ccapi-cache" not in asked.headers
    async with open_gateway_double(Settings(cache=CacheSettings(enabled=False))) as off:
        off.script = off.remembered("Hello")
        for _ in range(2):
            asked = question(off, cacheable=True)
            await answer(asked)
            assert "x-ccapi-cache" not in asked.headers
        assert len(off.asked) == 2


async def test_what_a_new_child_does_not_receive_is_reported() -> None:
    limited = Settings(conversation=ConversationSettings(max_history_messages=2))
    async with open_gateway_double(limited) as gateway:
        asked = question(gateway, (HI, HELLO, HI, HELLO, MORE))
        await answer(asked)
        # Two of five: they begin with a question, so that only the last one is left of them.
        assert asked.headers["x-ccapi-history-omitted"] == "4"
        assert gateway.asked[0].messages == (HI, HELLO, HI, HELLO, MORE)
        assert gateway.asked[0].history_limit == 2
        held = question(gateway, (HI, HELLO, HI, HELLO, MORE))
        holding(gateway)
        await answer(held)
        assert "x-ccapi-history-omitted" not in held.headers


# -- when it fails ---------------------------------------------------------------------------------


async def fail(asked: Question, *, told: bool = False) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        async with asked.answered(lambda: told) as source:
            await text_of(source)
    return caught.value


async def test_a_new_conversation_that_no_client_knows_is_forgotten(
    gateway: GatewayDouble,
) -> None:
    gateway.script = failing(ChildDied("It died."))
    asked = question(gateway)
    assert isinstance(await fail(asked), ChildDied)
    assert gateway.abandoned == [gateway.made[0].conversation_id]
    assert "x-conversation-id" not in asked.headers


async def test_one_that_a_client_knows_stays(gateway: GatewayDouble) -> None:
    gateway.script = failing(ChildDied("It died."))
    asked = question(gateway)
    await fail(asked, told=True)
    assert gateway.abandoned == []
    assert asked.headers["x-conversation-id"] == gateway.made[0].conversation_id


async def test_a_holder_is_never_forgotten(gateway: GatewayDouble) -> None:
    held = holding(gateway)
    gateway.script = failing(ChildDied("It died."))
    asked = question(gateway, (HI, HELLO, MORE))
    await fail(asked)
    assert gateway.abandoned == []
    assert asked.headers["x-conversation-id"] == held.conversation_id
    busy = question(gateway, (HI, HELLO, MORE), reject_if_busy=True)
    held.busy = True
    assert isinstance(await fail(busy), Conflict)


async def test_being_cancelled_is_as_good_as_failing(gateway: GatewayDouble) -> None:
    asked = question(gateway)
    with trio.CancelScope() as scope:
        async with asked.answered(untold):
            scope.cancel()
            await trio.sleep_forever()
    assert gateway.asked[0].port.over.is_set()
    assert gateway.abandoned == [gateway.made[0].conversation_id]


async def test_when_the_first_of_identical_questions_fails_the_next_one_runs(
    gateway: GatewayDouble,
) -> None:
    async def die_slowly(asked: Any) -> None:
        await trio.testing.wait_all_tasks_blocked()
        gateway.script = gateway.remembered("Hello")
        asked.fail(ChildDied("It died."))

    gateway.script = die_slowly
    outcomes: list[str] = []

    async def ask_one() -> None:
        try:
            outcomes.append(await answer(question(gateway, cacheable=True)))
        except ChildDied:
            outcomes.append("died")

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask_one)
    assert sorted(outcomes) == ["Hello", "Hello", "died"]
    assert len(gateway.asked) == 2


# -- small things ----------------------------------------------------------------------------------


async def test_a_request_says_what_a_conversation_begins_with(gateway: GatewayDouble) -> None:
    assert setup_of(question(gateway).request) == Setup("sonnet")
    asked = question(gateway, system="Be brief.", tools=(ADD,), schema="{}").request
    assert setup_of(asked) == Setup("sonnet", "Be brief.", tools=(ADD,), schema="{}")


async def test_a_conversation_is_found_by_its_owner_alone(gateway: GatewayDouble) -> None:
    held = gateway.conversation(owner="alice")
    headers: dict[str, str] = {}
    request = TurnRequest((HI,), conversation_id=held.conversation_id)
    with pytest.raises(NotFound):
        await accept(cast(Gateway, gateway), request, "bob", headers)
    assert headers == {}


def test_what_may_be_wished_for_when_it_is_busy() -> None:
    assert rejects_if_busy("reject")
    assert not rejects_if_busy("queue")
    assert not rejects_if_busy(None)
    with pytest.raises(InvalidRequest) as caught:
        rejects_if_busy("wait")
    assert caught.value.param == "x-ccapi-on-busy"
