"""What every store does, whichever keeps it."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable

import pytest
import trio
from attrs import evolve

from ccapi.schemas.keys import ApiKey, KeyLimits
from ccapi.schemas.log.fold import fold, messages_of
from ccapi.schemas.log.messages import ExactMessage
from ccapi.schemas.log.records import Rewound, Said, TurnEnd, TurnFailed, TurnLost, TurnStart
from ccapi.schemas.message import (
    Document,
    Image,
    RedactedThinking,
    Thinking,
    ToolCall,
    ToolForm,
    ToolResult,
)
from ccapi.schemas.turn import ResumePoint, Setup, Tool, Usage
from ccapi.schemas.turn_items import Refused, TextDelta
from ccapi.transport.store.interface import (
    Beat,
    Begun,
    Charge,
    DayUsage,
    Fenced,
    Held,
    KeptAnswer,
    KeptRequest,
    Known,
    Lease,
    LiveNode,
    Missing,
    NameTaken,
    NewConversation,
    Spent,
    Store,
    Unknown,
)

from .support import (
    KEY,
    NEW,
    OTHER,
    Clock,
    assistant,
    begin,
    end,
    log_of,
    new_lease,
    response,
    turn,
    user,
)

# -- leases ----------------------------------------------------------------------------------------


async def test_a_conversation_is_created_once(store: Store) -> None:
    setup = Setup("opus", "Be brief.", "agent", (Tool("look"),), None, "shop")
    new = NewConversation(setup=setup, metadata={"a": "b"}, private=False)
    first = await store.acquire("conv_1", KEY, new)
    again = await store.acquire("conv_1", KEY, NEW)
    assert again.token > first.token
    found = await store.get("conv_1", KEY)
    assert (found.setup, found.metadata, found.private) == (setup, {"a": "b"}, False)
    assert (found.turns, found.messages, found.head, found.title) == (0, 0, 0, None)


async def test_what_is_not_there_or_another_keys_is_missing(store: Store) -> None:
    await new_lease(store)
    for name, key in (("conv_1", OTHER), ("conv_2", KEY)):
        with pytest.raises(Missing):
            await store.acquire(name, key)
        with pytest.raises(Missing):
            await store.get(name, key)
        with pytest.raises(Missing):
            await store.read(name, key)
        with pytest.raises(Missing):
            await store.update(name, key, title="Mine")
        with pytest.raises(Missing):
            await store.delete(name, key)
        with pytest.raises(Missing):
            await store.fork(name, key, "conv_9")
        with pytest.raises(Missing):
            await store.lineage_put(key, b"digest", name, 1)
        with pytest.raises(Missing):
            await store.conversations(key, after=name)
    with pytest.raises(Missing):
        await store.head("conv_2")
    with pytest.raises(Missing):
        await store.acquire("conv_1", OTHER, NEW)
    assert await store.request("conv_2", "request") is None
    assert (await store.conversations(OTHER)).conversations == ()


async def test_an_older_lease_is_fenced(store: Store) -> None:
    old = await new_lease(store)
    turn_id = await begin(store, old)
    new = await store.acquire("conv_1", KEY)
    assert (new.head, new.open_turn, new.turns) == (2, 1, 1)
    changes: tuple[Callable[[], Awaitable[int]], ...] = (
        lambda: store.append(old, [user("more")]),
        lambda: store.end_turn(old, end(turn_id)),
        lambda: store.fail_turn(old, TurnFailed(turn_id, "code", "why")),
        lambda: store.lose_turn(old, "restart"),
    )
    for change in changes:
        with pytest.raises(Fenced):
            await change()
    await store.release(old)  # does nothing
    head = await store.head("conv_1")
    assert (head.owner, head.token, head.head, head.open_turn) == (store.node.id, new.token, 2, 1)
    await store.lose_turn(new, "restart")
    await store.release(new)
    assert (await store.head("conv_1")).owner is None
    await store.append(new, [user("still mine: no other took it")])


async def test_a_lease_that_has_not_seen_the_head_is_fenced(store: Store) -> None:
    lease = await new_lease(store)
    copy = evolve(lease)
    await store.append(lease, [user("one")])
    with pytest.raises(Fenced):
        await store.append(copy, [user("two")])
    assert len(await log_of(store)) == 1


async def test_deleting_fences_and_a_conversation_of_that_id_is_another(store: Store) -> None:
    lease = await new_lease(store)
    await turn(store, lease)
    await store.delete("conv_1", KEY)
    with pytest.raises(Fenced):
        await store.append(lease, [user("late")])
    again = await new_lease(store)
    assert again.token > lease.token
    with pytest.raises(Fenced):
        await store.append(evolve(lease, head=0), [user("later")])
    assert await log_of(store) == []


async def test_a_node_that_is_alone_is_well(store: Store) -> None:
    assert await store.beat() == Beat(math.inf, (LiveNode(store.node),))
    assert store.trouble is None
    assert await store.orphans() == ()


# -- turns -----------------------------------------------------------------------------------------


async def test_a_turn_from_its_start_to_its_end(store: Store) -> None:
    lease = await new_lease(store)
    begun = await store.begin_turn(
        lease, turn_id="t1", request_id="r1", model="opus", prompts=[user("  Why \n so? ")]
    )
    assert begun == Begun(1, None)
    assert (await store.get("conv_1", KEY)).messages == 0  # not the conversation's yet
    assert await store.append(lease, [assistant("Thinking about it.")]) == 3
    last = TurnEnd("t1", "stop", Usage(3, 4, cost_usd=0.5), None, ResumePoint("s", "u"))
    assert await store.end_turn(lease, last, [assistant("So.")]) == 5
    assert (lease.head, lease.turns, lease.open_turn) == (5, 1, None)
    log = await log_of(store)
    assert [(each.seq, each.turn, each.token) for each in log] == [
        (seq, 1, lease.token) for seq in range(1, 6)
    ]
    assert [each.record for each in log] == [
        TurnStart("t1", "r1", "opus", 1),
        user("  Why \n so? "),
        assistant("Thinking about it."),
        assistant("So."),
        last,
    ]
    found = await store.get("conv_1", KEY)
    assert (found.turns, found.messages, found.head, found.open_turn) == (1, 3, 5, None)
    assert (found.title, found.usage) == ("Why so?", last.usage)
    assert found.created_at < found.used_at
    assert await store.read("conv_1", KEY, 4, 1) == (log[3],)
    assert await store.read("conv_1", KEY, 6) == ()


async def test_a_request_id_begins_one_turn(store: Store) -> None:
    lease = await new_lease(store)
    assert await store.request("conv_1", "r") is None
    turn_id = await begin(store, lease, request="r")
    running = await store.request("conv_1", "r")
    assert running is not None
    assert (running.turn_id, running.state, running.first, running.last) == (
        turn_id,
        "running",
        1,
        None,
    )
    await store.end_turn(lease, end(turn_id), [assistant("yes")])
    again = await store.begin_turn(lease, turn_id="t2", request_id="r", model="m")
    assert isinstance(again, Known)
    assert (again.turn.turn_id, again.turn.state, again.turn.last) == (turn_id, "ended", 4)
    assert (lease.head, lease.open_turn) == (4, None)
    other = await new_lease(store, "conv_2")
    assert await begin(store, other, request="r")


async def test_a_turn_that_failed_leaves_no_trace(store: Store) -> None:
    lease = await new_lease(store)
    await turn(store, lease)
    turn_id = await begin(store, lease)
    await store.append(lease, [assistant("half")])
    await store.fail_turn(lease, TurnFailed(turn_id, "child_died", "It died."), Usage(7, 0))
    found = await store.get("conv_1", KEY)
    assert (found.turns, found.messages, found.lost_turn) == (1, 2, None)
    assert found.usage == Usage(17, 5)
    assert len([*messages_of(fold(await log_of(store)))]) == 2


async def test_a_lost_turn_is_reported_once(store: Store) -> None:
    lease = await new_lease(store)
    turn_id = await begin(store, lease, request="r")
    lease = await store.acquire("conv_1", KEY)
    await store.lose_turn(lease, "The gateway ended.")
    known = await store.request("conv_1", "r")
    assert known is not None
    assert known.state == "lost"
    assert (await store.get("conv_1", KEY)).lost_turn == turn_id
    assert (await log_of(store))[-1].record == TurnLost(turn_id, "The gateway ended.")
    begun = await store.begin_turn(lease, turn_id="t2", request_id="r2", model="m")
    assert begun == Begun(2, turn_id)
    await store.end_turn(lease, end("t2"))
    assert await store.begin_turn(lease, turn_id="t3", request_id="r3", model="m") == Begun(3, None)


async def test_taking_turns_back(store: Store) -> None:
    lease = await new_lease(store)
    await store.append(lease, [user("before")])
    await turn(store, lease, "one", "ONE")
    kept = lease.head
    await turn(store, lease, "two", "TWO")
    begun = await store.begin_turn(
        lease,
        turn_id="t3",
        request_id="r3",
        model="m",
        prompts=[user("three")],
        rewound=Rewound(kept, 3, 1),
    )
    assert isinstance(begun, Begun)
    await store.end_turn(lease, end("t3"), [assistant("THREE")])
    found = await store.get("conv_1", KEY)
    assert (found.turns, found.messages) == (2, 5)
    said = [message.text for message in messages_of(fold(await log_of(store)))]
    assert said == ["before", "one", "ONE", "three", "THREE"]
    await store.append(lease, [Rewound(0, 0, 0), user("new")])
    found = await store.get("conv_1", KEY)
    assert (found.turns, found.messages) == (0, 1)


async def test_a_turns_end_may_change_the_setup(store: Store) -> None:
    lease = await store.acquire("conv_1", KEY, evolve(NEW, metadata={"a": "b"}, private=False))
    turn_id = await begin(store, lease)
    setup = Setup("opus", "Be brief.", tools=(Tool("look", form=ToolForm("look", "files")),))
    await store.end_turn(lease, end(turn_id), setup=setup)
    found = await store.get("conv_1", KEY)
    assert (found.setup, found.metadata, found.private) == (setup, {"a": "b"}, False)
    [shown] = (await store.conversations(KEY)).conversations
    assert shown.model == "opus"
    [day] = await store.usage(KEY)
    assert day.model == NEW.setup.model  # which the turn was of


async def test_every_kind_of_block_comes_back_exactly(store: Store) -> None:
    picture = Image("image/png", "QUJD" * 10_000)
    call = ToolCall("call_1", "look", '{"at": 1.0}', form=ToolForm("look", custom=True))
    result = ToolResult("call_1", ("saw", picture, Document("text/plain", "QQ==", "a.txt")), True)
    said = [
        Said(ExactMessage("user", ("a", "b\ud800", picture))),
        Said(
            ExactMessage(
                "assistant", (Thinking("Hm.", "c2ln"), RedactedThinking("eA=="), call), "msg_1"
            )
        ),
        Said(ExactMessage("user", (result,))),
    ]
    lease = await new_lease(store)
    await store.append(lease, said)
    other = await new_lease(store, "conv_2")
    await store.append(other, said[:1])
    await store.delete("conv_2", KEY)  # the picture stays with who else has it
    assert repr([each.record for each in await log_of(store)]) == repr(said)
    answer = TurnEnd("t", "content_filter", Usage(), (TextDelta("a"), TextDelta("b"), Refused("c")))
    await begin(store, lease)
    await store.end_turn(lease, answer)
    assert (await log_of(store))[-1].record == answer


# -- unknown outcomes ------------------------------------------------------------------------------


async def test_a_cancelled_change_is_settled_before_the_next(store: Store) -> None:
    lease = await new_lease(store)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.append(lease, [user("perhaps")])
    assert scope.cancelled_caught
    with pytest.raises(Unknown):
        await store.append(lease, [user("next")])
    done = await store.resolve(lease)
    assert len(await log_of(store)) == lease.head == done
    await store.append(lease, [user("next")])
    assert await store.resolve(lease)  # nothing is unsettled
    assert (await log_of(store))[-1].record == user("next")


async def test_resolving_hands_the_turn_to_another_lease(store: Store) -> None:
    lease = await new_lease(store)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.append(lease, [user("perhaps")])
    await store.acquire("conv_1", KEY)
    with pytest.raises(Fenced):
        await store.resolve(lease)


@pytest.mark.parametrize("wait", [0, 1, 2, 3, 10])
async def test_cancelled_turns_are_done_or_not(store: Store, wait: int) -> None:
    lease = await new_lease(store)
    for number in range(20):
        with trio.move_on_after(0.0001 * wait):
            await begin(store, lease, request=str(number))
        await store.resolve(lease)
        known = await store.request("conv_1", str(number))
        assert (known is None) == (lease.open_turn is None)
        if known is not None:
            assert known.number == lease.open_turn
            await store.fail_turn(lease, TurnFailed(known.turn_id, "stopped", ""))


# -- lists -----------------------------------------------------------------------------------------


async def names(store: Store, key_id: str = KEY, **asked: object) -> list[str]:
    page = await store.conversations(key_id, **asked)  # type: ignore[arg-type]
    return [each.conversation_id for each in page.conversations]


async def test_pages_of_a_list(store: Store) -> None:
    for number in range(5):
        await new_lease(store, f"conv_{number}")
    await new_lease(store, "conv_x", OTHER)
    page = await store.conversations(KEY, limit=2)
    assert [each.conversation_id for each in page.conversations] == ["conv_4", "conv_3"]
    assert page.has_more
    page = await store.conversations(KEY, limit=3, after="conv_3")
    assert [each.conversation_id for each in page.conversations] == ["conv_2", "conv_1", "conv_0"]
    assert not page.has_more
    assert await names(store, newest_first=False, limit=2, after="conv_2") == ["conv_3", "conv_4"]
    assert await names(store, OTHER) == ["conv_x"]
    assert await names(store, after="conv_0") == []


async def test_a_summary_says_what_a_list_shows(store: Store) -> None:
    lease = await store.acquire(
        "conv_1", KEY, NewConversation(setup=Setup("opus", profile="agent"), metadata={"a": "b"})
    )
    await turn(store, lease, "Hello there")
    [shown] = (await store.conversations(KEY)).conversations
    kept = await store.get("conv_1", KEY)
    assert (shown.title, shown.model, shown.profile) == ("Hello there", "opus", "agent")
    assert (shown.metadata, shown.turns, shown.messages) == ({"a": "b"}, 1, 2)
    assert (shown.created_at, shown.used_at) == (kept.created_at, kept.used_at)
    assert shown.usage == Usage(10, 5)


async def test_search(store: Store) -> None:
    lease = await new_lease(store, "conv_1")
    await turn(store, lease, "How do I bake bread?", "With flour and water.")
    await turn(store, lease, "And rye?", "The same.")
    lease = await new_lease(store, "conv_2")
    await turn(store, lease, "Bread prices in Zürich", "They rise.")
    await new_lease(store, "conv_3")
    lease = await new_lease(store, "conv_4", OTHER)
    await turn(store, lease, "bread")
    assert await names(store, q="bread") == ["conv_2", "conv_1"]
    assert await names(store, q="bread", newest_first=False) == ["conv_1", "conv_2"]
    assert await names(store, q="BREAD flour") == ["conv_1"]  # in one turn
    assert await names(store, q="bread rye") == []  # not in one turn
    assert await names(store, q="zurich") == ["conv_2"]
    assert await names(store, q="ba") == ["conv_1"]
    assert await names(store, q="   ") == ["conv_3", "conv_2", "conv_1"]
    assert await names(store, q='"*"') == []
    assert await names(store, q="bread", limit=1) == ["conv_2"]
    assert (await store.conversations(KEY, q="bread", limit=1)).has_more
    assert await names(store, q="bread", after="conv_2") == ["conv_1"]
    assert await names(store, q="bread", after="conv_1", newest_first=False) == ["conv_2"]
    assert await names(store, OTHER, q="bread") == ["conv_4"]
    await store.delete("conv_1", KEY)
    assert await names(store, q="bread") == ["conv_2"]
    assert await names(store, q="flour") == []


async def test_what_is_not_said_is_not_found(store: Store) -> None:
    lease = await new_lease(store)
    turn_id = await begin(store, lease, "question")
    said = ExactMessage(
        "assistant", (Thinking("secretly", ""), ToolCall("c", "tool", '{"a":"arg"}'), "answer")
    )
    assert await names(store, q="question") == []  # it runs
    await store.end_turn(lease, end(turn_id), [Said(said)])
    assert await names(store, q="question answer") == ["conv_1"]
    for word in ("secretly", "tool", "arg", "text", "content"):
        assert await names(store, q=word) == []
    turn_id = await begin(store, lease, "failing")
    await store.fail_turn(lease, TurnFailed(turn_id, "code", "failing"))
    assert await names(store, q="failing") == []
    await store.append(lease, [user("imported")])
    assert await names(store, q="imported") == ["conv_1"]


# -- conversations ---------------------------------------------------------------------------------


async def test_changing_a_conversation(store: Store) -> None:
    lease = await new_lease(store)
    await store.update("conv_1", KEY, metadata={"a": "b"}, grants=("Bash", "Read"))
    await store.update("conv_1", KEY, title="Mine", grants=("Read", "Edit"))
    await turn(store, lease, "Not the title")
    found = await store.get("conv_1", KEY)
    assert (found.metadata, found.title) == ({"a": "b"}, "Mine")
    assert found.grants == ("Bash", "Read", "Edit")
    assert found.private


async def test_a_fork_holds_what_was_there(store: Store) -> None:
    lease = await new_lease(store)
    picture = Said(ExactMessage("user", (Image("image/png", "QUJD" * 2000),)))
    await store.append(lease, [picture])
    await turn(store, lease, "one", "ONE")
    border = lease.head
    await begin(store, lease, "fails")
    await store.lose_turn(lease, "restart")
    await turn(store, lease, "two", "TWO")
    fork = await store.fork("conv_1", KEY, "conv_2", upto=border)
    whole = await store.fork("conv_1", KEY, "conv_3")
    await store.delete("conv_1", KEY)
    await turn(store, fork, "three", "THREE")

    async def said(name: str) -> list[object]:
        return [each.content[0] for each in messages_of(fold(await log_of(store, name)))]

    assert await said("conv_2") == [picture.message.content[0], "one", "ONE", "three", "THREE"]
    assert await said("conv_3") == [picture.message.content[0], "one", "ONE", "two", "TWO"]
    found = await store.get("conv_3", KEY)
    assert (found.turns, found.messages, found.lost_turn) == (2, 5, None)
    assert found.head == whole.head
    assert await names(store, q="one") == ["conv_3", "conv_2"]
    assert await names(store, q="three") == ["conv_2"]


async def test_pruning(store: Store, clock: Clock) -> None:
    for number in range(6):
        lease = await new_lease(store, f"conv_{number}")
        await turn(store, lease, "word " * 200)
        if number == 1:
            await begin(store, lease)  # it runs
    border = (await store.get("conv_3", KEY)).used_at
    assert await store.prune(unused_since=border, spare={"conv_0"}) == ("conv_2",)
    assert await store.prune(unused_since=border, spare={"conv_0"}) == ()
    assert await names(store) == ["conv_5", "conv_4", "conv_3", "conv_1", "conv_0"]
    held = await store.statistics()
    assert held.conversations == 5
    assert await store.prune(max_bytes=held.bytes * 10) == ()
    gone = await store.prune(max_bytes=held.bytes * 3 // 4)
    assert gone
    assert "conv_5" not in gone
    assert "conv_1" not in gone
    assert list(gone) == [name for name in ("conv_0", "conv_3", "conv_4") if name in gone]
    assert (await store.statistics()).record_bytes < held.record_bytes


async def test_pruning_responses(store: Store, clock: Clock) -> None:
    kept = [response(conversation_id=f"conv_{number}") for number in range(6)]
    for number, each in enumerate(kept):
        await store.put_response(each, clock.now + (10 if number < 2 else 10_000))
    clock.now += 100
    await store.prune(max_responses=3)
    assert (await store.statistics()).responses == 3
    for each in kept[:3]:
        with pytest.raises(Missing):
            await store.get_response(each.id, KEY)
    for each in kept[3:]:
        assert await store.get_response(each.id, KEY) == each


# -- lineage, usage, responses ---------------------------------------------------------------------


async def test_lineage(store: Store) -> None:
    first, second = await new_lease(store), await new_lease(store, "conv_2")
    a, b = b"a" * 32, b"b" * 32
    turn_id = await begin(store, first)
    await store.end_turn(first, end(turn_id), lineage=a)
    await store.lineage_put(KEY, a, "conv_2", 0)
    await store.lineage_put(KEY, b, "conv_2", 5)
    held = (Held(b, "conv_2", 5), Held(a, "conv_2", 0), Held(a, "conv_1", 3))
    assert await store.lineage_find(KEY, [b, a]) == held
    assert await store.lineage_find(KEY, [b, a], limit=2) == held[:2]
    await store.lineage_put(KEY, a, "conv_1", 9)  # the latest
    assert (await store.lineage_find(KEY, [a]))[0] == Held(a, "conv_1", 9)
    assert await store.lineage_find(OTHER, [a, b]) == ()
    await store.update("conv_2", KEY, private=True)
    assert await store.lineage_find(KEY, [b, a]) == (Held(a, "conv_1", 9),)
    await store.delete("conv_1", KEY)
    assert await store.lineage_find(KEY, [b, a]) == ()
    assert second.head == 0


async def test_usage_by_key_and_day(store: Store, clock: Clock) -> None:
    clock.now = 0.0
    lease, other = await new_lease(store), await new_lease(store, "conv_2", OTHER)
    for used in (Usage(1, 2, 3, 4, 0.1, 6), Usage(10, 20, 30, 40, 0.2, 60)):
        turn_id = await begin(store, lease)
        await store.end_turn(lease, end(turn_id, used))
    await turn(store, other)
    clock.now = 86_400.0
    await turn(store, lease)
    first, second = await store.usage(KEY)
    assert (first.day, first.turns) == ("1970-01-01", 2)
    assert first.usage == Usage(11, 22, 33, 44, 0.1 + 0.2, 66)
    assert (second.day, second.turns, second.usage) == ("1970-01-02", 1, Usage(10, 5))
    assert await store.usage(KEY, "1970-01-02", "1970-01-02") == (second,)
    await store.delete("conv_1", KEY)
    assert len(await store.usage(KEY)) == 2
    assert len(await store.usage(OTHER)) == 1
    assert [each.key_id for each in await store.usage()] == [KEY, KEY, OTHER]


async def test_what_a_turn_costs_its_key(store: Store, clock: Clock) -> None:
    """However the turn ends: with what was counted before it, of the model that it asked for."""
    clock.now = 0.0
    lease = await new_lease(store)
    turn_id = await begin(store, lease)
    await store.count([Spent(KEY, "1970-01-01T00", "opus", 0, Usage(7, 1))])
    whole, rest = Usage(17, 3, cost_usd=0.5), Usage(10, 2, cost_usd=0.5)
    await store.end_turn(lease, end(turn_id, whole), charge=Charge("opus", rest))
    turn_id = await begin(store, lease)
    failed = TurnFailed(turn_id, "upstream_failed", "It failed.")
    await store.fail_turn(lease, failed, charge=Charge("opus", Usage(3, 1)))
    await begin(store, lease)
    clock.now = 3600.0
    await store.lose_turn(lease, "The gateway ended.")
    assert (await store.get("conv_1", KEY)).usage == whole
    opus, lost = await store.spent(KEY, "")
    assert opus == Spent(KEY, "1970-01-01T00", "opus", 2, Usage(20, 4, cost_usd=0.5))
    assert lost == Spent(KEY, "1970-01-01T01", "claude-sonnet", 1, Usage())
    assert await store.spent(KEY, "1970-01-01T01") == (lost,)
    assert await store.spent(OTHER, "") == ()
    sonnet, opus_day = await store.usage(KEY)
    assert sonnet == DayUsage(KEY, "1970-01-01", "claude-sonnet", 1, Usage())
    assert opus_day == DayUsage(KEY, "1970-01-01", "opus", 2, opus.usage)


async def test_keys(store: Store, clock: Clock) -> None:
    empty = await store.keys()
    assert empty is not None
    assert empty.keys == ()
    assert await store.keys(empty.version) is None
    first = ApiKey(
        id="a" * 64,
        name="ann",
        scopes=("chat", "admin"),
        models=("sonnet", "agent/opus"),
        limits=KeyLimits(turns_per_minute=3, usd_per_day=1.5, tokens_per_5h=0),
        created_at=12.5,
    )
    second = ApiKey(id="b" * 64, name="bob")
    await store.add_key(first)
    await store.add_key(second)
    both = await store.keys(empty.version)
    assert both is not None
    assert both.keys == (first, second)
    for taken in (evolve(second, name="ann", id="c" * 64), evolve(second, name="eve")):
        with pytest.raises(NameTaken):
            await store.add_key(taken)
    assert await store.keys(both.version) is None
    with pytest.raises(Missing):
        await store.revoke_key("c" * 64)
    with pytest.raises(Missing):
        await store.delete_key(first.id)  # it holds
    clock.now = 100.0
    await store.revoke_key(first.id)
    revoked = await store.keys(both.version)
    assert revoked is not None
    assert revoked.keys == (evolve(first, revoked_at=101.0), second)
    await store.revoke_key(first.id)
    assert await store.keys(revoked.version) is None
    await store.add_key(evolve(first, id="d" * 64))  # its name is free again
    await store.delete_key(first.id)
    left = await store.keys(revoked.version)
    assert left is not None
    assert [key.id[0] for key in left.keys] == ["b", "d"]


async def test_responses(store: Store, clock: Clock) -> None:
    first = response(items=(TextDelta("a"), TextDelta("b")))
    await store.put_response(first, clock.now + 1000)
    assert await store.get_response(first.id, KEY) == first
    second = response()
    await store.put_response(second, clock.now + 1000)
    ended = evolve(
        first, is_settled=True, asked=(ExactMessage("user", (Image("i", "QUJD" * 2000),)).plain,)
    )
    await store.put_response(ended, clock.now + 1000)
    assert await store.get_response(first.id, KEY) == ended
    assert await store.latest_response("conv_1", KEY) == second
    assert await store.latest_response("conv_1", OTHER) is None
    with pytest.raises(Missing):
        await store.get_response(first.id, OTHER)
    with pytest.raises(Missing):
        await store.delete_response(first.id, OTHER)
    with pytest.raises(Missing):
        await store.put_response(evolve(first, key_id=OTHER), clock.now + 1000)
    await store.delete_response(second.id, KEY)
    assert await store.latest_response("conv_1", KEY) == ended
    clock.now += 2000
    with pytest.raises(Missing):
        await store.get_response(first.id, KEY)
    assert await store.latest_response("conv_1", KEY) is None


# -- requests with an idempotency key --------------------------------------------------------------

BOUNDS: dict[str, int] = {"max_count": 100, "max_bytes": 1_000_000}
ANSWER = KeptAnswer(200, {"content-type": "text/event-stream", "x-a": "é"}, b"data: {}\n\n" * 9000)


async def test_an_idempotency_key_is_claimed_once(store: Store, clock: Clock) -> None:
    until = clock.now + 100
    assert await store.claim_request(KEY, "k", b"one", until) is None
    assert await store.claim_request(OTHER, "k", b"two", until) is None  # each has its own
    assert await store.claim_request(KEY, "k", b"two", until) == KeptRequest(b"one", "running")
    await store.settle_request(KEY, "k", KeptRequest(b"one", "answered", ANSWER), until, **BOUNDS)
    found = await store.claim_request(KEY, "k", b"one", until)
    assert found == KeptRequest(b"one", "answered", ANSWER)
    clock.now += 100
    assert await store.claim_request(KEY, "k", b"two", clock.now + 100) is None
    await store.release_request(KEY, "k")
    assert await store.claim_request(KEY, "k", b"three", clock.now + 100) is None
    assert await store.check() == ()


async def test_many_claim_one_idempotency_key(store: Store, clock: Clock) -> None:
    got: list[KeptRequest | None] = []

    async def claim() -> None:
        got.append(await store.claim_request(KEY, "k", b"one", clock.now + 100))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(claim)
    assert got.count(None) == 1


async def test_the_oldest_answers_go_first(store: Store, clock: Clock) -> None:
    """Neither a request that runs here nor the latest goes, however few may be kept."""

    async def names() -> str:
        found = ""
        for name in "abcdef":
            if await store.claim_request(KEY, name, b"", clock.now + 1000) is not None:
                found += name
            else:
                await store.release_request(KEY, name)
        return found

    assert await store.claim_request(KEY, "f", b"", clock.now + 1) is None
    answer = KeptAnswer(200, {}, b"")
    for number, name in enumerate("abcd"):
        kept = KeptRequest(b"", "answered", answer)
        until = clock.now + 10 + number
        await store.settle_request(KEY, name, kept, until, max_count=3, max_bytes=1_000_000)
    assert await names() == "bcdf"
    small = KeptRequest(b"", "answered", answer)
    await store.settle_request(KEY, "e", small, clock.now + 20, max_count=100, max_bytes=40)
    assert await names() == "def"
    clock.now += 15
    await store.settle_request(KEY, "e", small, clock.now + 20, **BOUNDS)
    assert await names() == "ef"


async def test_answers_take_no_room_from_conversations(store: Store, clock: Clock) -> None:
    await turn(store, await new_lease(store))
    before = (await store.statistics()).bytes
    body = random.Random(1).randbytes(1_000_000)
    kept = KeptRequest(b"", "answered", KeptAnswer(200, {}, body))
    until = clock.now + 100
    await store.settle_request(KEY, "k", kept, until, max_count=9, max_bytes=9_000_000)
    held = await store.statistics()
    assert held.bytes > held.answer_bytes > 1_000_000
    assert await store.prune(max_bytes=before + 100_000) == ()


async def test_what_is_kept_is_whole(store: Store) -> None:
    lease = await new_lease(store)
    await turn(store, lease)
    assert await store.check() == ()


async def test_many_at_once(store: Store) -> None:
    leases: list[Lease] = [await new_lease(store, f"conv_{number}") for number in range(20)]

    async def talk(lease: Lease) -> None:
        for number in range(5):
            await turn(store, lease, f"{number}?", f"{number}!")

    async with trio.open_nursery() as nursery:
        for lease in leases:
            nursery.start_soon(talk, lease)
    for lease in leases:
        said = [each.text for each in messages_of(fold(await log_of(store, lease.conversation_id)))]
        assert said == [f"{number}{mark}" for number in range(5) for mark in "?!"]


LONG_TEXTS = {
    "plain": "hello, " * 300_000,
    "one emoji": "\U0001f600" + "hello, " * 300_000,
    "half a pair": "\ud83d" + "hello, " * 300_000,
    "quotes": '"\\\n' * 400_000,
}


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
async def test_a_long_message_is_kept_exactly(store: Store, text: str) -> None:
    """SQLite gets it in pieces."""
    lease = await new_lease(store)
    turn_id = await begin(store, lease, text)
    await store.end_turn(lease, end(turn_id), [assistant("Short."), assistant(text)])
    await turn(store, lease)
    kept = messages_of(fold(await log_of(store)))
    assert [each.text for each in kept] == [text, "Short.", text, "What?", "That."]
    found = await store.get("conv_1", KEY)
    assert found.bytes > 2 * len(text)
    await store.delete("conv_1", KEY)
    assert not await store.check()


async def test_a_long_system_prompt_is_kept_exactly(store: Store) -> None:
    setup = Setup("opus", "\U0001f600" + "Be brief. " * 200_000)
    await store.acquire("conv_1", KEY, NewConversation(setup=setup))
    assert (await store.get("conv_1", KEY)).setup == setup
