"""A session's surroundings made of memory: a child, and the pool that lends it.

Knows the two interfaces that a session needs (`actors.session.actor.SessionChild` and
`SessionPool`) and enough of the CLI's protocol to hold a conversation: what the child says travels
as bytes through a memory stream, the splitter and the decoder, as it does in life. No process and
no clock is involved, so the autojump clock never jumps falsely. Refuses to know what the session
should do; what must hold for every session, whatever a test does, is asserted when the world
closes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias
from uuid import uuid4

import trio
from trio.testing import MemoryReceiveStream

from ccapi.actors.session.events import ChildReady, Resident, Wants
from ccapi.actors.session.messages import Lent
from ccapi.schemas.claude.limits import LimitState
from ccapi.schemas.claude.lines import Line
from ccapi.schemas.claude.output import Frame, decode
from ccapi.schemas.errors import ChildDied, ChildProtocolError, GatewayError
from ccapi.schemas.turn import Origin
from ccapi.transport.process.ndjson import LineSplitter

Json: TypeAlias = dict[str, Any]
Brain: TypeAlias = "Callable[[FakeChild, Json], None]"
"""What a child does with a frame that was written to it."""


# -- what a child says -----------------------------------------------------------------------------


def text_delta(text: str) -> Json:
    delta = {"type": "text_delta", "text": text}
    return {
        "type": "stream_event",
        "event": {"type": "content_block_delta", "index": 0, "delta": delta},
        "parent_tool_use_id": None,
    }


def assistant(uuid: str, text: str) -> Json:
    message = {"model": "m", "role": "assistant", "content": [{"type": "text", "text": text}]}
    return {"type": "assistant", "uuid": uuid, "message": message, "parent_tool_use_id": None}


def event(kind: str, **fields: Any) -> Json:
    return {
        "type": "stream_event",
        "event": {"type": kind, **fields},
        "parent_tool_use_id": None,
    }


def message_delta(stop_reason: str) -> Json:
    usage = {"input_tokens": 3, "output_tokens": 2}
    return event("message_delta", delta={"stop_reason": stop_reason}, usage=usage)


def tool_call(call_id: str, name: str) -> tuple[Json, ...]:
    """The whole block of a call without arguments, and the call itself."""
    block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
    message = {"model": "m", "role": "assistant", "content": [block]}
    params = {"name": name, "arguments": {}, "_meta": {"claudecode/toolUseId": call_id}}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    request = {"subtype": "mcp_message", "server_name": "client", "message": asked}
    return (
        event("content_block_start", index=0, content_block=block),
        {"type": "assistant", "uuid": call_id, "message": message, "parent_tool_use_id": None},
        {"type": "control_request", "request_id": f"request {call_id}", "request": request},
    )


def result(text: str = "", *, session_id: str = "cli-session", **fields: Any) -> Json:
    base: Json = {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "num_turns": 1,
        "result": text,
        "stop_reason": "end_turn",
        "session_id": session_id,
        "usage": {"input_tokens": 3, "output_tokens": 2},
        "total_cost_usd": 0.25,
    }
    return base | fields


def control_answer(request_id: str, body: Json | None = None) -> Json:
    response = {"subtype": "success", "request_id": request_id, "response": body or {}}
    return {"type": "control_response", "response": response}


def prompt_text(frame: Json) -> str:
    return "".join(block["text"] for block in frame["message"]["content"])


# -- how a child behaves ---------------------------------------------------------------------------


def mute(child: FakeChild, frame: Json) -> None:
    """Says nothing at all."""


def silent(child: FakeChild, frame: Json) -> None:
    """Answers control requests, and no prompt."""
    if frame["type"] != "control_request":
        return
    if frame["request"]["subtype"] == "rewind_conversation":
        if child.running:
            child.say(result(subtype="error_during_execution", is_error=True, usage={}))
        target = frame["request"]["target_message_uuid"]
        asked = [each["uuid"] for each in child.written if each["type"] == "user"]
        before = "answer" if asked.index(target) else None
        body = {"rewound": True, "precedingAssistantUuid": before}
        child.say(control_answer(frame["request_id"], body))
    elif frame["request"]["subtype"] == "get_context_usage":
        child.say(control_answer(frame["request_id"], {"categories": [{"name": "Free space"}]}))
    else:
        child.say(control_answer(frame["request_id"]))


def echo(child: FakeChild, frame: Json) -> None:
    """Answers a prompt with ``echo: `` and what was said, in two deltas."""
    silent(child, frame)
    if frame["type"] == "user":
        text = prompt_text(frame)
        child.answer("echo: ", text) if frame.get("shouldQuery", True) else child.take_in()


class FakeChild:
    """A child without a process. `fate` says how it went: ``retired``, ``killed`` or ``died``.

    With `lingers` a child that is asked to end stays until `bury`. `piece` is how many bytes are
    read at once at most. `written` is what it received, `running` whether a prompt is unanswered.
    """

    def __init__(self, brain: Brain = echo, origin: Origin | None = None) -> None:
        self.brain = brain
        self.origin = origin
        self.written: list[Json] = []
        self.running = False
        self.fate = ""
        self.lingers = False
        self.piece = 65536
        self.gone = trio.Event()
        self._news = trio.Event()
        self._stdout = MemoryReceiveStream()
        self._lines = LineSplitter(1 << 26)

    def __repr__(self) -> str:
        return f"<FakeChild {self.fate or 'alive'} told {len(self.written)}>"

    # what a session uses

    def write(self, line: Line) -> None:
        line = bytes(line)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        if self.fate:
            return
        frame = json.loads(line)
        self.written.append(frame)
        self.running = self.running or (frame["type"] == "user" and frame.get("shouldQuery", True))
        self.brain(self, frame)
        self._news.set()
        self._news = trio.Event()

    async def receive_frames(self) -> list[Frame]:
        data = await self._stdout.receive_some(self.piece)
        if not data:
            raise EOFError
        try:
            return [decode(line) for line in self._lines.feed(bytes(data))]
        except ValueError:
            raise ChildProtocolError("That is not JSON.") from None

    def rest(self) -> None:
        """Another session may read from it later."""

    def stop_reading(self) -> None:
        self._stdout.close()

    def retire(self) -> None:
        self._go("retired")

    def kill(self) -> None:
        self._go("killed")

    def post_mortem(self) -> GatewayError:
        return ChildDied("The CLI process ended by signal 9.")

    # what a test uses

    @property
    def prompts(self) -> list[str]:
        """What it was asked, oldest first."""
        return [
            prompt_text(frame)
            for frame in self.written
            if frame["type"] == "user" and frame.get("shouldQuery", True)
        ]

    @property
    def history(self) -> list[str]:
        """The user messages that it was given as history."""
        return [
            prompt_text(frame)
            for frame in self.written
            if frame["type"] == "user" and not frame.get("shouldQuery", True)
        ]

    async def wait_prompts(self, count: int) -> None:
        while len(self.prompts) < count:
            await self._news.wait()

    def say(self, *frames: Json) -> None:
        if any(frame["type"] == "result" for frame in frames):
            self.running = False
        self.say_bytes(b"".join(json.dumps(frame).encode() + b"\n" for frame in frames))

    def say_bytes(self, data: bytes) -> None:
        if not self.fate:
            self._stdout.put_data(data)

    def answer(self, *pieces: str) -> None:
        """The whole of an answer: its deltas, the assistant frame, the result."""
        text = "".join(pieces)
        self.say(*map(text_delta, pieces), assistant(str(uuid4()), text), result(text))

    def take_in(self) -> None:
        """It has taken in a message of the history."""
        self.say(result(num_turns=0))

    def die(self) -> None:
        self._go("died")

    def bury(self) -> None:
        self.lingers = False
        self.gone.set()

    def _go(self, fate: str) -> None:
        self.fate = self.fate or fate
        self._stdout.put_eof()
        if not self.lingers:
            self.gone.set()


class FakePool:
    """Lends a new child to each session that asks. `lent` are all of them, `offered` the idle ones.

    `gate` holds all sessions back until it is set, `failure` is raised instead, `brains` go to the
    next children and `brain` to those after. `needy` calls in every child that is offered.
    `refused` are errors by model, for turns that the API would refuse; `limits` what was noted.
    `others` are the logins that there are beside each; `logins` those that were asked for, each
    with the one to be avoided.
    """

    def __init__(self, brain: Brain = echo) -> None:
        self.brain = brain
        self.brains: list[Brain] = []
        self.lent: list[FakeChild] = []
        self.offered: dict[FakeChild, Callable[[int | None], None]] = {}
        self.released: dict[FakeChild, Resident] = {}  # handed over, and no session's
        self.suspended: set[FakeChild] = set()  # of those offered, the ones in mid-turn
        self.frozen: list[FakeChild] = []
        self.asked = 0
        self.gate: trio.Event | None = None
        self.failure: GatewayError | None = None
        self.needy = False
        self.refused: dict[str, GatewayError] = {}
        self.limits: list[tuple[str, LimitState]] = []
        self.others: dict[str, str] = {}
        self.logins: list[tuple[str, str]] = []
        self._holders: dict[str, FakeChild] = {}
        self._news = trio.Event()

    @property
    def child(self) -> FakeChild:
        """The one that was lent last."""
        return self.lent[-1]

    async def wait_lent(self, count: int) -> FakeChild:
        while len(self.lent) < count:
            await self._news.wait()
        return self.lent[count - 1]

    async def acquire(
        self, conversation_id: str, origin: Origin | None, wants: Wants | None, owner: str,
        login: str, avoid: str,
    ) -> Lent[FakeChild]:  # fmt: skip
        self.asked += 1
        self.logins.append((login, avoid))
        login = self.others.get(avoid, login)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        before = self._holders.get(conversation_id)
        assert before is None or before.fate, f"{conversation_id} asks for a second child"
        if self.released:
            child, state = self.released.popitem()
            self._holders[conversation_id] = child
            return Lent(child, ChildReady(state, source="recycled"))
        child = FakeChild(self.brains.pop(0) if self.brains else self.brain, origin)
        self._holders[conversation_id] = child
        self.lent.append(child)
        self._news.set()
        self._news = trio.Event()
        return Lent(child, ChildReady(), login)

    def offer(
        self, child: FakeChild, give_way: Callable[[int | None], None], state: Resident, *,
        suspended: bool, valued: bool, expected: float,
    ) -> None:  # fmt: skip
        assert child not in self.offered, "offered twice"
        self.offered[child] = give_way
        if suspended:
            self.suspended.add(child)
        if self.needy:
            self.call_in(child)

    @property
    def has_rejections(self) -> bool:
        return bool(self.refused)

    @has_rejections.setter
    def has_rejections(self, _: bool) -> None:
        raise NotImplementedError

    def refusal(self, model: str, login: str) -> GatewayError | None:
        return self.refused.get(model)

    def has_other(self, model: str, login: str) -> bool:
        return login in self.others

    def note_limit(self, child: FakeChild, state: LimitState, model: str) -> None:
        self.limits.append((model, state))

    def withdraw(self, child: FakeChild) -> None:
        self.offered.pop(child, None)
        self.suspended.discard(child)

    def take_back(self, child: FakeChild, state: Resident) -> None:
        assert child not in self.offered, "withdrawn first"
        holder = next(name for name, held in self._holders.items() if held is child)
        del self._holders[holder]
        self.released[child] = state

    def freeze(self, child: FakeChild) -> None:
        assert child in self.offered, "only an idle child may be frozen"
        self.frozen.append(child)

    def call_in(self, child: FakeChild, keep: int | None = None) -> None:
        """What the pool does when another session needs the place, or the child itself."""
        self.offered.pop(child)(keep)
