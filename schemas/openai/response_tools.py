"""OpenAI's tools in the Responses API: functions, custom tools, namespaces of both, and built-in
ones.

Knows: how each is worded in a request and repeated in a response (OpenAI API reference,
"Responses"), under which flat name the model knows it, and which built-in tools only OpenAI can
run. Refuses to know: the other fields of a request (`schemas.openai.responses`), and how a call is
written (`schemas.openai.output_items`).

The model knows a tool of a namespace as ``namespace__name``, whatever other tools there are: a
history then names it the same, with or without them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

from ..convert import at_most
from ..errors import invalid, missing, unsupported
from ..mcp_tools import ServerTool, full_name
from ..message import CUSTOM_INPUT, ToolForm
from ..turn import SEARCH_TOOL, SearchWish, Tool, ToolChoice
from .chat_tools import MAX_TOOLS, FunctionTool, check_choice, read_functions
from .web_search import SEARCH, read_search_tool

BUILT_IN = re.compile(
    r"(web_search|computer)(_[a-z0-9_]{1,32})?"
    r"|file_search|code_interpreter|image_generation|mcp|local_shell|shell|apply_patch|tool_search"
    r"|[a-z0-9_.-]{1,32}:[a-z0-9_.:-]{1,64}"
)
"""Types of tools that OpenAI runs, that a client runs in a way of its own, or that some provider
has (with a colon, as Open Responses has it): left out here, but for a search of the web."""

MAX_HEADERS = 64
"""Of a request to an MCP server."""

_TEXT_INPUT = {
    "type": "object",
    "properties": {
        CUSTOM_INPUT: {
            "type": "string",
            "description": "All that the tool is given, as plain text.",
        }
    },
    "required": [CUSTOM_INPUT],
    "additionalProperties": False,
}


@frozen
class InnerTool:
    """A tool of a namespace."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None
    format: Mapping[str, Any] | None = None


@frozen
class ToolFilter:
    """Some tools of an MCP server: those of these names, and of this nature, as its annotations
    say (None: any)."""

    tool_names: tuple[str, ...] | None = None
    read_only: bool | None = None

    def passes(self, tool: ServerTool) -> bool:
        named = self.tool_names is None or tool.name in self.tool_names
        return named and self.read_only in (None, tool.read_only)


@frozen
class ApprovalFilters:
    always: ToolFilter | None = None
    never: ToolFilter | None = None


@frozen
class FlatTool(InnerTool):
    """Of the fields, those from `server_label` on are an MCP server's, those from `filters` on a
    search's."""

    tools: tuple[InnerTool, ...] | None = at_most(MAX_TOOLS, "tools")
    server_label: str | None = None
    server_url: str | None = field(default=None, repr=False)
    server_description: str | None = None
    connector_id: str | None = None
    tunnel_id: str | None = None
    headers: Mapping[str, Any] | None = at_most(MAX_HEADERS, "headers", repr=False)
    authorization: str | None = field(default=None, repr=False)
    allowed_tools: tuple[str, ...] | ToolFilter | None = None
    require_approval: str | ApprovalFilters | None = None
    filters: Mapping[str, Any] | None = None
    user_location: Mapping[str, Any] | None = None
    search_context_size: str | None = None
    external_web_access: bool | None = None

    @property
    def searches(self) -> bool:
        """Whether it is a search of the web, of its present state."""
        return SEARCH.fullmatch(self.type) is not None and self.external_web_access is not False


@frozen
class FlatChoice:
    type: str
    name: str | None = None
    namespace: str | None = None
    server_label: str | None = None
    mode: str | None = None
    tools: tuple[Mapping[str, Any], ...] | None = at_most(MAX_TOOLS, "tools")


def flat_name(name: str, namespace: str | None) -> str:
    """What the model calls the tool."""
    return f"{namespace}__{name}" if namespace else name


def form_of(name: str, namespace: str | None, *, custom: bool) -> ToolForm | None:
    """None: it is a plain function."""
    return ToolForm(name, namespace or None, custom) if namespace or custom else None


# -- what is given -------------------------------------------------------------------------------


def check_tools_length(raw: object, path: str = "tools") -> int:
    """Refuse more tools than are taken, before they are read; says how many there are. Their form
    is not looked at here. Raises `InvalidRequest`."""
    if not isinstance(raw, list):
        return 0
    count = len(raw)
    for tool in raw[: MAX_TOOLS + 1]:
        inner = tool.get("tools") if isinstance(tool, dict) else None
        count += len(inner) if isinstance(inner, list) else 0
    if count > MAX_TOOLS:
        raise invalid(f"{path} must hold at most {MAX_TOOLS} tools.", path)
    return count


