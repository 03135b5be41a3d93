"""How a conversation survives the loss of its child, on purpose or not."""

import signal
from pathlib import Path
from uuid import uuid4

import trio

from tests.contract.conftest import OpenChild
from tests.support.logins import by_key_and_token, every_login
from tests.support.messages_stub import MessagesStub, Reply, Text, Thinking, say
from tests.support.raw_cli import (
    PATIENCE,
    Frame,
    RawCli,
    adoption,
    answers,
    is_result,
    user_frame,
)

TWO_TURNS = [
    ("user", ["one"]),
    ("assistant", ["turn 1: one"]),
    ("user", ["two"]),
    ("assistant", ["turn 2: two"]),
]


def last_assistant(frames: list[Frame]) -> str:
    return str([f for f in frames if f["type"] == "assistant"][-1]["uuid"])


async def wait_recorded(uuid: str, folder: Path) -> None:
    """Wait until a transcript below `folder` has this uuid; a file has no event to wait for."""

    def recorded() -> bool:
        transcripts = folder.glob("config/projects/*/*.jsonl")
        return any(uuid in transcript.read_text() for transcript in transcripts)

    with trio.fail_after(PATIENCE):
        while not recorded():
            await trio.sleep(0.01)


async def kill_mid_turn(child: RawCli, stub: MessagesStub, home: Path) -> None:
    """Start a turn, wait for part of its answer and its text's record, kill the child.

    Killed any earlier, the text may or may not be in the transcript.
    """
    stub.queue.append(say("abcdefghij", chunks=2, hang_after=1))
    lost = user_frame("lost")
    await child.send(lost)
    await child.deltas(1)
    await wait_recorded(lost["uuid"], home)
    child.signal(signal.SIGKILL)
    await child.wait()


