"""How a turn is stopped, and how it is taken back as if it had never been asked for."""

import trio

from tests.support.logins import every_login
from tests.support.messages_stub import Failure, Hang, MessagesStub, say
from tests.support.raw_cli import Frame, RawCli, answers, is_result, kind, kinds, user_frame

ABORTED = [
    "assistant",
    "user",
    "stream_event/content_block_stop",
    "stream_event/message_delta",
    "stream_event/message_stop",
    "result/error_during_execution",
]


def rewind(child: RawCli, target: Frame) -> Frame:
    """Return the control request that takes back `target`, running or not."""
    return child.control_frame(
        "rewind_conversation", target_message_uuid=target["uuid"], interrupt_if_running=True
    )


async def take_back(child: RawCli, target: Frame) -> tuple[list[Frame], Frame]:
    """Rewind `target`; return the frames before the answer, and what the answer says."""
    request = rewind(child, target)
    await child.send(request)
    *before, answer = await child.until(answers(request))
    assert answer["response"]["subtype"] == "success"
    return before, answer["response"]["response"]


async def start_streaming(child: RawCli, stub: MessagesStub, text: str = "asked") -> Frame:
    """Start a turn whose answer stops after three deltas, all of which have been read."""
    stub.queue.append(say("abcdefghij" * 2, chunks=4, hang_after=3))
    asked = user_frame(text)
    await child.send(asked)
    await child.deltas(3)
    return asked


