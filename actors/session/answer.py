"""The answer of one turn, while the model gives it.

Knows: how frames become the items that a caller is told: text up to a stop text, an answer that
has to suit a schema, tool calls under the client's own names, strict ones only if they are right.
Refuses to know: what is asked, phases, the child, and how the turn ends.
"""

from __future__ import annotations

from collections.abc import Iterable

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
from ...schemas.claude.tool_names import ANSWER_TOOL
from ...schemas.errors import GatewayError
from ...schemas.json_schema.check import misfit
from ...schemas.message import Block, Message, ToolCall, is_blank
from ...schemas.turn import Options, Setup, Tool, Usage
from ...schemas.turn_items import (
    ActivityDelta,
    ActivityEnded,
    ActivityStarted,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    TurnItem,
)
from . import errors as refusals

MAX_MISFITS = 3
"""Calls that the model may get wrong in one turn before the turn fails."""

MAX_ACTS, ACT_CHARACTERS = 50, 200
"""How much of what an agent did is told to the model where its answer was stopped."""

FENCE = "```"

RAN_OUT = "max_output_tokens"
"""The CLI's error where an answer was cut for its length, however often the model went on."""

Spoken = (
    ReasoningDelta | ToolUseStarted | ToolInput | AssistantDone | MessageStarted | MessageEnded
    | ToolsReturned
)  # fmt: skip
"""What else than text comes of the model, and of the tools that an agent uses by itself."""

PARAGRAPH = "\n\n"
"""What stands between what an agent says before it does something and what it says after that."""