@every_login
async def test_a_closed_conversation_is_resumed_whole(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Protocol notes, section 4: stdin closed when idle is a clean exit."""
    async with open_child() as cli:
        await cli.turn("one")
        session = (await cli.turn("two"))[-1]["session_id"]
        await cli.close_stdin()
        assert await cli.wait() == 0
    async with open_child("--resume", session) as cli:
        assert (await cli.turn("three"))[-1]["session_id"] == session
    assert stub.requests[-1].conversation == [*TWO_TURNS, ("user", ["three"])]


@by_key_and_token
async def test_a_child_killed_right_after_its_result_is_resumed_whole(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Protocol notes, section 4: what CLAUDE_CODE_EAGER_FLUSH asks for; 2.1.330 does it anyway."""
    async with open_child() as cli:
        await cli.turn("one")
        session = (await cli.turn("two"))[-1]["session_id"]
        cli.signal(signal.SIGKILL)
        await cli.wait()
    async with open_child("--resume", session) as cli:
        await cli.turn("three")
    assert stub.requests[-1].conversation == [*TWO_TURNS, ("user", ["three"])]


async def test_a_plain_resume_keeps_the_text_of_a_killed_turn(
    open_child: OpenChild, stub: MessagesStub, tmp_path: Path
) -> None:
    """Protocol notes, section 4: and puts an answer under it that no model gave."""
    async with open_child() as cli:
        session = (await cli.turn("one"))[-1]["session_id"]
        await kill_mid_turn(cli, stub, tmp_path)
    async with open_child("--resume", session) as cli:
        await cli.turn("two")
    assert stub.requests[-1].conversation == [
        ("user", ["one"]),
        ("assistant", ["turn 1: one"]),
        ("user", ["lost"]),
        ("assistant", ["No response requested."]),
        ("user", ["two"]),
    ]


@by_key_and_token
async def test_resumed_at_the_last_assistant_frame_a_killed_turn_leaves_no_trace(
    open_child: OpenChild, stub: MessagesStub, tmp_path: Path
) -> None:
    """Protocol notes, sections 3c and 4: the uuid of the answer's last frame, whole answer kept."""
    async with open_child() as cli:
        await cli.turn("one")
        stub.queue.append(Reply((Thinking("hmm"), Text("A-part."), Text("B-part."))))
        answered = await cli.turn("two")
        session, at = answered[-1]["session_id"], last_assistant(answered)
        await kill_mid_turn(cli, stub, tmp_path)
    async with open_child("--resume", session, "--resume-session-at", at) as cli:
        await cli.turn("three")
        await cli.turn("four")
    roles_and_texts = stub.requests[-1].conversation
    assert [
        (role, [part for part in texts if part != "<thinking>"]) for role, texts in roles_and_texts
    ] == [
        ("user", ["one"]),
        ("assistant", ["turn 1: one"]),
        ("user", ["two"]),
        ("assistant", ["A-part.", "B-part."]),
        ("user", ["three"]),
        ("assistant", ["turn 3: three"]),
        ("user", ["four"]),
    ]


async def test_an_earlier_assistant_frame_truncates_the_answer(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Protocol notes, section 3c: why it has to be the last one."""
    async with open_child() as cli:
        stub.queue.append(Reply((Text("A-part."), Text("B-part."))))
        answered = await cli.turn("one")
        first = next(f["uuid"] for f in answered if f["type"] == "assistant")
        await cli.close_stdin()
        await cli.wait()
    session = answered[-1]["session_id"]
    async with open_child("--resume", session, "--resume-session-at", first) as cli:
        await cli.turn("two")
    assert stub.requests[-1].conversation[1] == ("assistant", ["A-part."])


@by_key_and_token
async def test_a_resumed_child_takes_a_new_system_prompt_and_model(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Protocol notes, sections 1 and 3: adopted like a generic child, history and session kept."""
    async with open_child() as cli:
        await cli.turn("one")
        answered = await cli.turn("two")
        await cli.close_stdin()
        await cli.wait()
    session, at = answered[-1]["session_id"], last_assistant(answered)
    flags = ("--resume", session, "--resume-session-at", at)
    async with open_child(*flags, adopt=False) as cli:
        new = adoption(model="claude-haiku-4-5", system="Quite another.")
        await cli.send(cli.control_frame("initialize", **new), user_frame("three"))
        assert (await cli.until(is_result))[-1]["session_id"] == session
    request = stub.requests[-1]
    assert request.model == "claude-haiku-4-5"
    assert request.system.endswith("\n\nQuite another.")
    assert request.conversation == [*TWO_TURNS, ("user", ["three"])]


async def test_without_simple_mode_a_new_system_prompt_needs_the_snapshot_off(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """The CLI records the prompt and replays it on resume, unless `systemPromptSnapshot` is false.

    Found on 2.1.330; the record is written whether or not anyone asks for it.
    """
    without = ("CLAUDE_CODE_SIMPLE",)
    recorded = adoption(system="Recorded.")
    del recorded["systemPromptSnapshot"]
    async with open_child(adopt=False, without=without) as cli:
        await cli.send(cli.control_frame("initialize", **recorded))
        session = (await cli.turn("one"))[-1]["session_id"]
        await cli.close_stdin()
        await cli.wait()
    sent = []
    for extra in ({}, {"systemPromptSnapshot": False}):
        fields = recorded | {"systemPrompt": "Another."} | extra
        async with open_child("--resume", session, adopt=False, without=without) as cli:
            await cli.send(cli.control_frame("initialize", **fields))
            await cli.turn("more")
            await cli.close_stdin()
            await cli.wait()
        sent.append(stub.requests[-1].system.rpartition("\n\n")[2])
    assert sent == ["Recorded.", "Another."]


async def test_the_first_turn_after_a_resume_can_be_rewound(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Protocol notes, section 3e."""
    async with open_child() as cli:
        session = (await cli.turn("one"))[-1]["session_id"]
        await cli.close_stdin()
        await cli.wait()
    async with open_child("--resume", session) as cli:
        asked = user_frame("two")
        await cli.send(asked)
        await cli.until(is_result)
        request = cli.control_frame("rewind_conversation", target_message_uuid=asked["uuid"])
        await cli.send(request)
        answer = (await cli.until(answers(request)))[-1]["response"]
        assert answer["response"]["rewound"] is True
        await cli.turn("three")
    assert [texts for _, texts in stub.requests[-1].conversation] == [
        ["one"],
        ["turn 1: one"],
        ["three"],
    ]


async def test_a_rewind_survives_a_resume(open_child: OpenChild, stub: MessagesStub) -> None:
    """Protocol notes, section 3e."""
    async with open_child() as cli:
        session = (await cli.turn("one"))[-1]["session_id"]
        asked = user_frame("taken back")
        await cli.send(asked)
        await cli.until(is_result)
        await cli.control("rewind_conversation", target_message_uuid=asked["uuid"])
        await cli.close_stdin()
        await cli.wait()
    async with open_child("--resume", session) as cli:
        await cli.turn("two")
    assert [texts for _, texts in stub.requests[-1].conversation] == [
        ["one"],
        ["turn 1: one"],
        ["two"],
    ]


async def test_a_replayed_history_is_resumed_with_the_rest(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Protocol notes, section 3a: what came by replay is persisted like what was said."""
    async with open_child() as cli:
        await cli.turn("zero", shouldQuery=False)
        session = (await cli.turn("one"))[-1]["session_id"]
        await cli.close_stdin()
        await cli.wait()
    async with open_child("--resume", session) as cli:
        await cli.turn("two")
    assert stub.requests[-1].conversation[0] == ("user", ["zero\n", "one"])


async def test_resuming_what_is_not_there_ends_the_child_with_a_reason(
    open_child: OpenChild,
) -> None:
    """Protocol notes, section 3: rc 1, an unasked error result, the reason on stderr."""
    unknown = str(uuid4())
    async with open_child("--resume", unknown, adopt=False) as cli:
        assert await cli.wait() == 1
        (result,) = await cli.until(is_result)
        assert result["subtype"] == "error_during_execution"
        assert result["errors"] == [f"No conversation found with session ID: {unknown}"]
