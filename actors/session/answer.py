"""The answer of one turn, while the model gives it.

Knows: how frames become the items that the client receives: text up to a stop text (which cuts the
answer here), the ends of blocks where the client knows blocks, an answer that has to match a
schema, tool calls under the client's own names, strict ones only if they match theirs. Refuses to
know: the prompt, phases, the child, and how the turn
ends (`actors.session.finish_reason`).
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve

from ...schemas.claude.mcp import offered
from ...schemas.claude.output import (
    AssistantDone,
    MessageEnded,
    MessageStarted,
    ToolInput,
    ToolReturned,
    ToolsReturned,
    ToolUseStarted,
)
from ...schemas.claude.stops import StopCutter
from ...schemas.claude.tool_names import ANSWER_TOOL, WEB_SEARCH
from ...schemas.errors import GatewayError
from ...schemas.json_schema.check import misfit
from ...schemas.message import (
    PARAGRAPH,
    Block,
    Message,
    Thinking,
    ToolCall,
    ToolResult,
    ToolRound,
    is_blank,
)
from ...schemas.search import Cited, WebPage, by_url, linked
from ...schemas.turn import HostedTool, Options, Setup, Tool, Usage
from ...schemas.turn_items import (
    ActivityDelta,
    ActivityEnded,
    ActivityStarted,
    ReasoningDelta,
    ReasoningEnded,
    SearchEnded,
    SearchStarted,
    TextDelta,
    TextEnded,
    ToolCallDelta,
    ToolCallStarted,
    TurnItem,
)
from . import errors

NO_USAGE = Usage()

MAX_MISFITS = 3
"""Calls that may fail their schema in one turn before the turn fails."""

MAX_ACTS, ACT_CHARACTERS = 50, 200
"""How many tool uses of a stopped agent the model reads of next time, and how much of each."""

FENCE = "```"

CUT_AT_LIMIT = "max_output_tokens"
"""The CLI's error for an answer at the token limit, after it had the model continue in vain."""

ModelFrame = (
    ReasoningDelta | ToolUseStarted | ToolInput | AssistantDone | MessageStarted | MessageEnded
    | ToolsReturned
)  # fmt: skip
"""The frames of an answer that are not text; also the results of an agent's own tools."""


