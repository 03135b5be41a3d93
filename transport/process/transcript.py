"""The CLI's transcript of a conversation that it never had: history, written where it resumes it.

Knows: the least that an entry needs, and where the CLI looks for the transcripts of a working
directory. Refuses to know: the child that will resume it, and which history is worth a file.

A long history reaches a child sooner this way than message by message on its stdin, and it
arrives exactly: nothing in a transcript is taken for a command or a file to be read.

Source: measured on the real CLI; the contract suite in tests/contract holds one test per fact.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import trio

from ...schemas.claude.input import assistant_message, encode_blocks
from ...schemas.claude.lines import line, pieces_of
from ...schemas.message import Message, is_blank, merge_turns, unrolled
from ...schemas.turn import ResumePoint

LONGEST_NAME = 200
"""Characters of a folder's name that the CLI makes without a hash."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


async def write_transcript(
    projects: Path, cwd: Path, messages: Sequence[Message], model: str
) -> ResumePoint:
    """Write `messages` as a session of its own, and return where a child takes it up.

    `projects` is the CLI's folder of transcripts (``projects`` in its configuration folder), `cwd`
    the working directory of the child that will resume it, `model` the one that the answers are
    said to be from. The history ends with an answer, or with the tool calls whose results the next
    user message brings. Raises `ValueError` where it does not, and `OSError` where it cannot be
    written; then no file is left.
    """
    return await trio.to_thread.run_sync(_write, projects, cwd, tuple(messages), model)


def transcript_entries(
    messages: Sequence[Message], model: str, moment: datetime
) -> Iterator[dict[str, Any]]:
    """The transcript's lines as JSON objects, oldest first, each with a fresh ``uuid``; one at a
    time, for together they take many times what the messages do.

    Only what the CLI cannot do without: it strings the entries together by ``parentUuid``, from the
    last one back. Raises `ValueError` unless the history ends with something of the assistant's.
    """
    flat, _ = unrolled(messages)
    merged = merge_turns(flat)
    if not merged or merged[-1].role != "assistant":
        # The CLI would put an answer of its own there ("No response requested.").
        raise ValueError("a history to be resumed must end with the assistant")
    written = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _entries(merged, model, written)


def _entries(messages: Sequence[Message], model: str, timestamp: str) -> Iterator[dict[str, Any]]:
    parent: str | None = None
    for message in messages:
        uuid = str(uuid4())
        yield {
            "type": message.role,
            "uuid": uuid,
            "parentUuid": parent,
            "timestamp": timestamp,
            "message": _encode(message, uuid, model),
        }
        parent = uuid


def transcript_path(projects: Path, cwd: Path, session_id: str) -> Path:
    """Where the CLI, running in `cwd`, looks for the transcript of that session."""
    # The child sees its directory without symbolic links, and so the CLI names it.
    return projects / _folder_name(str(cwd.resolve())) / f"{session_id}.jsonl"


def _encode(message: Message, uuid: str, model: str) -> dict[str, Any]:
    if message.role == "assistant":
        return assistant_message(uuid, message.content, model)
    # What stands in a transcript goes to the API as it is, and that refuses blank text.
    content = [each for each in message.content if not (isinstance(each, str) and is_blank(each))]
    return {"role": "user", "content": encode_blocks(content)}


def _folder_name(path: str) -> str:
    """As the CLI's JavaScript makes it, which counts in UTF-16: "😀" is two characters."""
    data = path.encode("utf-16-le", "surrogatepass")
    units = [int.from_bytes(data[at : at + 2], "little") for at in range(0, len(data), 2)]
    name = re.sub(r"[^A-Za-z0-9]", "-", "".join(map(chr, units)))
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{_hash(units)}"


def _hash(units: Sequence[int]) -> str:
    """Java's String.hashCode in 32 bits, its absolute value in base 36."""
    value = 0
    for unit in units:
        value = (value * 31 + unit) & 0xFFFF_FFFF
    value = abs(value - (1 << 32) if value >> 31 else value)
    digits = ""
    while value:
        value, digit = divmod(value, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"


def _write(projects: Path, cwd: Path, messages: Sequence[Message], model: str) -> ResumePoint:
    entries = transcript_entries(messages, model, datetime.now(UTC))
    session_id, last = str(uuid4()), ""
    path = transcript_path(projects, cwd, session_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Beside it under a name that no child looks for, so that none ever reads half a conversation.
    aside = path.with_suffix(".part")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for entry in entries:
                file.writelines(pieces_of(line(entry)))
                last = entry["uuid"]
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return ResumePoint(session_id=session_id, assistant_uuid=last)
