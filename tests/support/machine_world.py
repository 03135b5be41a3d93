"""A session's surroundings in miniature: it performs the machine's actions and checks each one.

Knows what must hold whatever happens. Every step takes one number (0-255) that chooses among what
is possible, so that a sequence of steps is a sequence of numbers. Refuses to know which transition
is right: that is for the playbooks.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from attrs import define, evolve, field

from ccapi.actors import session
from ccapi.actors.runtime.restart_budget import RESTARTS, WINDOW
from ccapi.actors.session.child import ChildState
from ccapi.actors.session.events import (
    Action,
    Billed,
    CallHosted,
    CancelWake,
    ChildChosen,
    ChildGone,
    ChildReady,
    Close,
    Deliver,
    End,
    Event,
    Freeze,
    GiveWay,
    HandOver,
    HostedEnded,
    Interrupt,
    Kill,
    PermissionDenied,
    PermissionReply,
    PermissionRequested,
    PermissionSettled,
    RequestPermission,
    Retire,
    Started,
    StartTurn,
    TimedOut,
    TranscriptLost,
    Wake,
    WakeFailed,
    Wants,
    Warm,
    Write,
)
from ccapi.actors.session.hosted import NoHost
from ccapi.actors.session.late import UnexpectedEvent
from ccapi.actors.session.machine import Machine
from ccapi.actors.session.phases import Limits, Phase
from ccapi.actors.session.tools import HostedCall
from ccapi.schemas.claude.mcp import offered
from ccapi.schemas.claude.output import (
    AssistantDone,
    ControlAnswer,
    ControlAsked,
    ControlCancelled,
    Frame,
    MessageEnded,
    MessageStarted,
    Noise,
    PermissionAsked,
    ToolInput,
    ToolUseStarted,
    TurnResult,
)
from ccapi.schemas.errors import ChildDied, Overloaded, TurnInterrupted
from ccapi.schemas.mcp_rules import Decision
from ccapi.schemas.mcp_tools import ServerTool
from ccapi.schemas.message import (
    Block,
    Message,
    ToolCall,
    ToolResult,
    digest,
    merge_turns,
    unrolled,
)
from ccapi.schemas.turn import (
    Completed,
    Failed,
    HostedTool,
    Memory,
    Options,
    Origin,
    Recording,
    Setup,
    Tool,
    TurnRequest,
    Usage,
)
from ccapi.schemas.turn_items import ActivityStarted, Gathering, TextDelta, TurnItem
from tests.support.model_cli import ModelCli, Transcripts

LIMITS = (
    Limits(queued=2),
    Limits(
        turn=50, silence=20, start=10, freeze=30, hibernate=60, tool_wait=40, expire=200, queued=1
    ),
    Limits(turn=5, silence=20, start=10, freeze=10, hibernate=10, tool_wait=8, expire=10, queued=0),
    Limits(keep_child=False, expire=100, queued=3),
    Limits(queued=2, recycle=True),
)
TRANSITIONS = {
    (Phase[before], Phase[after])
    for before, after in re.findall(r"\b([A-Z_]+) -> ([A-Z_]+)\b", str(session.__doc__))
    if before in Phase.__members__ and after in Phase.__members__
}
RESTING = {Phase.IDLE, Phase.AWAITING_TOOLS}
WITH_CHILD = RESTING | {Phase.BUSY, Phase.INTERRUPTING, Phase.RELEASING, Phase.STOPPING}
WITHOUT_TURN = RESTING | {Phase.ASLEEP, Phase.BACKOFF, Phase.CLOSED}
LOOK = Tool("look")
ECHO = HostedTool.of(ServerTool("a", "echo", "mcp__a__echo", "Echoes.", '{"type":"object"}', False))
SEED = (Message("user", ("seed?",)), Message("assistant", ("seed!",)))


@define(eq=False)
class Received:
    """What the caller of one turn has received."""

    items: list[TurnItem] = field(factory=list)
    end: End | None = None


class CheckedMachine(Machine):
    """A machine whose every transition is one that the theory of operation lists."""

    def _enter(self, phase: Phase, now: float) -> None:
        assert (self.phase, phase) in TRANSITIONS, f"{self.phase.name} -> {phase.name}"
        super()._enter(phase, now)


class Servers(NoHost):
    """An MCP server with one tool, if there `is` one. Of its calls two in four are allowed, one is
    denied, and one needs permission."""

    def __init__(self, there_is: bool) -> None:
        self.offered = (ECHO,) if there_is else ()
        self.decided = 0

    def offers(self, setup: Setup) -> tuple[HostedTool, ...]:
        return self.offered

    def decide(self, tool: HostedTool, grants: Sequence[str]) -> Decision:
        self.decided += 1
        decisions: Sequence[Decision] = ("allow", "ask", "allow", "deny")
        return decisions[self.decided % 4]


class World:
    """One machine and its surroundings. With `honest`, its children are `ModelCli`s that say what
    the real one would; else they say anything."""

    def __init__(self, *, honest: bool, variant: int = 0) -> None:
        self.honest = honest
        self.now = 1000.0
        self.limits = LIMITS[variant % len(LIMITS)]
        memory = Memory(Setup("sonnet", tools=(LOOK,) if variant % 16 >= 8 else ()))
        self.texts: dict[bytes, Message] = {}  # whatever was said, by its digest
        if variant % 8 >= 4:
            memory = evolve(memory, seed=SEED, digests=tuple(map(self._note, SEED)))
        self.servers = Servers(variant % 64 >= 32)
        self.calls: list[HostedCall] = []  # that an MCP server works on
        self.wanted: list[str] = []  # permission requests about such calls
        self.machine = CheckedMachine(
            memory, self.limits, self.now, kept=self._kept, host=self.servers,
            is_heard=lambda: variant % 128 >= 64,
        )  # fmt: skip
        self.turns: dict[str, Received] = {}
        self.open: set[str] = set()
        self.earlier: list[Memory] = [memory]
        self.busy_before: set[str] = set()
        self.seeking = False
        self.origin: Origin | None = None
        self.wants: Wants | None = None
        self.free: list[tuple[ModelCli, ChildState]] = []  # children that were handed over
        self.child: ModelCli | None = None
        self.stopped = False
        self.deaths: list[float] = []
        self.asked: set[str] = set()
        self.asks: Counter[str] = Counter()  # by turn
        self.limited = False  # a child may have been given the end of a history only
        self.transcripts: Transcripts = {}
        self.losses: Counter[str] = Counter()  # children that could not take up a session, by turn

    def _note(self, message: Message) -> bytes:
        key = digest(message)
        self.texts[key] = message
        return key

    def _kept(self) -> list[Message]:
        return self.held

    @property
    def held(self) -> list[Message]:
        memory = self.machine.memory
        # Those that are equal to a client may differ in what tools did.
        before = memory.digests[: len(memory.digests) - len(memory.seed)]
        return [*(self.texts[key] for key in before), *memory.seed]

    # -- what may happen ---------------------------------------------------------------------------

    def nothing(self, choice: int) -> None:
        pass

    def begin(self, choice: int) -> None:
        """All goes well for a while: a turn, and a child that works on it."""
        if not self.open:
            self.start_turn(choice)
        self._go_on(0, 0, 0, choice)

    def serve(self, choice: int) -> None:
        """All goes well: a turn, and a child that answers it."""
        self.begin(choice)
        self._go_on(200, 0, 0, 200)

    def _go_on(self, *choices: int) -> None:
        for choice in choices:
            self.find_child(0)
            self.child_works(choice)
            self.read(3)

    def call(self, choice: int) -> None:
        """All goes well: a turn that calls tools."""
        self.begin(choice)
        self._go_on(0, 0, 100 + choice % 40, 0, 0)

    def bring(self, choice: int) -> None:
        """A turn with what came of the calls that stand open; not always just that."""
        number, calls = len(self.turns), self.machine.memory.calls
        kind = choice % 8
        given = [ToolResult(call, (f"result {number}",)) for call in calls]
        rest: list[Block] = []
        match kind:
            case 0:
                given = given[1:]
            case 1:
                given.append(ToolResult("unknown", ("what?",)))
            case 2:
                rest = [f"and {number}"]
            case 3:
                given = [evolve(each, is_error=True) for each in given]
            case 4:
                given.reverse()
        if given or rest:
            self._start(Message("user", (*given, *rest)), choice // 8)

    def start_turn(self, choice: int) -> None:
        self._start(Message("user", (f"prompt {len(self.turns)}",)), choice)

    def _start(self, last: Message, choice: int) -> None:
        number = len(self.turns)
        elsewhere = (Message("user", ("?",)), Message("assistant", (f"elsewhere {number}",)))
        held = self.held
        kinds: Sequence[Sequence[Message]] = (
            (),
            (),
            held,
            held[-2:],
            (*held, *elsewhere),
            elsewhere,
            (Message("user", (f"before {number}",)),),
            (Message("assistant", (f"before {number}",)),),
        )
        messages = (*kinds[choice % 8], last)
        for message in messages:
            self._note(message)
        change = (choice // 8) % 8
        limit = 3 if change == 7 else None
        self.limited |= limit is not None
        prompt = TurnRequest(
            messages,
            model={1: "opus", 2: "sonnet"}.get(change),
            system={3: "Be brief."}.get(change),
            tools={5: (LOOK,), 6: ()}.get(change),
            options=Options(stop=((), (), ("#",), ("7 #",))[choice // 64]),
            history_limit=limit,
            reject_if_busy=change == 4,
            keep_stopped=choice % 2 == 1,
            exact=choice % 3 == 1,
        )
        turn_id = str(uuid5(NAMESPACE_OID, str(number)))
        self.turns[turn_id] = Received()
        self.feed(StartTurn(turn_id, prompt))

    def interrupt(self, choice: int) -> None:
        if self.turns:
            ids = list(self.turns)
            self.feed(Interrupt(ids[-1 - choice % min(len(ids), 4)]))

    def find_child(self, choice: int) -> None:
        if self.seeking and choice < 230:
            self.seeking = False
            self.stopped = False
            found = self._find_free() if choice % 4 else None
            if found is not None:
                self.child, state = found
                self.feed(ChildReady(state, source="prefix" if state.held else "recycled"))
                return
            origin = self.origin if self.honest else None
            self.child = ModelCli.start(self.transcripts, origin)
            palette = ("Be brief.", "Be kind.") if choice % 2 else ()
            self.feed(ChildReady(palette=palette))
        elif self.seeking:
            self.seeking = False
            self.feed(WakeFailed(Overloaded("no")))

    def _find_free(self) -> tuple[ModelCli, ChildState] | None:
        """What the pool does: a child that was handed over, and can serve what is wanted."""
        wants = self.wants
        if wants is None or self.origin is not None:
            return None
        for number, (_, state) in enumerate(self.free):
            held = tuple(map(digest, state.held))
            begins = wants.digests[: len(held)] == held and state._suits(wants.setup)
            if begins if held else state.knows(wants.setup):
                return self.free.pop(number)
        return None

    def release(self, choice: int) -> None:
        """Another conversation wants the child: emptied, or cut back to where one of its messages
        stands."""
        child = self.machine.resident
        if self.machine.phase in RESTING and child is not None:
            cuts = sorted({cut.held for cut in child.cuts if cut.held and not child.is_partial})
            keep = cuts[choice // 2 % len(cuts)] if cuts and choice % 2 else 0
            self.feed(GiveWay(keep))

    def child_works(self, choice: int) -> None:
        if self.child is not None and not self.stopped:
            self.child.work(choice)

    def read(self, choice: int) -> None:
        """Read some of what the child wrote; what a stopped child writes comes late."""
        child = self.child
        self.machine.child_active(self.now)
        for _ in range(1 + choice % 4):
            if child is not None and self.child is child and child.said:
                frame = child.said.popleft()
                if not isinstance(frame, Noise):  # the shell drops it too
                    self.feed(frame)

    def child_goes(self, choice: int) -> None:
        """A stopped child is gone in the end; another one dies seldom."""
        if self.child is not None and (self.stopped or choice < 100):
            self.child = None
            if not self.stopped:
                self.deaths.append(self.now)
            self.feed(ChildGone(ChildDied("gone")))

    def lose(self, choice: int) -> None:
        """Transcripts vanish from the disk."""
        if choice < 128:
            self.transcripts.clear()

    def lie(self, choice: int) -> None:
        """A child that writes what it should not."""
        if self.child is not None and not self.honest:
            lies = self._lies(choice // 16)
            self.feed(lies[choice % len(lies)])

    def _lies(self, choice: int) -> Sequence[Frame]:
        written = [frame for frame in self.child.inbox if "uuid" in frame] if self.child else []
        uuid = str(written[-1]["uuid"]) if written and choice % 2 else None
        requests = (
            [f["request_id"] for f in self.child.inbox if "request_id" in f] if self.child else []
        )
        request_id = requests[-1] if requests and choice % 4 else "initialize"
        call = ToolCall(f"c{choice}", "look" if choice % 4 else "ghost", "{}")
        meta = {"_meta": {"claudecode/toolUseId": call.id}}
        good = TurnResult(False, "success", choice % 2, "", None, None, "s", Usage(), 0.1, uuid)
        return (
            TextDelta(f"lie {choice}"),
            AssistantDone(f"uuid {choice}", synthetic=choice % 8 == 0, text=f"block {choice}"),
            good,
            evolve(good, num_turns=0),
            evolve(good, is_error=True, api_error_status=500),
            evolve(good, session_id="", total_cost_usd=-1.0),
            ControlAnswer(request_id, {}, None),
            ControlAnswer(request_id, {"rewound": True}, None),
            ControlAnswer(request_id, {"rewound": False}, "no" if choice % 2 else None),
            ControlAsked("r", "can_use_tool"),
            evolve(good, is_error=True, stop_reason="refusal"),
            MessageStarted(Usage()),
            ToolUseStarted(call.id, call.name),
            ToolInput('{"n"'),
            AssistantDone(f"uuid {choice}", synthetic=False, call=call),
            ControlAsked("r", "mcp_message", {"method": "tools/call", "params": meta}),
            ControlAsked("r", "mcp_message", {"method": "tools/list", "params": 7}),
            MessageEnded("tool_use", Usage()),
            MessageEnded("max_tokens" if choice % 2 else "end_turn", Usage()),
        )

    def permissions(self, choice: int) -> None:
        """A child asks for permission, or withdraws that; a client answers, or not, or too late."""
        request_id = f"permission {choice % 3}"
        if choice >= 128:
            allow, always = choice % 2 == 0, choice % 5 == 0
            self.feed(PermissionReply(request_id=request_id, allow=allow, always=always))
        elif self.child is not None and not self.stopped and not self.honest:
            asked = PermissionAsked(request_id, "Bash", {}, "toolu")
            self.feed(
                ControlCancelled(request_id)
                if choice % 8 == 0
                else PermissionRequested(asked, answerable=choice % 4 > 0)
            )

    def server_answers(self, choice: int) -> None:
        """An MCP server has done what it was asked, maybe too late; or a client says whether it
        may be asked."""
        if self.wanted:
            request_id = self.wanted.pop(choice % len(self.wanted))
            always = choice % 5 == 0
            self.feed(PermissionReply(request_id=request_id, allow=choice % 3 > 0, always=always))
        if self.calls:
            call = self.calls.pop(choice % len(self.calls))
            text = {"type": "text", "text": f"echo {choice}"}
            failed = {"isError": True} if choice % 7 == 0 else {}
            self.feed(HostedEnded(call.call_id, {"content": [text], **failed}))

    def warm(self, choice: int) -> None:
        if choice < 64:
            self.feed(Warm())

    def ask_again(self, choice: int) -> None:
        """The last turn is taken back, and another one begun in its place."""
        number, turn_id = len(self.turns), str(uuid5(NAMESPACE_OID, str(len(self.turns))))
        back_to = self.earlier[-1 - choice % min(3, len(self.earlier))]
        message = Message("user", (f"again {number}",))
        self._note(message)
        self.turns[turn_id] = Received()
        self.feed(StartTurn(turn_id, TurnRequest((message,), back_to=back_to)))

    def time_passes(self, choice: int) -> None:
        self.now += choice / 16

    def time_out(self, choice: int) -> None:
        """The timer: when it is due, at any other time, or late."""
        due = self.machine.deadline
        if choice < 64 and due < self.now + 10_000:
            self.now = max(self.now, due + (choice % 3) * 7)
        self.ring()

    def ring(self) -> None:
        self.feed(TimedOut())
        for _ in range(3):
            if self.machine.deadline > self.now:
                return
            self.feed(TimedOut())
        raise AssertionError(f"invariant 10: a timer that goes off for ever: {self.machine!r}")

    def give_way(self, choice: int) -> None:
        if self.machine.phase in RESTING or choice % 4 == 0:
            self.feed(GiveWay())

    def close(self, choice: int) -> None:
        if choice < 16:
            self.feed(Close(TurnInterrupted("closed")))

    # -- performing, and checking ------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        before = self.machine.memory
        self.busy_before = set(self.open)
        try:
            actions = self.machine.advance(event, self.now)
        except UnexpectedEvent:
            assert not self.honest, "invariant 12: an honest child says nothing that does not fit"
            assert self.machine.memory is before, "invariant 12: nothing has changed"
            self._check()
            return
        completed = False
        for action in actions:
            match action:
                case End(outcome=Completed(reason)):
                    completed |= reason != "content_filter"
                case End(outcome=Failed(kept=kept)):
                    completed |= kept is not None
            self._perform(action)
        back_to = event.request.back_to if isinstance(event, StartTurn) else None
        if back_to is not None and back_to is self.machine.memory and back_to is not before:
            assert back_to.turns == before.turns - 1, "the last turn, and no other"
            assert not self.busy_before & self.open, "no other turn is open"
            before = back_to
        if any(isinstance(action, TranscriptLost) for action in actions):
            now = self.machine.memory
            assert now.digests == before.digests, "it still holds what it held"
            assert now.resume is None
            assert now.seed == tuple(self.held)
        elif not completed:
            now = evolve(self.machine.memory, grants=before.grants)
            assert now == before, "invariant 7: only a finished turn is remembered"
        else:
            self.earlier.append(before)
        self._check()

    def _perform(self, action: Action) -> None:
        match action:
            case Started(turn_id):
                assert turn_id not in self.open, "invariant 1: it starts once"
                assert self.turns[turn_id].end is None, "invariant 1: it starts before it ends"
                self.open.add(turn_id)
            case End():
                self._end(action)
            case Deliver(turn_id, item):
                assert turn_id in self.open, "invariant 2: between the start and the end"
                self.turns[turn_id].items.append(item)
            case Wake(origin, wants):
                assert self.child is None, "invariant 3: a second child"
                assert not self.seeking, "invariant 3: a second search"
                recent = [death for death in self.deaths if death > self.now - WINDOW]
                assert len(recent) <= RESTARTS, "invariant 9: the budget is spent"
                if isinstance(origin, Recording):
                    assert len(origin.messages) > 3  # of those that are too many to be replayed
                    assert origin.messages[-1].role == "assistant"
                self.seeking, self.origin, self.wants = True, origin, wants
            case TranscriptLost():
                turn = self.machine._turns.current
                if turn is not None:
                    self.losses[turn.turn_id] += 1
                    assert not self.turns[turn.turn_id].items, "invariant 6: its client has nothing"
            case ChildChosen(turn_id):
                assert turn_id in self.open
            case CancelWake():
                assert self.seeking
                self.seeking = False
            case CallHosted(call):
                assert self.machine.phase in (Phase.BUSY, Phase.AWAITING_TOOLS), "invariant 14"
                assert not self.stopped
                self.calls.append(call)
            case RequestPermission(turn_id, asked):
                assert turn_id in self.open
                if asked.tool == ECHO.name:
                    self.wanted.append(asked.request_id)
                assert self.machine.phase is Phase.BUSY
            case PermissionSettled():
                assert self.machine.phase is Phase.BUSY
            case Billed() | PermissionDenied():
                pass
            case _:
                self._perform_on_child(action)

    def _perform_on_child(self, action: Action) -> None:
        assert self.child is not None, f"{action} without a child"
        assert not self.stopped, f"invariant 5: {action} for a stopped child"
        match action:
            case Write(line):
                frame = json.loads(bytes(line))
                if frame["type"] == "user":
                    assert frame["uuid"] not in self.asked, "the CLI would drop it"
                    self.asked.add(frame["uuid"])
                    if frame.get("shouldQuery", True):
                        self._ask()
                self.child.write(line)
            case HandOver(state, lines):
                assert isinstance(state, ChildState)
                for line in lines:
                    self.child.write(line)
                    self.child.work(0)
                self._hand_over(state)
            case Retire() | Kill():
                self.stopped = True
            case _:
                assert isinstance(action, Freeze)
                assert self.machine.phase in RESTING

    def _hand_over(self, state: ChildState) -> None:
        """Invariant 13: what the next conversation finds in the child is what the machine says."""
        assert self.child is not None
        if self.honest:
            assert not self.child.pending, "no call waits for a result"
            assert self.child._asked is None, "no turn runs"
            if not state.is_partial:
                assert _shape(self.child.messages) == _shape(state.held)
            self.free.append((self.child, state))
        self.child = None

    def _ask(self) -> None:
        turn = self.machine._turns.running
        self.asks[turn.turn_id] += 1
        if self.asks[turn.turn_id] > 1:
            again = self.asks[turn.turn_id] - self.losses[turn.turn_id]
            assert again <= 2, "invariant 6: at most once more"
            assert again == 1 or self.deaths, "invariant 6: only after a death"
            assert not self.turns[turn.turn_id].items, "invariant 6: its client has nothing"
            tools = turn.setup.tools or turn.setup.hosted
            assert again == 1 or not (tools and turn.model_began), "invariant 6"

    def _end(self, end: End) -> None:
        self.open.remove(end.turn_id)  # invariant 1: exactly once, and only what was started
        received = self.turns[end.turn_id]
        assert received.end is None
        received.end = end
        outcome, said = end.outcome, Gathering()
        for item in received.items:
            said.add(item)
        if isinstance(outcome, Failed):
            if outcome.kept is not None:
                self._check_kept(said, end.request.messages[-1])
            return
        if self.honest:  # liars begin calls that never become whole
            acted = any(isinstance(item, ActivityStarted) for item in received.items)
            assert (end.answer is None) == (bool(said.tool_calls) or acted)
        if end.answer is not None:
            pieces = [item.text for item in received.items if isinstance(item, TextDelta)]
            assert list(end.answer.pieces) == pieces, "the answer is what was delivered"
        if outcome.finish_reason == "content_filter":
            assert said.refusal is not None
            return
        memory = self.machine.memory
        self._check_answer(said, end.request.messages[-1])
        state = self.machine.resident
        if self.honest and state is not None and state.held == memory.seed:
            assert self.child is not None
            setup = evolve(memory.setup, tools=(), schema=None)
            assert self.child.setup == setup
            equipped = evolve(memory.setup, hosted=self.servers.offered)
            assert set(self.child.tools) <= set(offered(equipped))
            self._compare(self.held)

    def _check_kept(self, said: Gathering, last: Message) -> None:
        """A person has stopped the answer: the conversation remembers it as far as it came."""
        memory = self.machine.memory
        asked, kept = memory.seed[-2:]
        assert asked == last
        # Behind the text stands what tools of MCP servers were used for.
        assert kept.text.startswith(said.text) if self.servers.offered else kept.text == said.text
        assert not memory.calls
        for message in memory.seed:
            self._note(message)

    def _check_answer(self, said: Gathering, last: Message) -> None:
        """Invariant 8: the conversation remembers what the client received."""
        memory = self.machine.memory
        if self.honest:
            text = (said.text,) if said.text or not said.tool_calls else ()
            answer = Message("assistant", (*text, *said.tool_calls))
            assert memory.digests[-2:] == (digest(last), self._note(answer))
            assert memory.calls == tuple(call.id for call in said.tool_calls)
        for message in memory.seed:
            self._note(message)
        if memory.digests[-1] not in self.texts:
            # Liars begin calls that never become whole; what they told is not compared.
            self.texts[memory.digests[-1]] = Message("assistant", (said.text or "lies",))

    def _compare(self, expected: Sequence[Message]) -> None:
        """Invariants 7 and 8: the child holds what is expected, and no trace of a failed turn."""
        assert self.child is not None
        held = _shape(self.child.messages)
        if self.limited:
            ends = (_shape(expected[begin:]) for begin in range(len(expected) + 1))
            assert held in ends
        else:
            assert held == _shape(expected)

    def _compare_at_rest(self) -> None:
        """What the transcript at `memory.resume` lacks, the child need not hold; what it does hold
        of that, the machine knows."""
        machine, child = self.machine, self.child
        assert child is not None
        assert machine._child is not None
        seed, extra = machine.memory.seed, machine._child.held
        if machine.phase is Phase.IDLE and child.quiet and not child.is_lost:
            assert extra == seed[: len(extra)]
            self._compare([*self.held[: len(self.held) - len(seed)], *extra])
        elif machine.phase is Phase.AWAITING_TOOLS and child.suspended:
            self._compare(self.held)

    def _check(self) -> None:
        machine, phase = self.machine, self.machine.phase
        assert (self.child is not None) == (phase in WITH_CHILD), "invariant 4"
        assert self.seeking == (phase is Phase.WAKING), "invariant 4"
        assert (self.child is not None and self.stopped) == (phase is Phase.STOPPING)
        assert len(self.open) <= self.limits.queued + 1, "more turns wait than may"
        if phase in WITHOUT_TURN:
            assert not self.open, "invariant 4: a turn without service"
        if self.honest and phase in RESTING:
            self._compare_at_rest()
        if machine.closing is not None:
            assert phase in {Phase.STOPPING, Phase.RELEASING, Phase.CLOSED}, "invariant 11"
            assert not self.open, "invariant 11"

    # -- the end -----------------------------------------------------------------------------------

    def wait_out(self) -> None:
        """No client and no child does anything: time alone ends every turn (invariant 10)."""
        for _ in range(10 + 4 * len(self.open)):
            if not self.open:
                return
            if self.stopped and self.child is not None:
                self.child_goes(0)
            else:
                self.now = max(self.now, self.machine.deadline)
                self.ring()
        raise AssertionError(f"invariant 10: turns that do not end: {self.machine!r}")

    def shut(self) -> None:
        """After `Close` and the child's exit nothing is left (invariant 11)."""
        self.feed(Close(TurnInterrupted("closed")))
        self.child_goes(0)
        assert self.machine.phase is Phase.CLOSED
        assert not self.open
        for turn_id, received in self.turns.items():
            assert received.end is not None
            assert received.end.turn_id == turn_id


def _shape(messages: Iterable[Message]) -> list[Any]:
    """What the model can tell of them."""
    return [
        (
            message.role,
            message.text,
            [(call.id, call.name, call.input) for call in message.calls],
            message.results,
        )
        for message in merge_turns(unrolled([*messages])[0])
    ]


STEPS = (
    World.nothing,  # what shrinking makes of a step that does not matter
    World.start_turn,
    World.find_child,
    World.child_works,
    World.read,
    World.begin,
    World.serve,
    World.call,
    World.bring,
    World.interrupt,
    World.child_goes,
    World.lie,
    World.lose,
    World.permissions,
    World.server_answers,
    World.warm,
    World.ask_again,
    World.time_passes,
    World.time_out,
    World.give_way,
    World.release,
    World.close,
)