class AnswerState:
    """What the model has said so far in one turn, as its caller has been told it.

    `pieces` is the text, `calls` the tool calls that are whole, `usage` what the messages that
    have ended took. `answered`: the answer for the schema was given, and suits it. `is_torn`: a
    call was passed on whose arguments are no JSON object, `torn_fault` what is wrong with it;
    `is_half`: the present message has half a call of the client's, passed on or not. `ran_out`: the
    model met its limit of tokens as often as the CLI has it go on. `is_silent`: the message that
    ended last had nothing to read in it. `has_acted`: an agent has begun to use a tool of its own.
    `fault` is set once nothing good can come of the answer.
    """

    def __init__(self, options: Options, setup: Setup) -> None:
        self.pieces: list[str] = []
        self.calls: list[ToolCall] = []
        self.usage = Usage()
        self.assistant_uuid: str | None = None
        self.fault: GatewayError | None = None
        self.answered = False
        self.is_torn = self.is_half = self.ran_out = False
        self.torn_fault = refusals.torn_call()
        self.is_silent = False
        self.has_acted = False
        self._schema = setup.schema
        self._whole_only = options.whole
        self._reasoning = options.reasoning
        # A stop text within JSON would leave half of it.
        stops = options.stop if setup.schema is None else ()
        self._stops = StopCutter(stops) if stops else None
        self.is_agent = setup.profile == "agent"
        self.may_be_long = self.is_agent and options.max_tokens is None
        self._plain = self._stops is None and setup.schema is None and not self.is_agent
        self._acts: list[str] = []  # what an agent has used its own tools for
        self._acting: set[str] = set()  # what an agent does, by the ids of its calls
        self._acted = False  # an agent did something since it last said something
        self._tools = offered(setup)
        self._answer_tool = None if setup.schema is None else self._tools[ANSWER_TOOL]
        self._misfits = 0
        self._rejected: list[tuple[str, str]] = []
        self._answer_id: str | None = None  # of the call that was the answer, while it is open
        self._streamed = False  # text of the block that is being said has come, even if held back
        self._begun = Usage()  # what the present message took so far
        self._whole = 0  # pieces that belong to blocks which are whole
        self._tool: Tool | None = None  # of the block that is being said, if it calls one
        self._call_id: str | None = None
        self._input: list[str] = []
        # What was said before the present message; whether it has text, which may be held back.
        self._before: tuple[int, int, str | None, str | None] | None = None
        self._spoke = False

    @property
    def is_cut(self) -> bool:
        """Whether a stop text was met: the model goes on, but the answer has ended. Not where it
        has called tools before that: then it ends by them."""
        return self._stops is not None and self._stops.cut and not self.calls

    @property
    def is_whole(self) -> bool:
        """Whether the model has spoken, in the form that was asked for."""
        return self.assistant_uuid is not None and (self._schema is None or self.answered)

    @property
    def message(self) -> Message:
        """The answer as the conversation remembers it."""
        text = "".join(self.pieces)
        said: tuple[Block, ...] = (text,) if text or not self.calls else ()
        return Message("assistant", (*said, *self.calls))

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to be kept of the answer, were it to end here."""
        return not is_blank("".join(self.pieces)) or bool(self._acts)

    @property
    def so_far(self) -> Message:
        """The answer as the conversation remembers it where a person stops it. What an agent did
        until then has had its effects, so the model has to know of it."""
        text = "".join(self.pieces)
        if self._acts:
            used = f"[Stopped. Used before that: {'; '.join(self._acts)}]"
            text = f"{text}{PARAGRAPH}{used}" if text else used
        return Message("assistant", (text,))

    # -- what is said ------------------------------------------------------------------------------

    def say(self, delta: TextDelta) -> list[TurnItem]:
        """The hot path: once per token."""
        if self._plain:
            self.pieces.append(delta.text)
            return [delta]
        self._streamed = self._spoke = True
        # Where the answer has to suit a schema, it comes as a call; what is said beside it is not
        # the answer.
        return self._pass_on(delta.text) if self._schema is None else []

    def hear(self, frame: Spoken) -> list[TurnItem]:
        match frame:
            case ToolInput(fragment):
                return self._take_input(fragment)
            case ReasoningDelta():
                return [frame] if self._reasoning else []
            case ToolUseStarted(id, name):
                return self._begin_call(id, name)
            case AssistantDone():
                if not frame.synthetic:
                    return self._end_block(frame)
                self.ran_out |= frame.error == RAN_OUT
                return []
            case ToolsReturned(results):
                return self._end_activities(results)
            case MessageStarted(usage):
                self._begin_message(usage)
                return []
            case MessageEnded(_, usage):
                self.is_silent = self._is_silent()
                self._before = None
                self._count(usage)
                return []

    def _end_activities(self, results: Iterable[ToolReturned]) -> list[TurnItem]:
        """The results of the client's own tools are no news to it, nor are those of an activity
        that began before a client's call ended the answer."""
        known = [each for each in results if each.call_id in self._acting]
        self._acting.difference_update(each.call_id for each in known)
        return [_ended(each) for each in known]

    def _begin_message(self, usage: Usage) -> None:
        """One that never ended was cut. If something was said in it, the CLI has told the model to
        go on from there, which would be another answer than the caller was given."""
        said = len(self.pieces), len(self.calls), self._call_id, self.assistant_uuid
        if self._before is not None and said != self._before:
            self.fault = refusals.cut_off()
        self._begun, self._before = usage, said
        self._spoke = self.is_half = False

    def _is_silent(self) -> bool:
        if self._before is None or self._spoke or self._schema is not None or self.is_agent:
            return False
        pieces, calls, *_ = self._before
        return len(self.calls) == calls and is_blank("".join(self.pieces[pieces:]))

    def take_rejected(self) -> list[tuple[str, str]]:
        """Ids of calls that were not passed on, and what the model is to be told."""
        rejected, self._rejected = self._rejected, []
        return rejected

    def finish(self) -> list[TurnItem]:
        """The answer ends here: what was held back is said."""
        return self._keep(self._stops.finish()) if self._stops is not None else []

    def _pass_on(self, text: str) -> list[TurnItem]:
        return self._keep(text if self._stops is None else self._stops.feed(text))

    def _keep(self, text: str) -> list[TurnItem]:
        if not text:
            return []
        if self._acted and self.pieces:
            text = PARAGRAPH + text
        self._acted = False
        self.pieces.append(text)
        return [TextDelta(text)]

    # -- tool calls --------------------------------------------------------------------------------

    def _begin_call(self, call_id: str, name: str) -> list[TurnItem]:
        self._call_id, self._input = call_id, []
        self._tool = self._tools.get(name)  # a name that was never offered is the CLI's to refuse
        if self._tool is None and self.is_agent:
            self._acted = self.has_acted = True
            self._acting.add(call_id)
            return [ActivityStarted(call_id, name)]
        if self._tool is None or self._tool is self._answer_tool or self._tool.strict:
            return []
        return [_started(len(self.calls), call_id, self._tool)]

    def _take_input(self, fragment: str) -> list[TurnItem]:
        if not fragment or (self._tool is None and not self.is_agent):
            return []
        self._input.append(fragment)
        if self._tool is None:
            return [ActivityDelta(self._call_id, fragment)] if self._call_id is not None else []
        if self._tool is self._answer_tool:
            return [] if self._whole_only or self.answered else self._pass_on(fragment)
        return [] if self._tool.strict else [ToolCallDelta(len(self.calls), fragment)]

    def _end_block(self, block: AssistantDone) -> list[TurnItem]:
        """A block is whole. One that no delta came of (the CLI asked without a stream) is said
        now, in one piece."""
        self.assistant_uuid = block.uuid
        items: list[TurnItem] = []
        if block.call is not None:
            if block.call.id != self._call_id:
                items += self._begin_call(block.call.id, block.call.name)
            if not self._input:
                items += self._take_input(block.call.arguments)
            items += self._end_call(block.call)
        elif self._schema is not None:
            items += self._answer_in_text(block.text)
        elif block.text and not (self._streamed or len(self.pieces) > self._whole or self.is_cut):
            items += self.say(TextDelta(block.text))
        self._whole, self._streamed = len(self.pieces), False
        return items

    def _end_call(self, call: ToolCall) -> list[TurnItem]:
        tool, arguments = self._tool, "".join(self._input) or "{}"
        self._tool = self._call_id = None
        if tool is None:
            if self.is_agent and len(self._acts) < MAX_ACTS:
                self._acts.append(f"{call.name} {arguments[:ACT_CHARACTERS]}")
            return []
        if tool is self._answer_tool:
            return self._end_answer(call, arguments)
        index, items = len(self.calls), list[TurnItem]()
        told = ToolCall(call.id, tool.name, arguments, form=tool.form)
        self.is_half |= _is_torn(told)
        if tool.strict:
            reason = _misfit(tool.parameters, told)
            if reason is not None:
                self._reject(call.id, reason, refusals.unsuitable_call())
                return []
            items = [_started(index, call.id, tool), ToolCallDelta(index, arguments)]
        elif not self._input:
            items = [ToolCallDelta(index, arguments)]
        if _is_torn(told):
            self.is_torn = True  # nobody can answer it
            return items
        self.calls.append(told)
        self._hold_answer()
        return items

    def _end_answer(self, call: ToolCall, text: str) -> list[TurnItem]:
        assert self._schema is not None
        if self.answered:
            # The model says it twice. The first one counts, but no call may stay open.
            self._rejected.append((call.id, "The answer was given already."))
            return []
        given = ToolCall(call.id, call.name, text)
        reason = _misfit(self._schema, given)
        if reason is not None:
            self._reject(call.id, reason, refusals.unsuitable())
            self.is_half |= _is_torn(given)
            if self._whole_only:
                return []
            # The caller has it already. Half of it is no fault if its length was the limit, which
            # the end of the message tells.
            if self.is_half:
                self.is_torn, self.torn_fault = True, refusals.unsuitable()
            else:
                self.fault = refusals.unsuitable()
            return []
        self.answered, self._answer_id = True, call.id
        self._hold_answer()
        return self._pass_on(text) if self._whole_only else []

    def _answer_in_text(self, text: str) -> list[TurnItem]:
        """Some models cannot be made to call the tool by which they should answer. One that says
        the same in text, fenced or not, has answered too."""
        assert self._schema is not None
        text = text.strip()
        if text.startswith(FENCE) and text.endswith(FENCE):
            text = text.removeprefix(FENCE).removesuffix(FENCE).removeprefix("json").strip()
        if self.answered or _misfit(self._schema, ToolCall("", ANSWER_TOOL, text)) is not None:
            return []
        self.answered = True
        return self._pass_on(text)

    def _hold_answer(self) -> None:
        """An answer beside other calls was given too soon: the model has to see first what they
        come to, and the CLI waits until all of its calls are answered."""
        if self.calls and self._answer_id is not None:
            reason = "Wait for the results of your calls, then answer."
            self._rejected.append((self._answer_id, reason))
            self._answer_id = None

    def _reject(self, call_id: str, reason: str, last: GatewayError) -> None:
        self._misfits += 1
        if self._misfits > MAX_MISFITS:
            self.fault = last
        text = f"The arguments do not suit the tool's schema ({reason}). Call it again."
        self._rejected.append((call_id, text))

    # -- what it takes -----------------------------------------------------------------------------

    def _count(self, ended: Usage) -> None:
        """Some APIs tell what was read at the beginning only, some again at the end."""
        read = ended if ended.prompt_tokens else self._begun
        self.usage += Usage(
            prompt_tokens=read.prompt_tokens,
            completion_tokens=ended.completion_tokens,
            cached_tokens=read.cached_tokens,
            cache_write_tokens=read.cache_write_tokens,
            reasoning_tokens=ended.reasoning_tokens,
        )
        self._begun = Usage()

    def estimate(self) -> Usage:
        """What the answer took, where it is cut while a message is under way: the API has told
        what was read, and what was written is taken to be four characters a token."""
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
    return "they are not a JSON object" if _is_torn(call) else misfit(schema, call.input)


def _is_torn(call: ToolCall) -> bool:
    try:
        call.input  # noqa: B018 (read for its error)
    except ValueError:
        return True
    return False