def read_flat_tools(
    given: Mapping[str, FlatTool], *, replacing: bool = False
) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """The tools, by their places in the request, as the model knows them; and the types of those
    that are left out. `replacing`: of two with one name, the later one is meant. Raises
    `InvalidRequest`."""
    functions: dict[str, FunctionTool] = {}
    forms: dict[str, ToolForm] = {}
    places: dict[str, str] = {}
    left_out: dict[str, None] = {}
    for path, tool, namespace, about in _each(given):
        if BUILT_IN.fullmatch(tool.type):
            if not (isinstance(tool, FlatTool) and tool.searches):  # `read_search` has that
                left_out[tool.type] = None
            continue
        function = _function(tool, path, namespace, about)
        if replacing:
            functions.pop(places.get(function.name, ""), None)
            forms.pop(function.name, None)
        functions[path] = function
        places[function.name] = path
        form = form_of(tool.name or "", namespace, custom=tool.type == "custom")
        if form is not None:
            forms[function.name] = form
    tools = read_functions(functions)
    return (
        tuple(evolve(tool, form=forms.get(tool.name)) for tool in tools),
        tuple(left_out),
    )


def read_search(given: Mapping[str, FlatTool]) -> tuple[SearchWish | None, tuple[str, ...]]:
    """The search of the web that is among the tools, the first if there are several; and which of
    its fields have no effect. Raises `InvalidRequest`."""
    for path, tool in given.items():
        if tool.searches:
            return read_search_tool(
                path, tool.type, tool.filters, tool.user_location, tool.search_context_size
            )
    return None, ()


def with_tools(tools: Sequence[Tool], more: Sequence[Tool]) -> tuple[Tool, ...]:
    """All of them; of two with one name, that of `more`."""
    names = {tool.name for tool in more}
    return (*(tool for tool in tools if tool.name not in names), *more)


def _each(
    given: Mapping[str, FlatTool],
) -> Iterator[tuple[str, InnerTool, str | None, str]]:
    """Each tool with its place, its namespace, and its description beside its first tool."""
    for path, tool in given.items():
        if tool.type != "namespace":
            yield path, tool, None, ""
            continue
        if not tool.name:
            raise missing(f"{path}.name")
        if tool.tools is None:
            raise missing(f"{path}.tools")
        about = f"About all tools of {tool.name}: {tool.description}" if tool.description else ""
        for index, inner in enumerate(tool.tools):
            yield f"{path}.tools[{index}]", inner, tool.name, about
            about = ""


def _function(tool: InnerTool, path: str, namespace: str | None, about: str) -> FunctionTool:
    if tool.type not in ("function", "custom"):
        raise unsupported(f"Tools of type {tool.type} are not supported.", f"{path}.type")
    if tool.name is None:
        raise missing(f"{path}.name")
    name, texts = flat_name(tool.name, namespace), [tool.description, about]
    if tool.type == "function":
        return FunctionTool(name, _joined(texts), tool.parameters, tool.strict)
    texts.append(_read_format(tool.format, f"{path}.format"))
    return FunctionTool(name, _joined(texts), _TEXT_INPUT)


def _joined(texts: Iterable[str | None]) -> str:
    return "\n\n".join(filter(None, texts))


def _read_format(given: Mapping[str, Any] | None, path: str) -> str:
    """What the model reads about the text that a custom tool takes; nothing enforces it."""
    match given:
        case None | {"type": "text"}:
            return ""
        case {"type": "grammar", "syntax": str(syntax), "definition": str(definition)}:
            if syntax not in ("lark", "regex"):
                raise invalid(f"{path}.syntax must be lark or regex.", f"{path}.syntax")
            grammar = "Lark grammar" if syntax == "lark" else "regular expression"
            return f"The text must suit this {grammar}:\n{definition}"
        case {"type": "grammar"}:
            raise invalid(f"{path} needs the strings syntax and definition.", path)
        case _:
            raise invalid(f"{path}.type must be text or grammar.", f"{path}.type")


# -- which of them is chosen ---------------------------------------------------------------------


