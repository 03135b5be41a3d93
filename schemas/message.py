"""Messages: what a conversation is made of, and how one is recognised when it comes again.

Knows: the blocks of a message, its identity, its size, and what makes a list of messages one that
can be asked. Refuses to know: OpenAI's wire format (`schemas.openai.chat`), the CLI's
(`schemas.claude.output`), turns.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import chain, pairwise
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Literal, NoReturn, Protocol, cast

from attrs import evolve, field, frozen

from .claude.tool_names import entry_of, respell, wire_id
from .errors import InvalidRequest

PIECE = 65536
"""Characters that are encoded at once, to be counted or digested: there is no copy of megabytes."""

Role = Literal["user", "assistant"]


@frozen
class Image:
    """A picture; `data` is base64 without white space."""

    media_type: str
    data: str


@frozen
class Document:
    """A file that the model may read; `data` is base64 without white space. `context`: what the
    client says of it to the model, which is no part of it."""

    media_type: str
    data: str
    name: str | None = None
    context: str | None = field(default=None, kw_only=True)

    @property
    def said(self) -> tuple[str, ...]:
        """Its context, if it has one."""
        return () if self.context is None else (self.context,)


@frozen
class ToolForm:
    """How the client knows a tool, where that is more than the flat name under which the model
    knows it: by its `name` within a `namespace`, or as a `custom` tool, which takes plain text; or
    as the tool `name` of the MCP server that it calls `server`."""

    name: str
    namespace: str | None = None
    custom: bool = False
    server: str | None = None


CUSTOM_INPUT = "input"
"""The one argument that the model gives a custom tool: the text."""


@frozen
class ToolCall:
    """The model asks for a tool; `arguments` is the text of a JSON object, or what the model took
    for one. `form` says how the client knows the tool, and is no part of what the call is."""

    id: str
    name: str
    arguments: str = "{}"
    form: ToolForm | None = field(default=None, eq=False, kw_only=True)

    @property
    def has_input(self) -> bool:
        """Whether the arguments are a JSON object."""
        with suppress(ValueError):
            self.input  # noqa: B018 (read for its error)
            return True
        return False

    @property
    def query(self) -> str:
        """What a search is made for, "" where the model gave no text."""
        try:
            query = self.input.get("query")
        except ValueError:
            query = None
        return query if isinstance(query, str) else ""

    @property
    def text(self) -> str:
        """What a custom tool is given: the text, or the arguments where the model gave no text."""
        try:
            text = self.input.get(CUSTOM_INPUT)
        except ValueError:
            text = None
        return text if isinstance(text, str) else self.arguments

    @property
    def input(self) -> dict[str, Any]:
        """The arguments. Raises `ValueError` where they are not a JSON object."""
        try:
            value = _DECODER.decode(self.arguments or "{}")
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(value, dict):
            raise ValueError("the arguments of a tool call must be a JSON object")  # noqa: TRY004
        _check_nesting(value)
        return value


def _no_constant(name: str) -> NoReturn:
    """Python reads NaN and the infinities, which JSON does not have."""
    raise ValueError(name)


def _finite(text: str) -> float:
    """Python reads a number that is too great as an infinity, which could not be written again."""
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is too great")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)

MAX_NESTING = 254
"""How deep a call's arguments may be nested: what is read must be written again, within others."""


