"""The messages of one turn of the demo CLI, frame by frame.

Knows which message and which block are open, what of it was printed, and what the history gains.
Refuses to know why anything is said, and when it ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from . import answers
from .frames import Frames, Json, message, new_uuid
from .steps import Pause, Step, Write

_BATCH: Final = 128  # delta lines in one write at full speed; stdin is looked at between two


class Speech:
    """One turn's messages. `entries` is what the history gains, `sent` the pieces of the open
    block, `waiting` the tool uses that have no result."""

    def __init__(self, frames: Frames, model: str, usage: Json, pace_ms: float) -> None:
        """`usage`: as it stands where a message begins."""
        self.entries: list[Json] = []
        self.sent: list[str] = []
        self.waiting: list[str] = []
        self.requests = 0
        self.output_tokens = 0
        self.message_id = ""  # of the open message
        self.block: tuple[int, str] | None = None  # index and type of the open block
        self._frames = frames
        self._model = model
        self._usage = usage
        self._pause = pace_ms / 1000

    def start(self) -> Write:
        """A message begins: a request to the API."""
        self.message_id = f"msg_{new_uuid().replace('-', '')[:24]}"
        self.requests += 1
        return self.event({"type": "message_start", "message": self._message([])})

    def open(self, index: int, block: Json) -> Write:
        self.block = (index, block["type"])
        self.sent = []
        return self.event({"type": "content_block_start", "index": index, "content_block": block})

    def deltas(self, kind: str, pieces: list[str]) -> Iterator[Step]:
        assert self.block is not None
        size = 1 if self._pause else _BATCH
        for start in range(0, len(pieces), size):
            yield Pause(self._pause)
            batch = pieces[start : start + size]
            self.sent += batch
            self.output_tokens += len(batch)
            yield Write(self._frames.deltas(self.block[0], kind, batch, self.message_id))

    def say(self, block: Json, **fields: Any) -> Write:
        """The assistant frame of a block, printed before the block's stop."""
        entry: Json = {"type": "assistant", "uuid": new_uuid()}
        entry["message"] = self._message([block])
        self.entries.append(entry)
        return Write(self._frames.assistant(entry["message"], entry["uuid"], **fields))

    def close(self) -> Write:
        assert self.block is not None
        index, self.block = self.block[0], None
        return self.event({"type": "content_block_stop", "index": index})

    def stop(self, reason: str | None, sequence: str | None, output_tokens: int | None) -> Write:
        """The message ends. `output_tokens` None: as many as were said."""
        output = self.output_tokens if output_tokens is None else output_tokens
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        end = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": output}}
        lines = self.event(end).data + self.event({"type": "message_stop"}).data
        self.message_id = ""
        return Write(lines)

    def text(self, index: int, text: str) -> Iterator[Step]:
        """A whole block of text."""
        yield self.open(index, {"type": "text", "text": ""})
        yield from self.deltas("text_delta", answers.tokens(text))
        yield self.say({"type": "text", "text": text})
        yield self.close()

    def tool_use(self, index: int, tool_use_id: str, name: str, given: Json) -> Iterator[Step]:
        """A block that calls a tool, up to its assistant frame; `close` is the caller's."""
        block = {"type": "tool_use", "id": tool_use_id, "name": name, "input": {}}
        yield self.open(index, block)
        yield from self.deltas("input_json_delta", answers.tokens(json.dumps(given)))
        yield self.say({**block, "input": given})

    def result(self, tool_use_id: str, content: Json) -> Write:
        """What came of a tool use: `content` has that, and may have `is_error`."""
        if tool_use_id in self.waiting:
            self.waiting.remove(tool_use_id)
        return self.marker({"type": "tool_result", "tool_use_id": tool_use_id, **content})

    def marker(self, block: Json) -> Write:
        """What the CLI says as the user: an interruption, a tool's result."""
        content = [block]
        uuid = new_uuid()
        said = {"role": "user", "content": content}
        self.entries.append({"type": "user", "uuid": uuid, "marker": True, "message": said})
        return Write(self._frames.user(content, uuid))

    def event(self, event: Json) -> Write:
        return Write(self._frames.event(event, self.message_id))

    def _message(self, content: list[Json]) -> Json:
        return message(self.message_id, self._model, content, self._usage)


def new_tool_use_id() -> str:
    return f"toolu_{new_uuid().replace('-', '')[:24]}"
