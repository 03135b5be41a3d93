"""The items of an answer, in the order in which the model gives them.

Knows: text, thinking, calls of the client's tools, an agent's use of its own, the gateway's calls
of MCP servers; how items are put together. Refuses to know: what was asked, how the turn ends
(`schemas.turn`), and any wire format.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve, frozen

from .message import Message, RedactedThinking, Thinking, ToolCall, ToolForm, length_of, utf8_size
from .search import Cited, WebPage


@frozen
class TextDelta:
    """A piece of the answer's text, exactly as the CLI produced it."""

    text: str


@frozen
class ReasoningDelta:
    """A piece of the model's thinking."""

    text: str


@frozen
class TextEnded:
    """A block of the answer's text is whole: text that follows is another block. A block without
    any text has no end. Only for a client that knows blocks (`turn.Options.blocks`)."""


@frozen
class ReasoningEnded:
    """A block of the model's thinking is whole. `block` is all of it, with the signature without
    which the Messages API would not take it back; a redacted one had no `ReasoningDelta`. Only for
    a client that knows blocks (`turn.Options.blocks`)."""

    block: Thinking | RedactedThinking


@frozen
class ToolCallStarted:
    """The model begins to call a tool, the `index`-th of this answer (from 0). `form`: see
    `message.ToolForm`."""

    index: int
    id: str
    name: str
    form: ToolForm | None = None


@frozen
class ToolCallDelta:
    """A piece of the JSON text of that call's arguments."""

    index: int
    fragment: str


@frozen
class Refused:
    """The model declined to answer, or was stopped from it; `text` says so."""

    text: str


@frozen
class ActivityStarted:
    """An agent begins to use a tool of Claude Code's own (its profile is ``agent``), or the gateway
    calls an MCP server's, of which `form` names the server. No client has to do anything about it.

    `approval`: the call was made before the turn, with the client's approval; it is the id of the
    item that asked for that.
    """

    id: str
    name: str
    form: ToolForm | None = None
    approval: str | None = None


@frozen
class ActivityDelta:
    """A piece of the JSON text of what that tool is given."""

    id: str
    fragment: str


@frozen
class ActivityEnded:
    """What came of it: text, cut to `MAX_ACTIVITY_OUTPUT` characters."""

    id: str
    output: str
    is_error: bool = False


MAX_ACTIVITY_OUTPUT = 20_000


@frozen
class ListedTool:
    """A tool as its MCP server describes it; `schema` is the JSON Schema of its input, as text."""

    name: str
    description: str
    schema: str
    read_only: bool


@frozen
class ToolsListed:
    """The tools that a response may use of the MCP server that its client calls `server`; or the
    `error` for which there are none."""

    server: str
    tools: tuple[ListedTool, ...] = ()
    error: str | None = None


@frozen
class SearchStarted:
    """The web is searched, at the client's wish (`turn.Options.search`). `input` is what for, as
    the JSON text of an object with a ``query``."""

    id: str
    input: str


@frozen
class SearchEnded:
    """What that search found; or the code of the `error` for which it found nothing, in the words
    of the Messages API: ``too_many_requests``, ``invalid_input``, ``max_uses_exceeded``,
    ``query_too_long``, ``unavailable``."""

    id: str
    pages: tuple[WebPage, ...] = ()
    error: str | None = None


TurnItem = (
    TextDelta | TextEnded | ReasoningDelta | ReasoningEnded | ToolCallStarted | ToolCallDelta
    | Refused | ActivityStarted | ActivityDelta | ActivityEnded | ToolsListed
    | SearchStarted | SearchEnded | Cited
)  # fmt: skip


_TEXTS = ("text", "fragment", "output", "name", "id", "input")


def text_size(item: TurnItem) -> int:
    """The bytes of all texts of `item`, in UTF-8."""
    if isinstance(item, ToolsListed):
        return sum(utf8_size(each.description) + utf8_size(each.schema) for each in item.tools)
    if isinstance(item, ReasoningEnded):
        return length_of((item.block,))
    if isinstance(item, SearchEnded):
        return sum(len(each.url) + utf8_size(each.title) + len(each.sealed) for each in item.pages)
    if isinstance(item, Cited):
        return sum(len(each.url) + utf8_size(each.title + each.text) for each in item.sources)
    return sum(utf8_size(getattr(item, name, "")) for name in _TEXTS)


def compact(items: Iterable[TurnItem]) -> tuple[TurnItem, ...]:
    """The same answer in as few items as can be: pieces that follow each other are joined."""
    joined: list[tuple[TurnItem, list[str]]] = []
    for item in items:
        if joined and (piece := _continues(joined[-1][0], item)) is not None:
            joined[-1][1].append(piece)
        else:
            joined.append((item, []))
    return tuple(_extended(item, more) for item, more in joined)


def _continues(last: TurnItem, item: TurnItem) -> str | None:
    """What `item` adds to `last`, if it goes on with that."""
    match last, item:
        case (TextDelta(), TextDelta(text)) | (ReasoningDelta(), ReasoningDelta(text)):
            return text
        case ToolCallDelta(index), ToolCallDelta(same, fragment) if index == same:
            return fragment
        case ActivityDelta(id), ActivityDelta(same, fragment) if id == same:
            return fragment
    return None


def _extended(item: TurnItem, more: list[str]) -> TurnItem:
    match item:
        case TextDelta() | ReasoningDelta() if more:
            return evolve(item, text="".join([item.text, *more]))
        case ToolCallDelta() | ActivityDelta() if more:
            return evolve(item, fragment="".join([item.fragment, *more]))
    return item


class Gathering:
    """The items of a turn, put together as they come."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[ToolCallStarted, list[str]]] = []
        self._cited: list[Cited] = []

    def add(self, item: TurnItem) -> None:
        match item:
            case TextDelta(text):
                self._text.append(text)
            case ReasoningDelta(text):
                self._reasoning.append(text)
            case ToolCallStarted():
                self._calls.append((item, []))
            case ToolCallDelta(index, fragment):
                self._calls[index][1].append(fragment)
            case Refused(text):
                self.refusal = text
            case Cited():
                self._cited.append(item)

    @property
    def cited(self) -> tuple[Cited, ...]:
        return tuple(self._cited)

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(started.id, started.name, "".join(fragments), form=started.form)
            for started, fragments in self._calls
        )


def answer_of(items: Iterable[TurnItem], *, whole: bool = True) -> Message:
    """The answer as its conversation remembers it. Of one that is not `whole`, no call counts; half
    a call, behind which an answer was cut for its length, never does."""
    gathered = Gathering()
    for item in items:
        gathered.add(item)
    calls = tuple(call for call in gathered.tool_calls if _is_whole(call)) if whole else ()
    text = (gathered.text,) if gathered.text or not calls else ()
    return Message("assistant", (*text, *calls))


def _is_whole(call: ToolCall) -> bool:
    try:
        call.input  # noqa: B018 (read for its error)
    except ValueError:
        return False
    return True