def _check_nesting(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_NESTING + 1):
        level = [
            part
            for each in level
            if isinstance(each, dict | list)
            for part in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError("nested too deeply")


@frozen
class Approval:
    """What the client says to a call that the gateway makes only with its approval. `request_id`
    names the item that asked for it."""

    request_id: str
    approve: bool
    reason: str | None = None


@frozen
class ToolResult:
    """What came of the tool call `call_id`. `custom`: the client knows it as a custom tool's.
    `approval`: the client has said no more than this, and the rest is the gateway's."""

    call_id: str
    content: tuple[str | Image | Document, ...]
    is_error: bool = False
    custom: bool = field(default=False, eq=False, kw_only=True)
    approval: Approval | None = field(default=None, eq=False, kw_only=True)


@frozen
class Thinking:
    """A block of the model's thinking; the Messages API takes it back only with its `signature`."""

    text: str
    signature: str = ""


@frozen
class RedactedThinking:
    """A block of thinking that only the Messages API can read; `data` goes back unchanged."""

    data: str


@frozen
class ServerBlock:
    """A block by which the Messages API says what it did while the model answered, with a tool of
    its own: that it searched the web, or what it found there. `data` is its JSON, which goes back
    to the API unchanged. `is_apart`: the client's text has a `PARAGRAPH` behind it, which the
    model's has not."""

    data: str
    is_apart: bool = False


@frozen
class Citations:
    """The pages that the block of text before it is taken from, as the Messages API says it:
    `data` is the JSON of the text's ``citations``, which go back to the API unchanged."""

    data: str


@frozen
class ToolRound:
    """Calls of tools that the gateway made while the model answered, and what came of them. It ends
    one of the model's messages: another one follows in the same answer. It goes back to the
    Messages API (`unrolled`), and to no client."""

    calls: tuple[ToolCall, ...]
    results: tuple[ToolResult, ...]


Block = (
    str | Image | Document | ToolCall | ToolResult | Thinking | RedactedThinking | ToolRound
    | ServerBlock | Citations
)  # fmt: skip
"""A block of text is a str. The user's are `Image`, `Document` and `ToolResult`, the others the
assistant's alone."""

_TEXT_OR_UNSEEN = (str, Thinking, RedactedThinking, ToolRound, ServerBlock, Citations)

PARAGRAPH = "\n\n"
"""Stands between the text before a use of a tool and the text after that, where the client receives
both as one answer."""


@frozen
class Message:
    """One message of a conversation. System text is not a message here: see `turn.Setup`.

    `content` is the message's blocks in order, at least one. Blocks of text are kept apart,
    because the Messages API and the CLI distinguish them. Tool results are the user's, as they are
    to the Messages API.

    Thinking, rounds of tools and searches go back to the Messages API, and to hardly any client. A
    client may bring an answer back without them, so they are no part of what a message is
    (`digest`) or says (`text`, `is_blank`).
    """

    role: Role
    content: tuple[Block, ...]

    @property
    def text(self) -> str:
        if self.is_one_text:
            return cast(str, self.content[0])
        return "".join([block for block in self.content if isinstance(block, str)])

    @cached_property
    def is_one_text(self) -> bool:
        """Whether it is a single block of text, as most are: then there is nothing to search."""
        return len(self.content) == 1 and type(self.content[0]) is str

    @property
    def without_thinking(self) -> Message:
        """The same message as a client brings it back, or another model receives it: a signature is
        good for the model that gave it."""
        if self.is_one_text:
            return self
        kept = [each for each in self.content if not isinstance(each, Thinking | RedactedThinking)]
        return self if len(kept) == len(self.content) else Message(self.role, (*kept,) or ("",))

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        if self.is_one_text:
            return ()
        return tuple([block for block in self.content if isinstance(block, ToolCall)])

    @property
    def results(self) -> tuple[ToolResult, ...]:
        if self.is_one_text:
            return ()
        return tuple([block for block in self.content if isinstance(block, ToolResult)])

    @property
    def rounds(self) -> tuple[ToolRound, ...]:
        if self.is_one_text:
            return ()
        return tuple([block for block in self.content if isinstance(block, ToolRound)])

    @cached_property
    def opens(self) -> bool:
        """Whether it is a user's that answers no tool call: what stands before it can be left
        out. Kept: a long history is searched for such messages several times."""
        return self.role == "user" and not any(
            isinstance(block, ToolResult) for block in self.content
        )

    @cached_property
    def _digest(self) -> bytes:
        """Kept: the cache, lineage and memory all ask for it, and a picture takes its time."""
        kind, said = b"\0", self.text
        if not self.is_one_text and not self._says_only_text:
            kind, said = b"\1", _CANONICAL.encode(_canonical(self))
        # surrogatepass: a lone surrogate is legal in JSON, and must not fail here of all places.
        made = hashlib.sha256(self.role.encode() + kind)
        digest_text(made, said)
        return made.digest()

    @cached_property
    def _read_digests(self) -> dict[tuple[bool, bool], bytes]:
        """What `_digest_of` has made."""
        return {}

    @cached_property
    def _size(self) -> int:
        return BESIDE + sum(map(_size, self.content))

    @cached_property
    def is_blank(self) -> bool:
        """Whether the CLI would find nothing in it."""
        if not (self.is_one_text or self._says_only_text) or not is_blank(self.text):
            return False
        return not any(isinstance(block, ServerBlock) for block in self.content)

    @property
    def _says_only_text(self) -> bool:
        return all(isinstance(block, _TEXT_OR_UNSEEN) for block in self.content)


class Hash(Protocol):
    """One of `hashlib`."""

    def update(self, data: bytes, /) -> None: ...


def digest_text(made: Hash, text: str) -> None:
    """Have `made` take in the UTF-8 of `text`, of which there is no copy, if it is long."""
    for begin in range(0, len(text), PIECE):
        made.update(text[begin : begin + PIECE].encode("utf-8", "surrogatepass"))


def is_blank(text: str) -> bool:
    """Whether the CLI would find no text in it: JavaScript takes a byte order mark for space."""
    if text[:64].replace("\ufeff", "").strip():
        return False  # said of megabytes without a copy of them
    return not text.replace("\ufeff", "").strip()


# -- identity --------------------------------------------------------------------------------------


def digest(message: Message) -> bytes:
    """A message's identity: SHA-256 over its role and everything in it (32 bytes).

    What a client may change without meaning to does not count: borders between blocks of text,
    an answer's text standing before or after its tool calls, the order of tool results, and how
    the JSON of a call's arguments is spaced.
    """
    return message._digest  # noqa: SLF001 (the function is its public name)


def _canonical(message: Message) -> list[Any]:
    if message.role == "assistant":
        return [message.text, *(_identity(block) for block in message.calls)]
    results = sorted(message.results, key=lambda result: result.call_id)
    others = [block for block in message.content if not isinstance(block, ToolResult)]
    return [*map(_identity, results), *_joined(others)]


def _joined(blocks: Iterable[Block]) -> list[Any]:
    """The identities of blocks; neighbouring blocks of text are one, empty ones are none."""
    joined: list[Any] = []
    for block in blocks:
        if isinstance(block, str) and joined and isinstance(joined[-1], str):
            joined[-1] += block
        elif block != "":
            joined.append(_identity(block))
    return joined


def _identity(block: Block) -> Any:
    match block:
        case str():
            return block
        case Image(media_type, data):
            return ["image", media_type, _short(data)]
        case Document(media_type, data, name):
            return ["document", media_type, _short(data), name, *block.said]
        case ToolCall(id, name, arguments):
            with suppress(ValueError, RecursionError):  # what is no JSON is what it is
                # As text: what can just be read may be nested too deeply to be written within
                # something else.
                arguments = _SORTED.encode(_EQUAL_NUMBERS.decode(arguments or "{}"))
            return ["call", id, name, arguments]
        case ToolResult(call_id, content, is_error):
            return ["result", call_id, _joined(content), is_error]
        case Thinking() | RedactedThinking() | ToolRound() | ServerBlock() | Citations():
            raise AssertionError("what no client receives is no part of what a message is")


def _number(text: str) -> int | float:
    """JavaScript knows one kind of number, and writes 1.0 as 1."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


# Made once: for each call of a long history they would take longer than what they do.
_EQUAL_NUMBERS = json.JSONDecoder(parse_float=_number)
_SORTED = json.JSONEncoder(sort_keys=True)
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True)


def _short(data: str) -> str:
    return hashlib.sha256(data.encode()).hexdigest()


def unseen(held: Sequence[bytes], messages: Sequence[Message]) -> tuple[Message, ...] | None:
    """The messages of a request that the conversation does not hold yet, at least the last one.

    A client may send only what is new, its whole history again, or the end of it; its history may
    begin before what is held (a cold child is given only the end of a long one), and it may have
    gone on elsewhere in between (a cached answer), so assistant messages may be among what is
    new. Returns None where the request contradicts what is held: it has assistant messages, and
    does not join on to the end of the conversation.
    """
    incoming = list(map(digest, messages))
    whole = min(len(held), len(messages) - 1)
    # First as if both began together; only then as if the client knew of earlier times.
    borders = chain(range(whole, 0, -1), range(len(messages) - 1, whole, -1)) if held else ()
    for border in borders:
        # One look at the border first: long histories are not copied for every one that is tried.
        if incoming[border - 1] == held[-1]:
            overlap = min(border, len(held))
            if incoming[border - overlap : border] == list(held[-overlap:]):
                return tuple(messages[border:])
    if held and "assistant" in map(attrgetter("role"), messages):
        return None
    return tuple(messages)


# -- the same to the Messages API ------------------------------------------------------------------


def agree(asked: Sequence[Message], held: Sequence[Message]) -> bool:
    """Whether the Messages API reads in a child that received `held` what a client sends as
    `asked`: the same blocks with the same borders in the same order, and the same thinking. O(what
    they say), where `digest` is known already; no more than a comparison where they are alike.

    A message without any thinking agrees with one that has some: a client of another dialect never
    saw it, and others leave it out. So does one without searches and citations. Nor do two things
    count: calls of an MCP server's tools and their results, which no client receives (`ToolRound`),
    and what cannot be carried to the API:

    * Blank texts, which it refuses and the CLI drops, and an answer of nothing but thinking.
    * The border between two messages of one role: it reads them as one.
    * The order of results that stand together: the CLI sorts them (`merge_turns`).
    * What JavaScript makes of a call's arguments: 1.0 is 1, beyond 2**53 a number is rounded, keys
      that are whole numbers come first, and JSON has no spacing. (The order of keys does count.)

    Some of what does count reaches the API in another form, always in the same: ids of calls that
    the API or the CLI would not take (`spell_calls`), and names of tools (`claude.tool_names`); a
    picture that is too large, which the CLI makes smaller; a picture in the result of a call that
    failed, which the API refuses and the CLI drops. In a conversation that changes its model, the
    next one receives no thinking of the last.
    """
    return len(asked) == len(held) and all(map(_agrees, asked, held))


def _agrees(asked: Message, held: Message) -> bool:
    if asked is held or asked.content == held.content:
        return asked.role == held.role
    if asked.role != held.role or (asked.is_one_text and held.is_one_text):
        return False
    thinks, searches = _has(asked, Thinking, RedactedThinking), _has(asked, ServerBlock, Citations)
    return exact_digest(asked) == _digest_of(held, thinks=thinks, searches=searches)


def _has(message: Message, *kinds: type) -> bool:
    return any(isinstance(block, kinds) for block in message.content)


def exact_digest(message: Message) -> bytes:
    """What the Messages API reads of a message, by SHA-256 (32 bytes): messages of which it is
    equal `agree`."""
    return _digest_of(message, thinks=True, searches=True)


def _digest_of(message: Message, *, thinks: bool, searches: bool) -> bytes:
    """Of what `_as_read` says. Kept: to read a call's arguments takes its time."""
    thinks = thinks and _has(message, Thinking, RedactedThinking)
    searches = searches and _has(message, ServerBlock, Citations)
    seen = thinks, searches  # one that has neither has one digest
    kept = message._read_digests  # noqa: SLF001 (kept by the message)
    if seen not in kept:
        kept[seen] = _made_of([message.role, *_as_read(message, thinks=thinks, searches=searches)])
    return kept[seen]


def _made_of(read: list[Any]) -> bytes:
    made = hashlib.sha256()
    digest_text(made, _IN_ORDER.encode(read))
    return made.digest()


def _as_read(message: Message, *, thinks: bool, searches: bool) -> list[Any]:
    """The blocks as JSON values, with thinking and searches or without; results that stand together
    in the order of their calls' ids."""
    results = iter(sorted(message.results, key=lambda result: result.call_id))
    read: list[Any] = []
    for block in message.content:
        match block:
            case str():
                if not is_blank(block):
                    read.append(block)
            case ToolResult():
                result = next(results)
                said = [_read_part(part) for part in result.content if not _is_blank_text(part)]
                read.append(["result", result.call_id, said, result.is_error])
            case ToolCall(id, name, arguments):
                with suppress(ValueError, RecursionError):  # what is no JSON is what it is
                    arguments = _IN_ORDER.encode(_JAVASCRIPT.decode(arguments or "{}"))
                read.append(["call", id, name, arguments])
            case Thinking(text, signature):
                if thinks:
                    read.append(["thinking", text, signature])
            case RedactedThinking(data):
                if thinks:
                    read.append(["redacted", data])
            case Image() | Document():
                read.append(_read_part(block))
            case ServerBlock(data) | Citations(data):
                if searches:
                    read.append([type(block).__name__, data])
            case ToolRound():
                pass
    return read


def _read_part(part: str | Image | Document) -> Any:
    match part:
        case str():
            return part
        case Image(media_type, data):
            return ["image", media_type, _short(data)]
        case Document(media_type, data, name):
            return ["document", media_type, _short(data), name, *part.said]


def _is_blank_text(part: str | Image | Document) -> bool:
    return isinstance(part, str) and is_blank(part)


def _whole_number(text: str) -> int | float:
    value = int(text)
    return value if abs(value) < 2**53 else float(value)


_JAVASCRIPT = json.JSONDecoder(parse_float=_number, parse_int=_whole_number)
_IN_ORDER = json.JSONEncoder(ensure_ascii=False)


def parted(messages: Sequence[Message]) -> Sequence[Message]:
    """The same messages, with what a user says behind the results of calls in a message of its own,
    as other dialects have it: so they have one name in all of them. The API reads them as one."""
    if not any(map(_says_more_than_results, messages)):
        return messages
    apart: list[Message] = []
    for message in messages:
        if _says_more_than_results(message):
            count = len(message.results)
            apart.append(Message(message.role, tuple(message.content[:count])))
            apart.append(Message(message.role, tuple(message.content[count:])))
        else:
            apart.append(message)
    return Checked(apart) if isinstance(messages, Checked) else tuple(apart)


def _says_more_than_results(message: Message) -> bool:
    """Whether it begins with results, and something else stands behind the last of them."""
    if message.is_one_text or message.role != "user":
        return False
    count = len(message.results)
    rest = message.content[count:]
    return 0 < count < len(message.content) and not any(
        isinstance(block, ToolResult) for block in rest
    )


# -- what can be asked -----------------------------------------------------------------------------


class Checked(tuple[Message, ...]):
    """Messages that can be asked: `messages_of` does not look at them again. Whether the first
    of them, or of some at their end, brings the results that are due is not known."""


def messages_of(prompt: str | Sequence[Message], *, begun: bool = False) -> Checked:
    """What a caller asks, as messages; `begun`: the last one is the answer's beginning. Raises
    `InvalidRequest` for what cannot be asked."""
    if isinstance(prompt, str):
        prompt = (Message("user", (prompt,)),)
    if not isinstance(prompt, Iterable):
        raise InvalidRequest(
            "A prompt must be text or a sequence of messages.",
            code="invalid_type",
            param="messages",
        )
    if isinstance(prompt, Checked):
        return prompt
    given = tuple(prompt)
    if not given:
        raise InvalidRequest("There must be at least one message.", param="messages")
    for index, message in enumerate(given):
        _check_types(message, f"messages[{index}]")
    # The CLI answers blank text by itself, without asking the model. Answers may be empty.
    kept, places = without_void(settle_results(given))
    if is_void(given[-1]):
        raise InvalidRequest(
            "A user message must have text.",
            code="empty_content",
            param=f"messages[{len(given) - 1}].content",
        )
    asked = kept[:-1] if begun else kept
    if not asked or asked[-1].role != "user" or (begun and not _is_begun(kept[-1])):
        raise InvalidRequest(
            "The last message must be the user's: there is nothing to answer.",
            param=f"messages[{len(given) - 1}].role",
        )
    messages = Checked(kept)
    check_results(messages, None, lambda index: f"messages[{places[index]}]")
    return messages


def without_void(settled: Iterable[tuple[int, Message]]) -> tuple[list[Message], list[int]]:
    """The messages that say something, and the index of each. In two lists: ten thousand pairs are
    half a megabyte."""
    kept: list[Message] = []
    places: list[int] = []
    for index, message in settled:
        if not is_void(message):
            kept.append(message)
            places.append(index)
    return kept, places


def _is_begun(message: Message) -> bool:
    return message.role == "assistant" and not (message.calls or message.is_blank)


def is_void(message: Message) -> bool:
    """Whether the message is empty: such a user message in a history is passed over."""
    return message.role == "user" and message.is_blank


def check_results(
    messages: Sequence[Message], calls: Collection[str] | None, path: Callable[[int], str]
) -> None:
    """See that every tool call among `messages` has its result in the message that follows, and
    that there is no other result.

    `calls` are those that stand open before the first message; None: not known yet, so that
    the first message may answer any. `path` names the message of an index to the caller. Raises
    `InvalidRequest` (``missing_tool_results``, ``unknown_tool_call_id``,
    ``duplicate_tool_results``).
    """
    waiting = calls
    for index, message in enumerate(messages):
        if not waiting and message.is_one_text:  # it answers no call, and makes none
            waiting = ()
            continue
        results = [result.call_id for result in message.results]
        given = set(results)
        if len(given) < len(results):
            raise InvalidRequest(
                "A tool call must have one result, and not several.",
                code="duplicate_tool_results",
                param=path(index),
            )
        if waiting is not None:
            missing = sorted(set(waiting) - given)
            if missing:
                raise InvalidRequest(
                    "These tool calls have no result: " + ", ".join(missing) + ". A tool message "
                    "must follow for each of them.",
                    code="missing_tool_results",
                    param=path(index),
                )
            unknown = sorted(given - set(waiting))
            if unknown:
                raise InvalidRequest(
                    "No tool call that waits for a result has this id: " + ", ".join(unknown) + ".",
                    code="unknown_tool_call_id",
                    param=path(index),
                )
        waiting = {call.id for call in message.calls}


def settle_results(messages: Sequence[Message]) -> Iterable[tuple[int, Message]]:
    """The same messages, with every tool result in the message behind its call, which is where the
    Messages API wants it; each with the index of the message that it, or its first part, was.

    Some clients say more before a result, or give the results of one answer apart. What has no call
    among `messages` may be the result of an earlier one: it comes first, where nothing but the
    user's stands before it. Only what is out of place is moved.
    """
    places = _places_of_results(messages)
    if not places:
        return tuple(enumerate(messages))
    wrong = {place for (index, _), place in places.items() if index != place + 1}
    if not wrong:
        return enumerate(messages)
    moved: dict[int, list[tuple[int, ToolResult]]] = {}
    rest: list[tuple[int, Message]] = []
    for index, message in enumerate(messages):
        kept: list[Block] = []
        for number, block in enumerate(message.content):
            place = places.get((index, number))
            if isinstance(block, ToolResult) and place is not None and place in wrong:
                moved.setdefault(place, []).append((index, block))
            else:
                kept.append(block)
        if kept:
            rest.append((index, Message(message.role, tuple(kept))))
    settled = [_gathered(moved.pop(-1))] if -1 in moved else []
    for index, message in rest:
        settled.append((index, message))
        if index in moved:
            settled.append(_gathered(moved[index]))
    return tuple(settled)


def _places_of_results(messages: Sequence[Message]) -> dict[tuple[int, int], int]:
    """For each result, by its message and block: the message that calls for it, -1 for one before
    all. Results that no call waits for are left out."""
    places: dict[tuple[int, int], int] = {}
    calls: dict[str, int] = {}  # that have no result yet
    answered = False
    for index, message in enumerate(messages):
        answered |= message.role == "assistant"
        for number, block in enumerate(message.content):
            if isinstance(block, ToolCall):
                calls[block.id] = index
            elif isinstance(block, ToolResult):
                place = calls.pop(block.call_id, None if answered else -1)
                if place is not None:
                    places[index, number] = place
    return places


def _gathered(results: Sequence[tuple[int, ToolResult]]) -> tuple[int, Message]:
    return results[0][0], Message("user", tuple(result for _, result in results))


def _check_types(message: object, path: str) -> None:
    """Raise an embedding program's mistake before a turn begins."""
    if not isinstance(message, Message):
        raise InvalidRequest(f"{path} must be a Message.", code="invalid_type", param=path)
    if message.role not in ("user", "assistant"):
        raise InvalidRequest(
            f"{path}.role must be user or assistant.", code="invalid_type", param=f"{path}.role"
        )
    content: object = message.content
    # Not str, which would be a sequence of blocks too, of one character each.
    theirs: tuple[type, ...] = (str, Image, Document, ToolResult)
    if message.role == "assistant":
        theirs = (str, ToolCall, ToolRound, Thinking, RedactedThinking, ServerBlock, Citations)
    if not isinstance(content, list | tuple) or not all(
        isinstance(block, theirs) for block in content
    ):
        raise InvalidRequest(
            f"{path}.content must be a tuple of blocks that suit the role.",
            code="invalid_type",
            param=f"{path}.content",
        )
    for result in message.results:
        blocks: object = result.content
        if not isinstance(blocks, list | tuple) or not all(
            isinstance(block, str | Image | Document) for block in blocks
        ):
            raise InvalidRequest(
                f"The content of the result of {result.call_id} must be a tuple of texts, images "
                "and documents.",
                code="invalid_type",
                param=f"{path}.content",
            )


# -- how large they are ----------------------------------------------------------------------------

BESIDE = 100
"""What a message or a block counts for beside its texts, in bytes: about what the objects take."""


def utf8_size(text: str) -> int:
    """The bytes of `text` in UTF-8: O(1) for ASCII, else O(characters), about 1 ms for each MB. A
    lone surrogate has three."""
    if text.isascii():
        return len(text)
    pieces = (text[at : at + PIECE] for at in range(0, len(text), PIECE))
    return sum(len(piece.encode("utf-8", "surrogatepass")) for piece in pieces)


def length_of(content: Iterable[Block]) -> int:
    """About how many characters the blocks of a message have; O(blocks), whatever is in them."""
    return sum(map(_length, content))


def _length(block: Block) -> int:
    match block:
        case str():
            return len(block)
        case Image(_, data):
            return BESIDE + len(data)
        case Document(_, data):
            return BESIDE + len(data) + length_of(block.said)
        case ToolCall(arguments=arguments):
            return BESIDE + len(arguments)
        case ToolResult(_, content):
            return BESIDE + length_of(content)
        case Thinking(text, signature):
            return BESIDE + len(text) + len(signature)
        case RedactedThinking(data) | ServerBlock(data) | Citations(data):
            return BESIDE + len(data)
        case ToolRound(calls, results):
            return length_of(calls) + length_of(results)


def size_of(messages: Iterable[Message]) -> int:
    """The bytes of their texts in UTF-8 (of attachments: of their base64), and `BESIDE` for each
    message and each block that is no text. Each message is counted once and keeps the result."""
    return sum(map(attrgetter("_size"), messages))


def _size(block: Block) -> int:
    match block:
        case str():
            return utf8_size(block)
        case Image(_, data):
            return BESIDE + utf8_size(data)
        case Document(_, data):
            return BESIDE + utf8_size(data) + sum(map(utf8_size, block.said))
        case ToolCall(id, name, arguments):
            return BESIDE + sum(map(utf8_size, (id, name, arguments)))
        case ToolResult(call_id, content):
            return BESIDE + utf8_size(call_id) + sum(map(_size, content))
        case Thinking(text, signature):
            return BESIDE + utf8_size(text) + utf8_size(signature)
        case RedactedThinking(data) | ServerBlock(data) | Citations(data):
            return BESIDE + utf8_size(data)
        case ToolRound(calls, results):
            return sum(map(_size, calls)) + sum(map(_size, results))


# -- as a child is given them ----------------------------------------------------------------------


def trim(messages: Sequence[Message], limit: int) -> tuple[Message, ...]:
    """About the last `limit` (at least 1) messages: what a cold child is given.

    They begin with a user's message that answers no tool call, so that no result is parted from
    its call: the first such one among the last `limit`, or else the last one before them.
    """
    begin = max(0, len(messages) - limit)
    if begin == 0:
        return tuple(messages)
    places = chain(range(begin, len(messages)), range(begin - 1, -1, -1))
    start = next((n for n in places if messages[n].opens), 0)
    return tuple(messages[start:])


def unrolled(messages: Sequence[Message]) -> tuple[Sequence[Message], Sequence[int]]:
    """The same history with a message for each that the model gave, and for the results of tools
    between them; and for each message of it, the number in `messages` of the one that it is, or
    begins (-1: it comes within one)."""
    if all(message.role == "user" or not message.rounds for message in messages):
        return messages, range(len(messages))
    flat: list[Message] = []
    origins: list[int] = []
    for number, message in enumerate(messages):
        parts = [message] if not message.rounds else _unroll(message)
        flat += parts
        origins += [number, *[-1] * (len(parts) - 1)]
    return flat, origins


def _unroll(message: Message) -> list[Message]:
    parts: list[Message] = []
    blocks: list[Block] = []
    has_text = False
    for block in message.content:
        if isinstance(block, ToolRound):
            parts.append(Message("assistant", (*blocks, *block.calls)))
            parts.append(Message("user", block.results))
            blocks = []
        elif isinstance(block, str):
            first = bool(parts) and not any(isinstance(each, str) for each in blocks)
            blocks.append(block.removeprefix(PARAGRAPH) if first and has_text else block)
            has_text = has_text or bool(block)
        else:
            blocks.append(block)
    return [*parts, Message("assistant", tuple(blocks))] if blocks else parts


def merge_turns(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same history as the Messages API takes it: neighbours of one role are joined (it reads
    them so anyway), messages with nothing in them are left out, results stand in the order of their
    calls, and calls are spelt apart (`spell_calls`).

    The CLI puts the results that a child waited for in the order of their calls, whichever came
    first: a child that receives them has to receive the same.
    """
    merged: list[Message] = []
    for message in messages:
        if message.is_blank:
            continue
        if merged and merged[-1].role == message.role:
            merged[-1] = Message(message.role, merged[-1].content + message.content)
        else:
            merged.append(message)
    for number, (before, message) in enumerate(pairwise(merged), 1):
        if before.calls:
            merged[number] = _in_order_of_calls(message, before.calls)
    return spell_calls(merged)


def _in_order_of_calls(message: Message, calls: Sequence[ToolCall]) -> Message:
    """The message with its results in the order of `calls`, those of no call behind them."""
    results = [block for block in message.content if isinstance(block, ToolResult)]
    places = {call.id: place for place, call in reversed([*enumerate(calls)])}
    ordered = sorted(results, key=lambda result: places.get(result.call_id, len(calls)))
    if ordered == results:
        return message
    left = iter(ordered)
    return Message(
        message.role,
        tuple(next(left) if isinstance(each, ToolResult) else each for each in message.content),
    )


def turn_starts(messages: Iterable[Message]) -> Iterator[int]:
    """The index of the first message of each that `merge_turns` makes of them."""
    role = ""
    for index, message in enumerate(messages):
        if message.role != role and not message.is_blank:
            role = message.role
            yield index


def spell_calls(
    messages: Sequence[Message],
    before: Sequence[str] = (),
    open_calls: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Message, ...]:
    """The same messages, with other ids for those calls of which the model would get no result.

    The Messages API refuses an id that comes again, as other providers write it that count anew in
    each message. The CLI drops the result of a call whose id is another call's with an underscore
    and digits behind it, whichever of the two comes first. `before` are the ids of earlier calls in
    the conversation, as the client spells them; `open_calls` says how those are spelt of which the
    first message brings results, where that is otherwise.
    """
    calls = [message.calls for message in messages]
    if not (any(calls) or open_calls):
        return tuple(messages)
    given = [call.id for each in calls for call in each]
    if not open_calls and _are_plain({*before, *given}, len(before) + len(given)):
        return tuple(messages)
    known = {wire_id(call_id) for call_id in before}
    parts = {entry_of(call_id) for call_id in known}
    ids = known.union(wire_id(call_id) for call_id in given)
    uses = Counter(before)

    def spell(call_id: str) -> str:
        uses[call_id] += 1
        use, wire = uses[call_id], wire_id(call_id)
        if use == 1 and wire not in parts and entry_of(wire) not in ids:
            return call_id
        return respell(call_id, use)

    spelt: list[Message] = []
    now = dict(open_calls)  # ids of the latest calls, as they are spelt
    differs = bool(now)
    for message, each in zip(messages, calls, strict=True):
        if each:
            now = {call.id: spell(call.id) for call in each}
            differs = any(one != other for one, other in now.items())
        if differs and not message.is_one_text:
            message = Message(message.role, tuple(_spelt(block, now) for block in message.content))
        spelt.append(message)
    return tuple(spelt)


def _are_plain(ids: set[str], count: int) -> bool:
    """Whether all of `count` ids reach the API as they are: no two are equal or are spelt alike,
    and none is a part of another (`entry_of`). Looked at first: it is nearly always so."""
    if len(ids) < count:
        return False
    if not any("_" in call_id for call_id in ids):
        return all(wire_id(call_id) == call_id for call_id in ids)
    return all(wire_id(call_id) == call_id and entry_of(call_id) not in ids for call_id in ids)


def _spelt(block: Block, ids: Mapping[str, str]) -> Block:
    match block:
        case ToolCall(id=call_id):
            return evolve(block, id=ids[call_id])
        case ToolResult(call_id=call_id):
            return evolve(block, call_id=ids.get(call_id, call_id))
        case _:
            return block
