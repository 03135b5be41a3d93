"""Histories as the CLI's transcripts: the entries, the file, and where it lies.

The last test gives one to the real CLI; tests/contract/test_transcripts.py has its facts apart.
"""

import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ccapi.schemas.message import Image, Message, ToolCall, ToolResult
from ccapi.transport.process.transcript import transcript_entries, transcript_path, write_transcript
from tests.support.messages import assistant, user
from tests.support.messages_stub import open_messages_stub
from tests.support.raw_cli import CHILD_ENVIRONMENT, GENERIC_FLAGS, cli_environment, open_raw_cli

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
PIXEL = Image("image/png", "iVBORw0KGgo=")


PLAIN = (user("one"), assistant("first"), user("two"), assistant("second"))


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_entries_are_strung_together_by_their_parents() -> None:
    entries = [*transcript_entries(PLAIN, "claude-x", MOMENT)]
    uuids = [entry["uuid"] for entry in entries]
    assert [entry["parentUuid"] for entry in entries] == [None, *uuids[:-1]]
    assert len(set(uuids)) == 4
    assert [entry["type"] for entry in entries] == ["user", "assistant"] * 2
    assert {entry["timestamp"] for entry in entries} == {"2026-01-02T03:04:05.678Z"}


def test_blocks_are_those_of_the_messages_api() -> None:
    history = (
        user("see", PIXEL),
        assistant("looking", ToolCall("call_1", "zoom", '{"x": 1}')),
        user(ToolResult("call_1", ("far", PIXEL), is_error=False)),
        assistant("a dot"),
    )
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": PIXEL.data},
    }
    contents = [e["message"]["content"] for e in transcript_entries(history, "claude-x", MOMENT)]
    assert contents == [
        [{"type": "text", "text": "see"}, image],
        [
            {"type": "text", "text": "looking"},
            {"type": "tool_use", "id": "call_1", "name": "zoom", "input": {"x": 1}},
        ],
        [
            {
                "type": "tool_result",
                "tool_use_id": "call_1",
                "content": [{"type": "text", "text": "far"}, image],
            }
        ],
        [{"type": "text", "text": "a dot"}],
    ]


def test_an_answer_names_its_model_and_has_an_id_of_its_own() -> None:
    messages = [entry["message"] for entry in transcript_entries(PLAIN, "claude-x", MOMENT)]
    answers = [message for message in messages if message["role"] == "assistant"]
    assert [answer["model"] for answer in answers] == ["claude-x", "claude-x"]
    assert len({answer["id"] for answer in answers}) == 2


def test_neighbours_are_joined_and_blank_text_is_left_out() -> None:
    """The CLI would join neighbours too, and put a newline between them."""
    history = (user("a"), assistant(""), user(" ", "b"), assistant("\n", "c"), assistant("d"))
    contents = [
        [block["text"] for block in entry["message"]["content"]]
        for entry in transcript_entries(history, "claude-x", MOMENT)
    ]
    assert contents == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize(
    "history", [(), PLAIN[:-1], (*PLAIN, user("three"), assistant(" "))], ids=len
)
def test_a_history_that_does_not_end_with_the_assistant_is_refused(
    history: tuple[Message, ...],
) -> None:
    with pytest.raises(ValueError, match="must end with the assistant"):
        transcript_entries(history, "claude-x", MOMENT)


async def test_the_file_is_private_and_the_resume_point_names_its_last_entry(
    tmp_path: Path,
) -> None:
    point = await write_transcript(tmp_path / "config/projects", tmp_path, PLAIN, "claude-x")
    path = transcript_path(tmp_path / "config/projects", tmp_path, point.session_id)
    entries = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    assert entries[-1]["uuid"] == point.assistant_uuid
    assert [entry["type"] for entry in entries] == ["user", "assistant"] * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_every_transcript_is_a_session_of_its_own(tmp_path: Path) -> None:
    points = [await write_transcript(tmp_path, tmp_path, PLAIN, "claude-x") for _ in range(2)]
    assert points[0].session_id != points[1].session_id
    assert points[0].assistant_uuid != points[1].assistant_uuid


async def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    point = await write_transcript(tmp_path, tmp_path, (user("\ud83d"), assistant("?")), "claude-x")
    first = transcript_path(tmp_path, tmp_path, point.session_id).read_bytes().splitlines()[0]
    assert b"\\ud83d" in first


async def test_a_folder_that_cannot_be_made_is_the_callers_to_handle(tmp_path: Path) -> None:
    (tmp_path / "projects").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="projects"):
        await write_transcript(tmp_path / "projects", tmp_path, PLAIN, "claude-x")


async def test_what_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        await write_transcript(tmp_path, tmp_path, PLAIN, "claude-x")
    assert files_below(tmp_path) == []


@pytest.mark.parametrize(
    ("cwd", "folder"),
    [
        ("/srv/my.app_1/Ünï", "-srv-my-app-1--n-"),
        ("/srv/😀x", "-srv---x"),  # two characters to JavaScript
        # Both names were made by the CLI itself.
        ("/tmp/tmpo3bxc0yb/{l}/{m}/n", "-tmp-tmpo3bxc0yb-{l}-{cut}-5ge8jj"),
        ("/tmp/tmpo3bxc0yb/{l}/{m}/{n}", "-tmp-tmpo3bxc0yb-{l}-{cut}-t1a9vz"),
    ],
)
def test_the_folder_is_named_as_the_cli_names_it(cwd: str, folder: str) -> None:
    long = {"l": "l" * 100, "m": "m" * 100, "n": "n" * 30, "cut": "m" * 82}
    path = transcript_path(Path("/projects"), Path(cwd.format(**long)), "s")
    assert path == Path("/projects", folder.format(**long), "s.jsonl")


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = {transcript_path(tmp_path, tmp_path / name, "s") for name in ("real", "link")}
    assert len(found) == 1


async def test_the_cli_takes_up_what_was_written(tmp_path: Path) -> None:
    """With results for the calls that the history ends with; and in a directory whose name takes
    all the rules to be found."""
    (tmp_path / ("é" * 90) / ("😀" * 50)).mkdir(parents=True)
    cwd = tmp_path / "link"
    cwd.symlink_to(tmp_path / ("é" * 90) / ("😀" * 50))
    history = (*PLAIN, user("/look"), assistant("hm", ToolCall("call_1", "zoom", '{"x": 1}')))
    point = await write_transcript(tmp_path / "config/projects", cwd, history, "claude-sonnet-4-5")
    assert point.assistant_uuid is not None
    flags = ("--resume", point.session_id, "--resume-session-at", point.assistant_uuid)
    async with open_messages_stub() as stub:
        environment = cli_environment(tmp_path, stub.url) | CHILD_ENVIRONMENT
        async with open_raw_cli(environment, cwd, (*GENERIC_FLAGS, *flags)) as cli:
            result = {"type": "tool_result", "tool_use_id": "call_1", "content": "a dot"}
            assert (await cli.turn([result]))[-1]["session_id"] == point.session_id
    (request,) = stub.requests
    assert request.conversation == [
        ("user", ["one"]),
        ("assistant", ["first"]),
        ("user", ["two"]),
        ("assistant", ["second"]),
        ("user", ["/look"]),
        ("assistant", ["hm", "<tool_use>"]),
        ("user", ["<tool_result>"]),
    ]
