"""One turn inside a session's machine: what was asked, what was said, and how it is told.

Knows: what a turn adds to its conversation, and the actions that begin, serve and end one.
Refuses to know: phases, the child, and the rest of the conversation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import takewhile
from uuid import UUID, uuid5

from attrs import define, evolve, field

from ...schemas.claude import mcp
from ...schemas.claude.output import ApiRetry, ToolsReturned, TurnResult
from ...schemas.claude.tool_wishes import MAX_HELD, ToolWish, wish_of
from ...schemas.errors import GatewayError, InvalidRequest
from ...schemas.message import Checked, Message, ToolResult, check_results, unseen
from ...schemas.turn import (
    Answer,
    Completed,
    Failed,
    Memory,
    Outcome,
    Prompt,
    ResumePoint,
    Setup,
    Usage,
)
from ...schemas.turn_items import ReasoningDelta, TextDelta, TurnItem, compact
from . import errors as refusals
from .answer import AnswerState, Spoken
from .events import Deliver, End, Started, ToldChoice
from .replay import Batch, Composition

Heard = Spoken | ApiRetry
"""What a turn takes in of what its child says."""


@define(eq=False)
class TurnState:
    """A turn that was taken on and has not ended. Times are points in time, in seconds.

    It has to end before `due`. `messages` are those the conversation does not hold yet, `batches`
    what is still to be written to the child, `awaits` the user message that the child is busy
    with, `answer` what it has said. `retry_after`: seconds until the CLI meant to ask the API
    again, when it last failed. `begun`: it was put before a child. `tries`: how many children it
    was put before in vain; `replayed`: one of them died when it may have asked the model.
    `was_heard`: the model has shown that it works on it. `tells_all`: a new child is told
    everything line by line, since nothing can be put into a transcript for it. `keep_stopped`: an
    answer that is interrupted stays in the conversation, as far as it came.

    `wish` is the tool call that the model is asked for in words. Until that begins, what it says is
    held back, so that it can be asked once more (`asked_again`) if it does not call; `spent` is
    what the answer took that was taken back then.
    """

    turn_id: str
    prompt: Prompt
    setup: Setup
    accepted: float
    due: float
    keep_stopped: bool = False
    messages: tuple[Message, ...] = ()
    batches: deque[Batch] = field(factory=deque)
    awaits: str = ""
    first_delta: float | None = None
    retry_after: float | None = None
    begun: bool = False
    tries: int = 0
    replayed: bool = False
    was_heard: bool = False
    tells_all: bool = False
    asked_again: bool = False
    spent: Usage = field(factory=Usage)
    wish: ToolWish | None = field(init=False)
    answer: AnswerState = field(init=False)
    _held: list[TurnItem] | None = field(init=False)
    _held_size: int = 0

    def __attrs_post_init__(self) -> None:
        self._await_answer()

    def _await_answer(self) -> None:
        self.answer = AnswerState(self.prompt.options, self.setup)
        self.wish = wish_of(self.prompt.options, self.setup)
        self._held = None if self.wish is None else []
        self._held_size = 0

    # -- what is asked -----------------------------------------------------------------------------

    @property
    def namespace(self) -> UUID:
        """Of the uuids of its messages. They are others before a second child, which may find the
        first one's in the transcript it resumes, and where the same child is asked once more."""
        turn = UUID(self.turn_id)
        if self.asked_again:
            turn = uuid5(turn, "asked again")
        return uuid5(turn, f"again {self.tries}") if self.tries else turn

    def started(self) -> Started:
        return Started(self.turn_id, self.setup.model)

    def join(self, memory: Memory) -> GatewayError | None:
        """Work out what the turn adds to `memory`; or why it cannot join on to it."""
        self.setup = self.prompt.setup(memory.setup)
        self._await_answer()
        if self.prompt.options.begun and memory.resume is not None:
            return refusals.not_in_words()
        messages = unseen(memory.digests, self.prompt.messages)
        if messages is None:
            return refusals.contradicted()
        # Of a prompt that was checked, only where it joins on is new.
        fresh = messages[:1] if isinstance(self.prompt.messages, Checked) else messages
        try:
            check_results(fresh, memory.calls, lambda _: "messages")
        except InvalidRequest as refusal:
            return refusal
        self.messages = messages
        return None

    def results_alone(self) -> tuple[ToolResult, ...] | None:
        """The results that the turn brings, if it brings nothing else and a child can be given
        them as what its own calls came to; else None."""
        if len(self.messages) != 1 or self.wish is not None:
            return None
        results = self.messages[0].results
        if len(results) < len(self.messages[0].content) or not all(map(mcp.carries, results)):
            return None
        return results or None

    def ask(self, composition: Composition) -> None:
        self.begun = True
        self.batches = composition.batches

    def go_on(self, asked: str) -> None:
        """The child is given the results that `asked`, the user message it works on, waits for."""
        self.begun = True
        self.awaits = asked

    def next_lines(self) -> Iterable[bytes]:
        batch = self.batches.popleft()
        self.awaits = batch.uuid
        return batch.lines

    @property
    def is_harmless(self) -> bool:
        """Whether it may be asked a second time: no tool was called, and nobody heard anything. So
        it is where the child was dead already when it was asked, and nobody had seen that yet."""
        calls_none = not self.setup.tools or not self.was_heard
        return calls_none and self.first_delta is None and not self.replayed

    @property
    def has_effects(self) -> bool:
        """Whether it has done something that must not be done twice: an agent used a tool, or the
        client used tools for it, whose results a child was given."""
        return self.answer.has_acted or (self.begun and self._brings_results)

    @property
    def _brings_results(self) -> bool:
        newest = takewhile(lambda message: message.role == "user", reversed(self.messages))
        return any(message.results for message in newest)

    @property
    def is_limited(self) -> bool:
        """Whether its caller has said how long the answer may be."""
        return self.prompt.options.max_tokens is not None

    # -- what is said ------------------------------------------------------------------------------

    def say(self, delta: TextDelta, now: float) -> list[Deliver]:
        return self.deliver(self.answer.say(delta), now)

    def hear(self, frame: Heard, now: float) -> list[Deliver]:
        if isinstance(frame, ApiRetry):
            self.retry_after = frame.delay
            return []
        # A child that is ended tells that its calls came to nothing: that is not the model.
        self.was_heard |= not isinstance(frame, ToolsReturned)
        return self.deliver(self.answer.hear(frame), now)

    def deliver(self, items: Iterable[TurnItem], now: float) -> list[Deliver]:
        if self._held is not None:
            items = self._hold(items)
        delivered = [Deliver(self.turn_id, item) for item in items]
        if delivered and self.first_delta is None:
            self.first_delta = now
        return delivered

    def _hold(self, items: Iterable[TurnItem]) -> Iterable[TurnItem]:
        """Keep back what comes before the call that is wanted. Returns what need not be kept."""
        assert self.wish is not None
        assert self._held is not None
        items = [*items]
        self._held += items
        begun = any(map(self.wish.begins, items))
        self._held_size += sum(map(_length, items))
        return self.release() if begun or self._held_size > MAX_HELD else ()

    def release(self) -> tuple[TurnItem, ...]:
        """What was held back, in few items: the client hears how its wish fared before the first
        one."""
        held, self._held = self._held, None
        return compact(held or ())

    # -- the tool that is wanted -------------------------------------------------------------------

    @property
    def is_staged(self) -> bool:
        """Whether what the child is told is not what the conversation holds."""
        return self.wish is not None or self.prompt.options.begun

    @property
    def words(self) -> str | None:
        """What the model is told of it, for this once."""
        return None if self.wish is None else self.wish.words(again=self.asked_again)

    @property
    def is_disobeyed(self) -> bool:
        """Whether the answer lacks the call that the model was asked for."""
        return self.wish is not None and not self.wish.is_met(self.answer.calls)

    @property
    def may_ask_again(self) -> bool:
        """Whether the model may be asked for its call once more: nobody has heard its answer."""
        return self.is_disobeyed and not self.asked_again and self._held is not None

    def ask_again(self, usage: Usage) -> ToldChoice:
        """Its answer, which took `usage`, is taken back. The client is told."""
        self.asked_again = True
        self.spent += usage
        self.batches.clear()
        self.awaits = ""
        self._await_answer()
        return ToldChoice(self.turn_id, "asked-again")

    # -- how it ends -------------------------------------------------------------------------------

    def is_meant(self, result: TurnResult) -> bool:
        """Whether `result` is about what the child was told last, as far as it says."""
        return result.user_uuid is None or result.user_uuid == self.awaits

    def is_answered(self, result: TurnResult) -> bool:
        """Whether the model has spoken, so that a new child could go on from there. (The CLI ends
        what it answers by itself with a success too.)"""
        return self.answer.is_whole and bool(result.session_id) and not self.batches

    def remembered(self, memory: Memory, resume: ResumePoint | None, usage: Usage) -> Memory:
        """`memory` with this turn in it. `resume` None: no transcript holds the answer as the
        caller knows it."""
        return memory.grown(self.setup, (*self.messages, self.answer.message), resume, usage)

    def remembered_so_far(self, memory: Memory, usage: Usage) -> Memory:
        """`memory` with this turn in it, and what was said until now as its answer. Tool calls
        that nobody will answer are no part of it."""
        return memory.grown(self.setup, (*self.messages, self.answer.so_far), None, usage)

    def failed(self, error: GatewayError) -> End:
        return self.ended(Failed(error))

    def ended(self, outcome: Outcome) -> End:
        answer = None
        if isinstance(outcome, Failed) and self.has_effects:
            outcome = evolve(outcome, error=outcome.error.for_good())
        if isinstance(outcome, Completed) and not (self.answer.calls or self.is_disobeyed):
            pieces = tuple(self.answer.pieces)
            answer = Answer(pieces, outcome.finish_reason, outcome.usage)
        return End(
            turn_id=self.turn_id,
            outcome=outcome,
            prompt=self.prompt,
            model=self.setup.model,
            answer=answer,
            accepted=self.accepted,
            first_delta=self.first_delta,
        )

    def again(self) -> None:
        """The child died before anything was heard: the turn may be put before another one."""
        self.replayed = True
        self.restart()

    def restart(self) -> None:
        """No child works on it any more: the next one is asked from the beginning."""
        self.tries += 1
        self.begun = self.was_heard = False
        self.batches.clear()
        self.awaits = ""
        self._await_answer()


def _length(item: TurnItem) -> int:
    return len(item.text) if isinstance(item, TextDelta | ReasoningDelta) else 0
