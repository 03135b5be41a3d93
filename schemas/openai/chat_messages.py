"""OpenAI chat messages: their words, and what they are in the gateway's own.

Knows: the roles and content parts of chat completions (OpenAI API reference, "Chat"), and how tool
calls and their results are described there. Refuses to know: the other fields of a request
(`schemas.openai.chat`), and what an attachment holds (`schemas.media`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from attrs import evolve, field, frozen

from ..describe import Details
from ..errors import InvalidRequest, invalid, missing, unsupported
from ..json_bounds import ArgumentsMeter
from ..json_bytes import LONG
from ..media import Attachment, Slot, fill
from ..message import (
    Block,
    Checked,
    Document,
    Image,
    Message,
    ToolCall,
    ToolResult,
    check_results,
    is_void,
    settle_results,
    without_void,
)
from ..turn import DigestedText

# -- the words -----------------------------------------------------------------------------------


@frozen
class ImageUrl:
    url: str
    detail: str | None = None


@frozen
class FileData:
    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None


@frozen
class ContentPart:
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None
    file: FileData | None = None


@frozen
class CalledFunction:
    name: str
    arguments: str | None = None


@frozen
class GivenCall:
    id: str
    type: str | None = None
    function: CalledFunction | None = None


@frozen
class ChatMessage:
    """`is_error` of a tool message is this gateway's own: the tool failed, and says how."""

    role: str
    content: str | tuple[ContentPart, ...] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: tuple[GivenCall, ...] | None = None
    tool_call_id: str | None = None
    is_error: bool | None = None
    function_call: Mapping[str, Any] | None = None


ROLES = ("system", "developer", "user", "assistant", "tool")

DETAILS: Details = {
    ChatMessage: {
        "role": {"enum": [*ROLES]},
        "content": {"description": "Only an assistant's message may have none."},
        "is_error": {"description": "The tool failed, and its content says how."},
        "function_call": {"description": "Refused where it asks for something."},
    },
    ContentPart: {"type": {"enum": ["text", "refusal", "image_url", "file", "input_audio"]}},
    FileData: {"file_data": {"description": "A data URL."}},
    GivenCall: {"id": {"minLength": 1}},
    CalledFunction: {"name": {"minLength": 1}, "arguments": {"description": "JSON as text."}},
}

# -- what they say ---------------------------------------------------------------------------------


@frozen
class History:
    """The messages of a request. `system` joins every system and developer message, None where
    there is none; `attachments` belong into the slots of `messages`. `begun` is the path of the
    last message, where it is an answer that the client has begun."""

    system: str | None
    messages: tuple[Message, ...]
    attachments: tuple[Attachment, ...]
    begun: str | None = None

    def filled(self, blocks: Sequence[Image | Document]) -> tuple[Message, ...]:
        """The messages, with a block in place of each attachment."""
        assert len(blocks) == len(self.attachments), "one block for each attachment"
        return fill(self.messages, blocks) if blocks else self.messages


def read_history(given: Sequence[ChatMessage]) -> History:
    """Messages that a conversation shall hold, whichever role is last. Raises `InvalidRequest`."""
    reading = _read(given)
    kept, indexes = without_void(settle_results(reading.messages))
    check_results(kept, (), lambda index: _path(reading.places[indexes[index]]))
    system = "\n\n".join(reading.system) if reading.system else None
    return History(system, tuple(kept), tuple(reading.attachments))


def _read(given: Sequence[ChatMessage]) -> _Reading:
    reading = _Reading()
    for index, message in enumerate(given):
        reading.add(message, index)
    return reading


def read_messages(given: Sequence[ChatMessage], *, continues: bool) -> History:
    """Raises `InvalidRequest` for what cannot be asked.

    `continues`: the request names a conversation, so that it may begin with the results of calls
    that it does not repeat.
    """
    reading = _read(given)
    if not reading.messages and reading.system:
        reading.say_system()
    if not reading.messages:
        raise invalid("messages must hold at least one message.", "messages")
    if is_void(reading.messages[-1]):
        path = f"{_path(reading.places[-1])}.content"
        raise InvalidRequest(
            f"{path} must have text or an attachment.", code="empty_content", param=path
        )
    kept, indexes = without_void(settle_results(reading.messages))
    messages, places = Checked(kept), reading.places
    begun = None
    if messages[-1].role != "user":
        begun = f"{_path(places[indexes[-1]])}.role"
        check_begun(messages, begun, continues=continues)
    check_results(messages, None if continues else (), lambda index: _path(places[indexes[index]]))
    return History(reading.whole_system(), messages, tuple(reading.attachments), begun)


