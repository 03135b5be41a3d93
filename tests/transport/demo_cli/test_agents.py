"""The demo CLI as an agent: it pretends to use Claude Code's tools, and asks for permission."""

from __future__ import annotations

import itertools
import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from ccapi.transport.demo_cli import demo_agent, own_tools
from ccapi.transport.demo_cli.own_tools import Use
from tests.support import messages_stub as stub_words
from tests.support.demo_cli import (
    DemoCli,
    Frame,
    control,
    is_answer,
    is_result,
    kind,
    new_uuids,
    open_demo_cli,
    text_of,
    user,
)
from tests.support.raw_agent import (
    AGENT_FLAGS,
    TOOLS,
    allow,
    asks_permission,
    deny,
    open_raw_agent,
    results_of,
)
from tests.support.raw_cli import kind as long_kind

FLAGS = (*AGENT_FLAGS, "--tools", TOOLS, "--permission-mode", "default", "--model", "some-model")
RULE = {"type": "addRules", "rules": [{"toolName": "Bash"}], "behavior": "allow"}


def open_agent(home: Path, *flags: str, **given: Any) -> AbstractAsyncContextManager[DemoCli]:
    return open_demo_cli(home, *flags, base=FLAGS, **given)


def does(*activity: Any, **switches: Any) -> str:
    return f"!script {json.dumps({'activity': activity, **switches})}"


def bash(command: str, **fields: Any) -> Frame:
    return {"name": "Bash", "input": {"command": command}, **fields}


def read(path: str) -> Frame:
    return {"name": "Read", "input": {"file_path": path}}


def write(path: Any) -> Frame:
    return {"name": "Write", "input": {"file_path": str(path), "content": "x"}}


async def ask(child: DemoCli, *activity: Any, uuid: str | None = None) -> Frame:
    """A turn that does this; its first request for permission."""
    await child.send(user(does(*activity), uuid))
    return (await child.until(asks_permission))[-1]


async def finish(child: DemoCli, *replies: Frame) -> list[Frame]:
    await child.send(*replies)
    return await child.until(is_result)


# --- like the real one --------------------------------------------------------------------------


async def play(child: Any, texts: list[str]) -> list[Frame]:
    """Turns that look, write with permission, write in vain, and are interrupted in a question."""
    frames: list[Frame] = []
    (uuid,) = new_uuids(1)
    looks, writes, fails, hangs = texts
    await child.send(user(looks))
    frames += await child.until(is_result)
    for text, reply in ((writes, allow), (fails, lambda asked: deny(asked, "No."))):
        await child.send(user(text))
        frames += await child.until(asks_permission)
        await child.send(reply(frames[-1]))
        frames += await child.until(is_result)
    await child.send(user(hangs, uuid))
    frames += await child.until(asks_permission)
    await child.send(control("get_session_cost"))  # so that the message has ended
    frames += (await child.until(is_answer))[:-1]
    await child.send(
        control("rewind_conversation", target_message_uuid=uuid, interrupt_if_running=True)
    )
    frames += await child.until(is_answer)
    return frames


def essential(frames: list[Frame], *wanted: str) -> list[str]:
    names = ("can_use_tool" if asks_permission(frame) else long_kind(frame) for frame in frames)
    kept = (name for name in names if name.startswith(wanted))
    return [name for name, _ in itertools.groupby(kept)]


async def test_an_agents_turns_have_the_frames_of_the_real_cli(tmp_path: Path) -> None:
    """Results and questions come at any place in the messages they are about, in the real one."""
    place = tmp_path / "workspace"
    uses = [bash("ls"), write(place / "a"), write(place / "b"), write(place / "c")]
    questions = [f"question {number}" for number in range(len(uses))]
    acts: dict[str, Frame] = dict(zip(questions, uses, strict=True))

    def answer(request: Any) -> Any:
        use = acts.get(request.last_user_text)
        return (
            stub_words.say("done")
            if use is None
            else stub_words.call(stub_words.ToolUse(use["name"], use["input"]))
        )

    async with stub_words.open_messages_stub() as stub:
        stub.answer = answer
        async with open_raw_agent(tmp_path, stub.url, initialize=None) as real:
            expected = await play(real, questions)
    async with open_agent(tmp_path) as child:
        told = await play(child, [does(use, answer="done") for use in uses])
    for wanted in (
        ("stream_event", "assistant", "result"),
        ("user", "can_use_tool", "control", "result"),
    ):
        assert essential(told, *wanted) == essential(expected, *wanted)
    asked = (list(filter(asks_permission, frames)) for frames in (told, expected))
    for ours, theirs in zip(*asked, strict=True):
        assert ours["request"].keys() <= theirs["request"].keys()
        theirs_suggested = theirs["request"]["permission_suggestions"]
        assert theirs_suggested[0] in ours["request"]["permission_suggestions"]
    for frames in (expected, told):
        assert [bool(r.get("is_error")) for r in results_of(frames)] == [False, False, True, True]
        assert [f["terminal_reason"] for f in filter(is_result, frames)] == [
            *("completed", "completed", "completed", "aborted_tools"),
        ]


