"""OpenAI's items: what the input of a response, and a conversation, are made of.

Knows: the item types and content parts of the Responses and Conversations APIs (OpenAI API
reference, "Responses"), and which messages they are in the gateway's own words. Refuses to know:
items that the gateway never writes (`schemas.openai.foreign_items` puts those into forms that are
read here), the other fields of a request (`schemas.openai.responses`), how items are written
(`schemas.openai.output_items`), and what an attachment holds (`schemas.media`).

The items of one answer are one message: a text, the calls beside it, and what an agent did with
tools of its own in between, which is passed over as thinking is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from attrs import define, evolve, field, frozen

from ..convert import at_most, write_json
from ..describe import Details
from ..errors import InvalidRequest, invalid, missing, unsupported
from ..json_bounds import ArgumentsMeter
from ..mcp_tools import full_name
from ..media import Attachment, Slot
from ..message import (
    CUSTOM_INPUT,
    Approval,
    Block,
    Image,
    Message,
    ToolCall,
    ToolForm,
    ToolResult,
    ToolRound,
    check_results,
    settle_results,
)
from .chat_messages import History, check_begun
from .chat_tools import MAX_TOOLS
from .foreign_items import PASSED_OVER, READ, RUN_THERE
from .response_tools import FlatTool, flat_name, form_of

# -- the words -----------------------------------------------------------------------------------


@frozen
class InputPart:
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None
    filename: str | None = None


@frozen
class InputItem:
    """Any item; which of the fields it needs is up to its type. One without a type is a message.

    `is_error` of a tool's output is this gateway's own: the tool failed, and says how.
    """

    type: str | None = None
    id: str | None = None
    role: str | None = None
    content: str | tuple[InputPart, ...] | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | tuple[InputPart, ...] | None = None
    is_error: bool | None = None
    server_label: str | None = None
    approval_request_id: str | None = None
    approve: bool | None = None
    reason: str | None = None
    tools: tuple[FlatTool, ...] | None = at_most(MAX_TOOLS, "tools")

    @property
    def kind(self) -> str:
        return self.type or "message"


Input = str | tuple[InputItem, ...]

OTHER_ITEM: dict[str, Any] = {
    "type": "object",
    "description": "An item of a type that only its own server writes; its form is not looked at. "
    "What has words for the model becomes a call and its output, the rest is left out and named "
    "in `x-ccapi-ignored`.",
    "properties": {"type": {"type": "string", "not": {"enum": [*READ]}}},
    "required": ["type"],
}

DETAILS: Details = {
    InputItem: {
        "type": {"enum": [*READ], "description": "None: a message, or a reference to an item."},
        "is_error": {"description": "The tool failed, and its output says how."},
        "": {"description": "Which fields an item needs is up to its type."},
    },
    InputPart: {"type": {"description": "As `input_text`, `input_image`, `output_text`."}},
}


UNTOLD = "The user approved this call. What came of it is not told."


def denial(reason: str | None) -> str:
    """What the model reads in place of a call's result, where the client does not approve it."""
    said = "The user does not approve this call, so it was not made."
    return f"{said} The reason: {reason}" if reason else said


# -- what they say -------------------------------------------------------------------------------


def read_items(given: Input, *, continues: bool, path: str = "input") -> Reading:
    """What the items say. Raises `InvalidRequest` for what cannot be asked.

    `continues`: the request goes on with something, so that it may begin with the results of calls
    that it does not repeat.
    """
    reading = read_history(given, path)
    if not reading.messages and reading.system:
        reading.say_system()
    messages, places = reading.messages, reading.places
    if not messages:
        raise invalid(f"{path} must hold at least one message.", path)
    if messages[-1].role != "user":
        reading.begun = places[-1]
        check_begun(messages, places[-1], continues=continues)
    check_results(messages, None if continues else (), places.__getitem__)
    return reading