def _path(index: int) -> str:
    return f"messages[{index}]"


def check_begun(messages: Sequence[Message], path: str, *, continues: bool) -> None:
    """See that the last message is an answer that a model could go on with."""
    last = messages[-1]
    if last.calls:
        raise invalid("The results of the last message's tool calls must follow it.", path)
    if last.is_blank or len(messages) < 2 or messages[-2].role != "user":
        raise invalid(
            "The last message must be the user's or a tool's, or an answer to such a message that"
            " has been begun.",
            path,
        )
    if continues:
        raise invalid(
            "In a conversation that is named, the last message must be the user's or a tool's: an"
            " answer can be continued only in a request that brings the whole history.",
            path,
        )


@frozen
class _Reading:
    """What was read so far. `places` has the index of each message, the first one's where a message
    here is several there; `calls` and `results` the ids that were used."""

    system: list[str] = field(factory=list)
    system_places: list[int] = field(factory=list)
    messages: list[Message] = field(factory=list)
    places: list[int] = field(factory=list)
    attachments: list[Attachment] = field(factory=list)
    calls: set[str] = field(factory=set)
    results: set[str] = field(factory=set)
    arguments: ArgumentsMeter = field(factory=ArgumentsMeter)

    def add(self, message: ChatMessage, index: int) -> None:
        path = _path(index)
        if message.function_call:
            _refuse_functions(f"{path}.function_call")
        if message.tool_calls and message.role != "assistant":
            raise invalid("Only an assistant message has tool calls.", f"{path}.tool_calls")
        match message.role:
            case "system" | "developer":
                self.system.append("".join(_texts(_parts(message, path), message.role)))
                self.system_places.append(index)
            case "user":
                self._append(Message("user", self._user_content(message, path)), index)
            case "assistant":
                self._append(Message("assistant", self._answer(message, path)), index)
            case "tool":
                self._add_result(message, path, index)
            case "function":
                _refuse_functions(f"{path}.role")
            case _:
                raise invalid(
                    f"{path}.role must be system, developer, user, assistant or tool.",
                    f"{path}.role",
                )

    def whole_system(self) -> str | None:
        """A long one with its digest, made while there is no other copy of it yet."""
        if not self.system:
            return None
        system = "\n\n".join(self.system)
        return DigestedText.of(system) if len(system) >= LONG else system

    def say_system(self) -> None:
        """Only the system speaks: its last message is what the model answers, as the
        user's, since it has to be asked something."""
        self._append(Message("user", (self.system.pop(),)), self.system_places.pop())

    def _append(self, message: Message, index: int) -> None:
        self.messages.append(message)
        self.places.append(index)
        self.results.clear()

    def _user_content(self, message: ChatMessage, path: str) -> tuple[Block, ...]:
        """The blocks of a user message, without empty ones; one that is empty if there are no
        others. Old chats hold such messages, and are not to be lost for that."""
        return tuple(self._blocks(_parts(message, path), message.role)) or ("",)

    def _answer(self, message: ChatMessage, path: str) -> tuple[Block, ...]:
        """The blocks of an answer. It may be empty, and then comes back as it was given."""
        self.calls.clear()  # other providers count anew in each message
        calls = tuple(
            self._call(call, f"{path}.tool_calls[{index}]")
            for index, call in enumerate(message.tool_calls or ())
        )
        if message.content is None:
            message = evolve(message, content=message.refusal or "")
        texts = tuple(text for text in _texts(_parts(message, path), message.role) if text)
        return texts + calls or ("",)

    def _call(self, call: GivenCall, path: str) -> ToolCall:
        if call.type not in (None, "function"):
            raise unsupported(f"Tool calls of type {call.type} are not supported.", f"{path}.type")
        if call.function is None:
            raise missing(f"{path}.function")
        if not call.id or not call.function.name:
            field = "function.name" if call.id else "id"
            raise invalid(f"{path}.{field} must not be empty.", f"{path}.{field}")
        if call.id in self.calls:
            raise InvalidRequest(
                f"Another call of the same message has the id {call.id} too.",
                code="duplicate_tool_call_id",
                param=f"{path}.id",
            )
        self.calls.add(call.id)
        self.arguments.take(call.function.arguments or "", f"{path}.function.arguments")
        return ToolCall(call.id, call.function.name, call.function.arguments or "{}")

    def _add_result(self, message: ChatMessage, path: str, index: int) -> None:
        """Results that follow each other are one message."""
        if message.tool_call_id is None:
            raise missing(f"{path}.tool_call_id")
        again = bool(self.results)
        if message.tool_call_id in self.results:
            raise InvalidRequest(
                f"Tool call {message.tool_call_id} has a result already.",
                code="duplicate_tool_call_id",
                param=f"{path}.tool_call_id",
            )
        content = tuple(self._blocks(_parts(message, path), message.role))
        result = ToolResult(message.tool_call_id, content, bool(message.is_error))
        if again:
            last = self.messages[-1]
            self.messages[-1] = evolve(last, content=(*last.content, result))
        else:
            self._append(Message("user", (result,)), index)
        self.results.add(message.tool_call_id)

    def _blocks(self, parts: Sequence[tuple[ContentPart, str]], role: str) -> Iterator[str | Image]:
        """The blocks of a message that may have attachments, without empty ones."""
        for part, path in parts:
            if part.type in ("image_url", "file"):
                self.attachments.append(_attachment(part, path))
                yield Slot(number=len(self.attachments) - 1)
            elif text := _text(part, role, path):
                yield text


