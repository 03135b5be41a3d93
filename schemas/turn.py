"""One turn, as every face of the gateway sees it: what is asked, what comes out, how it ends.

Knows: the setup of a child, a turn's options, the items of an answer, usage, outcomes. Refuses to
know: what a message is made of (`schemas.message`), OpenAI's wire format (`schemas.openai.chat`),
the CLI's (`schemas.claude.output`), and anything that runs.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Literal

from attrs import astuple, evolve, field, fields, frozen

from .errors import GatewayError
from .mcp_tools import ServerTool
from .media import Attachment, fill
from .message import Document, Image, Message, ToolCall, ToolForm, digest, digest_text
from .search import Cited

FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
EndReason = FinishReason | Literal["interrupted"]
"""Why an answer that a conversation keeps ended: by itself, or because a person stopped it."""

Effort = Literal["none", "low", "medium", "high", "xhigh", "max"]
Profile = Literal["chat", "agent"]
ChildSource = Literal["warm", "prefix", "recycled", "prewarmed", "new"]
"""How a turn got its child: it was the conversation's already; it holds a beginning of the history;
it was emptied after another conversation; it was started ahead, or for this turn."""

ChoiceFate = Literal["asked", "asked-again", "not-called"]
"""What became of a tool that has to be called, where the model can only be asked to call it: it was
asked, asked once more since it did not call, or did not call then either."""


# -- what is asked -------------------------------------------------------------------------------


@frozen
class Tool:
    """A function of the client's that the model may call.

    `parameters` is the JSON Schema of its arguments, as text. `strict`: a call whose arguments do
    not suit the schema never reaches the client. `form`: how the client knows it, where that is not
    as a function of this name.
    """

    name: str
    description: str = ""
    parameters: str = '{"type":"object","properties":{}}'
    strict: bool = False
    form: ToolForm | None = None

    @property
    def needs_approval(self) -> bool:
        """Whether it is an MCP server's, and stands among the client's tools so that the client is
        asked for its approval of each call before the gateway makes it."""
        return self.form is not None and self.form.server is not None


@frozen
class HostedTool(Tool):
    """A tool that the gateway calls when the model does: that of an MCP server, its `source`. The
    model, and rules of permission, name it by `name`."""

    source: ServerTool = field(kw_only=True)

    @classmethod
    def of(cls, source: ServerTool) -> HostedTool:
        form = ToolForm(source.name, server=source.server)
        return cls(source.full_name, source.description, source.schema, form=form, source=source)


@frozen
class Setup:
    """What a child receives when it is adopted, once: it keeps the first.

    `model` is a model id that the CLI understands. `profile` is the kind of child: a plain model,
    or Claude Code with its own tools and prompt. `system` is the whole system prompt of a chat
    (empty: none), and what stands behind Claude Code's own in an agent's. `tools` are the client's,
    which the model may call; `schema` is the JSON Schema (as text) that the answer has to suit,
    None for free text. `workspace` names the directory an agent works in, relative to
    ``workspaces.root``; empty: the conversation's own. `hosted` are the tools that the gateway
    calls itself: those of one turn, and no part of what a conversation remembers.
    """

    model: str
    system: str = ""
    profile: Profile = "chat"
    tools: tuple[Tool, ...] = ()
    schema: str | None = None
    workspace: str = ""
    hosted: tuple[HostedTool, ...] = ()

    @property
    def has_tools(self) -> bool:
        """Whether the model can call any: the client's, the gateway's, or the one by which it
        answers."""
        return bool(self.tools) or self.schema is not None or bool(self.hosted)


LONG_TEXT = 4096
"""Characters from which on a text is named by its digest: to write megabytes as JSON takes longer
than to digest them."""


class DigestedText(str):
    """A long text that knows its SHA-256 (hexadecimal), so that it is digested once, in the thread
    that makes it, and not for each table that names it."""

    __slots__ = ("digested",)
    digested: str

    @classmethod
    def of(cls, text: str) -> DigestedText:
        """`text` itself, if it is one. Else a copy, which takes as much memory."""
        if isinstance(text, DigestedText):
            return text
        made = cls(text)
        made.digested = _digested(text)
        return made


def _digested(text: str) -> str:
    if isinstance(text, DigestedText):
        return text.digested
    made = hashlib.sha256()
    digest_text(made, text)
    return made.hexdigest()


def named(setup: Setup, **changes: Any) -> list[Any]:
    """`setup`, with `changes`, as JSON values of no great length: equal ones for equal setups, and
    others for others. Texts may hold lone surrogates."""
    system = setup.system
    *figures, _hosted = astuple(evolve(setup, system="", hosted=(), **changes))
    if len(system) < LONG_TEXT:
        return [system, *figures]
    return [["sha256", _digested(system)], *figures]


@frozen
class ToolChoice:
    """Whether tools are called: as the model likes (`auto`), not at all, at least one
    (`required`), or the one called `name`."""

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str | None = None


@frozen
class ThinkingWish:
    """How the model is to think, in the Messages API's own words (its field ``thinking``).

    `budget_tokens` belongs to "enabled". `display` says whether the client receives the thinking
    as a summary, or its signatures alone; None: as the model does it.
    """

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


SEARCH_TOOL = "web_search"
"""What the model calls the API's own search of the web."""


