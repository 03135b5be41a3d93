"""A session's machine in conversation with a test: events go in by name, actions come out as words.

Knows how each action reads: ``started one``, ``wake``, ``initialize sonnet``, ``ask one``, ``end
one: completed stop``; and how to get a machine into each phase. A turn goes by the text of its
prompt. Refuses to know what should happen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from ccapi.actors.runtime.restart_budget import RESTARTS
from ccapi.actors.session.child import ChildState
from ccapi.actors.session.events import (
    Action,
    Billed,
    ChildChosen,
    ChildGone,
    ChildReady,
    ChoiceReported,
    Close,
    Deliver,
    End,
    Event,
    GiveWay,
    HandOver,
    Interrupt,
    Started,
    StartTurn,
    TimedOut,
    Wake,
    WakeFailed,
    Write,
)
from ccapi.actors.session.machine import Machine
from ccapi.actors.session.phases import Limits, Phase
from ccapi.schemas.claude.input import encode_blocks
from ccapi.schemas.claude.output import (
    AssistantDone,
    ControlAnswer,
    ControlAsked,
    MessageEnded,
    MessageStarted,
    ToolInput,
    ToolUseStarted,
    TurnResult,
)
from ccapi.schemas.claude.sampling import PLAIN
from ccapi.schemas.errors import ChildDied, GatewayError, Overloaded, TurnInterrupted
from ccapi.schemas.message import Message, RedactedThinking, Thinking, ToolCall, ToolResult
from ccapi.schemas.search import Cited
from ccapi.schemas.turn import (
    AgentOrigin,
    ChildSource,
    Completed,
    Failed,
    Memory,
    Options,
    Recording,
    ResumePoint,
    Setup,
    Tool,
    TurnRequest,
    Usage,
)
from ccapi.schemas.turn_items import (
    ActivityDelta,
    ActivityEnded,
    ActivityStarted,
    ReasoningDelta,
    ReasoningEnded,
    Refused,
    SearchEnded,
    SearchStarted,
    TextDelta,
    TextEnded,
    ToolCallDelta,
    ToolCallStarted,
    ToolsListed,
    TurnItem,
)

from .messages import assistant as assistant
from .messages import user as user

SESSION = "cli-session"
MEMORY = Memory(Setup("sonnet"))
LOOK = Tool("look")
READ, WRITTEN = Usage(prompt_tokens=10), Usage(completion_tokens=2)

ASLEEP, WAKING, IDLE, BUSY = Phase.ASLEEP, Phase.WAKING, Phase.IDLE, Phase.BUSY
INTERRUPTING, BACKOFF = Phase.INTERRUPTING, Phase.BACKOFF
AWAITING_TOOLS = Phase.AWAITING_TOOLS
RELEASING, STOPPING, CLOSED = Phase.RELEASING, Phase.STOPPING, Phase.CLOSED


def results(**texts: str) -> Message:
    """What came of tool calls, by their ids."""
    return Message("user", tuple(ToolResult(call, (text,)) for call, text in texts.items()))


def called(*calls: str, text: str = "") -> Message:
    """An answer that calls the tool ``look`` under these ids."""
    said = (text,) if text else ()
    return Message("assistant", (*said, *(ToolCall(call, "look", "{}") for call in calls)))


NULL = (user("zero"), assistant("null"))
"""What the machines at hand hold of the turn ``zero``."""


def turn_id(name: str) -> str:
    return str(uuid5(NAMESPACE_OID, name))


class Talk:
    """One machine, its clock (`now`, in seconds), what was written to its children, and how its
    turns ended, in order. `kept` is what is known of the conversation in words."""

    def __init__(self, limits: Limits | None = None, memory: Memory = MEMORY) -> None:
        self.now = 0.0
        self.kept: tuple[Message, ...] = ()
        self.machine = Machine(memory, limits or Limits(), self.now, kept=lambda: self.kept)
        self.written: list[dict[str, Any]] = []
        self.ends: list[End] = []
        self.billed: list[Usage] = []  # of turns that had ended
        self.sources: list[str] = []  # where the children of its turns came from
        self.handed: list[ChildState] = []  # the children that it gave back
        self._names: dict[str, str] = {}  # of turns by id, and of user messages by uuid

    @property
    def phase(self) -> Phase:
        return self.machine.phase

    def feed(self, event: Event) -> list[str]:
        actions = self.machine.advance(event, self.now)
        self.sources += [each.source for each in actions if isinstance(each, ChildChosen)]
        self.billed += [each.usage for each in actions if isinstance(each, Billed)]
        told = (each for each in actions if not isinstance(each, ChildChosen | Billed))
        return [self._word(each) for each in told]

    # -- callers, and others above ---------------------------------------------------------------

    def turn(
        self,
        *said: str | Message,
        model: str | None = None,
        system: str | None = None,
        tools: Sequence[Tool] | None = None,
        schema: str | None = None,
        history_limit: int | None = None,
        reject_if_busy: bool = False,
        keep_stopped: bool = False,
        exact: bool = False,
        **options: Any,
    ) -> list[str]:
        """A turn that asks `said`, named by its last message; `options` shape it."""
        messages = tuple(user(text) if isinstance(text, str) else text for text in said)
        name = _spell_all(messages[-1])
        self._names[turn_id(name)] = name
        prompt = TurnRequest(
            messages,
            model,
            system,
            tools=None if tools is None else tuple(tools),
            schema=schema,
            options=Options(**options),
            history_limit=history_limit,
            reject_if_busy=reject_if_busy,
            keep_stopped=keep_stopped,
            exact=exact,
        )
        return self.feed(StartTurn(turn_id(name), prompt))

    def interrupt(self, name: str) -> list[str]:
        return self.feed(Interrupt(turn_id(name)))

    def close(self, error: GatewayError | None = None) -> list[str]:
        return self.feed(Close(error or TurnInterrupted("Deleted.", code="deleted")))

    def give_way(self, keep: int | None = None) -> list[str]:
        return self.feed(GiveWay(keep))

    def rings(self) -> list[str]:
        """The timer goes off when it is set."""
        self.now = self.machine.deadline
        return self.feed(TimedOut())

    def rings_now(self) -> list[str]:
        """The timer goes off now, whenever it was set for."""
        return self.feed(TimedOut())

    # -- the child -------------------------------------------------------------------------------

    def ready(
        self, state: ChildState | None = None, *, palette: tuple[str, ...] = (),
        source: ChildSource = "new", claim: str | None = None,
    ) -> list[str]:  # fmt: skip
        return self.feed(ChildReady(state, palette, source, claim))

    def claimed(self, error: str | None = None) -> list[str]:
        """A spare takes the conversation, or refuses it for this reason."""
        return self.feed(ControlAnswer("claim", {} if error else {"status": "ok"}, error))

    def wake_failed(self) -> list[str]:
        return self.feed(WakeFailed(Overloaded("There is no CLI.", code="cli_not_found")))

    def gone(self) -> list[str]:
        return self.feed(ChildGone(ChildDied("It ended.")))

    def set_up(self, error: str | None = None) -> list[str]:
        return self.feed(ControlAnswer("initialize", {}, error))

    def says(self, *pieces: str) -> list[str]:
        return [word for piece in pieces for word in self.feed(TextDelta(piece))]

    def done(self, text: str, uuid: str = "", *, synthetic: bool = False) -> list[str]:
        return self.feed(AssistantDone(uuid or f"uuid of {text}", synthetic, text))

    def starts(self, usage: Usage = READ) -> list[str]:
        """It begins a message: one call of the API."""
        return self.feed(MessageStarted(usage))

    def stops(self, reason: str = "end_turn", usage: Usage = WRITTEN) -> list[str]:
        """It has said all of a message."""
        return self.feed(MessageEnded(reason, usage))

    def calls(self, call_id: str, name: str = "look", arguments: str = "{}") -> list[str]:
        """The whole block of a tool call, and the call itself."""
        words = self.feed(ToolUseStarted(call_id, name)) + self.feed(ToolInput(arguments))
        block = ToolCall(call_id, name, arguments)
        words += self.feed(AssistantDone(f"uuid of {call_id}", synthetic=False, call=block))
        return words + self.calls_out(call_id)

    def calls_out(self, call_id: str) -> list[str]:
        """``tools/call``: it waits for what comes of the call."""
        params = {"name": "any", "_meta": {"claudecode/toolUseId": call_id}}
        return self.mcp(f"request {call_id}", "tools/call", params)

    def mcp(self, request_id: str, method: str, params: Any = None) -> list[str]:
        message = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        return self.feed(ControlAsked(request_id, "mcp_message", message))

    def suspends(self, *calls: str) -> list[str]:
        """An answer that is calls of the tool ``look``, whole."""
        words = [word for call in calls for word in self.calls(call)]
        return words + self.stops("tool_use")

    def asks(self, request_id: str, subtype: str = "can_use_tool") -> list[str]:
        return self.feed(ControlAsked(request_id, subtype))

    def result(self, text: str = "", **changes: Any) -> list[str]:
        """A result for the user message that was written last."""
        fields: dict[str, Any] = {
            "is_error": False,
            "subtype": "success",
            "num_turns": 1,
            "text": text,
            "stop_reason": "end_turn",
            "api_error_status": None,
            "session_id": SESSION,
            "usage": Usage(prompt_tokens=10, completion_tokens=2),
            "user_uuid": self.last_user_uuid,
        }
        return self.feed(TurnResult(**fields | changes))

    def taken_in(self) -> list[str]:
        """The zero-turn result of a message of the history."""
        return self.result(num_turns=0, usage=Usage())

    def takes_history(self) -> list[str]:
        """It takes in what it received of the history, until it has the prompt."""
        words: list[str] = []
        turn = self.machine.turn
        while turn is not None and turn.batches:
            words += self.taken_in()
        return words

    def fails(self, status: int | None = 500) -> list[str]:
        """An error of the API, as the CLI tells it."""
        return self.result("API Error", is_error=True, api_error_status=status)

    def aborted(self) -> list[str]:
        """The result of a turn that a rewind has interrupted."""
        return self.result(is_error=True, subtype="error_during_execution", stop_reason=None)

    def rewound(self, request_id: str | None = None, *, done: object = True) -> list[str]:
        """The answer to the rewind that was written last."""
        last = [frame["request_id"] for frame in self.written if "request_id" in frame][-1]
        return self.feed(ControlAnswer(request_id or last, {"rewound": done}, None))

    def cut(self, *, before: str | None = None, reason: str | None = None) -> list[str]:
        """The answer to the cut that was written last: done, and `before` is the assistant message
        that is the last one now; or refused for a reason."""
        cuts = [frame for frame in self.written if "release" in frame.get("request_id", "")]
        body = {"rewound": reason is None, "precedingAssistantUuid": before, "reason": reason}
        return self.feed(ControlAnswer(cuts[-1]["request_id"], body, None))

    def looked(self, *categories: str) -> list[str]:
        """What its context holds."""
        names = [{"name": name} for name in categories or ("System prompt", "Free space")]
        return self.feed(ControlAnswer("context", {"categories": names}, None))

    def answer(self, *pieces: str) -> list[str]:
        """The whole of an answer."""
        text = "".join(pieces)
        return self.says(*pieces) + self.done(text) + self.result(text)

    # -- shortcuts -------------------------------------------------------------------------------

    @property
    def last_user_uuid(self) -> str:
        """Of the user message that was written last."""
        return str([frame["uuid"] for frame in self.written if frame["type"] == "user"][-1])

    def finish(self, name: str, answer: str) -> None:
        """A whole turn, however the machine stands."""
        self.turn(name)
        self.serve(answer)

    def serve(self, answer: str) -> None:
        """A child for the turn under way, if it needs one, and its answer."""
        if self.phase is Phase.WAKING:
            self.ready()
            self.set_up()
        self.takes_history()
        assert self.answer(answer), f"not answered in {self.machine!r}"

    # -- how actions read ------------------------------------------------------------------------

    def _word(self, action: Action) -> str:
        match action:
            case Started(turn_id=number):
                return f"started {self._names[number]}"
            case Wake(None):
                return "wake"
            case Wake(ResumePoint(_, uuid)):
                return f"wake at {uuid}"
            case Wake(AgentOrigin(model)):
                return f"wake agent {model}"
            case Wake(Recording(messages)):
                return f"wake with {len(messages)} messages, {_spell_all(messages[-1])}"
            case Write(line):
                return self._frame(json.loads(bytes(line)))
            case Deliver(item=item):
                return _spell_item(item)
            case HandOver(state, lines):
                assert isinstance(state, ChildState)
                self.handed.append(state)
                last = [self._frame(json.loads(bytes(line))) for line in lines]
                return ", ".join(["hand over", *last])
            case ChoiceReported(_, fate):
                return f"choice: {fate}"
            case End():
                self.ends.append(action)
                return f"end {self._names[action.turn_id]}: {self._outcome(action)}"
            case _:
                return {"CancelWake": "cancel wake"}.get(
                    type(action).__name__, type(action).__name__.lower()
                )

    def _outcome(self, end: End) -> str:
        match end.outcome:
            case Completed(reason) if end.answer is None:
                return f"completed {reason}"
            case Completed(reason):
                assert end.answer is not None
                return f"completed {reason}, {end.answer.text}"
            case Failed(error, kept):
                assert end.answer is None
                return f"{error.code}, kept" if kept is not None else error.code

    def _frame(self, frame: dict[str, Any]) -> str:
        self.written.append(frame)
        match frame:
            case {"type": "control_request", "request": {"subtype": "initialize"} as request}:
                if "agents" not in request:
                    return "initialize agent"
                agents = request["agents"]
                prompts = request.get("systemPrompt")
                if prompts is None:
                    prompts = [agent["prompt"] for agent in agents.values()]
                system = "".join(f", {text}" for text in prompts)
                return f"initialize {agents['gw']['model']}{system}"
            case {
                "type": "control_request",
                "request": {
                    "target_message_uuid": uuid,
                    "last_seen_user_message_uuid": last,
                },
            }:
                return f"cut {self._names[uuid]} to {self._names[last]}"
            case {"type": "control_request", "request": {"target_message_uuid": uuid}}:
                return f"rewind {self._names[uuid]}"
            case {"type": "control_request", "request": {"subtype": "get_context_usage"}}:
                return "look"
            case {"type": "control_response", "response": {"subtype": "error"} as response}:
                return f"refuse {response['request_id']}"
            case {"type": "control_response", "response": {"response": {"behavior": behavior}}}:
                return f"permission: {behavior}"
            case {"type": "control_response", "response": response}:
                answer = response["response"]["mcp_response"]
                assert answer["jsonrpc"] == "2.0"
                return f"answer {response['request_id']}: {_spell_answer(answer)}"
            case {"type": "control_request", "request": {"servers": servers}}:
                return f"tools of {', '.join(servers)}"
            case {"type": "control_request", "request": {"subtype": "claim_session", "cwd": cwd}}:
                return f"claim {cwd}"
            case {"type": "control_request", "request": {"subtype": "set_model", "model": model}}:
                return f"set model {model}"
            case {"type": "control_request", "request": {"settings": {"permissions": given}}}:
                return f"allow {', '.join(given['allow'])}"
            case {"type": "control_request", "request": {"settings": {"model": model} as settings}}:
                agent = settings.get("agent")
                return f"model {model}" if agent is None else f"agent {agent}, {model}"
            case {"type": "control_request", "request": {"settings": settings}}:
                return "settings plain" if settings == PLAIN else "settings"
            case {"type": "control_request", "request": {"thinking_display": shown}}:
                return "show thinking" if shown else "thinking as before"
            case {"type": kind, "uuid": uuid, "message": {"content": content}}:
                assert str(UUID(uuid)) == uuid
                assert uuid not in self._names, "the CLI drops a message whose uuid it knows"
                text = self._names[uuid] = "|".join(map(_spell, _without_guard(content)))
                asked = kind == "user" and frame.get("shouldQuery", True)
                return f"ask {text}" if asked else f"history {kind} {text}"
        raise AssertionError(f"what is {frame}?")


def _without_guard(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks without the empty one that keeps a result exact (`schemas.claude.input`)."""
    guarded = content[-1] == {"type": "text", "text": ""} and len(content) > 1
    return content[:-1] if guarded and content[-2]["type"] == "tool_result" else content