# --- what it is given ---------------------------------------------------------------------------


async def test_an_agent_has_tools_a_prompt_a_model_and_rules(tmp_path: Path) -> None:
    flags = ("--add-dir", "/further", "/other", "--disallowedTools", "WebFetch")
    async with open_agent(tmp_path, *flags) as child:
        await child.send(control("initialize", appendSystemPrompt="Be brief."))
        report = await child.report()
    assert report["own_tools"] == TOOLS.split(",")
    assert report["system"] == f"{demo_agent.SYSTEM}\n\nBe brief."
    assert report["model"] == "some-model"
    assert report["directories"] == ["/further", "/other"]
    assert (report["allowed"], report["denied"]) == (["mcp__client"], ["WebFetch"])


async def test_a_plain_models_child_has_no_tools_of_its_own(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        assert (await child.report())["own_tools"] == []
        assert (await child.turn("list the files"))[-1]["result"].startswith("You said:")


@pytest.mark.skipif("os.geteuid() != 0")
@pytest.mark.parametrize(
    "flags",
    [("--dangerously-skip-permissions",), ("--permission-mode", "bypassPermissions")],
)
async def test_root_cannot_have_an_agent_that_asks_for_no_permission(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    async with open_agent(tmp_path, *flags) as child:
        assert await child.wait() == 1
        assert "cannot be used with root" in await child.complaint()


# --- what it does -------------------------------------------------------------------------------


async def test_what_a_script_lists_is_written_done_and_answered(tmp_path: Path) -> None:
    """One message for each use, several at once where they are a list."""
    activity = [
        bash("make", text="I build it.", permission=False, output="built"),
        [bash("ls", output="a"), {**read("b"), "output": "no b", "is_error": True}],
    ]
    async with open_agent(tmp_path) as child:
        frames = await child.turn(does(*activity))
    assert not any(map(asks_permission, frames))
    assert [kind(f) for f in frames].count("message_start") == 3
    assert [(r["content"], bool(r.get("is_error"))) for r in results_of(frames)] == [
        ("built", False),
        ("a", False),
        ("no b", True),
    ]
    uses = [f["message"]["content"][0] for f in frames if f["type"] == "assistant"]
    assert [use["type"] for use in uses] == ["text", *["tool_use"] * 3, "text"]
    assert [use["id"] for use in uses[1:4]] == [r["tool_use_id"] for r in results_of(frames)]
    assert text_of(frames).startswith("I build it.The tool answered:\n\n> built\n\n")
    assert frames[-1]["num_turns"] == 3


async def test_nothing_is_ever_done(tmp_path: Path) -> None:
    place = trio.Path(tmp_path / "made")
    async with open_agent(tmp_path, "--allowedTools", "Bash", "Write", "Read") as child:
        uses = [bash(f"touch {place}"), write(place), bash("cat /etc/passwd"), read("/etc/passwd")]
        frames = await child.turn(does(uses))
    *done, listed, seen = results_of(frames)
    assert not any(result.get("is_error") for result in done)
    assert not await place.exists()
    assert (listed["is_error"], seen["is_error"]) == (True, True)
    assert "root:" not in json.dumps(frames)


async def test_what_it_wrote_it_remembers_also_when_it_is_resumed(tmp_path: Path) -> None:
    changed = {"file_path": "a.txt", "old_string": "x", "new_string": "plum"}
    async with open_agent(tmp_path, "--allowedTools", "Write", "Edit") as child:
        frames = await child.turn(does(write("a.txt"), {"name": "Edit", "input": changed}))
        assert not any(result.get("is_error") for result in results_of(frames))
    async with open_agent(tmp_path, "--resume", frames[-1]["session_id"]) as child:
        frames = await child.turn(does([read("a.txt"), bash("cat a.txt"), read("b.txt")]))
        assert [r["content"] for r in results_of(frames)] == [
            *("1\tplum", "plum", "File does not exist."),
        ]


async def test_what_takes_time_can_be_interrupted(tmp_path: Path) -> None:
    async with open_agent(tmp_path) as child:
        await child.send(user(does(bash("wait", permission=False, run_ms=60_000))))
        await child.until(lambda frame: kind(frame) == "message_stop")
        await child.send(control("interrupt"))
        frames = await child.until(is_result)
        assert [kind(f) for f in frames] == [
            *("control_response", "user", "user", "error_during_execution"),
        ]
        assert frames[-1]["terminal_reason"] == "aborted_tools"
        (result,) = results_of(frames)
        assert result["is_error"] is True
        assert (await child.turn("repeat: fine"))[-1]["result"] == "fine"


# --- permission ---------------------------------------------------------------------------------


async def test_the_question_and_its_answers(tmp_path: Path) -> None:
    async with open_agent(tmp_path) as child:
        asked = (await ask(child, bash("rm -r plum")))["request"]
        assert (asked["tool_name"], asked["input"]) == ("Bash", {"command": "rm -r plum"})
        assert asked["description"] == "rm -r plum"
        (rule,) = asked["permission_suggestions"]
        assert rule["rules"] == [{"toolName": "Bash", "ruleContent": "rm -r plum"}]
        frames = await finish(child, deny(await asked_again(child), "Not that."))
        (result,) = results_of(frames)
        assert (result["content"], result["is_error"]) == ("Not that.", True)
        assert [d["tool_name"] for d in frames[-1]["permission_denials"]] == ["Bash"]
        question = await ask(child, bash("rm plum"))
        frames = await finish(child, allow(question, updatedInput={"command": "echo fig"}))
        assert results_of(frames)[0]["content"] == "fig"


async def asked_again(child: DemoCli) -> Frame:
    """The last question, found in what was printed."""
    lines = [json.loads(line) for line in child.printed.splitlines()]
    return next(frame for frame in reversed(lines) if asks_permission(frame))


@pytest.mark.parametrize(
    ("update", "needs_no_more", "still_asks"),
    [
        (RULE, bash("rm a"), write("a")),
        ({"type": "setMode", "mode": "acceptEdits"}, write("a"), bash("make")),
        ({"type": "addDirectories", "directories": ["/etc"]}, read("/etc/x"), bash("make")),
    ],
    ids=lambda value: value.get("type", "") if isinstance(value, dict) else "",
)
async def test_what_is_allowed_for_the_session_is_asked_no_more(
    update: Frame, needs_no_more: Frame, still_asks: Frame, tmp_path: Path
) -> None:
    async with open_agent(tmp_path) as child:
        question = await ask(child, bash("rm b"))
        await finish(child, allow(question, updatedPermissions=[update]))
        assert not any(map(asks_permission, await child.turn(does(needs_no_more))))
        await ask(child, still_asks)


@pytest.mark.parametrize(
    ("flags", "use", "error"),
    [
        (("--allowedTools", "Bash(rm:*)"), bash("rm a"), ""),
        (("--disallowedTools", "Bash(ls *)"), bash("ls a"), "with command ls a has been denied"),
        (("--permission-mode", "dontAsk"), bash("rm a"), "don't ask mode"),
        (("--permission-mode", "acceptEdits"), write("a"), ""),
        (("--allowedTools", "Read(//etc/**)"), read("/etc/x"), "does not exist"),
    ],
)
async def test_rules_and_modes_decide_without_a_question(
    flags: tuple[str, ...], use: Frame, error: str, tmp_path: Path
) -> None:
    async with open_agent(tmp_path, *flags) as child:
        frames = await child.turn(does(use))
    assert not any(map(asks_permission, frames))
    (result,) = results_of(frames)
    assert bool(result.get("is_error")) == bool(error)
    assert error in result["content"]


async def test_those_that_only_look_ask_at_once_all_others_in_turn(tmp_path: Path) -> None:
    async with open_agent(tmp_path) as child:
        first = await ask(child, [read("/a"), read("/b"), bash("rm a")])
        second = (await child.until(asks_permission))[-1]
        assert [q["request"]["input"]["file_path"] for q in (first, second)] == ["/a", "/b"]
        await child.send(deny(second, "No b."), deny(first, "No a."))
        frames = await child.until(asks_permission)
        assert [r["content"] for r in results_of(frames)] == ["No a.", "No b."]
        assert frames[-1]["request"]["tool_name"] == "Bash"
        await finish(child, allow(frames[-1]))


async def test_an_interrupt_takes_the_open_question_back_first(tmp_path: Path) -> None:
    async with open_agent(tmp_path) as child:
        question = await ask(child, bash("rm a"))
        await child.until(lambda frame: kind(frame) == "message_stop")
        frames = await finish(child, control("interrupt"))
        assert [kind(f) for f in frames] == [
            *("control_cancel_request", "control_response", "user", "user"),
            "error_during_execution",
        ]
        assert frames[0]["request_id"] == question["request_id"]
        await child.send(allow(question))  # too late
        assert (await child.turn("repeat: fine"))[-1]["result"] == "fine"


async def test_a_rewind_takes_a_turn_back_with_its_tools(tmp_path: Path) -> None:
    async with open_agent(tmp_path) as child:
        await child.turn("one")
        (uuid,) = new_uuids(1)
        await ask(child, bash("ls"), bash("rm a"), uuid=uuid)
        await child.send(
            control("rewind_conversation", target_message_uuid=uuid, interrupt_if_running=True)
        )
        frames = await child.until(is_answer)
        assert sum(map(is_result, frames)) == 1
        assert frames[-1]["response"]["response"]["rewound"] is True
        said = [entry["content"] for entry in (await child.report())["history"]]
        assert next(text for text in said if isinstance(text, str)) == "one"
        assert "tool_use" not in json.dumps(said)


async def test_a_denial_may_stop_the_turn(tmp_path: Path) -> None:
    async with open_agent(tmp_path) as child:
        question = await ask(child, bash("rm a"), bash("ls"))
        frames = await finish(child, deny(question, "Stop.", interrupt=True))
        assert frames[-1]["terminal_reason"] == "aborted_tools"
        assert (await child.turn("repeat: fine"))[-1]["result"] == "fine"


async def test_stdin_closed_with_a_question_open_is_a_denial(tmp_path: Path) -> None:
    async with open_agent(tmp_path) as child:
        await ask(child, bash("rm a"))
        await child.close_stdin()
        frames = await child.until(is_result)
        assert "stream closed before response" in results_of(frames)[0]["content"]
        assert frames[-1]["is_error"] is False
        assert await child.wait() == 0


async def test_a_use_that_is_none_ends_the_process(tmp_path: Path) -> None:
    async with open_agent(tmp_path) as child:
        await child.send(user(does({"nmae": "Bash"})))
        with trio.fail_after(10):
            assert await child.wait() == 2
        assert "no use of a tool" in await child.complaint()


# --- the words of the demo ----------------------------------------------------------------------


async def test_the_demos_agent_does_what_the_prompt_says(tmp_path: Path) -> None:
    async with open_agent(tmp_path, "--pace-ms", "0", switches=None) as child:
        frames = await child.turn("List the files!")
        assert frames[-1]["result"] == "The tool answered:\n\n> README.md\n> notes.txt"
        await child.send(user("write hello.txt: plum"))
        asked = (await child.until(asks_permission))[-1]
        assert asked["request"]["input"] == {"file_path": "hello.txt", "content": "plum"}
        await finish(child, allow(asked))
        assert "plum" in (await child.turn("read hello.txt"))[-1]["result"]
        assert "pretend" in (await child.turn("what can you do?"))[-1]["result"]


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        ("list the files", ["Bash ls"]),
        ("ls", ["Bash ls"]),
        ("Run: make test", ["Bash make test"]),
        ("read notes.txt", ["Read notes.txt"]),
        ("write a file", ["Write hello.txt"]),
        ("Write a.md: one\ntwo", ["Write a.md"]),
        ("search for plums", ["Grep plums"]),
        ("wait for 5 seconds", ["Bash sleep 5"]),
        ("tidy up", ["Bash ls", "Read notes.txt", "Write todo.md", "Bash rm notes.txt"]),
        ("hello", []),
        ("I run: away", []),
        ("write", []),
        ("What did I write?", []),
    ],
)
def test_the_words_of_the_demo(text: str, uses: list[str]) -> None:
    done = [use for message in demo_agent.activity(text) for use in message]
    assert [f"{use.name} {next(iter(use.arguments.values()))}" for use in done] == uses


