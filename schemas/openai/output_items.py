"""OpenAI's items as the gateway writes them: those of a request, and those of an answer, which are
made as the answer comes.

Knows: the JSON of items (OpenAI API reference, "Responses") and their ids, which item each piece of
an answer belongs to, when items begin and end, and the events that say so ("Streaming events"),
without their numbers. Refuses to know: how items are read (`schemas.openai.items`), the response
around them, and how events are framed (`schemas.openai.response_events`).

An item's id follows from the turn's id and from the item's place in the turn, so that every writer
of a turn's items writes the same; what a response has in front of them (lists of tools, calls made
before the turn) is not counted. A request for approval has the id of its call in its own: so the
answer to it needs nothing else. One item is open at a time. Only what the gateway or an agent does
with tools stays under way beside others, until its result arrives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from attrs import define, field

from ..message import Block, Document, Image, Message, ToolCall, ToolForm, ToolResult
from ..search import Cited
from ..turn_items import (
    ActivityDelta,
    ActivityEnded,
    ActivityStarted,
    ListedTool,
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
    compact,
)
from .response_tools import InputText

JSON = dict[str, Any]
Status = Literal["in_progress", "completed", "incomplete"]

SERVER = "claude_code"
"""Whose tools an agent uses, as an ``mcp_call`` names it."""

Event = JSON
"""An event, its type first; its ``sequence_number`` is missing."""


# -- of a request ----------------------------------------------------------------------------------


def hex_of(turn_id: str) -> str:
    """A turn's uuid as ids have it."""
    return turn_id.replace("-", "")


def encode_messages(
    messages: Iterable[Message], turn_id: str, *, system: str | None = None
) -> list[JSON]:
    """The items of what was asked in a turn, `system` text first."""
    items: list[JSON] = []
    if system is not None:
        items.append(_message("system", [{"type": "input_text", "text": system}]))
    for message in messages:
        items += _answer(message, turn_id) if message.role == "assistant" else _question(message)
    prefix = f"in_{hex_of(turn_id)}_"
    return [{"id": f"{prefix}{index}", **item} for index, item in enumerate(items)]


def _message(role: str, content: list[JSON]) -> JSON:
    return {"type": "message", "role": role, "status": "completed", "content": content}


def _question(message: Message) -> list[JSON]:
    others = [block for block in message.content if not isinstance(block, ToolResult)]
    items = [_result(result) for result in message.results]
    if others:
        items.append(_message("user", [_given(block) for block in others]))
    return items


def _answer(message: Message, turn_id: str) -> list[JSON]:
    items = []
    if message.text or not message.calls:
        items.append(_message("assistant", [encode_text(message.text)]))
    return [*items, *(_said_call(call, turn_id) for call in message.calls)]


def _said_call(call: ToolCall, turn_id: str) -> JSON:
    if is_asked_for(call.form):
        return {"id": approval_id(hex_of(turn_id), call.id), **encode_call(call)}
    return {**encode_call(call), "status": "completed"}


def is_asked_for(form: ToolForm | None) -> bool:
    """Whether the gateway makes such a call with the client's approval: so it knows the tools of
    MCP servers that stand among a client's."""
    return form is not None and form.server is not None


def encode_text(text: str, annotations: Sequence[JSON] = ()) -> JSON:
    return {"type": "output_text", "text": text, "annotations": [*annotations], "logprobs": []}


def encode_citations(cited: Cited, start: int, end: int) -> list[JSON]:
    """The pages that a stretch of a text is taken from, by its place in the text."""
    place = {"start_index": start, "end_index": end}
    return [
        {"type": "url_citation", **place, "title": each.title, "url": each.url}
        for each in cited.sources
    ]


def encode_call(call: ToolCall) -> JSON:
    """A call as the client knows it."""
    form = call.form or ToolForm(call.name)
    if form.server is not None:
        asked = {"server_label": form.server, "name": form.name, "arguments": call.arguments}
        return {"type": "mcp_approval_request", **asked}
    name: JSON = {"call_id": call.id, "name": form.name}
    if form.namespace is not None:
        name["namespace"] = form.namespace
    if form.custom:
        return {"type": "custom_tool_call", **name, "input": call.text}
    return {"type": "function_call", **name, "arguments": call.arguments}


