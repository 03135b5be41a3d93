"""Messages of the Messages API: their words, and what they are in the gateway's own.

Knows: the roles and content blocks of ``POST /v1/messages`` (Anthropic API reference, "Messages"),
and what the API refuses of them. Refuses to know: the other fields of a request
(`schemas.anthropic.messages`), and what an attachment holds (`schemas.media`).

Blocks stay as they are given, with their borders and signatures; neighbours of one role are one
message, as the API reads them. What has no block here becomes text: a search result, a reference
to a tool, the use of a server's tool that is no search of the web.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from attrs import NOTHING, field, frozen

from ..claude.searches import LOCATION, block_of, citations_of, read_sources
from ..convert import at_most, write_json
from ..describe import Details
from ..errors import InvalidRequest, invalid, missing, unsupported
from ..media import Attachment, Slot
from ..message import (
    MAX_NESTING,
    Block,
    Checked,
    Document,
    Image,
    Message,
    RedactedThinking,
    Role,
    Thinking,
    ToolCall,
    ToolResult,
    is_blank,
)
from ..openai.chat_messages import check_begun
from ..search import Source, WebPage
from ..turn import SEARCH_TOOL
from ..turn_items import SearchEnded, SearchStarted

MAX_MESSAGES = 10_000
MAX_PARTS = 20_000
"""Blocks of all messages together, those within others included."""

# -- the words -----------------------------------------------------------------------------------


@frozen
class CacheControl:
    """Taken note of: the CLI marks what is to be cached itself."""

    type: str
    ttl: str | None = None


@frozen
class TextPart:
    """A block that can be nothing but text."""

    type: str
    text: str | None = None
    cache_control: CacheControl | None = None
    citations: tuple[Any, ...] | None = None


@frozen
class PlainSource:
    """Where the bytes of a picture are."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None


@frozen
class SourcePart:
    """A part of a document that is made of blocks."""

    type: str
    text: str | None = None
    source: PlainSource | None = None
    cache_control: CacheControl | None = None


