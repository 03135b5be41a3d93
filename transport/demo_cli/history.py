"""What the demo CLI remembers of a conversation, and the file it is kept in.

Knows entries (user and assistant messages with their uuids), rewinding, and the transcript: one
JSON line for each entry in `scripted/<working directory>/<session id>.jsonl` under the CLI's
configuration folder, appended at once, so that a killed child loses nothing it had finished.
Refuses to know the protocol. The rules for rewinding are the CLI's.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, Final

from .frames import Json, new_uuid, synthetic

_SESSION_ID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def text_of(content: Any) -> str:
    """The text of a message's content: the string, or its text blocks one below the other.

    Empty blocks do not count; no model is shown them.
    """
    if isinstance(content, str):
        return content
    return "\n".join(
        block["text"]
        for block in content
        if isinstance(block, dict) and block.get("type") == "text" and block.get("text")
    )


def last_text(content: Any) -> str:
    """The text the CLI looks at for a slash command: the string, or the last block's."""
    if isinstance(content, str):
        return content
    texts = [b["text"] for b in content if isinstance(b, dict) and b.get("type") == "text"]
    return str(texts[-1]) if texts else ""


def is_session_id(text: str) -> bool:
    """Whether it has the form of a UUID; anything else must not reach a path."""
    return _SESSION_ID.fullmatch(text) is not None


def transcript_path(session_id: str, kind: str = "scripted") -> str:
    """Where the transcript of a session in the present working directory lies.

    `kind` "projects": one that was written for the CLI, which this child reads too.
    """
    home = os.environ.get("CLAUDE_CONFIG_DIR") or os.path.expanduser("~/.claude")  # noqa: PTH111
    folder = re.sub(r"[^A-Za-z0-9]", "-", os.getcwd())  # noqa: PTH109
    return f"{home}/{kind}/{folder}/{session_id}.jsonl"


class History:
    """The entries of one conversation, oldest first. `path` None keeps them in memory alone.

    An entry is `{"type": "user" | "assistant", "uuid", "message"}`; `"marker": true` is on what
    the CLI itself says as the user (interruptions, tool results), `"error": true` on the
    assistant message that stands for a failed turn. No model is shown the latter.
    """

    def __init__(self, path: str | None) -> None:
        self.entries: list[Json] = []
        self.seen: set[str] = set()
        self._path = path

    @classmethod
    def load(cls, source: str, path: str | None, until: str | None) -> History | None:
        """What `source` holds, up to and including the entry `until`, to be kept on in `path`.

        None when there is no such transcript; LookupError when it has no such entry. A line torn
        by a crash is passed over.
        """
        try:
            with open(source, encoding="utf-8") as file:  # noqa: PTH123
                lines = file.read().splitlines()
        except FileNotFoundError:
            return None
        history = cls(path)
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            history.entries.append(entry)
            history.seen.add(entry["uuid"])
        if until is not None:
            uuids = [entry["uuid"] for entry in history.entries]
            if until not in uuids:
                raise LookupError(until)
            del history.entries[uuids.index(until) + 1 :]
        last = history.entries[-1] if history.entries else {"type": "assistant"}
        if last["type"] == "user" and not last.get("marker"):
            # A turn cut off by the end of its process: the CLI puts an answer under it.
            said = synthetic(new_uuid(), "No response requested.", "stop_sequence")
            history.entries.append({"type": "assistant", "uuid": new_uuid(), "message": said})
        history._write_all()
        return history

    def append(self, entry: Json) -> None:
        """Remember an entry and write it to the transcript."""
        self.entries.append(entry)
        self.seen.add(entry["uuid"])
        if self._path is None:
            return
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
            with open(self._path, "a", encoding="utf-8") as file:  # noqa: PTH123
                file.write(json.dumps(entry) + "\n")
        except OSError:
            # No home, or a read-only one: the conversation goes on, it cannot be resumed.
            self._path = None

    def move(self, path: str) -> None:
        """Keep what follows in another file, unless none is kept."""
        if self._path is not None:
            self._path = path

    def cost(self) -> float:
        """US dollars spent on what is remembered."""
        return sum(float(entry.get("cost", 0.0)) for entry in self.entries)

    def rewind(self, target: str, last_seen: str | None = None, *, first_too: bool) -> Json:
        """Forget a user message and what follows it: the last one, or one that `last_seen`, the
        last one, follows. Returns the body of the control response."""
        users = [
            index
            for index, entry in enumerate(self.entries)
            if entry["type"] == "user" and not entry.get("marker")
        ]
        named = [index for index in users if self.entries[index]["uuid"] == target]
        if not named:
            return refused("target not found")
        if named[0] != users[-1] and last_seen is None:
            return refused("stale target")
        if last_seen is not None and self.entries[users[-1]]["uuid"] != last_seen:
            return refused("unseen later turn")
        before = [
            entry["uuid"] for entry in self.entries[: named[0]] if entry["type"] == "assistant"
        ]
        if not before and not first_too:
            return refused("no preceding assistant")
        forgotten = self.entries[named[0]]
        del self.entries[named[0] :]
        self._write_all()
        return {
            "rewound": True,
            "targetMessageUuid": target,
            "prefillText": text_of(forgotten["message"]["content"]),
            "precedingAssistantUuid": before[-1] if before else None,
        }

    def _write_all(self) -> None:
        if self._path is None:
            return
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
        aside = f"{self._path}.{os.getpid()}"
        with open(aside, "w", encoding="utf-8") as file:  # noqa: PTH123
            file.writelines(json.dumps(entry) + "\n" for entry in self.entries)
        os.replace(aside, self._path)  # noqa: PTH105


def refused(why: str) -> Json:
    """The body of the control response to a rewind that was not done."""
    return {
        "rewound": False,
        "prefillText": None,
        "precedingAssistantUuid": None,
        "error": why,
        "reason": why.replace(" ", "_"),
    }