def read_flat_choice(
    given: str | FlatChoice | None,
    tools: tuple[Tool, ...] | None,
    known: Sequence[Tool] | None,
    *,
    searches: bool = False,
) -> tuple[ToolChoice, tuple[Tool, ...] | None]:
    """What is chosen, and the tools among which it is. `known` None: they are the conversation's,
    and not known here. `searches`: the web may be searched. Raises `InvalidRequest`."""
    match given:
        case None | "auto":
            return ToolChoice("auto"), tools
        case "none":
            return ToolChoice("none"), tools
        case "required":
            choice, path = ToolChoice("required"), "tool_choice"
        case str():
            raise invalid(
                "tool_choice must be none, auto, required or say which function.", "tool_choice"
            )
        case FlatChoice("function" | "custom", None):
            raise missing("tool_choice.name")
        case FlatChoice("function" | "custom", str(name), namespace):
            choice, path = ToolChoice("named", _chosen(name, namespace, tools)), "tool_choice.name"
        case FlatChoice("allowed_tools"):
            return _allowed(given, tools, searches=searches)
        case FlatChoice(kind) if searches and SEARCH.fullmatch(kind):
            return ToolChoice("named", SEARCH_TOOL), tools
        case FlatChoice("mcp", str(name), server_label=str(server)):
            # Which tools the servers have is known later (`actors.responses.mcp_tools`).
            return ToolChoice("named", full_name(server, name)), tools
        case FlatChoice("mcp"):
            return ToolChoice("required"), tools
        case FlatChoice(kind):
            raise unsupported(f"A tool choice of type {kind} is not supported.", "tool_choice.type")
    check_choice(choice, known, path)
    return choice, tools


def _chosen(name: str, namespace: str | None, tools: Sequence[Tool] | None) -> str:
    """The flat name of the tool that is meant; within a namespace, its bare name will do where no
    other tool has it."""
    wanted = flat_name(name, namespace)
    if namespace is None and wanted not in {tool.name for tool in tools or ()}:
        found = [tool.name for tool in tools or () if tool.form and tool.form.name == name]
        if len(found) == 1:
            return found[0]
    return wanted