@frozen
class ContentSource:
    """Where the bytes of a picture or document are, or what the document is made of. `source` of
    a search result is its address, and no such object."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    content: str | tuple[SourcePart, ...] | None = None


@frozen
class CitationsConfig:
    enabled: bool | None = None


@frozen
class ResultBlock:
    """A block within a tool's result. The last two fields are a found page's."""

    type: str
    text: str | None = None
    source: ContentSource | str | None = None
    title: str | None = None
    context: str | None = None
    content: tuple[TextPart, ...] | None = None
    tool_name: str | None = None
    url: str | None = None
    citations: CitationsConfig | tuple[Any, ...] | None = None
    cache_control: CacheControl | None = None
    encrypted_content: str | None = None
    page_age: str | None = None


@frozen
class ContentBlock:
    """A block of a message, of whatever type."""

    type: str
    text: str | None = None
    source: ContentSource | str | None = None
    title: str | None = None
    context: str | None = None
    citations: CitationsConfig | tuple[Any, ...] | None = None
    id: str | None = None
    name: str | None = None
    input: Mapping[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | tuple[ResultBlock, ...] | Mapping[str, Any] | None = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    cache_control: CacheControl | None = None


@frozen
class InputMessage:
    role: str
    content: str | tuple[ContentBlock, ...] = at_most(MAX_PARTS, "blocks", default=NOTHING)


USER_BLOCKS = ("text", "image", "document", "search_result", "tool_result")
ASSISTANT_BLOCKS = (
    "text", "thinking", "redacted_thinking", "tool_use", "server_tool_use",
    "web_search_tool_result",
)  # fmt: skip
RESULT_BLOCKS = ("text", "image", "document", "search_result", "tool_reference")
ROLES = ("user", "assistant", "system")

_NOTED = {"description": "Taken note of: the CLI marks itself what is cached."}

DETAILS: Details = {
    CacheControl: {"": _NOTED},
    TextPart: {
        "type": {"const": "text"},
        "cache_control": _NOTED,
        "": {"required": ["type", "text"]},
    },
    PlainSource: {"type": {"enum": ["base64", "url"]}},
    SourcePart: {"type": {"enum": ["text", "image"]}},
    ContentSource: {"type": {"enum": ["base64", "url", "text", "content"]}},
    ResultBlock: {"type": {"enum": [*RESULT_BLOCKS]}},
    ContentBlock: {
        "type": {"enum": [*dict.fromkeys((*USER_BLOCKS, *ASSISTANT_BLOCKS))]},
        "cache_control": _NOTED,
        "citations": {
            "description": "Of an answer's text: pages that a search found. Others are without "
            "effect, and named in `x-ccapi-ignored`."
        },
    },
    InputMessage: {
        "role": {"enum": [*ROLES]},
        "": {"required": ["role", "content"]},
    },
}

# -- what they say ---------------------------------------------------------------------------------


@frozen
class History:
    """The messages of a request. `system` are the texts of system messages that stand before all
    others; `attachments` belong into the slots of `messages`. `begun` is the path of the last
    message, where it is an answer that the client has begun. `ignored` names what has no effect,
    `referred` are the tools that results refer to."""

    system: tuple[str, ...]
    messages: Checked
    attachments: tuple[Attachment, ...]
    begun: str | None
    ignored: tuple[str, ...]
    referred: frozenset[str]


_LEVELS = 4
"""Blocks within blocks that are looked at: no class here has more."""


def check_length(raw: object) -> None:
    """Refuse what would take seconds to read, before it is read: no other client is served
    meanwhile. Whether it has the right form is not looked at here."""
    messages = raw.get("messages") if isinstance(raw, dict) else None
    if not isinstance(messages, list):
        return
    parts = sum(map(_parts, messages[:MAX_MESSAGES]))
    if len(messages) > MAX_MESSAGES or parts > MAX_PARTS:
        raise invalid(
            f"messages must hold at most {MAX_MESSAGES} messages, and {MAX_PARTS} blocks in all.",
            "messages",
        )


def _parts(message: object) -> int:
    """The blocks of a message, and those within them: in a result, in a document in it, in that."""
    level, count = [message], 0
    for _ in range(_LEVELS):
        level = [block for holder in level for block in _within(holder)]
        count += len(level)
        if not level or count > MAX_PARTS:
            break
    return count


def _within(holder: object) -> list[object]:
    """The blocks that stand in a message or block itself, or in the source of a document."""
    if not isinstance(holder, dict):
        return []
    content, source = holder.get("content"), holder.get("source")
    inner = source.get("content") if isinstance(source, dict) else None
    return [
        *(content if isinstance(content, list) else ()),
        *(inner if isinstance(inner, list) else ()),
    ]


def read_messages(given: Sequence[InputMessage], *, continues: bool, cites: bool = True) -> History:
    """Raises `InvalidRequest` for what cannot be asked.

    `continues`: the request names a conversation, so that it may begin with the results of calls
    that it does not repeat. `cites`: what the user says may have citations.
    """
    reading = _Reading(cites=cites)
    for index, message in enumerate(given):
        last = index == len(given) - 1
        reading.add(message, f"messages.{index}", last=last)
    reading.close()
    if not reading.messages:
        raise invalid("messages must hold at least one message of the user's.", "messages")
    messages = Checked(reading.messages)
    if messages[0].role != "user" and not continues:
        raise invalid(
            f"{reading.places[0]}.role must be user: the first message is the user's.",
            f"{reading.places[0]}.role",
        )
    _check_results(messages, reading.places, continues=continues)
    begun = None
    if messages[-1].role == "assistant":
        begun = f"{reading.places[-1]}.role"
        check_begun(messages, begun, continues=continues)
        last_block = messages[-1].content[-1]
        if isinstance(last_block, str) and last_block != last_block.rstrip():
            path = f"{reading.places[-1]}.content"
            raise invalid(f"{path}: the last answer must not end with white space.", path)
    return History(
        tuple(reading.system),
        messages,
        tuple(reading.attachments),
        begun,
        tuple(sorted(reading.ignored)),
        frozenset(reading.referred),
    )


def read_system(given: str | Sequence[TextPart] | None) -> tuple[str, ...]:
    """The system prompt's texts. Raises `InvalidRequest`."""
    if given is None:
        return ()
    if isinstance(given, str):
        return (given,) if given else ()
    return tuple(_texts(given, "system"))


def _texts(given: Iterable[TextPart], path: str) -> Iterator[str]:
    for index, part in enumerate(given):
        where = f"{path}.{index}"
        if part.type != "text":
            raise invalid(f"{where}.type must be text.", f"{where}.type")
        yield _text(part.text, where)


def _text(given: str | None, path: str) -> str:
    if given is None:
        raise missing(f"{path}.text")
    if is_blank(given):
        raise InvalidRequest(
            f"{path}.text must hold more than white space.",
            code="empty_content",
            param=f"{path}.text",
        )
    return given


