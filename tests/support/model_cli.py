"""A model of the CLI, as far as a session's machine can tell it from the real one.

Knows what the real one was measured to do with its history: when a user message is taken in, that
assistant messages overtake, what a rewind takes back, where a resumed session begins, that it goes
on by itself once its tool calls are answered or its answer was cut off. Refuses to know the
machine, and who reads what it says.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, TypeAlias
from uuid import uuid4

from attrs import define, evolve, field, frozen

from ccapi.schemas.claude.lines import Line
from ccapi.schemas.claude.output import (
    AssistantDone,
    ControlAnswer,
    ControlAsked,
    Frame,
    MessageEnded,
    MessageStarted,
    Noise,
    ToolInput,
    ToolReturned,
    ToolsReturned,
    ToolUseStarted,
    TurnResult,
)
from ccapi.schemas.message import Block, Message, ToolCall, ToolResult, merge_turns
from ccapi.schemas.turn import Origin, Recording, ResumePoint, Setup, Usage
from ccapi.schemas.turn_items import TextDelta

Json: TypeAlias = dict[str, Any]


@frozen
class Entry:
    """A message of its history; `own` where the CLI wrote it, so that no rewind can name it."""

    uuid: str
    message: Message
    own: bool = False


Transcripts: TypeAlias = dict[tuple[str, str], tuple[Entry, ...]]
"""What is on disk: the history up to an assistant message of a session."""


@define(eq=False)
class ModelCli:
    """One process. `inbox` is what was written to it, `said` what is to be read from it, `tools`
    the names that it received, `pending` its calls, and what came of them so far."""

    transcripts: Transcripts
    session: str = field(factory=lambda: str(uuid4()))
    history: list[Entry] = field(factory=list)
    inbox: deque[Json] = field(factory=deque)
    said: deque[Frame] = field(factory=deque)
    is_lost: bool = False  # it has said that it cannot take up its session, and does nothing else
    setup: Setup | None = None
    agents: Json = field(factory=dict)
    has_palette: bool = False
    tools: tuple[str, ...] = ()
    pending: dict[str, str | None] = field(factory=dict)
    _results: list[ToolResult] = field(factory=list)  # in the order in which they came
    _queue: deque[tuple[Entry, bool]] = field(factory=deque)
    _asked: Entry | None = None
    _partial: str = ""
    _listing: str = ""  # the last request for the names of the tools

    @classmethod
    def start(cls, transcripts: Transcripts, origin: Origin | None) -> ModelCli:
        match origin:
            case None:
                return cls(transcripts)
            case Recording(messages):
                told = merge_turns(messages)
                return cls(transcripts, history=[Entry(str(uuid4()), each) for each in told])
        assert isinstance(origin, ResumePoint)
        assert origin.assistant_uuid is not None
        held = transcripts.get((origin.session_id, origin.assistant_uuid))
        child = cls(transcripts, origin.session_id, list(held or ()))
        if held is None:
            child.is_lost = True
            child.said.append(_not_resumed(origin.session_id))
        return child

    @property
    def quiet(self) -> bool:
        return not (self.inbox or self.said or self._queue or self._asked)

    @property
    def suspended(self) -> bool:
        """It waits for what all of its calls come to, and for nothing else."""
        waits = bool(self.pending) and not self._results
        return waits and not (self.inbox or self.said or self._queue)

    @property
    def messages(self) -> list[Message]:
        return [entry.message for entry in self.history]

    # -- what it does, one step at a time ----------------------------------------------------------

    def write(self, line: Line) -> None:
        line = bytes(line)
        assert line.endswith(b"\n")
        self.inbox.append(json.loads(line))

    def work(self, choice: int) -> None:
        """Take in all that was written; or say a piece of an answer, or end it (`choice`)."""
        if self.is_lost:
            self.inbox.clear()
        elif self.inbox:
            while self.inbox:
                self._read(self.inbox.popleft())
        elif self._asked is not None:
            if len(self._results) == len(self.pending):
                self._go_on(self._asked, choice)
        elif self._queue:
            entry, query = self._queue.popleft()
            self.history.append(entry)
            if query:
                self._asked, self._partial = entry, ""
                self.said.append(MessageStarted(Usage()))
            else:
                self.said.append(self._result(entry, num_turns=0))

    def _read(self, frame: Json) -> None:
        match frame:
            case {"type": "user", "uuid": uuid}:
                entry = Entry(uuid, Message("user", _blocks(frame)))
                self._queue.append((entry, frame.get("shouldQuery", True)))
            case {"type": "assistant", "uuid": uuid}:
                # It does not wait for user messages that are still in the queue.
                self.history.append(Entry(uuid, Message("assistant", _blocks(frame))))
            case {"type": "control_request", "request_id": request_id, "request": request}:
                self.said.append(ControlAnswer(request_id, self._obey(request), None))
            case {"response": {"request_id": request_id, "response": {"mcp_response": answer}}}:
                self._learn(request_id, answer["result"])
            case _:
                assert frame["type"] == "control_response"

    def _obey(self, request: Json) -> Json:
        match request["subtype"]:
            case "initialize" if self.setup is None:
                self.setup, self.agents = _setup(request), request["agents"]
                self.has_palette = "systemPrompt" not in request
                if "sdkMcpServers" in request:
                    self._list_tools()
            case "mcp_set_servers":
                self._list_tools()
            case "rewind_conversation":
                last = request.get("last_seen_user_message_uuid")
                return self._rewind(request["target_message_uuid"], last)
            case "apply_flag_settings":
                self._change(request["settings"])
            case "get_context_usage":
                names = ["System prompt", "Messages"] if self.history else ["System prompt"]
                return {"categories": [{"name": name} for name in names]}
        return {}

    def _change(self, settings: Json) -> None:
        """Another model, or the prompt of another agent: only while it holds nothing, since it
        would else leave a note in the conversation."""
        if "model" in settings or "agent" in settings:
            assert self.setup is not None
            assert not self.history, "it would leave a note in the conversation"
            if "agent" in settings:
                assert self.has_palette, "it would change nothing"
                self.setup = evolve(self.setup, system=self.agents[settings["agent"]]["prompt"])
            self.setup = evolve(self.setup, model=settings["model"])

    def _list_tools(self) -> None:
        """Those of another server: the ones it had are forgotten."""
        self.tools, self._listing = (), f"tools {uuid4()}"
        self._ask(self._listing, "tools/list", {})

    def _ask(self, request_id: str, method: str, params: Json) -> None:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self.said.append(ControlAsked(request_id, "mcp_message", message))

    def _learn(self, request_id: str, result: Json) -> None:
        """Its question was answered. Of a call that it has given up, it takes no notice."""
        if request_id == self._listing:
            self.tools = tuple(tool["name"] for tool in result["tools"])
        elif self.pending.get(request_id, "") is None:
            texts = tuple(block["text"] for block in result["content"])
            self.pending[request_id] = "".join(texts)
            failed = bool(result.get("isError"))
            self._results.append(ToolResult(request_id, texts, is_error=failed))

    # -- what the model says -----------------------------------------------------------------------

    def _go_on(self, asked: Entry, choice: int) -> None:
        if self.pending:
            entry = Entry(str(uuid4()), Message("user", tuple(self._results)), own=True)
            self.history.append(entry)
            self.said.append(ToolsReturned(tuple(map(_returned, self._results))))
            self._forget_calls()
            self.said.append(MessageStarted(Usage()))
        if choice < 90:
            piece = f"#{choice} " if choice % 16 == 0 else f"{choice} "
            self._partial += piece
            self.said.append(TextDelta(piece))
        elif choice < 100:
            self.said.append(Noise("stream_event"))
        elif choice < 140 and self.tools:
            self._call(1 + choice % 2, self.tools[choice // 2 % len(self.tools)])
        elif choice < 150:
            self._cut_off()
        elif choice < 160:
            self._end_message("I will not.", "refusal")
            self.said.append(self._result(asked, is_error=True, stop_reason="refusal"))
            self._asked = None
        elif choice < 230:
            self._answer(asked, choice)
        else:
            # The CLI keeps a text that failed, for the next turn.
            self.said.append(AssistantDone(str(uuid4()), synthetic=True, text="API Error"))
            self.said.append(self._result(asked, is_error=True, status=500))
            self._asked = None

    def _call(self, count: int, tool: str) -> None:
        """Call a tool so many times: the calls go out before the message ends."""
        content: list[Block] = []
        if self._partial:
            content.append(self._partial)
            self.said.append(AssistantDone(str(uuid4()), synthetic=False, text=self._partial))
        for number in range(count):
            call = ToolCall(str(uuid4()), tool, f'{{"n":{number}}}')
            content.append(call)
            self.pending[call.id] = None
            self.said += (ToolUseStarted(call.id, call.name), ToolInput(call.arguments))
            self.said.append(AssistantDone(str(uuid4()), synthetic=False, call=call))
            params = {"name": call.name, "_meta": {"claudecode/toolUseId": call.id}}
            self._ask(call.id, "tools/call", params)
        self.said.append(MessageEnded("tool_use", Usage()))
        self.history.append(Entry(str(uuid4()), Message("assistant", tuple(content))))
        self._partial = ""

    def _cut_off(self) -> None:
        """The answer is as long as it may be: the CLI has the model go on, unasked."""
        self._end_message(self._partial or "cut", "max_tokens")
        more = Message("user", ("Output token limit hit. Resume directly.",))
        self.history.append(Entry(str(uuid4()), more, own=True))
        self._partial = ""

    def _answer(self, asked: Entry, choice: int) -> None:
        entry = self._end_message(self._partial or f"unstreamed {choice}", "end_turn")
        self.transcripts[self.session, entry.uuid] = tuple(self.history)
        self.said.append(self._result(asked))
        self._asked = None

    def _end_message(self, text: str, stop_reason: str) -> Entry:
        entry = Entry(str(uuid4()), Message("assistant", (text,)))
        self.history.append(entry)
        self.said.append(AssistantDone(entry.uuid, synthetic=False, text=text))
        self.said.append(MessageEnded(stop_reason, Usage()))
        return entry

    def _forget_calls(self) -> None:
        self.pending.clear()
        self._results.clear()

    # -- what is taken back ------------------------------------------------------------------------

    def _rewind(self, target: str, last_seen: str | None) -> Json:
        """Take back a user message, and all that followed it."""
        last = target if last_seen is None else last_seen
        done = self._take_back_last(last) if target == last else self._cut(target, last)
        said = [each.uuid for each in self.history if each.message.role == "assistant"]
        return {"rewound": done, "precedingAssistantUuid": said[-1] if said and done else None}

    def _cut(self, target: str, last: str) -> bool:
        uuids = [entry.uuid for entry in self.history]
        if target not in uuids or not self._take_back_last(last):
            return False
        del self.history[uuids.index(target) :]
        return True

    def _take_back_last(self, target: str) -> bool:
        if self._asked is not None and self._asked.uuid == target:
            if self._partial:
                uuid = str(uuid4())
                self.said.append(AssistantDone(uuid, synthetic=False, text=self._partial))
            self.said.append(self._result(self._asked, is_error=True))
            self._asked = None
            self._forget_calls()
        for waiting in self._queue:
            if waiting[0].uuid == target:
                self._queue.remove(waiting)
                self.said.append(self._result(waiting[0], is_error=True))
                return True
        users = [
            number
            for number, entry in enumerate(self.history)
            if entry.message.role == "user" and not entry.own
        ]
        if not users or self.history[users[-1]].uuid != target:
            return False
        del self.history[users[-1] :]
        return True

    def _result(
        self,
        entry: Entry,
        *,
        num_turns: int = 1,
        is_error: bool = False,
        status: int | None = None,
        stop_reason: str = "end_turn",
    ) -> TurnResult:
        aborted = is_error and status is None and stop_reason == "end_turn"
        return TurnResult(
            is_error=is_error,
            subtype="error_during_execution" if aborted else "success",
            num_turns=num_turns,
            text="",
            stop_reason=stop_reason,
            api_error_status=status,
            session_id=self.session,
            usage=Usage(),
            user_uuid=entry.uuid,
        )


def _not_resumed(session_id: str) -> TurnResult:
    text = f"No conversation found with session ID: {session_id}"
    return TurnResult(
        is_error=True,
        subtype="error_during_execution",
        num_turns=0,
        text=text,
        stop_reason=None,
        api_error_status=None,
        session_id=session_id,
        usage=Usage(),
    )


def _returned(result: ToolResult) -> ToolReturned:
    content = tuple(block for block in result.content if isinstance(block, str))
    return ToolReturned(result.call_id, "".join(content), result.is_error, content)


def _setup(request: Json) -> Setup:
    agent = request["agents"]["gw"]
    prompt = request.get("systemPrompt", [agent["prompt"]])
    return Setup(agent["model"], "".join(prompt))


def _blocks(frame: Json) -> tuple[Block, ...]:
    return tuple(
        block
        for block in map(_block, frame["message"]["content"])
        if not isinstance(block, str) or block.strip()  # dropped before the API is called
    )


def _block(block: Json) -> Block:
    match block:
        case {"type": "tool_use", "id": call_id, "name": name, "input": arguments}:
            return ToolCall(call_id, name, json.dumps(arguments, separators=(",", ":")))
        case {"type": "tool_result", "tool_use_id": call_id, "content": content}:
            said = [content] if isinstance(content, str) else [each["text"] for each in content]
            return ToolResult(call_id, tuple(said), is_error=block.get("is_error", False))
    return str(block["text"])
