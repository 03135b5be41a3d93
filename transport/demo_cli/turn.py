"""One turn of the demo CLI, as the steps it consists of.

Knows the order of a turn's frames as the Claude Code CLI prints them, and at which of them the
switches break something. Refuses to know the process: a turn does no I/O, it yields steps, and
what performs them may stop between any two (that is an interrupt) and then asks for `abort()`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final, NamedTuple

from . import answers, own_tools
from .frames import INTERRUPTED, NO_USAGE, Frames, Json, new_uuid, synthetic
from .own_tools import Use
from .speech import Speech, new_tool_use_id
from .steps import (
    AwaitPermission,
    AwaitTools,
    CallTool,
    Decision,
    Pause,
    RequestPermission,
    Step,
    Stop,
    Write,
)
from .switches import Switches

_INPUT_KEYS: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_ERROR_NAMES: Final = {
    401: "authentication_failed",
    429: "rate_limit",
    500: "server_error",
    529: "overloaded",
}
_REFUSED_TOOL: Final = "The user doesn't want to proceed with this tool use."
_FOR_TOOL_USE: Final = " for tool use]"
_HEARTBEAT: Final = 30.0  # seconds
STRUCTURED: Final = "StructuredOutput"


class Plan(NamedTuple):
    """What a turn will say, decided before it starts."""

    model: str
    pieces: list[str]
    stop_reason: str
    stop_sequence: str | None
    usage: Json  # the three input counts
    calls: list[tuple[str, Json]]  # tools to call first: name, arguments
    structured: Any = None  # the StructuredOutput to give instead of text
    activity: tuple[list[Use], ...] = ()  # the agent's own tools, those of each message
    before: list[Json] = []  # noqa: RUF012 (what the conversation has done; only read)


class Turn:
    """One turn. `entries` is what the history gains by it, apart from the user's messages."""

    def __init__(self, frames: Frames, switches: Switches, plan: Plan, uuids: list[str]) -> None:
        usage = {**plan.usage, **(switches.usage or {}), "output_tokens": 1}
        self._speech = Speech(frames, plan.model, usage, switches.pace_ms)
        self.entries = self._speech.entries
        self.tool_results: dict[str, Json] = {}
        self.decisions: dict[str, Decision] = {}
        self.failed = False
        self.done = False  # everything is printed: too late to be interrupted
        self.text = ""
        self.stop_reason = switches.stop_reason or plan.stop_reason
        self._frames = frames
        self.switches = switches
        self.plan = plan
        self._uuids = uuids
        self._pieces = plan.pieces
        self._denials: list[Json] = []
        self._said: list[str] = []  # by the tools
        self._aborted = "aborted_streaming"

    # -- what the shell asks ----------------------------------------------------------------

    def steps(self) -> Iterator[Step]:
        """The turn from the request to `message_stop`; the result is the shell's to print."""
        speech = self._speech
        yield self._requesting()
        yield from self._before_first_delta()
        if self.switches.fails and not self.switches.after:
            yield self._error()
            return
        if self.plan.structured is not None:
            yield from self._structured()
            return
        for uses in self.plan.activity:
            yield from self._act(uses)
            yield self._requesting()
        if self.plan.calls:
            yield from self._tool_round()
            yield self._requesting()
        yield speech.start()
        index = 0
        if self.switches.thinking:
            yield from self._thinking()
            index = 1
        yield speech.open(index, {"type": "text", "text": ""})
        yield from self._text()
        if self.switches.fails:
            yield self._error()
            return
        self.text = "".join(speech.sent)
        yield speech.say({"type": "text", "text": self.text})
        yield speech.close()
        self.done = True
        yield self._stop(self.stop_reason)

    def abort(self) -> bytes:
        """What is printed when the turn is stopped where it is."""
        speech = self._speech
        lines = []
        if speech.block is not None and speech.block[1] == "text" and speech.sent:
            self.text = "".join(speech.sent)
            lines.append(speech.say({"type": "text", "text": self.text}, aborted=True).data)
        marker = INTERRUPTED
        if speech.waiting:
            marker = INTERRUPTED.removesuffix("]") + _FOR_TOOL_USE
            self._aborted = "aborted_tools"
        for tool_use_id in list(speech.waiting):
            refused = {"content": _REFUSED_TOOL, "is_error": True}
            lines.append(speech.result(tool_use_id, refused).data)
        lines.append(speech.marker({"type": "text", "text": marker}).data)
        if speech.block is not None:
            lines.append(speech.close().data)
        if speech.message_id:
            lines.append(self._stop(None).data)
        return b"".join(lines)

    def usage(self) -> Json:
        """The usage of the turn, summed over its requests, for the result frame."""
        inputs = {key: self.plan.usage[key] * self._speech.requests for key in _INPUT_KEYS}
        split = {
            "ephemeral_1h_input_tokens": 0,
            "ephemeral_5m_input_tokens": inputs["cache_creation_input_tokens"],
        }
        counted = {**NO_USAGE, **inputs, "output_tokens": self._speech.output_tokens}
        return {**counted, "cache_creation": split, **(self.switches.usage or {})}

    def result(self, took_ms: int, cost: float, *, aborted: bool) -> bytes:
        """The result frame. `cost`: US dollars, of the session so far."""
        fields: Json = {
            "duration_ms": took_ms,
            "duration_api_ms": took_ms,
            "total_cost_usd": cost,
            "num_turns": 2 if aborted else max(self._speech.requests, 1),
            "permission_denials": self._denials,
            "user_message_uuids": self._uuids,
        }
        if self._uuids:
            fields["user_message_uuid"] = self._uuids[0]
        if aborted:
            why = "[ede_diagnostic] result_type=user last_content_type=n/a stop_reason=null"
            fields |= {
                "subtype": "error_during_execution",
                "is_error": True,
                "terminal_reason": self._aborted,
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
        switches, deltas = self.switches, self._speech.deltas
        troubled = "delta" in (switches.die_at, switches.hang_at) or switches.garbage
        if not troubled and not switches.fails:
            yield from deltas("text_delta", self._pieces)
            return
        yield from deltas("text_delta", self._pieces[: switches.after])
        if switches.fails:
            return
        yield from self._stops_at("delta")
        yield from self._garbage()
        yield from deltas("text_delta", self._pieces[switches.after :])

    def _garbage(self) -> Iterator[Step]:
        speech = self._speech
        assert speech.block is not None
        line = self._frames.deltas(speech.block[0], "text_delta", ["@@@@"], speech.message_id)
        match self.switches.garbage:
            case "text":
                yield Write(b"This line is not JSON.\n")
            case "array":
                yield Write(b'[1,2,3]\nnull\n42\n"text"\n')
            case "utf8":
                speech.sent.append("\ufffd" * 4)
                yield Write(line.replace(b"@@@@", b"\xff\xfe\xc0\x80"))
            case "half_line":
                yield Write(line[: len(line) // 2])
                yield Stop("die")

    def _thinking(self) -> Iterator[Step]:
        speech = self._speech
        yield speech.open(0, {"type": "thinking", "thinking": "", "signature": ""})
        for number in range(1, self.switches.thinking + 1):
            estimate = {"estimated_tokens": number, "estimated_tokens_delta": 1}
            yield Write(self._frames.system("thinking_tokens", **estimate))
            yield from speech.deltas("thinking_delta", [f"thought {number} "])
        thought = "".join(speech.sent)
        signature = {"type": "signature_delta", "signature": "c2NyaXB0ZWQ="}
        yield speech.event({"type": "content_block_delta", "index": 0, "delta": signature})
        yield speech.say(
            {"type": "thinking", "thinking": thought, "signature": signature["signature"]}
        )
        yield speech.close()

    def _structured(self) -> Iterator[Step]:
        speech = self._speech
        tool_use_id = new_tool_use_id()
        yield speech.start()
        yield from speech.tool_use(0, tool_use_id, STRUCTURED, self.plan.structured)
        yield speech.close()
        self.text = json.dumps(self.plan.structured, separators=(",", ":"))
        given = {"content": "Structured output provided successfully"}
        yield speech.result(tool_use_id, given)
        self.done = True
        self.stop_reason = "tool_use"
        yield self._stop(self.stop_reason)

    # -- tools ------------------------------------------------------------------------------

    def _tool_round(self) -> Iterator[Step]:
        """A message of calls of the client's tools, and their results."""
        speech = self._speech
        yield speech.start()
        for index, (name, arguments) in enumerate(self.plan.calls):
            tool_use_id = new_tool_use_id()
            yield from speech.tool_use(index, tool_use_id, name, arguments)
            yield speech.close()
            speech.waiting.append(tool_use_id)
            yield CallTool(tool_use_id, name, arguments)
        yield self._stop("tool_use")
        yield AwaitTools(list(speech.waiting))
        for tool_use_id, content in self.tool_results.items():
            self._said.append(answers.result_text(content))
            yield speech.result(tool_use_id, content)
        speech.waiting.clear()
        self._finish_turn()

    def _act(self, uses: list[Use]) -> Iterator[Step]:
        """A message in which the agent uses tools of its own, and what came of them.

        Those that only look ask for permission at once, all others when those before are done. The
        first question comes before the message has ended, as the CLI's may.
        """
        speech = self._speech
        named = [(new_tool_use_id(), use) for use in uses]
        yield speech.start()
        if text := "\n".join(use.text for use in uses if use.text):
            yield from speech.text(0, text)
        for index, (tool_use_id, use) in enumerate(named, 1 if text else 0):
            yield from speech.tool_use(index, tool_use_id, use.name, use.arguments)
            speech.waiting.append(tool_use_id)
            if named[0][0] == tool_use_id:
                yield RequestPermission(tool_use_id, use.name, use.arguments, use.permission)
            yield speech.close()
        yield self._stop("tool_use")
        asked = {named[0][0]}
        for at_once, batch in groupby(named, lambda each: each[1].name in own_tools.LOOKS):
            group = list(batch)
            for together in [group] if at_once else [[each] for each in group]:
                for tool_use_id, use in together:
                    if tool_use_id not in asked:
                        yield RequestPermission(
                            tool_use_id, use.name, use.arguments, use.permission
                        )
                for tool_use_id, use in together:
                    yield AwaitPermission(tool_use_id)
                    yield from self._use(tool_use_id, use, self.decisions[tool_use_id])
        self._finish_turn()

    def _use(self, tool_use_id: str, use: Use, decision: Decision) -> Iterator[Step]:
        if not decision.allowed:
            if decision.asked:
                denied = {"tool_name": use.name, "tool_use_id": tool_use_id}
                self._denials.append({**denied, "tool_input": use.arguments})
            content: Json = {"content": decision.reason, "is_error": True}
        else:
            yield from self._take_time(tool_use_id, use)
            content = {"content": use.output, **({"is_error": True} if use.is_error else {})}
            if use.output is None:
                before = [*self.plan.before, *self.entries]
                content = own_tools.pretend(use.name, decision.arguments, before)
        self._said.append(str(content["content"]))
        yield self._speech.result(tool_use_id, content)

    def _take_time(self, tool_use_id: str, use: Use) -> Iterator[Step]:
        left = use.run_ms / 1000
        for number in range(int(left // _HEARTBEAT)):
            yield Pause(_HEARTBEAT)
            left -= _HEARTBEAT
            beat = {"tool_use_id": f"{tool_use_id}-heartbeat-{number}", "tool_name": use.name}
            elapsed = {"elapsed_time_seconds": _HEARTBEAT * (number + 1), "heartbeat": True}
            frame = {"type": "tool_progress", "parent_tool_use_id": tool_use_id, **beat, **elapsed}
            yield Write(self._frames.line(frame))
        yield Pause(left)

    def _finish_turn(self) -> None:
        """The answer is about what the tools said, unless it was scripted."""
        if self.switches.answer is None and not self.switches.deltas:
            self._pieces = answers.tokens(answers.after_tools(self._said))

    # -- endings ----------------------------------------------------------------------------

    def _stop(self, reason: str | None) -> Write:
        sequence = self.plan.stop_sequence if reason == "stop_sequence" else None
        return self._speech.stop(reason, sequence, (self.switches.usage or {}).get("output_tokens"))

    def _error(self) -> Write:
        status = self.switches.error_status
        self.text = self.switches.error or f"API Error: {status} scripted"
        self.failed = self.done = True
        said = synthetic(new_uuid(), self.text, "stop_sequence")
        uuid = new_uuid()
        self.entries.append({"type": "assistant", "uuid": uuid, "error": True, "message": said})
        name = _ERROR_NAMES.get(status or 0, "unknown")
        return Write(self._frames.assistant(said, uuid, error=name, api_error_status=status))