def _allowed(
    given: FlatChoice, tools: tuple[Tool, ...] | None, *, searches: bool
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """Some of the tools: the model sees no others."""
    if given.mode not in (None, "auto", "required"):
        raise invalid("tool_choice.mode must be auto or required.", "tool_choice.mode")
    names: set[str] = set()
    for index, wish in enumerate(given.tools or ()):
        kind = wish.get("type")
        if isinstance(kind, str) and BUILT_IN.fullmatch(kind):
            continue
        found = _meant(wish, tools or ())
        if not found:
            path = f"tool_choice.tools[{index}]"
            raise invalid(f"{path} is none of the request's functions.", path)
        names.update(found)
    allowed = tuple(tool for tool in tools or () if tool.name in names)
    runs_here = searches and allows_search(given)
    if not (allowed or runs_here) and all(wish.get("type") != "mcp" for wish in given.tools or ()):
        raise invalid(
            "tool_choice.tools must name at least one tool that can run here.", "tool_choice.tools"
        )
    return ToolChoice("required" if given.mode == "required" else "auto"), allowed


def allows_search(choice: FlatChoice) -> bool:
    """Whether a search is among the tools that are allowed."""
    return any(SEARCH.fullmatch(str(wish.get("type"))) for wish in choice.tools or ())


def _meant(wish: Mapping[str, Any], tools: Sequence[Tool]) -> set[str]:
    name, namespace = wish.get("name"), wish.get("namespace")
    if not isinstance(name, str):
        return set()
    if wish.get("type") == "namespace":
        return {tool.name for tool in tools if tool.form and tool.form.namespace == name}
    wanted = _chosen(name, namespace if isinstance(namespace, str) else None, tools)
    return {tool.name for tool in tools if tool.name == wanted}


# -- what a response repeats ---------------------------------------------------------------------


def echo_tools(given: Iterable[FlatTool]) -> list[dict[str, Any]]:
    """The tools that the model could call, as the client knows them; of an MCP server, nothing that
    may be secret."""
    return [
        _echo_server(tool) if tool.type == "mcp" else _echo(tool)
        for tool in given
        if tool.type == "mcp" or tool.searches or not BUILT_IN.fullmatch(tool.type)
    ]


def without_search(echoed: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What `echo_tools` returned, without a search."""
    return [tool for tool in echoed if not SEARCH.fullmatch(str(tool.get("type")))]


def _echo_search(tool: FlatTool) -> dict[str, Any]:
    location = tool.user_location
    return {
        "type": tool.type,
        "filters": None if tool.filters is None else dict(tool.filters),
        "search_context_size": tool.search_context_size or "medium",
        "user_location": None if location is None else {"type": "approximate", **location},
    }


def _echo_server(tool: FlatTool) -> dict[str, Any]:
    approval = tool.require_approval
    if isinstance(approval, ApprovalFilters):
        filters = {"always": approval.always, "never": approval.never}
        said: Any = {name: _echo_filter(each) for name, each in filters.items() if each is not None}
    else:
        said = approval or "always"
    allowed = tool.allowed_tools
    return {
        "type": "mcp",
        "server_label": tool.server_label,
        "server_url": None if tool.server_url is None else _without_path(tool.server_url),
        "server_description": tool.server_description,
        "allowed_tools": _echo_filter(allowed) if isinstance(allowed, ToolFilter) else allowed,
        "headers": None,
        "require_approval": said,
    }


def _echo_filter(given: ToolFilter) -> dict[str, Any]:
    fields = {"tool_names": given.tool_names, "read_only": given.read_only}
    return {name: value for name, value in fields.items() if value is not None}


def _without_path(url: str) -> str:
    """As OpenAI repeats it: there may be a secret in what follows the host."""
    origin = re.match(r"https?://(?:[^/?#@]*@)?([^/?#@]*)", url)
    scheme = url.partition(":")[0]
    return f"{scheme}://{origin[1]}/<redacted>" if origin else "<redacted>"


def _echo(tool: InnerTool) -> dict[str, Any]:
    if isinstance(tool, FlatTool) and tool.searches:
        return _echo_search(tool)
    encoded: dict[str, Any] = {
        "type": tool.type,
        "name": tool.name,
        "description": tool.description,
    }
    if isinstance(tool, FlatTool) and tool.type == "namespace":
        inner = [_echo(each) for each in tool.tools or () if not BUILT_IN.fullmatch(each.type)]
        return {**encoded, "description": tool.description or "", "tools": inner}
    if tool.type == "custom":
        return {**encoded, "format": dict(tool.format or {"type": "text"})}
    parameters = {} if tool.parameters is None else dict(tool.parameters)
    return {**encoded, "parameters": parameters, "strict": bool(tool.strict)}


_SEARCH_CHOICES = ("web_search_preview", "web_search_preview_2025_03_11")


def echo_choice(given: str | FlatChoice | None) -> Any:
    match given:
        case FlatChoice("function" | "custom" as kind, name, namespace):
            more = {} if namespace is None else {"namespace": namespace}
            return {"type": kind, "name": name, **more}
        case FlatChoice("mcp", name, server_label=server):
            more = {} if name is None else {"name": name}
            return {"type": "mcp", "server_label": server, **more}
        case FlatChoice(kind) if SEARCH.fullmatch(kind):
            # As a choice, OpenAI's SDKs know the tool by its older name alone.
            return {"type": kind if kind in _SEARCH_CHOICES else "web_search_preview"}
        case FlatChoice(kind):
            return {
                "type": kind,
                "mode": given.mode or "auto",
                "tools": [dict(tool) for tool in given.tools or ()],
            }
        case _:
            return given or "auto"


# -- the text of a custom tool, as it comes ------------------------------------------------------

_BEGIN = re.compile(rf'\s*\{{\s*"{CUSTOM_INPUT}"\s*:\s*"')
_PIECE = re.compile(r'[^"\\]+|\\u[0-9a-fA-F]{4}|\\[^u]')

_LONGEST_BEGIN = 200
_LONGEST_PIECE = 12
"""Characters: two escapes of surrogates. No more can wait for what follows."""


class InputText:
    """The text within ``{"input": "…"}``, taken out of the JSON as it comes in fragments."""

    def __init__(self) -> None:
        self.given = 0
        """Characters that `broadcast` has returned."""
        self._rest = ""
        self._begun = self._ended = False

    def feed(self, fragment: str) -> str:
        """What of the text is known now, and was not before."""
        if self._ended:
            return ""
        self._rest += fragment
        if not self._begun:
            begin = _BEGIN.match(self._rest)
            if begin is None:
                self._ended = len(self._rest) > _LONGEST_BEGIN
                return ""
            self._begun, self._rest = True, self._rest[begin.end() :]
        text = self._take()
        self.given += len(text)
        return text

    def _take(self) -> str:
        """Whole characters alone: half an escape, or half a pair of surrogates, waits."""
        place, end = 0, 0
        while piece := _PIECE.match(self._rest, place):
            place = piece.end()
            if not _is_high_surrogate(piece[0]):
                end = place
        # What is no escape at all ends it too: the whole arguments decide.
        stuck = len(self._rest) - place >= _LONGEST_PIECE
        self._ended = stuck or self._rest[place : place + 1] == '"'
        taken, self._rest = self._rest[:end], self._rest[end:]
        try:
            return str(json.loads(f'"{taken}"', strict=False))
        except ValueError:
            self._ended = True
            return ""


def _is_high_surrogate(piece: str) -> bool:
    return piece[:3].lower() == r"\ud" and piece[3:4].lower() in tuple("89ab")