def _check_results(messages: Sequence[Message], places: Sequence[str], *, continues: bool) -> None:
    """See that every call has its result in the message that follows, and that there is no other
    result. Neighbours are of different roles."""
    waiting: set[str] | None = None if continues else set()
    for number, (message, path) in enumerate(zip(messages, places, strict=True)):
        results = [result.call_id for result in message.results]
        given = set(results)
        if len(given) < len(results):
            raise InvalidRequest(
                f"{path}: a `tool_use` must have a single `tool_result`, and not several.",
                code="duplicate_tool_results",
                param=path,
            )
        if waiting is not None and given - waiting:
            raise InvalidRequest(
                f"{path}: unexpected `tool_use_id` in `tool_result` blocks: "
                f"{', '.join(sorted(given - waiting))}. Each `tool_result` block must have a "
                "`tool_use` block in the message before it.",
                code="unknown_tool_call_id",
                param=path,
            )
        if waiting and waiting - given:
            before = places[number - 1]
            raise _without_results(before, waiting - given)
        waiting = {call.id for call in message.calls}
    if waiting:
        raise _without_results(places[-1], waiting)


def _without_results(path: str, ids: Iterable[str]) -> InvalidRequest:
    return InvalidRequest(
        f"{path}: `tool_use` ids without `tool_result` blocks immediately after: "
        f"{', '.join(sorted(ids))}. Each `tool_use` block must have a `tool_result` block in the "
        "next message.",
        code="missing_tool_results",
        param=path,
    )


REMINDER = "<system-reminder>\n{}\n</system-reminder>"
"""How a system message that stands among the others is worded: as the CLI words its own."""