@pytest.mark.parametrize(
    ("name", "given", "needed"),
    [
        ("Bash", {"command": "ls -l | wc -l"}, False),
        ("Bash", {"command": "cat a && echo b"}, False),
        ("Bash", {"command": "cat /etc/passwd"}, True),
        ("Bash", {"command": "cat ../a"}, True),
        ("Bash", {"command": "echo a > b"}, True),
        ("Bash", {"command": "echo $(rm a)"}, True),
        ("Bash", {"command": "find . -delete"}, True),
        ("Bash", {"command": "ls; rm a"}, True),
        ("Bash", {"command": ""}, True),
        ("Read", {"file_path": "a"}, False),
        ("Read", {"file_path": "/further/a"}, False),
        ("Read", {"file_path": "/etc/passwd"}, True),
        ("Grep", {"pattern": "x"}, False),
        ("Write", {"file_path": "a"}, True),
        ("TaskCreate", {"subject": "s"}, False),
    ],
)
def test_what_needs_permission(name: str, given: Frame, needed: bool) -> None:
    assert own_tools.needs_permission(name, given, ["/further"]) is needed


def test_uses_are_read() -> None:
    [[one], [two, three]] = own_tools.read_uses([bash("a"), [bash("b", run_ms=5), read("c")]])
    assert one == Use("Bash", {"command": "a"})
    assert (two.run_ms, three.name) == (5, "Read")
    with pytest.raises(ValueError, match="no field comand"):
        own_tools.read_uses([{"name": "Bash", "comand": "a"}])
