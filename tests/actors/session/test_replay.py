"""How messages are put before a child."""

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.actors.session.replay import RECORDED_FROM, Composition, compose, split
from ccapi.schemas.message import Image, Message, ToolCall, ToolResult, merge_turns
from tests.support.messages import assistant, user

TURN = UUID("7c2d6b1e-0b0f-4f0e-9d43-0b6f3f6f3a01")
OTHER = UUID("0b6f3f6f-0b0f-4f0e-9d43-7c2d6b1e3a01")


def told(composition: Composition) -> list[list[tuple[str, list[Any], bool]]]:
    """Role, blocks (text as it is), and whether an answer is wanted: per line and batch."""
    batches = []
    for batch in composition.batches:
        frames = [json.loads(bytes(line)) for line in batch.lines]
        assert frames[-1]["type"] == "user"
        assert frames[-1]["uuid"] == batch.uuid
        batches.append(
            [
                (
                    frame["type"],
                    [block.get("text", block["type"]) for block in frame["message"]["content"]],
                    frame["type"] == "user" and frame.get("shouldQuery", True),
                )
                for frame in frames
            ]
        )
    return batches


def test_one_message() -> None:
    composition = compose([user("a", "b")], TURN, "m")
    assert told(composition) == [[("user", ["a", "b"], True)]]
    assert composition.before == ()


def test_a_history_waits_for_each_of_its_user_messages() -> None:
    """An assistant's would overtake those that the CLI is still taking in."""
    said = [user("a"), assistant("b"), user("c"), assistant("d"), user("e")]
    composition = compose(said, TURN, "m")
    assert told(composition) == [
        [("user", ["a"], False)],
        [("assistant", ["b"], False), ("user", ["c"], False)],
        [("assistant", ["d"], False), ("user", ["e"], True)],
    ]
    assert composition.before == tuple(said[:4])


def test_a_history_may_begin_with_the_assistant() -> None:
    composition = compose([assistant("b"), user("c")], TURN, "m")
    assert told(composition) == [[("assistant", ["b"], False), ("user", ["c"], True)]]
    assert composition.before == (assistant("b"),)


def test_neighbours_are_written_as_one() -> None:
    """Two frames would gain a line between them. What is taken back is all of the last one."""
    said = [user("a"), assistant("b"), assistant(""), user("c"), user("d")]
    composition = compose(said, TURN, "m")
    assert told(composition) == [
        [("user", ["a"], False)],
        [("assistant", ["b"], False), ("user", ["c", "d"], True)],
    ]
    assert composition.before == (user("a"), assistant("b"))


def test_calls_results_and_pictures() -> None:
    said = [
        user(Image("image/png", "AAAA"), "what?"),
        assistant("hm", ToolCall("t", "look")),
        user(ToolResult("t", ("a cat",))),
    ]
    assert told(compose(said, TURN, "m")) == [
        [("user", ["image", "what?", ""], False)],
        [("assistant", ["hm", "tool_use"], False), ("user", ["tool_result", ""], True)],
    ]


def test_every_frame_has_a_uuid_of_its_own() -> None:
    """The CLI silently drops a frame whose uuid it has seen."""
    said = [user("a"), assistant("a"), user("a"), assistant("a"), user("a")]
    uuids = [
        json.loads(bytes(line))["uuid"]
        for turn in (TURN, OTHER)
        for batch in compose(said, turn, "m").batches
        for line in batch.lines
    ]
    assert len(set(uuids)) == len(uuids) == 10


def test_the_model_is_named_as_the_one_that_answered() -> None:
    composition = compose([user("a"), assistant("b"), user("c")], TURN, "haiku")
    assert json.loads(bytes(composition.batches[1].lines[0]))["message"]["model"] == "haiku"


MESSAGES = st.builds(
    Message,
    st.sampled_from(["user", "assistant"]),
    st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=2).map(tuple),
)


@given(st.lists(MESSAGES, max_size=8))
def test_a_child_gets_the_history(earlier: list[Message]) -> None:
    said = [*earlier, user("last")]
    composition = compose(said, TURN, "m")
    frames = [frame for batch in told(composition) for frame in batch]
    assert [(role, "".join(blocks)) for role, blocks, _ in frames] == [
        (message.role, message.text) for message in merge_turns(said)
    ]
    assert [wanted for _, _, wanted in frames] == [False] * (len(frames) - 1) + [True]
    assert all(sum(role == "user" for role, _, _ in batch) == 1 for batch in told(composition))
    # What it still holds when it takes the last message back.
    kept = merge_turns(composition.before)
    assert [(each.role, each.text) for each in kept] == [
        (role, "".join(blocks)) for role, blocks, _ in frames[:-1]
    ]


# -- what is recorded ------------------------------------------------------------------------------


def talk(length: int) -> list[Message]:
    """`length` messages, the last one the user's."""
    last = [user(f"{n}") if n % 2 == 0 else assistant(f"{n}") for n in range(length)]
    return last if length % 2 else [assistant("x"), *last[:-1]]


@pytest.mark.parametrize("limit", [None, 2 * RECORDED_FROM])
def test_a_short_history_is_written_to_the_child(limit: int | None) -> None:
    said = talk(RECORDED_FROM)
    assert split(said, limit) == ((), tuple(said))


def test_a_long_history_is_recorded() -> None:
    said = talk(RECORDED_FROM + 1)
    assert split(said, None) == (tuple(said[:-1]), (said[-1],))


def test_what_was_asked_last_is_never_recorded() -> None:
    said = [*talk(RECORDED_FROM + 1), user("and?")]
    assert split(said, None) == (tuple(said[:-2]), tuple(said[-2:]))
    said = [*talk(RECORDED_FROM + 1), assistant(""), user("and?")]
    assert split(said, None)[0] == tuple(said[:-3])


def test_a_recording_ends_with_calls_whose_results_are_written() -> None:
    results = user(ToolResult("t", ("1",)))
    said = [*talk(RECORDED_FROM + 1), assistant(ToolCall("t", "n")), results]
    assert split(said, None) == (tuple(said[:-1]), (results,))


def test_an_unanswered_history_is_written_however_long_it_is() -> None:
    said = [user(f"{n}") for n in range(RECORDED_FROM + 9)]
    assert split(said, None) == ((), tuple(said))


def test_the_limit_comes_first() -> None:
    said = talk(2 * RECORDED_FROM + 1)
    assert split(said, 5) == ((), tuple(said[-5:]))
    assert split(said, RECORDED_FROM + 5) == (tuple(said[-RECORDED_FROM - 5 : -1]), (said[-1],))