@frozen(kw_only=True)
class SearchWish:
    """The model may have the web searched, in the words of the Messages API's tool
    ``web_search_20250305``: by the API itself, or by Claude Code's ``WebSearch`` where an agent
    answers.

    `max_uses`: so many searches (None: any number). `allowed` and `blocked` are domains, of which
    one may be given. `location` are the parts of the ``user_location`` that is known: pairs of
    ``city``, ``region``, ``country`` or ``timezone`` and a text. `names` are the request's fields
    that ask for it, to be named where it is not allowed.
    """

    max_uses: int | None = None
    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    location: tuple[tuple[str, str], ...] = ()
    names: tuple[str, ...] = field(default=(), eq=False)


@frozen(kw_only=True)
class Options:
    """What shapes one turn, and none after it. None: as the CLI does it.

    `stop`: texts at which the answer ends; neither they nor what follows are delivered. `effort`
    "none" switches thinking off. `reasoning`: thinking is delivered too. `user` names the
    client's own user to the API. `begun`: the last message is the assistant's, and the answer goes
    on with it. `whole`: the caller takes the answer only as a whole, so that an answer which does
    not suit its schema can be asked for again. `thinking` says how the model is to think, where
    `effort` says only how hard (None: as the CLI does it). `blocks`: the client receives the
    answer's blocks as the model gives them, with the end of each. `search`: the model may have the
    web searched.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    effort: Effort | None = None
    reasoning: bool = False
    user: str | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    begun: bool = False
    whole: bool = False
    thinking: ThinkingWish | None = None
    blocks: bool = False
    search: SearchWish | None = None


@frozen
class TurnRequest:
    """What a client asks of one turn: the one shape of it, from the dialect that reads it to the
    session that runs it.

    A dialect (`schemas.openai`) says what is asked. `actors.answering` accepts it: the model's name
    becomes the CLI's id, attachments become blocks. Then it places the request in a conversation,
    and the session receives it.

    What is asked: `messages` ends with a user message (or the results of tools), or with an answer
    that the client has begun (`begun` is then that one's path in the request). It may repeat what
    the conversation holds (`schemas.message.unseen`); what stands before the last message is
    history to be replayed, never answered. `attachments` belong into their slots in `messages`.
    `model`, `system` and `tools` None keep the conversation's; `schema`, the JSON Schema as text
    that the answer has to suit, and `options` are this turn's alone. So is `hosted`, the tools of
    MCP servers that it may use (None: those that the operator offers everyone). `stream`: the
    client reads the answer as it comes. `ignored` names the given fields that have no effect.

    Where: `conversation_id` names a conversation of `owner`'s, `workspace` is the client's name for
    the directory that an agent works in; `place` is that of an earlier conversation which the
    request goes on with (as `Setup` names it). `apart`: the conversation is for this turn alone.
    `kept`: a conversation that begins with it is stored.

    How: the client of a request that `asks_approval` can be asked for its approval of calls that
    the gateway makes (`Tool.needs_approval`). `reject_if_busy` instead of waiting for other turns.
    `cacheable`: an answer given earlier to the same request will do; `cache_fields` is what else
    can change the answer, as JSON values, and `cache_key` travels with the turn, so that the cache
    knows whose answer an event is about. `history_limit` is about how many messages a child is
    given that knows nothing of them (None: all), which `whole_history` asks for. `exact`: the API
    shall read the blocks as they are in `messages`, so that a conversation which holds the same
    words in other blocks does not hold this history. With `back_to`,
    what the conversation remembered before its last turn, that turn is taken back first. With
    `keep_stopped` an answer that is interrupted stays in the conversation as far as it came.

    `named_model` is what the client called the model, once the request is accepted (None: nothing).
    """

    messages: tuple[Message, ...] = ()
    model: str | None = None
    system: str | None = None
    tools: tuple[Tool, ...] | None = None
    schema: str | None = None
    hosted: tuple[HostedTool, ...] | None = None
    options: Options = Options()
    attachments: tuple[Attachment, ...] = ()
    begun: str | None = None
    stream: bool = False
    ignored: tuple[str, ...] = ()

    owner: str = ""
    conversation_id: str | None = None
    profile: Profile = "chat"
    named_model: str | None = None
    workspace: str = ""
    place: str = ""
    apart: bool = False
    kept: bool = True

    asks_approval: bool = False
    reject_if_busy: bool = False
    cacheable: bool = False
    cache_fields: Mapping[str, Any] = field(factory=dict)
    cache_key: str | None = None
    history_limit: int | None = None
    whole_history: bool = False
    exact: bool = False
    back_to: Memory | None = None
    keep_stopped: bool = False

    @property
    def keeps_model(self) -> bool:
        """Whether an accepted request leaves the model to the conversation that it goes on in."""
        return self.named_model is None

    def filled(self, blocks: Sequence[Image | Document]) -> tuple[Message, ...]:
        """The messages, with a block in place of each attachment."""
        assert len(blocks) == len(self.attachments), "one block for each attachment"
        return fill(self.messages, blocks) if blocks else self.messages

    def setup(self, held: Setup) -> Setup:
        """The setup this turn needs, in a conversation that has `held` so far."""
        tools = held.tools if self.tools is None else self.tools
        if tools and self.tools is None and not self.asks_approval:
            tools = tuple(tool for tool in tools if not tool.needs_approval)
        return evolve(
            held,
            model=held.model if self.model is None else self.model,
            system=held.system if self.system is None else self.system,
            tools=tools,
            schema=self.schema,
        )


@frozen
class Usage:
    """Tokens of one turn, summed over the API calls it took, as the CLI reports them.

    `prompt_tokens` counts everything the model read: fresh, `cached_tokens` (read from the prompt
    cache) and `cache_write_tokens` (written to it). `completion_tokens` includes
    `reasoning_tokens`. `cost_usd` is the CLI's own figure.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(*map(operator.add, _figures(self), _figures(other)))

    def __sub__(self, other: Usage) -> Usage:
        """What is left of it; nothing falls below zero."""
        rest = map(operator.sub, _figures(self), _figures(other))
        return Usage(*[max(0, figure) for figure in rest])


_figures = operator.attrgetter(*(each.name for each in fields(Usage)))  # by far the fastest way


# -- how a turn ends -----------------------------------------------------------------------------


@frozen
class Completed:
    """The model's answer is whole, or waits for the results of the tools that it called.

    `stop_text`: the text of `Options.stop` at which it ended, if it did. `stop_reason` is why the
    model stopped, in the Messages API's own word (``end_turn``, ``max_tokens``, ``stop_sequence``,
    ``tool_use``, ``refusal``, ``pause_turn``, ``model_context_window_exceeded``, or a newer one);
    None where the API did not come to say it.
    """

    finish_reason: FinishReason
    usage: Usage
    stop_text: str | None = None
    stop_reason: str | None = None


@frozen
class Failed:
    """The turn ended without a whole answer; `error` says why, to the client too. `kept`: the
    conversation keeps what was said of the answer, which took so much; None: it keeps nothing."""

    error: GatewayError
    kept: Usage | None = None


Outcome = Completed | Failed


@frozen
class Answer:
    """A whole answer that can be given again: its text in the pieces it came in. `stop_text` and
    `stop_reason` are those of `Completed`."""

    pieces: tuple[str, ...]
    finish_reason: FinishReason
    usage: Usage
    stop_text: str | None = None
    stop_reason: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@frozen
class Reply:
    """A finished turn, for a caller that did not want a stream."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    conversation_id: str
    model: str
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    refusal: str | None = None
    cited: tuple[Cited, ...] = ()


# -- what a conversation remembers -----------------------------------------------------------------


@frozen
class ResumePoint:
    """Where a new child takes the conversation up: the CLI's session, up to its last whole answer.

    `assistant_uuid` is the uuid of the last assistant frame of the last finished turn; what the
    transcript holds after it (a turn that failed or was killed) is left behind.
    """

    session_id: str
    assistant_uuid: str | None


@frozen
class Recording:
    """A history that a new child takes up without having lived it: put into a transcript for it.
    It ends with an answer; `model` is named as the one that gave it."""

    messages: tuple[Message, ...]
    model: str


@frozen
class AgentOrigin:
    """What an agent's process is started with: it cannot change later. `workspace` is a path
    relative to ``workspaces.root`` (empty: the conversation's own), `grants` are rules that allow
    tools, `history` is what it takes up. `is_cold`: a spare (`AgentSpare`) will not do."""

    model: str
    workspace: str
    grants: tuple[str, ...] = ()
    history: ResumePoint | Recording | None = None
    is_cold: bool = False


@frozen
class AgentSpare:
    """An agent's process ahead of its conversation, which brings the model, the prompt and the
    grants. `workspace` is where it will work, a new folder relative to ``workspaces.root``; empty:
    the conversation brings that too."""

    workspace: str = ""


Origin = ResumePoint | Recording | AgentOrigin | AgentSpare
"""What a child that is not generic begins with."""


@frozen
class Memory:
    """All that must outlive a child, and a session actor, for the conversation to go on.

    `digests` has one digest per message held. `resume` is None until a turn has finished. `seed`
    are the last messages held, as far as the transcript at `resume` lacks them: a continued cache
    hit, tool calls that wait for their results, an answer that was cut short. `calls` are the ids
    of the tool calls that stand open; `called` those of all calls in the transcript at `resume`, in
    the client's spelling. `grants` are the rules by which an agent's tools were allowed
    in this conversation. Only a finished turn changes anything else here: one that fails leaves no
    trace.
    """

    setup: Setup
    digests: tuple[bytes, ...] = ()
    resume: ResumePoint | None = None
    seed: tuple[Message, ...] = ()
    turns: int = 0
    usage: Usage = field(factory=Usage)
    calls: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    called: tuple[str, ...] = ()

    def grown(
        self, setup: Setup, said: Iterable[Message], resume: ResumePoint | None, usage: Usage
    ) -> Memory:
        """After one more turn: `said` are its new messages, the answer last. `resume` None: no
        transcript holds them."""
        said = tuple(said)
        recorded = () if resume is None else (*self.seed, *said)
        return Memory(
            setup=setup,
            digests=(*self.digests, *map(digest, said)),
            resume=self.resume if resume is None else resume,
            seed=(*self.seed, *said) if resume is None else (),
            turns=self.turns + 1,
            usage=self.usage + usage,
            calls=tuple(call.id for call in said[-1].calls),
            grants=self.grants,
            called=self.called + tuple(call.id for each in recorded for call in each.calls),
        )

    def is_before_last_turn_of(self, other: Memory) -> bool:
        """Whether `other` is this and one turn more."""
        held = len(self.digests)
        return other.turns == self.turns + 1 and other.digests[:held] == self.digests

    def extended(self, messages: Iterable[Message]) -> Memory:
        """With these messages too, which no transcript holds."""
        messages = tuple(messages)
        return evolve(
            self,
            digests=(*self.digests, *map(digest, messages)),
            seed=(*self.seed, *messages),
            calls=tuple(call.id for message in messages[-1:] for call in message.calls),
        )

    def untold(self, kept: Sequence[Message]) -> Memory:
        """Where the transcript is lost: with as many of the last messages held as are `kept`, for
        another child to receive, under the ids that their calls have. Those that are not kept, no
        child will know."""
        seed = _matching(kept, self.digests)
        return evolve(self, resume=None, called=(), seed=max(seed, self.seed, key=len))

    def granted(self, rules: Iterable[str]) -> Memory:
        """With these rules too."""
        return evolve(self, grants=tuple(dict.fromkeys((*self.grants, *rules))))


def _matching(kept: Sequence[Message], digests: Sequence[bytes]) -> tuple[Message, ...]:
    """The last messages of `kept`, as far as they are the last of `digests`. Unless that is all of
    them, they begin with a user's message that answers no tool call, so that no result is parted
    from its call."""
    pairs = zip(reversed(kept), reversed(digests), strict=False)
    same = sum(1 for _ in takewhile(lambda pair: digest(pair[0]) == pair[1], pairs))
    last = tuple(kept[len(kept) - same :])
    if same == len(digests):
        return last
    opens = (n for n, each in enumerate(last) if each.role == "user" and not each.results)
    return last[next(opens, len(last)) :]
