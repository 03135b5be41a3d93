"""One turn inside a session's machine: its prompt, its answer so far, and its actions.

Knows: what a turn adds to its conversation, and the actions that begin, serve and end one.
Refuses to know: phases, the child, and the rest of the conversation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from uuid import UUID, uuid5

from attrs import define, evolve, field

from ...schemas.claude import mcp
from ...schemas.claude.output import ApiRetry, ToolsReturned, TurnResult
from ...schemas.claude.tool_wishes import MAX_HELD, ToolWish, wish_of
from ...schemas.errors import GatewayError, InvalidRequest
from ...schemas.message import Checked, Message, ToolResult, agree, check_results, unseen
from ...schemas.turn import (
    Answer,
    Completed,
    Failed,
    FinishReason,
    Memory,
    Outcome,
    ResumePoint,
    Setup,
    TurnRequest,
    Usage,
)
from ...schemas.turn_items import ReasoningDelta, TextDelta, TurnItem, compact
from . import errors
from .answer import AnswerState, ModelFrame
from .events import ChoiceReported, Deliver, End, Started
from .replay import Batch, Composition

AnswerFrame = ModelFrame | ApiRetry
"""The frames of a child that belong to the answer, beside its text."""


@define(eq=False)
class TurnState:
    """A turn that was accepted and has not ended. Times are points in time, in seconds.

    It has to end before `due`. `messages` are those the conversation does not hold yet, of which
    the newest may bring results of the client's tools (`brings_results`), `batches` the lines still
    to be written, `awaits` the user message that the child works on, `answer` the answer so far.
    `retry_after`: the seconds after which the CLI meant to retry the API, when the API last failed.
    `begun`: a child has it. `tries`: how many children got it in vain. `replayed`: one of them died
    when it may have asked the model. `model_began`: the model has answered something.
    `in_body`: the child sends the API the whole history in place of its own messages.
    `hopped`: the API refused it for the limits of one login, and another's child got it.
    `replays_all`: a new child gets the whole history line by line, since no transcript can be
    written. `said`: the answer as the conversation remembers it, once it does; `is_reworded`: the
    child holds it otherwise.

    `wish` is the tool call for which the model gets an instruction in the prompt. Until that call
    begins, the turn holds the answer back, so that it can ask once more (`asked_again`) if the
    model does not call; `spent` is the usage of the answer that was thrown away, `wasted` that of
    answers of children that died, and `billed` what the child's result says of this one.
    """

    turn_id: str
    request: TurnRequest
    setup: Setup
    accepted: float
    due: float
    messages: tuple[Message, ...] = ()
    brings_results: bool = False
    batches: deque[Batch] = field(factory=deque)
    awaits: str = ""
    first_delta: float | None = None
    retry_after: float | None = None
    begun: bool = False
    tries: int = 0
    replayed: bool = False
    model_began: bool = False
    replays_all: bool = False
    asked_again: bool = False
    hopped: bool = False
    in_body: bool = False
    said: Message | None = None
    is_reworded: bool = False
    spent: Usage = field(factory=Usage)
    wasted: Usage = field(factory=Usage)
    billed: Usage | None = None
    wish: ToolWish | None = field(init=False)
    answer: AnswerState = field(init=False)
    _held: list[TurnItem] | None = field(init=False)
    _held_size: int = 0

    def __attrs_post_init__(self) -> None:
        self._await_answer()

    def _await_answer(self) -> None:
        self.answer = AnswerState(self.request.options, self.setup)
        self.wish = wish_of(self.request.options, self.setup)
        self._held = None if self.wish is None else []
        self._held_size = 0

    # -- the prompt --------------------------------------------------------------------------------

    @property
    def namespace(self) -> UUID:
        """Of the uuids of its messages. A second child gets others, since the transcript it resumes
        may have the first one's; so does a child that is asked once more."""
        turn = UUID(self.turn_id)
        if self.asked_again:
            turn = uuid5(turn, "asked again")
        return uuid5(turn, f"again {self.tries}") if self.tries else turn

    def started(self) -> Started:
        return Started(self.turn_id, self.setup.model)

    def join(self, memory: Memory) -> GatewayError | None:
        """Find the messages that the turn adds to `memory`; or return why it does not fit."""
        setup = self.request.setup(memory.setup)
        if self.setup.hosted:
            setup = evolve(setup, hosted=self.setup.hosted)
        if setup != self.setup:  # a turn before this one has changed it
            self.setup = setup
            self._await_answer()
        if self.request.options.begun and memory.resume is not None:
            return errors.cannot_continue()
        messages = unseen(memory.digests, self.request.messages)
        if messages is None or (self.is_exact and not self._is_held(memory, len(messages))):
            return errors.contradicted()
        # The front has checked the prompt itself; new is only where it joins the conversation.
        fresh = messages[:1] if isinstance(self.request.messages, Checked) else messages
        try:
            check_results(fresh, memory.calls, lambda _: "messages")
        except InvalidRequest as error:
            return error
        self.messages = messages
        self.brings_results = False
        for message in reversed(messages):
            if message.role != "user":
                break
            self.brings_results |= bool(message.results)
        return None

    @property
    def is_exact(self) -> bool:
        """Whether the API has to read what the client sends, block by block. An agent goes on from
        its own transcript, which has more than the client knows of."""
        return self.request.exact and self.setup.profile == "chat"

    def _is_held(self, memory: Memory, new: int) -> bool:
        """Whether `memory` ends with the messages before the last `new` ones as they were sent."""
        before = len(self.request.messages) - new
        if not before:
            return True
        return before <= len(memory.seed) and agree(
            self.request.messages[:before], memory.seed[len(memory.seed) - before :]
        )

    def results_alone(self) -> tuple[ToolResult, ...] | None:
        """The results that the turn brings, if it brings nothing else and the CLI can take them as
        the results of its open calls; else None."""
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
        """The child gets the results for which `asked`, the user message it works on, waits."""
        self.begun = True
        self.awaits = asked

    def next_batch(self) -> Batch:
        batch = self.batches.popleft()
        self.awaits = batch.uuid
        return batch

    @property
    def is_repeatable(self) -> bool:
        """Invariant 6: whether a second child may get the turn, since the first has done nothing:
        no tool can have been called, the client has received nothing, and it is the first repeat.
        So it is when a child exits just before it gets the prompt."""
        calls_none = not (self.setup.tools or self.setup.hosted) or not self.model_began
        return calls_none and self.first_delta is None and not self.replayed

    @property
    def has_effects(self) -> bool:
        """Whether it has done something that must not be done twice: the model used a tool of an
        agent's or an MCP server's, or a child got the results of tools that the client used."""
        return self.answer.has_acted or (self.begun and self.brings_results)

    @property
    def may_hop(self) -> bool:
        """Whether another login's child may get it: the client has received nothing, nothing was
        done, and it is the first time."""
        return not (self.hopped or self.has_effects or self.asked_again) and (
            self.first_delta is None
        )

    @property
    def is_limited(self) -> bool:
        """Whether the client has limited the length of the answer."""
        return self.request.options.max_tokens is not None

    # -- the answer --------------------------------------------------------------------------------

    def add_frame(self, frame: AnswerFrame, now: float) -> list[Deliver]:
        if isinstance(frame, ApiRetry):
            self.retry_after = frame.delay
            return []
        # A child that is being stopped reports its open calls as failed: that is not the model.
        self.model_began |= not isinstance(frame, ToolsReturned)
        return self.deliver(self.answer.add_frame(frame), now)

    def deliver(self, items: Iterable[TurnItem], now: float) -> list[Deliver]:
        if self._held is not None:
            items = self._hold(items)
        delivered = [Deliver(self.turn_id, item) for item in items]
        if delivered and self.first_delta is None:
            self.first_delta = now
        return delivered

    def _hold(self, items: Iterable[TurnItem]) -> Iterable[TurnItem]:
        """Hold back what comes before the call that is wanted. Returns what can be delivered."""
        assert self.wish is not None
        assert self._held is not None
        items = [*items]
        self._held += items
        begun = any(map(self.wish.begins, items))
        self._held_size += sum(map(_length, items))
        return self.release() if begun or self._held_size > MAX_HELD else ()

    def release(self) -> tuple[TurnItem, ...]:
        """The items that were held back, joined into few. The client knows whether it got its
        call before the first of them."""
        held, self._held = self._held, None
        return compact(held or ())

    # -- tool_choice by instruction ----------------------------------------------------------------

    @property
    def is_staged(self) -> bool:
        """Whether the child gets other messages than the conversation holds."""
        return self.wish is not None or self.request.options.begun or self.in_body

    @property
    def is_plain(self) -> bool:
        """Whether the API is asked once: no tool can be called, so nothing follows the answer."""
        return self.setup.profile == "chat" and not self.setup.has_tools

    @property
    def words(self) -> str | None:
        """The instruction for the model, for this turn only."""
        return None if self.wish is None else self.wish.words(again=self.asked_again)

    @property
    def is_disobeyed(self) -> bool:
        """Whether the answer lacks the call that the client wants."""
        return self.wish is not None and not self.wish.is_met(self.answer.calls)

    @property
    def may_ask_again(self) -> bool:
        """Whether the model may be asked once more: the client has received nothing."""
        return self.is_disobeyed and not self.asked_again and self._held is not None

    def ask_again(self, usage: Usage) -> ChoiceReported:
        """Throw the answer away, which took `usage`. The client gets a notice."""
        self.asked_again = True
        self.spent += usage
        self.billed = None
        self.batches.clear()
        self.awaits = ""
        self._await_answer()
        return ChoiceReported(self.turn_id, "asked-again")

    # -- the end -----------------------------------------------------------------------------------

    def is_meant(self, result: TurnResult) -> bool:
        """Whether `result` is about the message that the child got last, as far as it says."""
        return result.user_uuid is None or result.user_uuid == self.awaits

    def is_answered(self, result: TurnResult) -> bool:
        """Whether the model has answered, so that a new child could resume there. (The CLI also
        reports success for what it answers without the model.)"""
        return self.answer.is_whole and bool(result.session_id) and not self.batches

    def remembered(
        self, memory: Memory, resume: ResumePoint | None, usage: Usage, *, exact: bool
    ) -> Memory:
        """`memory` with this turn in it. `resume` None: no transcript holds the answer as the
        client knows it; nor does one that counts for a plain model, whose conversation is all in
        its memory. `exact`: the child holds the answer as it was given."""
        if self.setup.profile == "chat":
            resume = None
        given = self.answer.exact if exact else None
        self.is_reworded = exact and given is None
        self.said = self.answer.message if given is None else given
        return memory.grown(self._kept_setup, (*self.messages, self.said), resume, usage)

    def remembered_so_far(self, memory: Memory, usage: Usage) -> Memory:
        """`memory` with this turn in it, and the text so far as its answer, without tool calls,
        since they will get no results."""
        self.said = self.answer.so_far
        return memory.grown(self._kept_setup, (*self.messages, self.said), None, usage)

    @property
    def _kept_setup(self) -> Setup:
        return evolve(self.setup, hosted=()) if self.setup.hosted else self.setup

    @property
    def used(self) -> Usage:
        """What it has taken so far, as far as the API or the child has told."""
        used = self.answer.reported
        if self.billed is not None:
            used = used + (self.billed - used)  # of each figure the greater one
        return self.wasted + self.spent + used

    @property
    def used_by_whole_calls(self) -> Usage:
        """The same, without the call of the model that is under way."""
        return self.wasted + self.spent + self.answer.whole_calls

    def completed(self, reason: FinishReason, usage: Usage) -> Completed:
        """How it ends, with what the model itself has said of that."""
        return Completed(reason, usage, self.answer.stop_text, self.answer.stop_reason)

    def failed(self, error: GatewayError) -> End:
        return self.ended(Failed(error))

    def ended(self, outcome: Outcome) -> End:
        answer = None
        if isinstance(outcome, Failed) and self.has_effects:
            outcome = evolve(outcome, error=outcome.error.for_good())
        is_final = not (self.answer.calls or self.answer.has_acted or self.is_disobeyed)
        is_final = is_final and self.answer.is_one_text
        if isinstance(outcome, Completed) and is_final:
            pieces = tuple(self.answer.pieces)
            answer = Answer(
                pieces, outcome.finish_reason, outcome.usage, outcome.stop_text, outcome.stop_reason
            )
        match outcome:
            case Completed(usage=usage) | Failed(kept=Usage() as usage):
                used = self.wasted + usage
            case _:
                used = self.used
        return End(
            turn_id=self.turn_id,
            outcome=outcome,
            request=self.request,
            model=self.setup.model,
            answer=answer,
            accepted=self.accepted,
            first_delta=self.first_delta,
            said=self.said,
            used=used,
            is_priced=self.billed is not None,
        )

    def repeat(self) -> None:
        """The child died before it did anything: a new child gets the turn."""
        self.replayed = True
        self.restart()

    def restart(self) -> None:
        """No child works on it any more: the next child gets it from the beginning."""
        self.tries += 1
        self.wasted += self.answer.reported
        self.begun = self.model_began = self.in_body = False
        self.batches.clear()
        self.awaits = ""
        self._await_answer()


def _length(item: TurnItem) -> int:
    return len(item.text) if isinstance(item, TextDelta | ReasoningDelta) else 0