def _result(result: ToolResult) -> JSON:
    if result.approval is not None:
        asked = {"approval_request_id": result.approval.request_id}
        said = {"approve": result.approval.approve, "reason": result.approval.reason}
        return {"type": "mcp_approval_response", **asked, **said}
    item: JSON = {
        "type": "custom_tool_call_output" if result.custom else "function_call_output",
        "call_id": result.call_id,
        "output": _output(result.content),
        "status": "completed",
    }
    return item | ({"is_error": True} if result.is_error else {})


def _output(content: Sequence[str | Image | Document]) -> str | list[JSON]:
    texts = [block for block in content if isinstance(block, str)]
    return "".join(texts) if len(texts) == len(content) else [_given(block) for block in content]


def _given(block: Block) -> JSON:
    match block:
        case Image(media_type, data):
            url = f"data:{media_type};base64,{data}"
            return {"type": "input_image", "image_url": url, "detail": "auto"}
        case Document(media_type, data, name):
            file: JSON = {"type": "input_file", "file_data": f"data:{media_type};base64,{data}"}
            return file | ({} if name is None else {"filename": name})
        case str():
            return {"type": "input_text", "text": block}
    raise TypeError(f"{type(block).__name__} is nothing that a user says")


# -- of an answer ----------------------------------------------------------------------------------


def encode_output(items: Iterable[TurnItem], turn_id: str, *, status: Status) -> list[JSON]:
    """The output items of a whole answer. `status` is the answer's: what was under way when it
    ended is as whole as the answer is."""
    output = Output(turn_id)
    for item in compact(items):
        output.add(item)
    if status != "in_progress":
        output.finish(status)
    return output.encode()


@define(eq=False)
class _Item:
    """An output item that is being made; `pieces` is what came of it so far. `index` is its place
    in the output, where `before` items are not the turn's."""

    prefix: ClassVar[str]

    turn: str
    index: int
    before: int = 0
    status: str = "in_progress"
    pieces: list[str] = field(factory=list)

    @property
    def id(self) -> str:
        return f"{self.prefix}_{self.turn}_{self.index - self.before}"

    @property
    def place(self) -> JSON:
        return {"item_id": self.id, "output_index": self.index}

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def encode(self) -> JSON:
        raise NotImplementedError

    def begin(self) -> list[Event]:
        return [_item_event("added", self)]

    def delta(self, text: str) -> list[Event]:
        raise NotImplementedError

    def end_parts(self) -> list[Event]:
        """What it holds is whole; events that say so are not repeated."""
        return []

    def end(self, status: str) -> list[Event]:
        events = self.end_parts()
        self.status = status
        return [*events, _item_event("done", self)]


def _item_event(what: str, item: _Item) -> Event:
    return {
        "type": f"response.output_item.{what}",
        "output_index": item.index,
        "item": item.encode(),
    }


@define(eq=False)
class Part:
    """A part of a message: text, or a refusal. `about` is where it stands, as events give it;
    `notes` are the annotations of its text."""

    kind: str
    about: JSON
    pieces: list[str] = field(factory=list)
    notes: list[JSON] = field(factory=list)

    @property
    def event(self) -> str:
        return f"response.{self.kind}"

    def encode(self) -> JSON:
        text = "".join(self.pieces)
        return (
            encode_text(text, self.notes)
            if self.kind == "output_text"
            else {"type": "refusal", **self.refusal}
        )

    @property
    def refusal(self) -> JSON:
        name = "text" if self.kind == "output_text" else "refusal"
        return {name: "".join(self.pieces)}

    @property
    def beside(self) -> JSON:
        return {"logprobs": []} if self.kind == "output_text" else {}

    def annotate(self, cited: Cited) -> list[Event]:
        """Say where a stretch of the text is taken from."""
        end = sum(map(len, self.pieces)) - cited.behind
        events: list[Event] = []
        for note in encode_citations(cited, max(0, end - (cited.end - cited.start)), end):
            about = {**self.about, "annotation_index": len(self.notes)}
            kind = f"{self.event}.annotation.added"
            events.append({"type": kind, **about, "annotation": note})
            self.notes.append(note)
        return events

    def delta(self, text: str) -> Event:
        """An event whose text stands last."""
        return {"type": f"{self.event}.delta", **self.about, **self.beside, "delta": text}