def read_history(given: Input, path: str = "input") -> Reading:
    """The items as messages, whichever role is last. Raises `InvalidRequest`."""
    reading = Reading()
    if isinstance(given, str):
        reading.add(InputItem(role="user", content=given), path, within=path)
    else:
        for index, item in enumerate(given):
            place = f"{path}[{index}]"
            reading.add(item, place, within=f"{place}.content")
    reading.end()
    return reading


@define
class Reading:
    """What was read so far. `places` has the path of each message, that of its first item; `tools`
    are those that items brought, by their paths; `begun` is the path of an answer at the end that
    the model is to go on with.

    `approvals` are the paths of answers to requests for approval, by the ids of those, as far as
    the history does not say what came of them; `listed` are the servers whose tools it lists.

    `_said` are the blocks of the message that later items may still add to, `_ids` the calls in it
    or those that it has the results of.
    """

    system: list[str] = field(factory=list)
    system_places: list[str] = field(factory=list)
    messages: list[Message] = field(factory=list)
    places: list[str] = field(factory=list)
    tools: dict[str, FlatTool] = field(factory=dict)
    approvals: dict[str, str] = field(factory=dict)
    listed: dict[str, None] = field(factory=dict)
    begun: str | None = None
    attachments: list[Attachment] = field(factory=list)
    _open: Literal["answer", "results"] | None = None
    _said: list[Block] = field(factory=list)
    _ids: set[str] = field(factory=set)
    _arguments: ArgumentsMeter = field(factory=ArgumentsMeter)

    @property
    def history(self) -> History:
        system = "\n\n".join(self.system) if self.system else None
        return History(system, tuple(self.messages), tuple(self.attachments), self.begun)

    def add(self, item: InputItem, path: str, within: str) -> None:
        """`within` is the path of a message's content."""
        match item.kind:
            case "message":
                self._add_message(item, path, within)
            case "function_call" | "custom_tool_call" | "mcp_approval_request":
                self._add_call(item, path)
            case "mcp_approval_response":
                self._add_approval(item, path)
            case "mcp_call":
                self._add_round(item, path)
            case "mcp_list_tools" if item.server_label is not None:
                self.listed[item.server_label] = None
            case "function_call_output" | "custom_tool_call_output":
                self._add_result(item, path)
            case kind if kind == RUN_THERE:
                self._add_call(item, path)
                self._add_result(item, path)
            case "additional_tools":
                for index, tool in enumerate(item.tools or ()):
                    self.tools[f"{path}.tools[{index}]"] = tool
            case kind if kind not in PASSED_OVER:
                raise unsupported(f"Items of type {kind} are not supported.", f"{path}.type")

    def end(self) -> None:
        """There are no more items. Outputs go to their calls, past the user's messages meanwhile:
        the model has to read them first."""
        self.close()
        settled = [*settle_results(self.messages)]
        self.places = [self.places[index] for index, _ in settled]
        self.messages = [message for _, message in settled]
        self._settle_approvals()

    def _settle_approvals(self) -> None:
        """What was approved before the model's last answer is not approved once more."""
        last = max(
            (n for n, each in enumerate(self.messages) if each.role == "assistant"), default=0
        )
        for index, message in enumerate(self.messages[:last]):
            for result in message.results:
                if result.approval is not None and result.content == ():
                    self.approvals.pop(result.approval.request_id)
                    told = evolve(result, content=(UNTOLD,))
                    said = (told if each is result else each for each in message.content)
                    self.messages[index] = message = Message(message.role, tuple(said))

    def say_system(self) -> None:
        """Only the system speaks: its last message is what the model answers."""
        path = self.system_places.pop()
        self._add_question((self.system.pop(),), path, f"{path}.content")

    def close(self) -> None:
        """The message that was open is whole."""
        if self._open == "answer":
            self.messages.append(Message("assistant", _answer(self._said)))
        elif self._open == "results":
            self.messages.append(Message("user", tuple(self._said)))
        self._open = None
        self._said, self._ids = [], set()

    def _go_on(self, kind: Literal["answer", "results"], path: str) -> None:
        """What comes now belongs to a message of that kind: the open one, or a new one."""
        if self._open != kind:
            self.close()
            self._open = kind
            self.places.append(path)

    def _add_message(self, item: InputItem, path: str, within: str) -> None:
        if item.role is None:
            raise missing(f"{path}.role")
        if item.role not in _TEXTS:
            raise invalid(
                f"{path}.role must be user, assistant, system or developer.", f"{path}.role"
            )
        if item.content is None:
            raise missing(within)
        parts = _parts(item.content, within)
        match item.role:
            case "user":
                self._add_question(tuple(self._blocks(parts, "user")), path, within)
            case "assistant":
                self._go_on("answer", path)
                self._said += [_text(part, "assistant", place) for part, place in parts]
            case role:
                self.system.append("".join(_text(part, role, place) for part, place in parts))
                self.system_places.append(path)

    def _add_question(self, blocks: tuple[Block, ...], path: str, within: str) -> None:
        """There must be something in it: the model is not asked about nothing."""
        question = Message("user", blocks)
        if not blocks or question.is_blank:
            raise InvalidRequest(
                f"{within} must have text or an attachment.", code="empty_content", param=within
            )
        self.close()
        self.messages.append(question)
        self.places.append(path)

    def _add_call(self, item: InputItem, path: str) -> None:
        call = _call(item, path)
        self._arguments.take(call.arguments, f"{path}.arguments")
        self._go_on("answer", path)
        self._said.append(call)
        self._take_id(call.id, path, f"Another call of the same answer has the call_id {call.id}.")

    def _add_result(self, item: InputItem, path: str) -> None:
        """Results that follow each other are one message."""
        if item.call_id is None:
            raise missing(f"{path}.call_id")
        if item.output is None:
            raise missing(f"{path}.output")
        parts = _parts(item.output, f"{path}.output") if item.output else []
        content = tuple(self._blocks(parts, "tool"))
        self._go_on("results", path)
        custom = item.kind == "custom_tool_call_output"
        self._said.append(ToolResult(item.call_id, content, bool(item.is_error), custom=custom))
        self._take_id(item.call_id, path, f"Tool call {item.call_id} has an output already.")

    def _add_approval(self, item: InputItem, path: str) -> None:
        """The answer to a request for approval: it is the result of the call, as far as there is
        one."""
        assert item.call_id is not None
        assert item.approval_request_id is not None
        if item.approve is None:
            raise missing(f"{path}.approve")
        approval = Approval(item.approval_request_id, item.approve, item.reason)
        content: tuple[str, ...] = ()
        if not item.approve:
            content = (denial(item.reason),)
        elif item.output is not None:
            content = (str(item.output),)
        else:
            self.approvals[item.approval_request_id] = path
        self._go_on("results", path)
        is_error = bool(item.is_error) or not item.approve
        self._said.append(ToolResult(item.call_id, content, is_error, approval=approval))
        self._take_id(item.call_id, path, f"Tool call {item.call_id} has an output already.")

    def _add_round(self, item: InputItem, path: str) -> None:
        """What the gateway did while the model answered: no part of what was said."""
        assert item.call_id is not None
        assert item.server_label is not None
        name = full_name(item.server_label, item.name or "")
        call = ToolCall(item.call_id, name, item.arguments or "{}")
        self._arguments.take(call.arguments, f"{path}.arguments")
        result = ToolResult(call.id, (str(item.output),), bool(item.is_error))
        self._go_on("answer", path)
        self._said.append(ToolRound((call,), (result,)))

    def _take_id(self, call_id: str, path: str, complaint: str) -> None:
        if call_id in self._ids:
            raise InvalidRequest(complaint, code="duplicate_tool_call_id", param=f"{path}.call_id")
        self._ids.add(call_id)

    def _blocks(self, parts: _Parts, role: str) -> Iterator[str | Image]:
        """The blocks of what may have attachments, without empty ones."""
        for part, path in parts:
            if isinstance(part, InputPart) and part.type in ("input_image", "input_file"):
                self.attachments.append(_attachment(part, path))
                yield Slot(number=len(self.attachments) - 1)
            elif text := _text(part, role, path):
                yield text


