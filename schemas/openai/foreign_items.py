"""Items that this gateway never writes: what their histories say, in the forms that it reads.

Knows: the calls of OpenAI's built-in tools and their outputs (OpenAI API reference, "Responses",
"Input items"), references to stored items, and compaction items. Refuses to know: what items are in
the gateway's own words (`schemas.openai.items`), and who keeps items and opens compactions.

A call of a tool that the client ran itself (a shell, a patch) reaches the model as a call, what
OpenAI ran on its side (code, a search of files) as a call with its output; what has no such form is
left out and named. Items of MCP servers' tools are those of this gateway too, and come out as
`schemas.openai.items` reads them: an approval has what came of the call beside it, where the
history says that. Whatever some server wrote is never refused for its form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from attrs import define, field, frozen

from ..convert import write_json
from ..errors import InvalidRequest, NotFound, TooLarge, invalid, missing, unsupported
from .output_items import JSON, SERVER, asked_call
from .response_tools import check_tools_length

MAX_ITEMS = 10_000
MAX_PARTS = 20_000
"""Of all items together, as in chat."""

MAX_REFERRED_BYTES = 20 * 1024 * 1024
"""All stored items together to which one request may refer, as JSON: what it could send itself."""

MAX_BROUGHT = 5_000
"""Tools of all `additional_tools` items together, those included that later ones replace."""

READ = (
    "message", "function_call", "function_call_output", "custom_tool_call",
    "custom_tool_call_output", "additional_tools",
    "mcp_approval_request", "mcp_approval_response", "mcp_call",
)  # fmt: skip
"""Items that `schemas.openai.items` reads as they are."""

RUN_THERE = "ccapi:run_there"
"""A call of a tool that OpenAI ran, its output beside it, as `schemas.openai.items` reads it."""

PASSED_OVER = ("reasoning", "mcp_list_tools")
"""What an answer has beside its words and calls, and the model sees nothing of."""

_UNTOLD = re.compile(
    r"(web_search|image_generation|tool_search|program)_call"
    r"|tool_search_output|program_output"
    r"|compaction_trigger|[a-z0-9_.-]{1,32}:[a-z0-9_.:-]{1,64}"
)
"""What has no form for the model; the last alternative is a provider's own (Open Responses, "Items
are extensible")."""


_OUR_SEARCH = re.compile(r"ws_[0-9a-f]{32}_\d{1,5}")


def unknown_approval(approval_id: str, path: str) -> InvalidRequest:
    return InvalidRequest(
        f"Approval request '{approval_id[:100]}' not found: no call that waits here has asked for"
        " that.",
        code="approval_request_not_found",
        param=path,
    )


class Kept(Protocol):
    """What is kept for the client."""

    def item(self, item_id: str) -> JSON | None:
        """The stored item of that id, as it was written; None: there is none."""

    def summary(self, sealed: str) -> str | None:
        """What a compaction item's `encrypted_content` says; None: it was not made here for
        this client, or was changed."""


class NothingKept:
    def item(self, item_id: str) -> JSON | None:
        return None

    def summary(self, sealed: str) -> str | None:
        return None


NOTHING_KEPT = NothingKept()


@frozen
class Taken:
    """`items` is the JSON value in forms that `schemas.openai.items` reads, each item in its old
    place. `left_out` are the types of those that the model sees nothing of."""

    items: Any
    left_out: tuple[str, ...] = ()


def take_items(raw: object, path: str = "input", kept: Kept = NOTHING_KEPT) -> Taken:
    """Put the items at `path` into forms that can be read. Anything but an array stays as it is.

    Raises `InvalidRequest`: for more than can be read in a moment, a type that is none, a
    compaction that cannot be opened; `NotFound` (``item_not_found``) for a reference to nothing.
    """
    if not isinstance(raw, list):
        return Taken(raw)
    _check_length(raw, path)
    taking = _Taking(path, kept)
    items = [taking.take(item, f"{path}[{index}]") for index, item in enumerate(raw)]
    return Taken(items, tuple(taking.left_out))


def refers(raw: object) -> bool:
    """Whether any of the items is only named, so that it may be longer than it looks."""
    return isinstance(raw, list) and any(
        isinstance(item, dict) and _kind(item) == "item_reference" for item in raw
    )


def _check_length(raw: list[Any], path: str) -> None:
    """Refuse what would take seconds to read, before it is read."""
    parts = 0
    for item in raw[:MAX_ITEMS]:
        if isinstance(item, dict):
            for name in ("content", "output", "summary"):
                inner = item.get(name)
                parts += len(inner) if isinstance(inner, list) else 0
    if len(raw) > MAX_ITEMS or parts > MAX_PARTS:
        raise invalid(
            f"{path} must hold at most {MAX_ITEMS} items, and {MAX_PARTS} parts in all.", path
        )