def _spell_item(item: TurnItem) -> str:
    match item:
        case TextDelta(text):
            return f"deliver {text}"
        case ReasoningDelta(text):
            return f"think {text}"
        case ToolCallStarted(index, call_id, name):
            return f"call {index} {name} {call_id}"
        case ToolCallDelta(index, fragment):
            return f"arguments {index} {fragment}"
        case Refused(text):
            return f"refused {text}"
        case ActivityStarted(call_id, name):
            return f"uses {name} {call_id}"
        case ActivityDelta(call_id, fragment):
            return f"given {call_id} {fragment}"
        case ActivityEnded(call_id, output):
            return f"used {call_id} {output}"
        case ToolsListed(server):
            return f"tools of {server}"
        case TextEnded():
            return "text ended"
        case SearchStarted(call_id, given):
            return f"searches {call_id} {given}"
        case SearchEnded(call_id, pages):
            return f"found {call_id} {[page.url for page in pages]}"
        case Cited(start, end):
            return f"cited {start} {end}"
        case ReasoningEnded(block):
            return f"thought {_spell_thinking(block)}"


def _spell_thinking(block: Thinking | RedactedThinking) -> str:
    return block.data if isinstance(block, RedactedThinking) else f"{block.text} {block.signature}"


def _spell_all(message: Message) -> str:
    return "|".join(map(_spell, encode_blocks(message.content)))