_Parts = list[tuple[str | InputPart, str]]
"""Texts and parts, each with its path."""


def _parts(content: str | tuple[InputPart, ...], path: str) -> _Parts:
    if isinstance(content, str):
        return [(content, path)]
    if not content:
        raise invalid(f"{path} must hold at least one part.", path)
    return [(part, f"{path}[{index}]") for index, part in enumerate(content)]


_GIVEN = {"input_text": "text", "text": "text"}
_TEXTS = {
    "user": _GIVEN,
    "system": _GIVEN,
    "developer": _GIVEN,
    "assistant": {**_GIVEN, "output_text": "text", "refusal": "refusal"},
}
"""By role, the types of part that are text, and the field in which it is."""


def _text(part: str | InputPart, role: str, path: str) -> str:
    if isinstance(part, str):
        return part
    if part.type == "input_audio":
        raise unsupported("Audio is not supported.", path)
    if part.type in ("input_image", "input_file"):
        raise invalid(f"A message of role {role} cannot have images or files.", f"{path}.type")
    name = _TEXTS.get(role, _GIVEN).get(part.type)
    if name is None:
        raise invalid(f"{path}.type is of no kind that {role} items have.", f"{path}.type")
    text: str | None = getattr(part, name)
    if text is None:
        raise missing(f"{path}.{name}")
    return text