async def test_an_idle_interrupt_is_only_acknowledged(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 5."""
    await child.turn("one")
    assert (await child.control("interrupt"))["subtype"] == "success"
    assert kinds(await child.settle()) == []
    await child.turn("two")
    assert stub.requests[-1].conversation[-1] == ("user", ["two"])


async def test_an_interrupt_is_acknowledged_before_the_turn_ends(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 5."""
    await start_streaming(child, stub)
    await child.send(child.control_frame("interrupt"))
    seen = await child.until(is_result)
    assert kinds(seen) == ["control_response", *ABORTED]
    partial = next(f for f in seen if f["type"] == "assistant")
    assert partial["message"]["content"] == [{"type": "text", "text": "abcdefghijabcde"}]
    result = seen[-1]
    assert result["is_error"] is True
    assert result["terminal_reason"] == "aborted_streaming"
    assert result["usage"]["output_tokens"] == 0


async def test_after_an_interrupt_the_partial_answer_stays_in_history(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 5: and a marker with it."""
    await start_streaming(child, stub)
    await child.send(child.control_frame("interrupt"))
    await child.until(is_result)
    await child.turn("next")
    assert stub.requests[-1].conversation == [
        ("user", ["asked"]),
        ("assistant", ["abcdefghijabcde"]),
        ("user", ["[Request interrupted by user]\n", "next"]),
    ]


async def test_an_aborted_stream_is_closed_by_events_that_the_api_never_sent(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 5: a message_stop is no proof of a whole answer."""
    await start_streaming(child, stub)
    await child.send(child.control_frame("interrupt"))
    seen = await child.until(is_result)
    ending = next(f for f in seen if kind(f) == "stream_event/message_delta")
    assert ending["event"]["delta"]["stop_reason"] is None


@every_login
async def test_a_rewind_mid_stream_ends_the_turn_first_and_answers_last(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, sections 3e and 5: exactly one result, and it precedes the answer."""
    await child.turn("one")
    asked = await start_streaming(child, stub)
    before, answer = await take_back(child, asked)
    assert kinds(before) == ABORTED
    assert answer["rewound"] is True
    assert answer["targetMessageUuid"] == asked["uuid"]
    assert kinds(await child.settle()) == []


@every_login
async def test_a_rewound_turn_leaves_no_trace(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 3e."""
    await child.turn("one")
    asked = await start_streaming(child, stub)
    await take_back(child, asked)
    assert (await child.turn("two"))[-1]["is_error"] is False
    assert stub.requests[-1].conversation == [
        ("user", ["one"]),
        ("assistant", ["turn 1: one"]),
        ("user", ["two"]),
    ]


async def test_a_rewind_hangs_up_on_the_api(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 5: a cancelled turn stops costing."""
    asked = await start_streaming(child, stub)
    await take_back(child, asked)
    with trio.fail_after(10):
        await stub.requests[0].left.wait()


async def test_a_rewind_and_the_next_turn_may_be_written_in_one_piece(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 3e: two results, the aborted one first."""
    await child.turn("one")
    asked = await start_streaming(child, stub)
    await child.send(rewind(child, asked), user_frame("two"))
    aborted = await child.until(is_result)
    finished = await child.until(is_result)
    assert (aborted[-1]["is_error"], finished[-1]["is_error"]) == (True, False)
    assert kinds(finished)[0] == "control_response"
    assert [texts for _, texts in stub.requests[-1].conversation[1:]] == [["turn 1: one"], ["two"]]


async def test_a_rewind_before_the_first_byte_ends_the_turn_too(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 5: no assistant frame and no stream event then."""
    await child.turn("one")
    stub.queue.append(Hang())
    asked = user_frame("asked")
    await child.send(asked)
    await stub.wait_requests(2)
    await child.settle()
    before, answer = await take_back(child, asked)
    assert kinds(before) == ["user", "result/error_during_execution"]
    assert answer["rewound"] is True
    await child.turn("two")
    assert [texts for _, texts in stub.requests[-1].conversation[1:]] == [["turn 1: one"], ["two"]]


async def test_a_rewind_right_behind_its_own_turn_works(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 3e: the caller may be gone before the turn was even sent."""
    await child.turn("one")
    stub.answer = lambda _: Hang()
    asked = user_frame("asked")
    request = rewind(child, asked)
    await child.send(asked, request)
    seen = await child.until(answers(request))
    assert sum(map(is_result, seen)) == 1
    assert seen[-1]["response"]["response"]["rewound"] is True


async def test_a_finished_turn_is_rewound_without_another_result(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 3e: what happens when the end and the rewind cross."""
    first = (await child.turn("one"))[-1]
    asked = user_frame("asked")
    await child.send(asked)
    await child.until(is_result)
    before, answer = await take_back(child, asked)
    assert kinds(before) == []
    assert answer["rewound"] is True
    await child.turn("two")
    assert [texts for _, texts in stub.requests[-1].conversation[1:]] == [
        [first["result"]],
        ["two"],
    ]


@every_login
async def test_the_first_turn_can_be_rewound(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 3e (refused before 2.1.330): no preceding assistant, success."""
    asked = await start_streaming(child, stub)
    before, answer = await take_back(child, asked)
    assert kinds(before) == ABORTED
    assert answer["rewound"] is True
    assert answer["precedingAssistantUuid"] is None
    await child.turn("next")
    assert stub.requests[-1].conversation == [("user", ["next"])]


async def test_a_failed_text_stays_until_it_is_rewound(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 6."""
    stub.queue.append(Failure(500))
    await child.turn("kept")
    await child.turn("one")
    assert stub.requests[-1].conversation == [("user", ["kept\n", "one"])]
    stub.queue.append(Failure(500))
    failed = user_frame("failed")
    await child.send(failed)
    assert (await child.until(is_result))[-1]["is_error"] is True
    _, answer = await take_back(child, failed)
    assert answer["rewound"] is True
    await child.turn("two")
    assert "failed" not in str(stub.requests[-1].body)


async def test_a_rewind_of_what_is_not_there_says_so_in_a_success(child: RawCli) -> None:
    """Protocol notes, section 3e: the subtype is success, `rewound` tells."""
    await child.turn("one")
    _, answer = await take_back(child, user_frame("never sent"))
    assert answer["rewound"] is False
    assert answer["reason"] == "target_not_found"


async def test_only_the_last_user_message_can_be_rewound(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 3e: but one after the other."""
    turns = [user_frame(name) for name in ("one", "two", "three")]
    for frame in turns:
        await child.send(frame)
        await child.until(is_result)
    _, refused = await take_back(child, turns[1])
    assert refused["rewound"] is False
    for frame in reversed(turns[1:]):
        _, answer = await take_back(child, frame)
        assert answer["rewound"] is True
    await child.turn("again")
    assert [texts for _, texts in stub.requests[-1].conversation] == [
        ["one"],
        ["turn 1: one"],
        ["again"],
    ]