@frozen
class _Reading:
    """What was read so far. `open` are the blocks of the message that is being put together, of
    one role, and `later` what stands behind them; `places` has the path of each message."""

    system: list[str] = field(factory=list)
    messages: list[Message] = field(factory=list)
    places: list[str] = field(factory=list)
    attachments: list[Attachment] = field(factory=list)
    ignored: set[str] = field(factory=set)
    referred: set[str] = field(factory=set)
    calls: set[str] = field(factory=set)
    searches: set[str] = field(factory=set)
    cites: bool = True
    _roles: list[Role] = field(factory=list)
    _open: list[Block] = field(factory=list)
    _later: list[str] = field(factory=list)

    def add(self, message: InputMessage, path: str, *, last: bool) -> None:
        match message.role:
            case "system":
                self._add_system(message, path)
            case "user" | "assistant" as role:
                self._turn_to(role, path)
                self._open.extend(self._blocks(message, path, last=last))
            case _:
                raise invalid(f"{path}.role must be user, assistant or system.", f"{path}.role")

    def close(self) -> None:
        """The message that is being put together is whole."""
        blocks = (*self._open, *self._later)
        if blocks:
            self.messages.append(Message(self._roles[-1], blocks))
        elif self._roles:  # an answer that was begun with nothing
            self.places.pop()
            self._roles.pop()
        self._open.clear()
        self._later.clear()

    def _turn_to(self, role: Role, path: str) -> None:
        if self._roles and self._roles[-1] == role:
            return
        self.close()
        self._roles.append(role)
        self.places.append(path)
        self.calls.clear()
        self.searches.clear()

    def _add_system(self, message: InputMessage, path: str) -> None:
        """What the system says before all others belongs to the system prompt. Later it is the
        user's to say: a child has one system prompt."""
        texts = tuple(self._system_texts(message, path))
        if not self._roles:
            self.system.extend(texts)
            return
        self._turn_to("user", path)
        # Behind the results of tools, which have to come first.
        self._later.extend(map(REMINDER.format, texts))

    def _system_texts(self, message: InputMessage, path: str) -> Iterator[str]:
        if isinstance(message.content, str):
            if is_blank(message.content):
                raise InvalidRequest(
                    f"{path}.content must hold more than white space.",
                    code="empty_content",
                    param=f"{path}.content",
                )
            yield message.content
            return
        for index, block in enumerate(message.content):
            where = f"{path}.content.{index}"
            if block.type != "text":
                raise _unknown_block(block.type, where, ("text",))
            self._note(block)
            yield _text(block.text, where)

    def _blocks(self, message: InputMessage, path: str, *, last: bool) -> Iterator[Block]:
        if isinstance(message.content, str):
            if message.content == "" and last and message.role == "assistant":
                return
            if is_blank(message.content):
                raise _empty(path)
            yield message.content
            return
        if not message.content and not (last and message.role == "assistant"):
            raise _empty(path)
        read = self._user_block if message.role == "user" else self._assistant_block
        for index, block in enumerate(message.content):
            self._note(block)
            yield from read(block, f"{path}.content.{index}")

    def _user_block(self, block: ContentBlock, path: str) -> Iterator[Block]:
        if block.citations and not isinstance(block.citations, CitationsConfig) and not self.cites:
            raise invalid(f"{path}.citations must be empty: it is the user's.", f"{path}.citations")
        if block.type == "tool_result":
            yield self._result(block, path)
        elif block.type in USER_BLOCKS:
            yield from self._told(block, path)
        else:
            raise _unknown_block(block.type, path, USER_BLOCKS)

    def _assistant_block(self, block: ContentBlock, path: str) -> Iterator[Block]:
        match block.type:
            case "text":
                yield _text(block.text, path)
                sources = _sources(block)
                if sources:
                    yield citations_of(sources)
            case "thinking":
                if block.thinking is None or block.signature is None:
                    name = "thinking" if block.thinking is None else "signature"
                    raise missing(f"{path}.{name}")
                yield Thinking(block.thinking, block.signature)
            case "redacted_thinking":
                if block.data is None:
                    raise missing(f"{path}.data")
                yield RedactedThinking(block.data)
            case "tool_use":
                yield self._call(block, path)
            case "server_tool_use" if block.name == SEARCH_TOOL:
                yield block_of(self._search(block, path))
            case "server_tool_use":
                yield f"[{block.name}: {_json(block.input or {})}]"
            case "web_search_tool_result":
                yield block_of(self._found(block, path))
            case _:
                raise _unknown_block(block.type, path, ASSISTANT_BLOCKS)

    def _search(self, block: ContentBlock, path: str) -> SearchStarted:
        if not block.id:
            raise missing(f"{path}.id")
        if block.input is None:
            raise missing(f"{path}.input")
        if _depth_exceeds(block.input, MAX_NESTING):
            raise invalid(f"{path}.input is nested too deeply.", f"{path}.input")
        self.searches.add(block.id)
        return SearchStarted(block.id, _json(block.input))

    def _found(self, block: ContentBlock, path: str) -> SearchEnded:
        if not block.tool_use_id:
            raise missing(f"{path}.tool_use_id")
        if block.tool_use_id not in self.searches:
            raise InvalidRequest(
                f"{path}: unexpected `tool_use_id` in a `web_search_tool_result` block: "
                f"{block.tool_use_id[:100]}. A `server_tool_use` block must stand before it.",
                code="unknown_tool_call_id",
                param=path,
            )
        if isinstance(block.content, Mapping):
            code = block.content.get("error_code")
            if not isinstance(code, str) or not code:
                raise missing(f"{path}.content.error_code")
            return SearchEnded(block.tool_use_id, error=code)
        if not isinstance(block.content, tuple):
            raise missing(f"{path}.content")
        pages = (_page(part, f"{path}.content.{index}") for index, part in enumerate(block.content))
        return SearchEnded(block.tool_use_id, tuple(pages))

    def _call(self, block: ContentBlock, path: str) -> ToolCall:
        for name in ("id", "name"):
            if not getattr(block, name):
                raise missing(f"{path}.{name}")
        if block.input is None:
            raise missing(f"{path}.input")
        assert block.id is not None
        assert block.name is not None
        if block.id in self.calls:
            raise InvalidRequest(
                f"{path}.id: `tool_use` ids must be unique.",
                code="duplicate_tool_call_id",
                param=f"{path}.id",
            )
        self.calls.add(block.id)
        call = ToolCall(block.id, block.name, _json(block.input))
        if _depth_exceeds(block.input, MAX_NESTING):
            raise invalid(f"{path}.input is nested too deeply.", f"{path}.input")
        return call

    def _result(self, block: ContentBlock, path: str) -> ToolResult:
        if not block.tool_use_id:
            raise missing(f"{path}.tool_use_id")
        content: tuple[Any, ...] = ()
        match block.content:
            case str(text):
                content = (text,) if text else ()
            case tuple(parts):
                content = tuple(self._result_blocks(parts, path))
            case None:
                pass
            case _:
                raise InvalidRequest(
                    f"{path}.content must be a string or an array, got an object.",
                    code="invalid_type",
                    param=f"{path}.content",
                )
        if block.is_error and not all(isinstance(part, str) for part in content):
            # The API refuses them, and the CLI leaves them out.
            self.ignored.add("messages.tool_result.content")
        return ToolResult(block.tool_use_id, content, bool(block.is_error))

    def _result_blocks(self, parts: Sequence[ResultBlock], path: str) -> Iterator[Block]:
        for index, part in enumerate(parts):
            where = f"{path}.content.{index}"
            self._note(part)
            if part.type == "tool_reference":
                if not part.tool_name:
                    raise missing(f"{where}.tool_name")
                self.referred.add(part.tool_name)
                yield f"The tool {part.tool_name} can be called now."
            elif part.type == "text" and part.text is not None:
                if part.text:  # the API refuses an empty one, and it says nothing
                    yield part.text
            elif part.type in RESULT_BLOCKS:
                yield from self._told(part, where)
            else:
                raise _unknown_block(part.type, where, RESULT_BLOCKS)

    def _told(
        self, block: ContentBlock | ResultBlock, path: str
    ) -> Iterator[str | Image | Document]:
        match block.type:
            case "text":
                yield _text(block.text, path)
            case "image":
                yield self._image(_source(block, path), f"{path}.source")
            case "document":
                yield from self._document(block, _source(block, path), f"{path}.source")
            case "search_result":
                yield _told_result(block, path)

    def _image(self, source: ContentSource | PlainSource, path: str) -> Image:
        match source.type:
            case "base64":
                if source.data is None or source.media_type is None:
                    name = "data" if source.data is None else "media_type"
                    raise missing(f"{path}.{name}")
                return self._slot("image", _data_url(source.media_type, source.data, path), path)
            case "url":
                return self._slot("image", _url(source.url, path), path)
            case "file" if isinstance(source, ContentSource):
                return self._uploaded("image", source, path)
        raise _unknown_source(source.type, path)

    def _document(
        self, block: ContentBlock | ResultBlock, source: ContentSource, path: str
    ) -> Iterator[Image | Document]:
        title, context = block.title or None, block.context or None
        match source.type:
            case "base64":
                if source.data is None:
                    raise missing(f"{path}.data")
                media_type = source.media_type or "application/pdf"
                if media_type != "application/pdf":
                    raise invalid(
                        f"{path}.media_type must be application/pdf.", f"{path}.media_type"
                    )
                yield self._slot(
                    "file", _data_url(media_type, source.data, path), path, title, context
                )
            case "url":
                yield self._slot("file", _url(source.url, path), path, title, context)
            case "file":
                yield self._uploaded("file", source, path, title, context)
            case "text":
                yield _plain(source.data, f"{path}.data", title, context)
            case "content":
                yield from self._made_of(source, path, title, context)
            case _:
                raise _unknown_source(source.type, path)

    def _made_of(
        self, source: ContentSource, path: str, title: str | None, context: str | None
    ) -> Iterator[Image | Document]:
        """A document of blocks: its texts are one, and pictures stand behind it."""
        if source.content is None or isinstance(source.content, str):
            yield _plain(source.content, f"{path}.content", title, context)
            return
        texts: list[str] = []
        pictures: list[Image] = []
        for index, part in enumerate(source.content):
            where = f"{path}.content.{index}"
            if part.type == "text":
                texts.append(_text(part.text, where))
            elif part.type == "image":
                if part.source is None:
                    raise missing(f"{where}.source")
                pictures.append(self._image(part.source, f"{where}.source"))
            else:
                raise _unknown_block(part.type, where, ("text", "image"))
        if texts:
            yield _plain("\n\n".join(texts), f"{path}.content", title, context)
        yield from pictures
        if not texts and not pictures:
            raise invalid(f"{path}.content must hold at least one block.", f"{path}.content")

    def _uploaded(
        self,
        kind: Literal["image", "file"],
        source: ContentSource,
        path: str,
        name: str | None = None,
        context: str | None = None,
    ) -> Slot:
        if not source.file_id:
            raise missing(f"{path}.file_id")
        where = f"{path}.file_id"
        self.attachments.append(Attachment(kind, "", where, name, context, source.file_id))
        return Slot(number=len(self.attachments) - 1)

    def _slot(
        self,
        kind: Literal["image", "file"],
        source: str,
        path: str,
        name: str | None = None,
        context: str | None = None,
    ) -> Slot:
        self.attachments.append(Attachment(kind, source, path, name, context))
        return Slot(number=len(self.attachments) - 1)

    def _note(self, block: ContentBlock | ResultBlock) -> None:
        """What of a block has no effect, wherever it stands."""
        if block.cache_control is not None:
            self.ignored.add("cache_control")
        citations = block.citations
        if isinstance(citations, tuple) and len(citations) > len(_sources(block)):
            self.ignored.add("messages.text.citations")
        if isinstance(citations, CitationsConfig) and citations.enabled:
            self.ignored.add("messages.citations")