_Parts = Sequence[tuple[ContentPart, str]]
"""The parts of a message, each with its path."""


def _parts(message: ChatMessage, path: str) -> _Parts:
    content = message.content
    if content is None:
        raise missing(f"{path}.content")
    if isinstance(content, str):
        return [(ContentPart("text", content), path)]
    if not content:
        raise invalid(f"{path}.content must hold at least one part.", f"{path}.content")
    return [(part, f"{path}.content[{index}]") for index, part in enumerate(content)]


def _texts(parts: _Parts, role: str) -> list[str]:
    return [_text(part, role, path) for part, path in parts]


def _text(part: ContentPart, role: str, path: str) -> str:
    match part.type, role:
        case "text", _:
            text, name = part.text, "text"
        case "refusal", "assistant":
            text, name = part.refusal, "refusal"
        case "input_audio", _:
            raise unsupported("Audio is not supported.", path)
        case (("image_url" | "file"), _):
            raise invalid(f"A message of role {role} cannot have images or files.", f"{path}.type")
        case _:
            raise invalid(
                f"{path}.type is of no kind that a message of role {role} has.", f"{path}.type"
            )
    if text is None:
        raise missing(f"{path}.{name}")
    return text


def _attachment(part: ContentPart, path: str) -> Attachment:
    if part.type == "image_url":
        match part.image_url:
            case None:
                raise missing(f"{path}.image_url")
            case str(url):
                return Attachment("image", url, f"{path}.image_url")
            case ImageUrl(url):
                return Attachment("image", url, f"{path}.image_url.url")
    if part.file is None:
        raise missing(f"{path}.file")
    if part.file.file_id is not None:
        where = f"{path}.file.file_id"
        if part.file.file_data is not None:
            raise invalid("A file has either file_id or file_data.", where)
        return Attachment("file", "", where, part.file.filename, file_id=part.file.file_id)
    if part.file.file_data is None:
        raise missing(f"{path}.file.file_data")
    return Attachment("file", part.file.file_data, f"{path}.file.file_data", part.file.filename)


def _refuse_functions(param: str) -> NoReturn:
    raise unsupported(
        "Functions, which came before tools, are not supported: use tools and tool messages.",
        param,
    )