@define(eq=False)
class _Said(_Item):
    """A message."""

    prefix: ClassVar[str] = "msg"
    parts: list[Part] = field(factory=list)
    open: bool = False  # whether the last part may still grow

    def encode(self) -> JSON:
        content = [part.encode() for part in self.parts]
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "status": self.status,
            "content": content,
        }

    def turn_to(self, kind: str) -> list[Event]:
        """What follows is of that kind."""
        if self.open and self.parts[-1].kind == kind:
            return []
        events = self.end_parts()
        part = Part(kind, {**self.place, "content_index": len(self.parts)})
        event = {"type": "response.content_part.added", **part.about, "part": part.encode()}
        self.parts.append(part)
        self.open = True
        return [*events, event]

    def delta(self, text: str) -> list[Event]:
        self.parts[-1].pieces.append(text)
        return [self.parts[-1].delta(text)]

    def end_parts(self) -> list[Event]:
        if not self.open:
            return []
        self.open = False
        part = self.parts[-1]
        done = {"type": f"{part.event}.done", **part.about, **part.beside, **part.refusal}
        ended = {"type": "response.content_part.done", **part.about, "part": part.encode()}
        return [done, ended]


@define(eq=False)
class _Thought(_Item):
    """Thinking, as the summary that a client asks for."""

    prefix: ClassVar[str] = "rs"
    _name: ClassVar[str] = "response.reasoning_summary"

    @property
    def _about(self) -> JSON:
        return {**self.place, "summary_index": 0}

    def encode(self) -> JSON:
        summary = [_summary(self.text)] if self.pieces else []
        return {"id": self.id, "type": "reasoning", "status": self.status, "summary": summary}

    def begin(self) -> list[Event]:
        part = {"type": f"{self._name}_part.added", **self._about, "part": _summary("")}
        return [*super().begin(), part]

    def delta(self, text: str) -> list[Event]:
        self.pieces.append(text)
        return [{"type": f"{self._name}_text.delta", **self._about, "delta": text}]

    def end_parts(self) -> list[Event]:
        text = self.text
        return [
            {"type": f"{self._name}_text.done", **self._about, "text": text},
            {"type": f"{self._name}_part.done", **self._about, "part": _summary(text)},
        ]


def _summary(text: str) -> JSON:
    return {"type": "summary_text", "text": text}


@define(eq=False)
class _Call(_Item):
    """A call of one of the client's tools."""

    prefix: ClassVar[str] = "fc"
    _name: ClassVar[str] = "response.function_call_arguments"
    call_id: str = ""
    name: str = ""
    form: ToolForm | None = None
    open: bool = True  # whether its arguments may still grow

    def encode(self) -> JSON:
        call = encode_call(ToolCall(self.call_id, self.name, self.text, form=self.form))
        return {"id": self.id, **call, "status": self.status}

    def delta(self, text: str) -> list[Event]:
        self.pieces.append(text)
        return [{"type": f"{self._name}.delta", **self.place, "delta": text}]

    def end_parts(self) -> list[Event]:
        if not self.open:
            return []
        self.open = False
        return [{"type": f"{self._name}.done", **self.place, "arguments": self.text}]


@define(eq=False)
class _CustomCall(_Call):
    """A call of one of the client's custom tools: what it is given is text, taken out of the
    arguments as they come."""

    prefix: ClassVar[str] = "ctc"
    _name: ClassVar[str] = "response.custom_tool_call_input"
    _input: InputText = field(factory=InputText)
    _given: list[str] = field(factory=list)  # of the text, as it was sent

    def encode(self) -> JSON:
        call = ToolCall(self.call_id, self.name, self.text, form=self.form)
        # Before the arguments are whole they are no JSON object; those of an answer that was cut
        # never are.
        is_whole = not self.open and bool(self.pieces) and call.has_input
        given = {} if is_whole else {"input": "" if self.open else "".join(self._given)}
        return {"id": self.id, **encode_call(call), **given, "status": self.status}

    def delta(self, text: str) -> list[Event]:
        self.pieces.append(text)
        return self._delta(self._input.feed(text))

    def end_parts(self) -> list[Event]:
        if not self.open:
            return []
        self.open = False
        whole = self.encode()["input"]
        rest = self._delta(whole[self._input.given :])
        return [*rest, {"type": f"{self._name}.done", **self.place, "input": whole}]

    def _delta(self, text: str) -> list[Event]:
        if not text:
            return []
        self._given.append(text)
        return [{"type": f"{self._name}.delta", **self.place, "delta": text}]


@define(eq=False)
class _Asked(_Call):
    """A call that waits for the client's approval. OpenAI has no events for its arguments."""

    @property
    def id(self) -> str:
        return approval_id(self.turn, self.call_id)

    def encode(self) -> JSON:
        call = ToolCall(self.call_id, self.name, self.text, form=self.form)
        return {"id": self.id, **encode_call(call)}

    def delta(self, text: str) -> list[Event]:
        self.pieces.append(text)
        return []

    def end_parts(self) -> list[Event]:
        return []