@define
class _Taking:
    path: str
    kept: Kept
    left_out: dict[str, None] = field(factory=dict)
    _referred: set[str] = field(factory=set)
    _approved: dict[str, JSON] = field(factory=dict)  # answers to requests for approval
    _not_ours: set[str] = field(factory=set)  # requests for approval that no call here needs
    _bytes: int = 0
    _tools: int = 0

    def take(self, item: Any, path: str) -> Any:
        if not isinstance(item, dict):
            return item
        kind = _kind(item)
        if kind == "item_reference":
            item = self._refer(item, path)
            kind = _kind(item)
        match kind:
            case "additional_tools":
                self._tools += check_tools_length(item.get("tools"), f"{path}.tools")
                if self._tools > MAX_BROUGHT:
                    raise invalid(f"{self.path} brings more than {MAX_BROUGHT} tools.", path)
            case "compaction" | "compaction_summary":
                return self._open(item, path)
            case "mcp_call" if item.get("server_label") == SERVER:
                return {"type": "reasoning"}  # what an agent did here is passed over as thinking is
            case "mcp_call":
                return self._take_call(item) or self._leave_out(kind)
            case "mcp_approval_request":
                return self._take_asked(item) or self._leave_out(kind)
            case "mcp_approval_response":
                return self._take_approval(item, path)
            case "web_search_call" if _OUR_SEARCH.fullmatch(str(item.get("id"))):
                return {"type": "reasoning"}  # the child that searched holds what it found
            case "mcp_list_tools" if isinstance(label := item.get("server_label"), str):
                return {"type": kind, "server_label": label}
            case str() if kind in PASSED_OVER:
                return {"type": kind}
            case str() if kind in _CALLS or kind in _RUN_THERE:
                return self._as_message(kind, item) or self._leave_out(kind)
            case str() if kind not in READ:
                if _UNTOLD.fullmatch(kind):
                    return self._leave_out(kind)
                raise unsupported(f"Items of type {kind} are not supported.", f"{path}.type")
        return item

    def _take_call(self, item: Mapping[str, Any]) -> JSON | None:
        """What OpenAI or this gateway did; or what came of a call that the client had approved."""
        asked, given = item.get("approval_request_id"), _outcome(item)
        if isinstance(asked, str) and asked in self._approved:
            result = self._approved[asked]
            if given is not None:
                result |= given
            return {"type": "reasoning"}
        call_id, server, name = (item.get(each) for each in ("id", "server_label", "name"))
        if given is None or not (isinstance(call_id, str) and call_id):
            return None
        if not (isinstance(server, str) and isinstance(name, str)):
            return None
        arguments = _text(item.get("arguments") or "{}")
        if isinstance(asked, str) and (asked_id := asked_call(asked)) is not None:
            call_id = asked_id
        call = {"call_id": call_id, "name": name, "server_label": server, "arguments": arguments}
        return {"type": "mcp_call", **call, **given}

    def _take_asked(self, item: Mapping[str, Any]) -> JSON | None:
        """A request for approval, as this gateway writes it."""
        fields = {name: item.get(name) for name in ("id", "server_label", "name", "arguments")}
        asked_id, *others = fields.values()
        if isinstance(asked_id, str):
            call_id = asked_call(asked_id)
            if call_id is not None and all(isinstance(each, str) for each in others):
                return {"type": "mcp_approval_request", **fields, "call_id": call_id}
            self._not_ours.add(asked_id)
        return None

    def _take_approval(self, item: Mapping[str, Any], path: str) -> JSON:
        asked = item.get("approval_request_id")
        if not isinstance(asked, str):
            raise missing(f"{path}.approval_request_id")
        if asked in self._not_ours:
            return self._leave_out("mcp_approval_response")
        call_id = asked_call(asked)
        if call_id is None:
            raise unknown_approval(asked, f"{path}.approval_request_id")
        if asked in self._approved:
            raise InvalidRequest(
                f"Approval request '{asked[:100]}' is answered already.",
                code="duplicate_item",
                param=f"{path}.approval_request_id",
            )
        fields = {name: item.get(name) for name in ("approve", "reason")}
        made = {"type": "mcp_approval_response", "approval_request_id": asked, "call_id": call_id}
        self._approved[asked] = made | fields
        return self._approved[asked]

    def _leave_out(self, kind: str) -> JSON:
        self.left_out[kind] = None
        return {"type": "reasoning"}

    def _as_message(self, kind: str, item: Mapping[str, Any]) -> JSON | None:
        call_id = item.get("call_id") or item.get("id")
        if not isinstance(call_id, str) or not call_id:
            return None
        return (_CALLS.get(kind) or _RUN_THERE[kind])(item, call_id)

    def _refer(self, item: Mapping[str, Any], path: str) -> JSON:
        item_id = item.get("id")
        if not isinstance(item_id, str) or not item_id:
            raise missing(f"{path}.id")
        if item_id in self._referred:
            raise InvalidRequest(
                f"Item '{item_id[:100]}' is referred to already.",
                code="duplicate_item",
                param=f"{path}.id",
            )
        self._referred.add(item_id)
        found = self.kept.item(item_id)
        if found is None:
            raise NotFound(
                f"Item with id '{item_id[:100]}' not found. Items are not kept where store is"
                " false, and not for ever: send the item itself.",
                code="item_not_found",
                param=f"{path}.id",
            )
        self._bytes += len(write_json(found))
        if self._bytes > MAX_REFERRED_BYTES:
            raise TooLarge(
                f"The items that {self.path} refers to hold more than {MAX_REFERRED_BYTES} bytes.",
                param=f"{path}.id",
            )
        return found

    def _open(self, item: Mapping[str, Any], path: str) -> JSON:
        sealed = item.get("encrypted_content")
        if not isinstance(sealed, str):
            raise missing(f"{path}.encrypted_content")
        text = self.kept.summary(sealed)
        if text is None:
            raise InvalidRequest(
                f"{path}.encrypted_content could not be verified: it was not made here for this"
                " key, or was changed.",
                code="invalid_encrypted_content",
                param=f"{path}.encrypted_content",
            )
        return {"type": "message", "role": "user", "content": text}


