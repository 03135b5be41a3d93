"""One turn of the scripted child, as the steps it consists of.

Knows the order of a turn's frames as the Claude Code CLI prints them, and at which of them the
switches break something. Refuses to know the process: a turn does no I/O, it yields steps, and
whoever performs them may stop between any two (that is an interrupt) and then asks for `abort()`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

from . import answers
from .frames import INTERRUPTED, NO_USAGE, Frames, Json, message, new_uuid, synthetic
from .switches import Switches

_BATCH: Final = 128  # delta lines in one write at full speed; stdin is looked at between two
_INPUT_KEYS: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_ERROR_NAMES: Final = {
    401: "authentication_failed",
    429: "rate_limit",
    500: "server_error",
    529: "overloaded",
}
_REFUSED_TOOL: Final = "The user doesn't want to proceed with this tool use."
STRUCTURED: Final = "StructuredOutput"


class Write(NamedTuple):
    """Print these bytes: whole lines, unless a switch wants otherwise."""

    data: bytes


class Pause(NamedTuple):
    """Wait, listening to stdin meanwhile; at no other step is it listened to.

    So nothing that arrives between the last delta and a `Stop` behind it is heard.
    """

    seconds: float


class Stop(NamedTuple):
    """The process ends, or does nothing any more."""

    how: Literal["die", "hang"]


class CallTool(NamedTuple):
    """Ask the gateway to run a tool; go on without waiting."""

    tool_use_id: str
    name: str
    arguments: Json


class AwaitTools(NamedTuple):
    """Wait until these have answered and put the contents into `Turn.tool_results`."""

    tool_use_ids: list[str]


Step = Write | Pause | Stop | CallTool | AwaitTools


class Plan(NamedTuple):
    """What a turn will say, decided before it starts."""

    model: str
    pieces: list[str]
    stop_reason: str
    stop_sequence: str | None
    usage: Json  # the three input counts
    calls: list[tuple[str, Json]]  # tools to call first: name, arguments
    structured: Any = None  # the StructuredOutput to give instead of text


class Turn:
    """One turn. `entries` is what the history gains by it, apart from the user's messages."""

    def __init__(self, frames: Frames, switches: Switches, plan: Plan, uuids: list[str]) -> None:
        self.entries: list[Json] = []
        self.tool_results: dict[str, Json] = {}
        self.failed = False
        self.done = False  # everything is printed: too late to be interrupted
        self.text = ""
        self.stop_reason = switches.stop_reason or plan.stop_reason
        self._frames = frames
        self.switches = switches
        self.plan = plan
        self._uuids = uuids
        self._pieces = plan.pieces
        self._message_id = ""
        self._block: tuple[int, str] | None = None  # index and type of the open block
        self._sent: list[str] = []  # of the open block
        self._waiting: list[str] = []  # tool uses without an answer
        self._requests = 0
        self._output_tokens = 0

    # -- what the shell asks ----------------------------------------------------------------

    def steps(self) -> Iterator[Step]:
        """The turn from the request to `message_stop`; the result is the shell's to print."""
        yield self._requesting()
        yield from self._before_first_delta()
        if self.switches.fails and not self.switches.after:
            yield self._error()
            return
        if self.plan.structured is not None:
            yield from self._structured()
            return
        if self.plan.calls:
            yield from self._tool_round()
            yield self._requesting()
        yield self._start()
        index = 0
        if self.switches.thinking:
            yield from self._thinking()
            index = 1
        yield self._open(index, {"type": "text", "text": ""})
        yield from self._text()
        if self.switches.fails:
            yield self._error()
            return
        self.text = "".join(self._sent)
        yield self._say({"type": "text", "text": self.text})
        yield self._close()
        self.done = True
        yield self._stop(self.stop_reason)

    def abort(self) -> bytes:
        """What is printed when the turn is stopped where it is."""
        lines = []
        if self._block is not None and self._block[1] == "text" and self._sent:
            self.text = "".join(self._sent)
            lines.append(self._say({"type": "text", "text": self.text}, aborted=True).data)
        for tool_use_id in self._waiting:
            refusal = {"type": "tool_result", "content": _REFUSED_TOOL, "is_error": True}
            lines.append(self._marker({**refusal, "tool_use_id": tool_use_id}).data)
        lines.append(self._marker({"type": "text", "text": INTERRUPTED}).data)
        if self._block is not None:
            lines.append(self._close().data)
        if self._message_id:
            lines.append(self._stop(None).data)
        return b"".join(lines)

    def usage(self) -> Json:
        """The usage of the turn, summed over its requests, for the result frame."""
        inputs = {key: self.plan.usage[key] * self._requests for key in _INPUT_KEYS}
        split = {
            "ephemeral_1h_input_tokens": 0,
            "ephemeral_5m_input_tokens": inputs["cache_creation_input_tokens"],
        }
        counted = {**NO_USAGE, **inputs, "output_tokens": self._output_tokens}
        return {**counted, "cache_creation": split, **(self.switches.usage or {})}

    def result(self, took_ms: int, cost: float, *, aborted: bool) -> bytes:
        """The result frame. `cost`: US dollars, of the session so far."""
        fields: Json = {
            "duration_ms": took_ms,
            "duration_api_ms": took_ms,
            "total_cost_usd": cost,
            "num_turns": 2 if aborted else max(self._requests, 1),
            "user_message_uuids": self._uuids,
        }
        if self._uuids:
            fields["user_message_uuid"] = self._uuids[0]
        if aborted:
            why = "[ede_diagnostic] result_type=user last_content_type=n/a stop_reason=null"
            fields |= {
                "subtype": "error_during_execution",
                "is_error": True,
                "terminal_reason": "aborted_streaming",
                "errors": [why],
            }
        elif self.failed:
            fields |= {
                "is_error": True,
                "api_error_status": self.switches.error_status,
                "stop_reason": "stop_sequence",
                "terminal_reason": "api_error",
                "result": self.text,
            }
        else:
            fields |= {
                "usage": self.usage(),
                "api_error_status": None,
                "stop_reason": self.stop_reason,
                "terminal_reason": "completed",
                "result": self.text,
            }
            if self.plan.structured is not None:
                fields["structured_output"] = self.plan.structured
        return self._frames.result(**fields)

    def late_frames(self) -> bytes:
        """Deltas of a message that has ended, for after the result."""
        pieces = [f"late {number} " for number in range(self.switches.late_frames)]
        return self._frames.deltas(0, "text_delta", pieces, f"msg_{new_uuid()}")

    # -- the parts --------------------------------------------------------------------------

    def _requesting(self) -> Write:
        return Write(
            self._frames.system("status", status="requesting", user_message_uuids=self._uuids)
        )

    def _before_first_delta(self) -> Iterator[Step]:
        switches = self.switches
        for attempt in range(1, switches.api_retries + 1):
            status = 529 if switches.error_status is None else switches.error_status
            yield Write(
                self._frames.system(
                    "api_retry",
                    attempt=attempt,
                    max_retries=switches.api_retries,
                    retry_delay_ms=switches.retry_delay_ms,
                    error_status=status,
                    error=_ERROR_NAMES.get(status, "unknown"),
                )
            )
            yield Pause(switches.retry_delay_ms / 1000)
        for number in range(switches.junk_frames):
            yield Write(self._frames.line({"type": "scripted_junk", "number": number}))
        if switches.long_line_bytes:
            padding = "x" * switches.long_line_bytes
            yield Write(self._frames.line({"type": "scripted_junk", "padding": padding}))
        yield from self._stops_at("turn")
        yield Pause(switches.first_ms / 1000)

    def _stops_at(self, place: str) -> Iterator[Step]:
        if self.switches.die_at == place:
            yield Stop("die")
        if self.switches.hang_at == place:
            yield Stop("hang")

    def _text(self) -> Iterator[Step]:
        switches = self.switches
        troubled = "delta" in (switches.die_at, switches.hang_at) or switches.garbage
        if not troubled and not switches.fails:
            yield from self._deltas("text_delta", self._pieces)
            return
        yield from self._deltas("text_delta", self._pieces[: switches.after])
        if switches.fails:
            return
        yield from self._stops_at("delta")
        yield from self._garbage()
        yield from self._deltas("text_delta", self._pieces[switches.after :])

    def _deltas(self, kind: str, pieces: list[str]) -> Iterator[Step]:
        assert self._block is not None
        pause = self.switches.pace_ms / 1000
        size = 1 if pause else _BATCH
        for start in range(0, len(pieces), size):
            yield Pause(pause)
            batch = pieces[start : start + size]
            self._sent += batch
            self._output_tokens += len(batch)
            yield Write(self._frames.deltas(self._block[0], kind, batch, self._message_id))

    def _garbage(self) -> Iterator[Step]:
        assert self._block is not None
        line = self._frames.deltas(self._block[0], "text_delta", ["@@@@"], self._message_id)
        match self.switches.garbage:
            case "text":
                yield Write(b"This line is not JSON.\n")
            case "array":
                yield Write(b'[1,2,3]\nnull\n42\n"text"\n')
            case "utf8":
                self._sent.append("\ufffd" * 4)
                yield Write(line.replace(b"@@@@", b"\xff\xfe\xc0\x80"))
            case "half_line":
                yield Write(line[: len(line) // 2])
                yield Stop("die")

    def _thinking(self) -> Iterator[Step]:
        yield self._open(0, {"type": "thinking", "thinking": "", "signature": ""})
        for number in range(1, self.switches.thinking + 1):
            estimate = {"estimated_tokens": number, "estimated_tokens_delta": 1}
            yield Write(self._frames.system("thinking_tokens", **estimate))
            yield from self._deltas("thinking_delta", [f"thought {number} "])
        thought = "".join(self._sent)
        signature = {"type": "signature_delta", "signature": "c2NyaXB0ZWQ="}
        yield self._event({"type": "content_block_delta", "index": 0, "delta": signature})
        yield self._say(
            {"type": "thinking", "thinking": thought, "signature": signature["signature"]}
        )
        yield self._close()

    def _tool_round(self) -> Iterator[Step]:
        """A message of tool calls, and their results."""
        yield self._start()
        for index, (name, arguments) in enumerate(self.plan.calls):
            tool_use_id = f"toolu_{new_uuid().replace('-', '')[:24]}"
            yield from self._tool_use(index, tool_use_id, name, arguments)
            self._waiting.append(tool_use_id)
            yield CallTool(tool_use_id, name, arguments)
        yield self._stop("tool_use")
        yield AwaitTools(list(self._waiting))
        self._waiting.clear()
        for tool_use_id, content in self.tool_results.items():
            yield self._marker({"type": "tool_result", "tool_use_id": tool_use_id, **content})
        if self.switches.answer is None and not self.switches.deltas:
            said = [answers.result_text(result) for result in self.tool_results.values()]
            self._pieces = answers.tokens(answers.after_tools(said))

    def _structured(self) -> Iterator[Step]:
        tool_use_id = f"toolu_{new_uuid().replace('-', '')[:24]}"
        given = "Structured output provided successfully"
        yield self._start()
        yield from self._tool_use(0, tool_use_id, STRUCTURED, self.plan.structured)
        self.text = json.dumps(self.plan.structured, separators=(",", ":"))
        yield self._marker({"type": "tool_result", "tool_use_id": tool_use_id, "content": given})
        self.done = True
        self.stop_reason = "tool_use"
        yield self._stop(self.stop_reason)

    def _tool_use(self, index: int, tool_use_id: str, name: str, given: Json) -> Iterator[Step]:
        block = {"type": "tool_use", "id": tool_use_id, "name": name, "input": {}}
        yield self._open(index, block)
        pieces = answers.tokens(json.dumps(given))
        yield from self._deltas("input_json_delta", pieces)
        yield self._say({**block, "input": given})
        yield self._close()

    # -- single frames ----------------------------------------------------------------------

    def _event(self, event: Json) -> Write:
        return Write(self._frames.event(event, self._message_id))

    def _start(self) -> Write:
        self._message_id = f"msg_{new_uuid().replace('-', '')[:24]}"
        self._requests += 1
        return self._event({"type": "message_start", "message": self._message([])})

    def _message(self, content: list[Json]) -> Json:
        usage = {**self.plan.usage, **(self.switches.usage or {}), "output_tokens": 1}
        return message(self._message_id, self.plan.model, content, usage)

    def _open(self, index: int, block: Json) -> Write:
        self._block = (index, block["type"])
        self._sent = []
        return self._event({"type": "content_block_start", "index": index, "content_block": block})

    def _say(self, block: Json, **fields: Any) -> Write:
        """The assistant frame of a block, printed before the block's stop."""
        entry: Json = {"type": "assistant", "uuid": new_uuid()}
        entry["message"] = self._message([block])
        self.entries.append(entry)
        return Write(self._frames.assistant(entry["message"], entry["uuid"], **fields))

    def _close(self) -> Write:
        assert self._block is not None
        index, self._block = self._block[0], None
        return self._event({"type": "content_block_stop", "index": index})

    def _stop(self, reason: str | None) -> Write:
        output = (self.switches.usage or {}).get("output_tokens", self._output_tokens)
        sequence = self.plan.stop_sequence if reason == "stop_sequence" else None
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        end = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": output}}
        lines = self._event(end).data + self._event({"type": "message_stop"}).data
        self._message_id = ""
        return Write(lines)

    def _marker(self, block: Json) -> Write:
        """What the CLI says as the user: an interruption, a tool's result."""
        content = [block]
        uuid = new_uuid()
        said = {"role": "user", "content": content}
        self.entries.append({"type": "user", "uuid": uuid, "marker": True, "message": said})
        return Write(self._frames.user(content, uuid))

    def _error(self) -> Write:
        status = self.switches.error_status
        self.text = self.switches.error or f"API Error: {status} scripted"
        self.failed = self.done = True
        said = synthetic(new_uuid(), self.text, "stop_sequence")
        uuid = new_uuid()
        self.entries.append({"type": "assistant", "uuid": uuid, "error": True, "message": said})
        name = _ERROR_NAMES.get(status or 0, "unknown")
        return Write(self._frames.assistant(said, uuid, error=name, api_error_status=status))