def _answer(said: Sequence[Block]) -> tuple[Block, ...]:
    """The blocks of an answer as the gateway sends one: text first, and none that is empty beside
    others."""
    texts = tuple(
        block
        for block in said
        if isinstance(block, ToolRound) or (isinstance(block, str) and block)
    )
    calls = tuple(block for block in said if isinstance(block, ToolCall))
    return texts + calls or ("",)


def _call(item: InputItem, path: str) -> ToolCall:
    for name in ("call_id", "name"):
        value = getattr(item, name)
        if value is None:
            raise missing(f"{path}.{name}")
        if not value:
            raise invalid(f"{path}.{name} must not be empty.", f"{path}.{name}")
    custom, name = item.kind == "custom_tool_call", str(item.name)
    if custom and item.input is None:
        raise missing(f"{path}.input")
    arguments = write_json({CUSTOM_INPUT: item.input}).decode() if custom else item.arguments
    if item.kind == "mcp_approval_request" and item.server_label is not None:
        form = ToolForm(name, server=item.server_label)
        flat = full_name(item.server_label, name)
        return ToolCall(str(item.call_id), flat, arguments or "{}", form=form)
    return ToolCall(
        str(item.call_id),
        flat_name(name, item.namespace),
        arguments or "{}",
        form=form_of(name, item.namespace, custom=custom),
    )


def _attachment(part: InputPart, path: str) -> Attachment:
    if part.file_id is not None:
        if part.image_url is not None or part.file_data is not None or part.file_url is not None:
            raise invalid("file_id stands for the whole file.", f"{path}.file_id")
        kind: Literal["image", "file"] = "image" if part.type == "input_image" else "file"
        return Attachment(kind, "", f"{path}.file_id", part.filename, file_id=part.file_id)
    if part.type == "input_image":
        if part.image_url is None:
            raise missing(f"{path}.image_url")
        return Attachment("image", part.image_url, f"{path}.image_url")
    if part.file_data is not None:
        return Attachment("file", part.file_data, f"{path}.file_data", part.filename)
    if part.file_url is not None:
        return Attachment("file", part.file_url, f"{path}.file_url", part.filename)
    raise missing(f"{path}.file_data")