_APPROVAL_ID = re.compile(r"mcpr_[0-9a-f]{32}_(.+)", re.DOTALL)


def approval_id(turn: str, call_id: str) -> str:
    return f"mcpr_{turn}_{call_id}"


def asked_call(approval_id: str) -> str | None:
    """The id of the call that an item of that id asks for approval of; None: no item here has such
    an id."""
    found = _APPROVAL_ID.fullmatch(approval_id)
    return None if found is None else found[1]


@define(eq=False)
class _Listed(_Item):
    """The tools of an MCP server."""

    listed: ToolsListed = field(kw_only=True)

    @property
    def id(self) -> str:
        return f"mcpl_{self.turn}_{self.listed.server}"

    def encode(self) -> JSON:
        tools = () if self.status == "in_progress" else self.listed.tools
        return {
            "id": self.id,
            "type": "mcp_list_tools",
            "server_label": self.listed.server,
            "tools": [_encode_listed(tool) for tool in tools],
            "error": None if self.status == "in_progress" else self.listed.error,
        }

    def events(self) -> list[Event]:
        """From its beginning to its end."""
        name = "response.mcp_list_tools"
        begun = [_item_event("added", self), {"type": f"{name}.in_progress", **self.place}]
        self.status = "completed" if self.listed.error is None else "failed"
        ended = {"type": f"{name}.{self.status}", **self.place}
        return [*begun, ended, _item_event("done", self)]


def _encode_listed(tool: ListedTool) -> JSON:
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": json.loads(tool.schema),
        "annotations": {"readOnlyHint": tool.read_only},
    }


@define(eq=False)
class _Activity(_Call):
    """An agent's use of a tool of its own, or the gateway's call of an MCP server's."""

    prefix: ClassVar[str] = "mcp"
    _name: ClassVar[str] = "response.mcp_call_arguments"
    output: str | None = None
    approval: str | None = None

    @property
    def id(self) -> str:
        before = self.approval is not None  # then the turn does not count it
        return f"{self.prefix}_{self.turn}_{self.call_id}" if before else super().id

    def encode(self) -> JSON:
        failed = self.status == "failed"
        error = {"type": "mcp_tool_execution_error", "content": self.output} if failed else None
        form = self.form or ToolForm(self.name, server=SERVER)
        return {
            "id": self.id,
            "type": "mcp_call",
            "server_label": form.server,
            "name": form.name,
            "arguments": self.text,
            "output": self.output,
            "error": error,
            "approval_request_id": self.approval,
            "status": self.status,
        }

    def begin(self) -> list[Event]:
        return [*super().begin(), {"type": "response.mcp_call.in_progress", **self.place}]

    def end(self, status: str) -> list[Event]:
        events = self.end_parts()
        self.status = status
        if status in ("completed", "failed"):
            events.append({"type": f"response.mcp_call.{status}", **self.place})
        return [*events, _item_event("done", self)]


@define(eq=False)
class _Search(_Item):
    """A search of the web. What it found is always among its sources, asked for or not."""

    prefix: ClassVar[str] = "ws"
    _name: ClassVar[str] = "response.web_search_call"
    call_id: str = ""
    input: str = "{}"
    found: SearchEnded | None = None

    def encode(self) -> JSON:
        query = ToolCall("", "", self.input).query
        pages = () if self.found is None else self.found.pages
        sources = [{"type": "url", "url": page.url} for page in pages]
        action: JSON = {"type": "search", "query": query, "queries": [query], "sources": sources}
        return {
            "id": self.id,
            "type": "web_search_call",
            "status": self.status,
            "action": action,
        }

    def begin(self) -> list[Event]:
        said = [{"type": f"{self._name}.{each}", **self.place} for each in _SEARCHING]
        return [*super().begin(), *said]

    def end(self, status: str) -> list[Event]:
        """A search that found nothing for an error has failed; OpenAI has no event for that."""
        is_whole = self.found is not None and self.found.error is None
        self.status = "completed" if is_whole else "failed"
        said = [{"type": f"{self._name}.completed", **self.place}] if is_whole else []
        return [*said, _item_event("done", self)]


_SEARCHING = ("in_progress", "searching")

_I = TypeVar("_I", bound=_Item)