def _kind(item: Mapping[str, Any]) -> Any:
    """One without a type is a message, or a reference if it has nothing but an id."""
    kind = item.get("type")
    if kind is None and isinstance(item.get("id"), str) and item.get("role") is None:
        return "item_reference"
    return "message" if kind is None else kind


# -- calls and outputs of built-in tools ---------------------------------------------------------

_Reader = Callable[[Mapping[str, Any], str], JSON | None]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else write_json(value).decode()


def _call(name: str, member: str) -> _Reader:
    """A tool that the client ran itself; `member` holds what it was given."""

    def read(item: Mapping[str, Any], call_id: str) -> JSON:
        given = item.get(member)
        arguments = given if isinstance(given, dict) else {member: given}
        return {
            "type": "function_call",
            "call_id": call_id,
            "name": name,
            "arguments": _text(arguments),
        }

    return read


def _output(item: Mapping[str, Any], call_id: str) -> JSON:
    output = item.get("output", item.get("status"))
    if isinstance(output, dict) and isinstance(output.get("image_url"), str):
        output = [{"type": "input_image", "image_url": output["image_url"]}]
    else:
        output = _text(output)
    return {"type": "function_call_output", "call_id": call_id, "output": output}


_CALLS: dict[str, _Reader] = {
    "local_shell_call": _call("local_shell", "action"),
    "shell_call": _call("shell", "action"),
    "apply_patch_call": _call("apply_patch", "operation"),
    "computer_call": _call("computer", "action"),
    "local_shell_call_output": _output,
    "shell_call_output": _output,
    "apply_patch_call_output": _output,
    "computer_call_output": _output,
}


def _ran(call_id: str, name: str, arguments: Any, output: Any) -> JSON | None:
    if not output:
        return None
    return {
        "type": RUN_THERE,
        "call_id": call_id,
        "name": name,
        "arguments": _text(arguments),
        "output": _text(output),
    }


def _outcome(item: Mapping[str, Any]) -> JSON | None:
    """The output of an MCP server's tool, or its error; None: neither is known."""
    error = item.get("error")
    if error:
        if isinstance(error, dict) and isinstance(error.get("content"), str):
            error = error["content"]
        return {"output": _text(error), "is_error": True}
    output = item.get("output")
    return None if output is None else {"output": _text(output)}


def _code(item: Mapping[str, Any], call_id: str) -> JSON | None:
    return _ran(call_id, "code_interpreter", {"code": item.get("code")}, item.get("outputs"))


def _files(item: Mapping[str, Any], call_id: str) -> JSON | None:
    return _ran(call_id, "file_search", {"queries": item.get("queries")}, item.get("results"))


_RUN_THERE: dict[str, _Reader] = {
    "code_interpreter_call": _code,
    "file_search_call": _files,
}