def _spell(block: dict[str, Any]) -> str:
    match block:
        case {"type": "text", "text": str(text)} if text.startswith("[From the application"):
            return "words again" if "cannot be used" in text else "words"
        case {"type": "text", "text": text}:
            return str(text)
        case {"type": "tool_use", "id": call_id, "name": name}:
            return f"{name} {call_id}"
        case {"type": "tool_result", "tool_use_id": call_id, "content": content}:
            said = content if isinstance(content, str) else "|".join(map(_spell, content))
            return f"{call_id} is {said}"
        case {"type": kind}:
            return f"[{kind}]"
    raise AssertionError(f"what is {block}?")


def _spell_answer(answer: dict[str, Any]) -> str:
    match answer:
        case {"result": {"content": content, "isError": True}}:
            return f"no, {'|'.join(map(_spell, content))}"
        case {"result": {"content": content}}:
            return "|".join(map(_spell, content))
        case {"result": {"tools": tools}}:
            return ", ".join(tool["name"] for tool in tools)
    return "yes"


# -- machines at hand, one in each phase ----------------------------------------------------------


def asleep(limits: Limits | None = None) -> Talk:
    """No child; but a turn, ``zero``, has been answered by an earlier one."""
    talk = idle(limits)
    talk.give_way()
    talk.gone()
    assert talk.phase is ASLEEP
    return talk