def _sources(block: ContentBlock | ResultBlock) -> tuple[Source, ...]:
    """The pages of searches that a text cites."""
    citations = block.citations if isinstance(block.citations, tuple) else ()
    return tuple(read_sources([each for each in citations if _is_location(each)]))


def _is_location(citation: object) -> bool:
    return isinstance(citation, Mapping) and citation.get("type") == LOCATION


def _page(part: ResultBlock, path: str) -> WebPage:
    if part.type != "web_search_result":
        raise _unknown_block(part.type, path, ("web_search_result",))
    for name in ("url", "title", "encrypted_content"):
        if getattr(part, name) is None:
            raise missing(f"{path}.{name}")
    assert part.url is not None
    return WebPage(part.url, part.title or "", part.page_age, part.encrypted_content or "")


def _empty(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path}.content must not be empty: only the last message may be, if it is the "
        "assistant's.",
        code="empty_content",
        param=f"{path}.content",
    )


def _unknown_block(kind: str, path: str, known: Iterable[str]) -> InvalidRequest:
    return unsupported(
        f"{path}.type: blocks of type {kind[:100]} are not supported here, but "
        f"{', '.join(known)} are.",
        f"{path}.type",
    )


def _unknown_source(kind: str, path: str) -> InvalidRequest:
    return unsupported(
        f"{path}.type: sources of type {kind[:100]} are not supported here.", f"{path}.type"
    )


