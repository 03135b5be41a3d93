"""What a log says in the end."""

from __future__ import annotations

from ccapi.schemas.log.codec import decode, encode
from ccapi.schemas.log.fold import fold, messages_of
from ccapi.schemas.log.messages import ExactMessage
from ccapi.schemas.log.records import (
    Logged,
    Record,
    Rewound,
    Said,
    TurnEnd,
    TurnFailed,
    TurnLost,
    TurnStart,
)
from ccapi.schemas.turn import ResumePoint, Usage
from ccapi.schemas.turn_items import Refused, TextDelta


def user(text: str) -> Said:
    return Said(ExactMessage("user", (text,)))


def assistant(text: str) -> Said:
    return Said(ExactMessage("assistant", (text,)))


def logged(*records: Record) -> list[Logged]:
    return [Logged(seq, 1, 0, float(seq), record) for seq, record in enumerate(records, 1)]


def turn(name: str, *answer: Said, prompts: int = 1) -> list[Record]:
    asked = [user(f"{name}?") for _ in range(prompts)]
    start = TurnStart(name, name, "sonnet", prompts)
    return [start, *asked, *answer, TurnEnd(name, "stop", Usage(1, 2))]


def texts(*records: Record) -> list[str]:
    return [message.text for message in messages_of(fold(logged(*records)))]


def test_a_turn_parts_what_was_asked_from_the_answer() -> None:
    [found] = fold(logged(*turn("a", assistant("one"), assistant("two"), prompts=2)))
    assert found.turn_id == "a"
    assert found.model == "sonnet"
    assert found.created_at == 1.0
    assert [message.text for message in found.prompts] == ["a?", "a?"]
    assert [message.text for message in found.answer] == ["one", "two"]
    assert found.output == (TextDelta("onetwo"),)
    assert found.usage == Usage(1, 2)
    assert found.last == 6


def test_an_output_that_the_messages_do_not_say_is_kept() -> None:
    resume = ResumePoint("session", "uuid")
    end = TurnEnd("a", "content_filter", Usage(), (Refused("No."),), resume)
    [found] = fold(logged(TurnStart("a", "a", "m", 1), user("?"), end))
    assert found.output == (Refused("No."),)
    assert found.finish_reason == "content_filter"
    assert found.resume == resume


def test_the_login_that_answered_is_kept_where_there_are_several() -> None:
    for login in ("", "research"):
        end = TurnEnd("a", "stop", Usage(), login=login)
        encoded = encode(end)
        assert (b"login" in encoded.body) is bool(login)
        assert decode(encoded.kind, encoded.body, lambda _: b"") == end
        [found] = fold(logged(TurnStart("a", "a", "m", 1), user("?"), end))
        assert found.login == login


def test_turns_that_failed_were_lost_or_run_do_not_count() -> None:
    failed: list[Record] = [
        TurnStart("f", "f", "m", 1),
        user("f?"),
        TurnFailed("f", "child_died", "It died."),
    ]
    lost: list[Record] = [
        TurnStart("l", "l", "m", 1),
        user("l?"),
        assistant("half"),
        TurnLost("l", "restart"),
    ]
    running: list[Record] = [TurnStart("r", "r", "m", 1), user("r?")]
    said = texts(*turn("a", assistant("A")), *failed, *lost, *turn("b", assistant("B")), *running)
    assert said == ["a?", "A", "b?", "B"]


def test_what_was_taken_back_does_not_count() -> None:
    first = turn("a", assistant("A"))
    records = [user("seed"), *first, *turn("b", assistant("B")), Rewound(1 + len(first), 3, 1)]
    assert texts(*records, *turn("c", assistant("C"))) == ["seed", "a?", "A", "c?", "C"]
    assert texts(*records, Rewound(0, 0, 0), user("new")) == ["new"]