class AnswerState:
    """The answer of one turn so far, as the client has received it.

    `pieces` is the text, `calls` the complete tool calls, `usage` that of the messages that have
    ended. `answered`: the model gave an answer that matches the schema. `malformed`: the error for
    a call that the client has received, and whose arguments are no JSON object. `is_cut`: a stop
    text has cut the answer, while the model still writes; not after a tool call, for then the calls
    end the answer. `is_partial`: the present message has an incomplete call of a client's tool.
    `hit_token_limit`: the model met its token limit as often as the CLI has it continue.
    `is_empty`: the last message had no text and no call. `has_acted`: the model has begun to use a
    tool that is not the client's: an agent's own, or an MCP server's. `searches` counts the
    searches of the web. `error` is set once the turn can only fail.
    """

    def __init__(self, options: Options, setup: Setup) -> None:
        self.pieces: list[str] = []
        self.calls: list[ToolCall] = []
        self.usage = Usage()
        self.assistant_uuid: str | None = None
        self.error: GatewayError | None = None
        self.answered = self.is_cut = False
        self.is_partial = self.hit_token_limit = False
        self.malformed: GatewayError | None = None
        self.is_empty = False
        self.has_acted = False
        self._schema = setup.schema
        self._whole_only = options.whole
        self._has_borders = options.blocks
        self._reasoning = options.reasoning or options.blocks
        self._thought = False  # the present block has had thinking
        # A stop text must not cut JSON.
        stops = options.stop if setup.schema is None else ()
        self._stops = StopCutter(stops) if stops else None
        self.is_agent = setup.profile == "agent"
        self.may_be_long = self.is_agent and options.max_tokens is None
        self._plain = self._stops is None and setup.schema is None and not self.is_agent
        self.searches = 0
        self._search = options.search
        self._searching: set[str] = set()  # an agent's searches that run, by call id
        self._pages: dict[str, WebPage] = {}  # that it has found, by their URLs
        self._acts: list[str] = []  # the uses of such tools
        self._acting: set[str] = set()  # those that run, by call id
        self._acted = False  # such a tool was used since the last text
        self._is_act = False  # the present block is such a use
        self._round: dict[str, ToolCall] = {}  # the uses of the present message, whole
        self._results: dict[str, ToolResult] = {}  # what came of them
        self._stands_apart = False  # the next text, from an earlier one
        self._tools = offered(setup)
        self._answer_tool = None if setup.schema is None else self._tools[ANSWER_TOOL]
        self._misfits = 0
        self._rejected: list[tuple[str, str]] = []
        self._answer_id: str | None = None  # of the call that gave the answer, while it is open
        self._streamed = False  # the present block has had text, even if held back
        self._begun = Usage()  # usage of the present message so far
        self._whole = 0  # pieces that belong to complete blocks
        self._tool: Tool | None = None  # of the present block, if it is a call
        self._call_id: str | None = None
        self._input: list[str] = []
        # The answer before the present message; whether that one has text, which may be held back.
        self._before: tuple[int, int, str | None, str | None] | None = None
        self._spoke = False
        self._messages = 0  # that the model has begun
        self._blocks: list[Block] = []  # complete ones, as the model gave them
        self._given: list[Block] = []  # and as the client has received them, if it knows blocks
        self._stopped: MessageEnded | None = None  # how the last message ended

    @property
    def is_whole(self) -> bool:
        """Whether the model has answered, in the form that the client wants."""
        return self.assistant_uuid is not None and (self._schema is None or self.answered)

    @property
    def message(self) -> Message:
        """The answer as the conversation remembers it: as the client has received it. An agent's
        thinking belongs to messages that only its transcript has."""
        if self._has_borders and not self.is_agent:
            rest = "".join(self.pieces[self._whole :])
            return Message("assistant", (*self._given, *((rest,) if rest else ())) or ("",))
        text = "".join(self.pieces)
        said: tuple[Block, ...] = (text,) if text or not self.calls else ()
        return Message("assistant", (*said, *self.calls))

    @property
    def exact(self) -> Message | None:
        """The answer as the model gave it: all blocks in their order, with its thinking and the
        tools that the gateway called. None where the client received something else, where thinking
        is all there is, where it took the model more than one message without such calls between
        them, and for an agent, which goes on from the CLI's own transcript: the conversation then
        remembers `message`."""
        plain = self.message
        given = Message("assistant", tuple(self._blocks))
        is_same = given.text == plain.text and given.calls == plain.calls
        ends_well = bool(self._blocks) and not isinstance(self._blocks[-1], ToolRound)
        is_all = self._messages <= 1 + len(given.rounds) and not self._round and ends_well
        return given if is_same and is_all and not (self.is_agent or plain.is_blank) else None

    @property
    def is_one_text(self) -> bool:
        """Whether all that the client has received of it is one text."""
        return not self._has_borders or len(self.message.content) == 1

    @property
    def ends_when_refused(self) -> bool:
        """Whether the answer ends where the model refuses to go on, as the client's own API would
        have it: the CLI asks the model once more."""
        return self._has_borders and not self.is_agent

    @property
    def stop_text(self) -> str | None:
        """The stop text at which the answer ended, if it did."""
        if self.is_cut:
            return None if self._stops is None else self._stops.met
        return None if self._stopped is None else self._stopped.stop_text

    @property
    def stop_reason(self) -> str | None:
        """Why the model stopped, in the API's own word. The call by which it gives an answer that
        has a schema is none to the client."""
        if self.is_cut:
            return "stop_sequence"
        if self._stopped is None:
            return None
        by_call = self.answered and not self.calls and self._stopped.stop_reason == "tool_use"
        return "end_turn" if by_call else self._stopped.stop_reason

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to keep, if a person stops the answer here."""
        return not is_blank("".join(self.pieces)) or bool(self._acts)

    @property
    def so_far(self) -> Message:
        """The answer as the conversation remembers it if a person stops it here. An agent's tool
        uses have had their effects, so the model has to know of them."""
        text = "".join(self.pieces)
        if self._acts:
            used = f"[Stopped. Used before that: {'; '.join(self._acts)}]"
            text = f"{text}{PARAGRAPH}{used}" if text else used
        return Message("assistant", (text,))

    # -- frames become items -----------------------------------------------------------------------

    def add_text(self, delta: TextDelta) -> list[TurnItem]:
        """The hot path: once per token."""
        if self._plain:
            self.pieces.append(delta.text)
            return [delta]
        self._streamed = self._spoke = True
        # With a schema the answer comes as a call; text beside the call is not part of it.
        return self._pass_on(delta.text) if self._schema is None else []

    def add_frame(self, frame: ModelFrame) -> list[TurnItem]:
        match frame:
            case ToolInput(fragment):
                return self._take_input(fragment)
            case ReasoningDelta():
                self._thought = True
                return [frame] if self._reasoning else []
            case ToolUseStarted(id, name):
                return self._begin_call(id, name)
            case AssistantDone():
                if not frame.synthetic:
                    return self._end_block(frame)
                self.hit_token_limit |= frame.error == CUT_AT_LIMIT
                return []
            case ToolsReturned(results):
                return self._end_activities(results)
            case MessageStarted(usage):
                self._begin_message(usage)
                return []
            case MessageEnded(_, usage):
                self._stopped = frame
                self.is_empty = self._is_empty()
                self._before = None
                self._count(usage)
                return []

    def _end_activities(self, results: Iterable[ToolReturned]) -> list[TurnItem]:
        """The client needs no results of its own tools, nor of a tool use that an earlier answer
        of this turn began."""
        known = [each for each in results if each.call_id in self._acting]
        self._acting.difference_update(each.call_id for each in known)
        for each in known:
            if each.call_id in self._round and each.content is not None:
                result = ToolResult(each.call_id, each.content, each.is_error)
                self._results[each.call_id] = result
        if self._round and self._results.keys() == self._round.keys():
            results_in_order = tuple(self._results[call_id] for call_id in self._round)
            self._blocks.append(ToolRound(tuple(self._round.values()), results_in_order))
            self._round, self._results = {}, {}
            self._stands_apart = any(isinstance(block, str) for block in self._blocks)
        return [self._end_activity(each) for each in known]

    def _end_activity(self, result: ToolReturned) -> TurnItem:
        if result.call_id not in self._searching:
            return _ended(result)
        self._searching.discard(result.call_id)
        if result.found is None:  # it was not permitted, or could not be made
            return SearchEnded(result.call_id, error="unavailable")
        self._pages |= by_url(result.found.pages)
        return result.found

    def _begin_message(self, usage: Usage) -> None:
        """A message that never ended was cut off. If it had content, the CLI has the model continue
        from there, which would not match what the client has received."""
        said = len(self.pieces), len(self.calls), self._call_id, self.assistant_uuid
        if self._before is not None and said != self._before:
            self.error = errors.cut_off()
        self._begun, self._before = usage, said
        self._messages += 1
        self._spoke = self.is_partial = False
        self._stopped = None

    def _is_empty(self) -> bool:
        if self._before is None or self._spoke or self._schema is not None or self.is_agent:
            return False
        pieces, calls, *_ = self._before
        return len(self.calls) == calls and is_blank("".join(self.pieces[pieces:]))

    def take_rejected(self) -> list[tuple[str, str]]:
        """The ids of the calls that the client did not get, and the reason that the model gets."""
        rejected, self._rejected = self._rejected, []
        return rejected

    def finish(self) -> list[TurnItem]:
        """The answer ends here: release the text that might have begun a stop text."""
        items = self._keep(self._stops.finish()) if self._stops is not None else []
        return [*items, *self._end_text()] if self._has_borders else items

    def refuse(self) -> list[TurnItem]:
        """The model goes on no further: a client that knows blocks learns the end of the last."""
        return self.finish() if self._has_borders else []

    def _end_text(self) -> list[TurnItem]:
        """The present block is over: it had text that the client has received, or none."""
        text = "".join(self.pieces[self._whole :])
        self._whole = len(self.pieces)
        if not text:
            return []
        self._given.append(text)
        return [TextEnded()]

    def _pass_on(self, text: str) -> list[TurnItem]:
        if self._stops is not None:
            text = self._stops.feed(text)
            self.is_cut = self._stops.cut and not self.calls
        return self._keep(text)

    def _keep(self, text: str) -> list[TurnItem]:
        if not text:
            return []
        if self._acted and self.pieces and not self._has_borders:
            text = PARAGRAPH + text
        self._acted = False
        self.pieces.append(text)
        return [TextDelta(text)]

    # -- tool calls --------------------------------------------------------------------------------

    def _begin_call(self, call_id: str, name: str) -> list[TurnItem]:
        self._call_id, self._input = call_id, []
        self._tool = self._tools.get(name)  # the CLI refuses a name that was not offered
        hosted = self._tool if isinstance(self._tool, HostedTool) else None
        self._is_act = hosted is not None or (self._tool is None and self.is_agent)
        if self._is_act:
            self._tool = None
            self._acted = self.has_acted = True
            self._plain = False
            self._acting.add(call_id)
            if self._search is not None and self.is_agent and name == WEB_SEARCH:
                self._searching.add(call_id)
                return []
            return [ActivityStarted(call_id, name, None if hosted is None else hosted.form)]
        if self._tool is None or self._tool is self._answer_tool or self._tool.strict:
            return []
        return [_started(len(self.calls), call_id, self._tool)]

    def _take_input(self, fragment: str) -> list[TurnItem]:
        if not fragment or (self._tool is None and not self._is_act):
            return []
        self._input.append(fragment)
        if self._tool is None:
            if self._call_id is None or self._call_id in self._searching:
                return []
            return [ActivityDelta(self._call_id, fragment)]
        if self._tool is self._answer_tool:
            return [] if self._whole_only or self.answered else self._pass_on(fragment)
        return [] if self._tool.strict else [ToolCallDelta(len(self.calls), fragment)]

    def _end_block(self, block: AssistantDone) -> list[TurnItem]:
        """A block is complete. One that came without deltas (the CLI asked the API without a
        stream) becomes items now, in one piece."""
        self.assistant_uuid = block.uuid
        if block.thinking is not None:
            self._blocks.append(block.thinking)
        elif block.text:
            # As the client has it, behind what came before a use of a tool.
            if self._stands_apart and self._has_borders and block.text.startswith(PARAGRAPH):
                self._blocks.append("")  # this paragraph is the model's own: `unrolled` leaves it
            apart = self._stands_apart and not self._has_borders
            self._blocks.append(PARAGRAPH + block.text if apart else block.text)
            self._stands_apart = False
        items: list[TurnItem] = []
        if block.server is not None:
            items += self._take_search(block)
        elif block.call is not None:
            if block.call.id != self._call_id:
                items += self._begin_call(block.call.id, block.call.name)
            if not self._input:
                items += self._take_input(block.call.arguments)
            items += self._end_call(block.call)
        elif self._schema is not None:
            items += self._answer_in_text(block.text)
        elif block.text and not (self._streamed or len(self.pieces) > self._whole or self.is_cut):
            items += self.add_text(TextDelta(block.text))
        if self._has_borders:
            items += self._end_given(block)
        else:
            items += self._cite(block)
        self._whole, self._streamed, self._thought = len(self.pieces), False, False
        return items

    def _end_given(self, block: AssistantDone) -> list[TurnItem]:
        """The end of a block, for a client that knows blocks: no stop text goes on in another."""
        items: list[TurnItem] = []
        if self._stops is not None:
            items += self._keep(self._stops.finish())
        items += [*self._cite(block), *self._end_text()]
        self._given += [each for each in (block.citations, block.server) if each is not None]
        if block.thinking is not None:
            if isinstance(block.thinking, Thinking) and block.thinking.text and not self._thought:
                items.append(ReasoningDelta(block.thinking.text))
            items.append(ReasoningEnded(block.thinking))
            self._given.append(block.thinking)
        return items

    def _take_search(self, block: AssistantDone) -> list[TurnItem]:
        """The API says what it does with a tool of its own."""
        assert block.server is not None
        # Where the client does not receive blocks, what follows is a new paragraph of its text.
        apart = not self._has_borders
        self._blocks.append(evolve(block.server, is_apart=apart))
        if apart:
            self._acted, self._plain = True, False
            self._stands_apart = any(isinstance(each, str) for each in self._blocks)
        if block.search is None:
            return []
        self.searches += isinstance(block.search, SearchStarted)
        return [block.search]

    def _cite(self, block: AssistantDone) -> list[TurnItem]:
        """Which pages the block's text is taken from: as the API says, or by its links."""
        if block.citations is not None:
            self._blocks.append(block.citations)
        if not (block.sources or (self._pages and block.text)):
            return []
        text = "".join(self.pieces)
        if not text.endswith(block.text):
            return []  # a part of it is held back, or was cut: there is no place to name
        end = len(text)
        start = end - len(block.text)
        if block.sources:
            return [Cited(start, end, block.sources)]
        found = linked(block.text, self._pages)
        return [
            Cited(start + begin, start + stop, (source,), end - start - stop)
            for begin, stop, source in found
        ]

    def _end_call(self, call: ToolCall) -> list[TurnItem]:
        tool, arguments = self._tool, "".join(self._input) or "{}"
        self._tool = self._call_id = None
        if tool is None:
            if self._is_act and len(self._acts) < MAX_ACTS:
                self._acts.append(f"{call.name} {arguments[:ACT_CHARACTERS]}")
            if call.id in self._searching:
                self.searches += 1
                return [SearchStarted(call.id, arguments)]
            if self._is_act and not self.is_agent:
                self._round[call.id] = ToolCall(call.id, call.name, arguments)
            return []
        if tool is self._answer_tool:
            return self._end_answer(call, arguments)
        index, items = len(self.calls), list[TurnItem]()
        told = ToolCall(call.id, tool.name, arguments, form=tool.form)
        self.is_partial |= _is_malformed(told)
        if tool.strict:
            reason = _misfit(tool.parameters, told)
            if reason is not None:
                self._reject(call.id, reason, errors.misfit_call())
                return []
            items = [_started(index, call.id, tool), ToolCallDelta(index, arguments)]
        elif not self._input:
            items = [ToolCallDelta(index, arguments)]
        if _is_malformed(told):
            self.malformed = errors.malformed_call()  # no client can answer it
            return items
        self.calls.append(told)
        self._blocks.append(told)
        self._given.append(told)
        self.is_cut = False
        self._hold_answer()
        return items

    def _end_answer(self, call: ToolCall, text: str) -> list[TurnItem]:
        assert self._schema is not None
        if self.answered:
            # A second answer. The first one counts, but no call may stay open.
            self._rejected.append((call.id, "The answer was already given."))
            return []
        given = ToolCall(call.id, call.name, text)
        reason = _misfit(self._schema, given)
        if reason is not None:
            self._reject(call.id, reason, errors.misfit_answer())
            self.is_partial |= _is_malformed(given)
            if self._whole_only:
                return []
            # The client has it already. Half an answer is no error at the token limit, of which the
            # end of the message tells.
            if self.is_partial:
                self.malformed = errors.misfit_answer()
            else:
                self.error = errors.misfit_answer()
            return []
        self.answered, self._answer_id = True, call.id
        self._hold_answer()
        return self._pass_on(text) if self._whole_only else []

    def _answer_in_text(self, text: str) -> list[TurnItem]:
        """Some models do not call the tool by which they should answer. Text that matches the
        schema, fenced or not, is an answer too."""
        assert self._schema is not None
        text = text.strip()
        if text.startswith(FENCE) and text.endswith(FENCE):
            text = text.removeprefix(FENCE).removesuffix(FENCE).removeprefix("json").strip()
        if self.answered or _misfit(self._schema, ToolCall("", ANSWER_TOOL, text)) is not None:
            return []
        self.answered = True
        return self._pass_on(text)

    def _hold_answer(self) -> None:
        """An answer beside other calls comes too soon: the model has to see their results first,
        and the CLI waits until all of its calls have one."""
        if self.calls and self._answer_id is not None:
            reason = "Wait for the results of your calls, then answer."
            self._rejected.append((self._answer_id, reason))
            self._answer_id = None

    def _reject(self, call_id: str, reason: str, last: GatewayError) -> None:
        self._misfits += 1
        if self._misfits > MAX_MISFITS:
            self.error = last
        text = f"The arguments do not match the tool's schema ({reason}). Call it again."
        self._rejected.append((call_id, text))

    # -- usage -------------------------------------------------------------------------------------

    def _count(self, ended: Usage) -> None:
        """Some APIs report input tokens at the start only, some again at the end."""
        read = ended if ended.prompt_tokens else self._begun
        self.usage += Usage(
            prompt_tokens=read.prompt_tokens,
            completion_tokens=ended.completion_tokens,
            cached_tokens=read.cached_tokens,
            cache_write_tokens=read.cache_write_tokens,
            reasoning_tokens=ended.reasoning_tokens,
        )
        self._begun = Usage()

    @property
    def whole_calls(self) -> Usage:
        """The usage of the messages before the one that comes just now."""
        return self.usage if self._begun.prompt_tokens else NO_USAGE

    @property
    def reported(self) -> Usage:
        """The usage so far, of a message that has not ended by `estimate`."""
        return self.estimate() if self._begun.prompt_tokens else self.usage

    def estimate(self) -> Usage:
        """The usage of an answer that is cut in the middle of a message: the API has reported the
        input tokens; the output counts as one token for four characters."""
        written = sum(map(len, self.pieces))
        unknown = max(1, written // 4) - self.usage.completion_tokens
        return (
            self.usage
            + self._begun
            - Usage(completion_tokens=self._begun.completion_tokens)
            + (Usage(completion_tokens=max(0, unknown)))
        )


def _started(index: int, call_id: str, tool: Tool) -> ToolCallStarted:
    return ToolCallStarted(index, call_id, tool.name, tool.form)


def _ended(result: ToolReturned) -> ActivityEnded:
    return ActivityEnded(result.call_id, result.output, result.is_error)


def _misfit(schema: str, call: ToolCall) -> str | None:
    return "they are not a JSON object" if _is_malformed(call) else misfit(schema, call.input)


def _is_malformed(call: ToolCall) -> bool:
    try:
        call.input  # noqa: B018 (read for its error)
    except ValueError:
        return True
    return False