def _source(block: ContentBlock | ResultBlock, path: str) -> ContentSource:
    if block.source is None:
        raise missing(f"{path}.source")
    if isinstance(block.source, str):
        raise InvalidRequest(
            f"{path}.source must be an object, got a string.",
            code="invalid_type",
            param=f"{path}.source",
        )
    return block.source


def _data_url(media_type: str, data: str, path: str) -> str:
    if not data:
        raise invalid(f"{path}.data must not be empty.", f"{path}.data")
    if "/" not in media_type or "," in media_type or ";" in media_type:
        raise invalid(f"{path}.media_type is no media type.", f"{path}.media_type")
    return f"data:{media_type};base64,{data}"


def _url(url: str | None, path: str) -> str:
    if url is None:
        raise missing(f"{path}.url")
    if not url.lower().startswith(("http://", "https://")):
        raise invalid(f"{path}.url must begin with https:// or http://.", f"{path}.url")
    return url


def _plain(text: str | None, path: str, title: str | None, context: str | None) -> Document:
    if text is None:
        raise missing(path)
    if is_blank(text):
        raise InvalidRequest(
            f"{path} must hold more than white space.", code="empty_content", param=path
        )
    data = base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
    return Document("text/plain", data, title, context=context)


def _told_result(block: ContentBlock | ResultBlock, path: str) -> str:
    """A search result in words: its address and title, and what it says."""
    if not isinstance(block.source, str):
        raise missing(f"{path}.source")
    if block.title is None:
        raise missing(f"{path}.title")
    content = block.content
    if not isinstance(content, tuple):
        raise missing(f"{path}.content")
    parts: Sequence[ResultBlock | TextPart] = content
    texts = []
    for index, part in enumerate(parts):
        where = f"{path}.content.{index}"
        if part.type != "text":
            raise _unknown_block(part.type, where, ("text",))
        texts.append(_text(part.text, where))
    told = "\n\n".join(texts)
    return (
        f"<search_result>\n<source>{block.source}</source>\n<title>{block.title}</title>\n"
        f"{told}\n</search_result>"
    )


def _json(value: Mapping[str, Any]) -> str:
    return write_json(value).decode()


def _depth_exceeds(value: Any, most: int) -> bool:
    level: list[Any] = [value]
    for _ in range(most + 1):
        level = [
            part
            for each in level
            if isinstance(each, dict | list)
            for part in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True