class Output:
    """The output of one turn: `add` what comes, then `finish`. Both return the events for
    of it."""

    def __init__(self, turn_id: str) -> None:
        self._turn = hex_of(turn_id)
        self._items: list[_Item] = []
        self._before = 0  # of the items, those that are not the turn's
        self._open: _Item | None = None
        self._acting: dict[str, _Activity] = {}  # under way, by their ids
        self._searching: dict[str, _Search] = {}

    def __repr__(self) -> str:
        return f"<Output {len(self._items)} items, {'open' if self._open else 'at rest'}>"

    @property
    def text_part(self) -> Part | None:
        """Where a piece of text belongs, if one that comes now goes on with what is there."""
        match self._open:
            case _Said(open=True, parts=[*_, Part(kind="output_text") as part]):
                return part
        return None

    def encode(self) -> list[JSON]:
        return [item.encode() for item in self._items]

    def add(self, item: TurnItem) -> list[Event]:
        match item:
            case TextDelta(text):
                return self._say("output_text", text)
            case Refused(text):
                return self._say("refusal", text)
            case ReasoningDelta(text):
                return [*self._turn_to(_Thought), *self._now.delta(text)]
            case TextEnded() | ReasoningEnded():
                return []  # an item goes on until one of another kind comes
            case ToolCallStarted(_, call_id, name, form):
                kind = _CustomCall if form is not None and form.custom else _Call
                kind = _Asked if is_asked_for(form) else kind
                return self._begin(self._make(kind, call_id=call_id, name=name, form=form))
            case ToolCallDelta(_, fragment):
                assert type(self._open) in (_Call, _CustomCall, _Asked), (
                    "arguments follow their call"
                )
                return self._now.delta(fragment)
            case ActivityStarted():
                return self._act(item)
            case ToolsListed():
                listed = self._make(_Listed, listed=item)
                self._before += 1
                self._items.append(listed)
                return listed.events()
            case ActivityDelta(call_id, fragment):
                activity = self._acting[call_id]
                return activity.delta(fragment) if activity.open else []
            case ActivityEnded(call_id, output, is_error):
                return self._acted(call_id, output, is_error)
            case SearchStarted(call_id, given):
                search = self._make(_Search, call_id=call_id, input=given)
                self._searching[call_id] = search
                return self._begin(search)
            case SearchEnded(call_id):
                return self._found(call_id, item)
            case Cited():
                part = self.text_part
                return part.annotate(item) if part is not None else []

    def _found(self, call_id: str, found: SearchEnded) -> list[Event]:
        search = self._searching.pop(call_id)
        if self._open is search:
            self._open = None
        search.found = found
        return search.end("completed")

    def finish(self, status: Status) -> list[Event]:
        """The answer ends, and is as `status` says."""
        events: list[Event] = []
        if self._open is not None and not isinstance(self._open, _Activity | _Search):
            events += self._open.end(status)
        for search in self._searching.values():
            events += search.end("incomplete")
        self._searching = {}
        for activity in self._acting.values():
            events += activity.end("incomplete")  # its result never came
        self._open, self._acting = None, {}
        return events

    def _make(self, kind: type[_I], **fields: Any) -> _I:
        return kind(self._turn, len(self._items), self._before, **fields)

    @property
    def _now(self) -> _Item:
        assert self._open is not None
        return self._open

    def _leave(self) -> list[Event]:
        """The item that is open gets no more, if there is one."""
        item, self._open = self._open, None
        if item is None:
            return []
        under_way = isinstance(item, _Activity | _Search)
        return item.end_parts() if under_way else item.end("completed")

    def _begin(self, item: _Item) -> list[Event]:
        events = self._leave()
        self._items.append(item)
        self._open = item
        return [*events, *item.begin()]

    def _turn_to(self, kind: type[_Item], **fields: Any) -> list[Event]:
        if isinstance(self._open, kind):
            return []
        return self._begin(self._make(kind, **fields))

    def _say(self, kind: str, text: str) -> list[Event]:
        events = self._turn_to(_Said)
        assert isinstance(self._open, _Said)
        return [*events, *self._open.turn_to(kind), *self._open.delta(text)]

    def _act(self, begun: ActivityStarted) -> list[Event]:
        activity = self._make(
            _Activity, call_id=begun.id, name=begun.name, form=begun.form, approval=begun.approval
        )
        self._before += begun.approval is not None
        self._acting[begun.id] = activity
        return self._begin(activity)

    def _acted(self, call_id: str, output: str, is_error: bool) -> list[Event]:
        activity = self._acting.pop(call_id)
        if self._open is activity:
            self._open = None
        activity.output = output
        return activity.end("failed" if is_error else "completed")