def idle(limits: Limits | None = None) -> Talk:
    """A child that has answered one turn, ``zero``."""
    talk = Talk(limits)
    talk.finish("zero", "null")
    assert talk.phase is IDLE
    return talk


def waking() -> Talk:
    talk = asleep()
    assert talk.turn("one") == ["started one", "wake"]
    return talk


def busy(limits: Limits | None = None) -> Talk:
    """A child that works on its second turn, ``one``."""
    talk = idle(limits)
    assert talk.turn("one") == ["started one", "ask one"]
    return talk


def working(limits: Limits | None = None) -> Talk:
    """A child that has a tool, ``look``, and works on its second turn, ``one``."""
    talk = Talk(limits)
    talk.turn("zero", tools=[LOOK])
    talk.serve("null")
    assert talk.turn("one") == ["started one", "ask one"]
    return talk


def awaiting_tools(limits: Limits | None = None) -> Talk:
    """A child that waits for what its call ``c1`` comes to; the turn ``one`` has ended."""
    talk = working(limits)
    assert talk.suspends("c1")[-1] == "end one: completed tool_calls"
    assert talk.phase is AWAITING_TOOLS
    return talk


def interrupting(limits: Limits | None = None) -> Talk:
    talk = busy(limits)
    assert talk.interrupt("one") == ["end one: turn_interrupted", "rewind one"]
    return talk


def backing_off() -> Talk:
    talk = asleep()
    for number in range(RESTARTS + 1):
        talk.turn(f"victim {number}")
        talk.ready()
        talk.takes_history()
        talk.says("half")
        talk.gone()
    assert talk.phase is BACKOFF
    return talk


def releasing(limits: Limits | None = None) -> Talk:
    """A child that is emptied, so that another conversation can have it."""
    talk = idle(limits or Limits(recycle=True))
    assert talk.give_way(0) == ["cut zero to zero", "look"]
    return talk


def stopping() -> Talk:
    talk = idle()
    assert talk.give_way() == ["retire"]
    return talk


def closed() -> Talk:
    talk = asleep()
    assert talk.close() == []
    return talk


IN_PHASE: dict[Phase, Callable[[], Talk]] = {
    ASLEEP: asleep,
    WAKING: waking,
    IDLE: idle,
    BUSY: busy,
    AWAITING_TOOLS: awaiting_tools,
    INTERRUPTING: interrupting,
    BACKOFF: backing_off,
    RELEASING: releasing,
    STOPPING: stopping,
    CLOSED: closed,
}
