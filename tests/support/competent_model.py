"""A model good enough for the suites of real clients, behind the Messages API stub.

Knows one request's body, and answers as a competent model would: it calls the tools that the prompt
asks for or `tool_choice` forces, fills in their schemas with what the prompt says, uses their
results, writes JSON where a format or the prompt asks for it, stops where the request says so.
Refuses to know the clients, the gateway and the CLI, and remembers nothing between two requests.
What its texts and values are is in `competent_words`.

    stub.answer = competent_model
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any

from attrs import evolve, frozen

from .competent_words import (
    fill,
    fill_keys,
    numbers,
    places,
    quoted,
    schema_in,
    speak,
    words,
)
from .messages_answers import (
    JSON,
    Block,
    Failure,
    RedactedThinking,
    Reply,
    SearchResult,
    ServerToolUse,
    Text,
    Thinking,
    ToolUse,
    Usage,
)
from .messages_rules import broken_rule
from .messages_stub import Request

CHARS_PER_TOKEN = 4
STRUCTURED_OUTPUT = "StructuredOutput"
"""The tool through which the CLI asks for structured output."""

_OF_THE_CLI = ("<system-reminder>", "[Image: source:")
_ORDER = re.compile(
    r"\[From the application [^\]]*You must call (?:the tool `([\w-]+)`|at least one of the tools)"
)
"""How the user's last message may say that a tool has to be called."""

_IDLE_WORDS = frozenset({"a", "an", "by", "do", "for", "function", "get", "make", "my", "tool"})


def competent_model(request: Request) -> Reply | Failure:
    """Answer one request; what the real API would refuse is a `Failure` here too.

    `MessagesStub.answer` takes it as it is.
    """
    if broken := broken_rule(request.body):
        return Failure(400, broken)
    asked = Asked(request.body)
    calls = _calls(asked)
    if calls:
        return _finished(asked, Reply(tuple(calls)))
    text = _text(asked)
    reply = Reply((Text(text, max(1, len(text.split()))),))
    if re.search(r"\bslowly\b", asked.prompt):
        reply = evolve(reply, pause=0.02)
    return _finished(asked, _cut_short(asked, reply, text))


@frozen
class Asked:
    """What a request's body comes down to.

    `prompt` is what the user said last, `since` the messages after that: the calls made for it and
    their results.
    """

    body: JSON

    @cached_property
    def messages(self) -> list[tuple[str, list[JSON]]]:
        """Role and blocks of each message, without what the CLI says of its own."""
        spoken = []
        for message in self.body["messages"]:
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            kept = [b for b in blocks if not str(b.get("text", "")).startswith(_OF_THE_CLI)]
            if message["role"] != "system" and kept:
                spoken.append((message["role"], kept))
        return spoken

    @cached_property
    def _last(self) -> int:
        """The index of the last message in which the user says something."""
        said = [
            i
            for i, (role, blocks) in enumerate(self.messages)
            if role == "user" and any(map(_is_said, blocks))
        ]
        return said[-1] if said else 0

    @cached_property
    def blocks(self) -> list[JSON]:
        """The blocks of the prompt."""
        return self.messages[self._last][1] if self.messages else []

    @cached_property
    def prompt(self) -> str:
        texts = [block["text"] for block in self.blocks if block["type"] == "text"]
        return "\n".join(text for text in texts if not _ORDER.match(text))

    @cached_property
    def choice(self) -> JSON:
        """Which tools have to be called: by `tool_choice`, or by what the last message says."""
        given: JSON = self.body.get("tool_choice") or {"type": "auto"}
        last = self.messages[-1][1] if self.messages else []
        orders = [_ORDER.match(block["text"]) for block in last if block["type"] == "text"]
        order = next(filter(None, orders), None)
        if given["type"] != "auto" or order is None:
            return given
        named = {"type": "tool", "name": order[1]} if order[1] else {"type": "any"}
        return {**given, **named}

    @cached_property
    def system(self) -> str:
        given = self.body.get("system") or ""
        return given if isinstance(given, str) else "\n".join(block["text"] for block in given)

    @cached_property
    def since(self) -> list[JSON]:
        """Every block of the messages from the prompt's own on."""
        return [block for _, blocks in self.messages[self._last :] for block in blocks]

    @cached_property
    def results(self) -> list[JSON]:
        return [block for block in self.since if block["type"] == "tool_result"]

    @cached_property
    def called(self) -> list[str]:
        return [block["name"] for block in self.since if block["type"] == "tool_use"]

    @cached_property
    def said_before(self) -> str:
        """All that the user said, oldest first."""
        blocks = [block for role, found in self.messages if role == "user" for block in found]
        return "\n".join(block["text"] for block in blocks if block["type"] == "text")


def _is_said(block: JSON) -> bool:
    """Whether the user says something by it."""
    return block["type"] != "tool_result" and not _ORDER.match(str(block.get("text", "")))


def _calls(asked: Asked) -> list[ToolUse]:
    """Return the calls to make now; none means that the answer is a text."""
    tools: dict[str, JSON] = {tool["name"]: tool for tool in asked.body.get("tools") or []}
    choice = asked.choice
    if not tools or choice["type"] == "none":
        return []
    if dictated := _dictated(asked, tools):
        return dictated[len(asked.called) :][:1]
    if choice["type"] == "tool":
        names = [choice["name"]]
    else:
        names = _wanted(asked, tools)
        if not names and _has_to_answer_by_tool(asked, tools):
            names = [STRUCTURED_OUTPUT]
        if not names and choice["type"] == "any":
            names = [next(iter(tools))]
    # "then" asks for one step after the other, anything else for all of them at once.
    if choice.get("disable_parallel_tool_use") or re.search(r"\bthen\b", asked.prompt):
        names = names[:1]
    calls = [call for name in names for call in _calls_of(asked, tools[name])]
    return calls[:1] if choice.get("disable_parallel_tool_use") else calls


def _dictated(asked: Asked, tools: dict[str, JSON]) -> list[ToolUse]:
    """The calls that the prompt dictates (``Call NAME with {JSON}``), of tools that are there: one
    after the other. A tool's name may have a namespace in front."""
    calls = []
    for match in re.finditer(r"\bCall (\w+) with (?=\{)", asked.prompt):
        given, _ = json.JSONDecoder().raw_decode(asked.prompt, match.end())
        named = [tool for tool in tools if tool == match[1] or tool.endswith(f"__{match[1]}")]
        calls += [ToolUse(tool, given) for tool in named[:1]]
    return calls


def _has_to_answer_by_tool(asked: Asked, tools: dict[str, JSON]) -> bool:
    """Unless it did, or is asked for a text: a model obeys its user first, where it may choose."""
    in_text = "plain text" in asked.prompt
    return STRUCTURED_OUTPUT in tools and STRUCTURED_OUTPUT not in asked.called and not in_text


def _wanted(asked: Asked, tools: dict[str, JSON]) -> list[str]:
    """Return the tools that the prompt asks for and that have not been called for it yet."""
    prompt = asked.prompt.lower()
    about = [name for name, tool in tools.items() if _is_about(prompt, name, tool)]
    found = [name for name in about if name not in asked.called]
    return sorted(found, key=lambda name: _place_in(prompt, name))


def _is_about(prompt: str, name: str, tool: JSON) -> bool:
    if name == STRUCTURED_OUTPUT:
        return False
    if name.lower() in prompt:
        return True
    if re.search(r"\d \+ \d", prompt) and "add" in f"{name} {tool.get('description', '')}".lower():
        return True
    return bool((words(name) - _IDLE_WORDS) & words(prompt))


def _place_in(prompt: str, name: str) -> int:
    """Where the prompt first speaks of the tool."""
    found = [prompt.find(word) for word in (name.lower(), *sorted(words(name) - _IDLE_WORDS))]
    return min((place for place in found if place >= 0), default=len(prompt))


def _calls_of(asked: Asked, tool: JSON) -> list[ToolUse]:
    """Return one call, or one for each thing named where the tool takes one thing at a time."""
    schema: JSON = tool.get("input_schema") or {"type": "object"}
    required: list[str] = schema.get("required") or []
    things: list[str] = []
    if len(required) == 1 and tool["name"] != STRUCTURED_OUTPUT:
        kind = schema["properties"][required[0]].get("type")
        things = (
            [str(number) for number in numbers(asked.prompt)]
            if kind in ("integer", "number")
            else places(asked.prompt)
        )
    if tool["name"] == STRUCTURED_OUTPUT and not schema.get("properties"):
        if written := schema_in(f"{asked.system}\n{asked.prompt}"):
            return [ToolUse(tool["name"], fill(written, asked.prompt))]
        return [ToolUse(tool["name"], fill_keys(quoted(asked.prompt) or ["answer"], asked.prompt))]
    hints = [f"in {thing}" for thing in things] if len(things) > 1 else [asked.prompt]
    return [ToolUse(tool["name"], fill(schema, hint)) for hint in hints]


def _text(asked: Asked) -> str:
    """Return what to say where no tool is called."""
    wanted = (asked.body.get("output_config") or {}).get("format") or {}
    if wanted.get("type") == "json_schema":
        return json.dumps(fill(wanted["schema"], asked.prompt), ensure_ascii=False)
    for tool in asked.body.get("tools") or []:
        if tool["name"] == STRUCTURED_OUTPUT and "plain text" in asked.prompt:
            return f"```json\n{json.dumps(fill(tool['input_schema'], asked.prompt))}\n```"
    if asked.results:
        return "\n".join(_result_text(result) for result in asked.results)
    if "JSON" in asked.prompt + asked.system:
        if written := schema_in(f"{asked.system}\n{asked.prompt}"):
            return json.dumps(fill(written, asked.prompt), ensure_ascii=False)
        keys = quoted(asked.prompt) or ["answer"]
        return json.dumps(fill_keys(keys, asked.prompt), ensure_ascii=False)
    kinds = [block["type"] for block in asked.blocks]
    if "image" in kinds or "document" in kinds:
        seen = [f"{kinds.count(kind)} {kind}" for kind in ("image", "document") if kind in kinds]
        return f"I see {' and '.join(seen)}, small and plain."
    return speak(asked.prompt, asked.said_before)


def _result_text(result: JSON) -> str:
    content = result.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = " ".join(str(p.get("text") or f"({p['type']})") for p in parts)
    return f"The tool failed: {text}" if result.get("is_error") else f"The tool says: {text}"


def _cut_short(asked: Asked, reply: Reply, text: str) -> Reply:
    """Obey `stop_sequences` and `max_tokens`, whichever comes first."""
    limit = CHARS_PER_TOKEN * int(asked.body.get("max_tokens") or 4096)
    found = [(text.find(stop), stop) for stop in asked.body.get("stop_sequences") or []]
    place, stop = min(((at, stop) for at, stop in found if at >= 0), default=(len(text), None))
    if place > limit:
        return evolve(reply, blocks=(Text(text[:limit], 2),), stop_reason="max_tokens")
    if stop is not None:
        blocks = (Text(text[:place], 2),) if place else ()
        return evolve(reply, blocks=blocks, stop_reason="stop_sequence", stop_sequence=stop)
    return reply


def _finished(asked: Asked, reply: Reply) -> Reply:
    """Put thinking in front where it is on and called for, and count the tokens."""
    thinking: dict[str, Any] = asked.body.get("thinking") or {"type": "disabled"}
    if thinking["type"] != "disabled" and words(asked.prompt) & {"think", "reason", "prove"}:
        thought = Thinking("First what is given, next what follows from it.", 3)
        reply = evolve(reply, blocks=(thought, *reply.blocks))
    read = {key: asked.body.get(key) for key in ("messages", "system", "tools")}
    usage = Usage(
        input_tokens=1 + len(json.dumps(read)) // CHARS_PER_TOKEN,
        output_tokens=1 + sum(map(_size, reply.blocks)) // CHARS_PER_TOKEN,
    )
    return evolve(reply, usage=usage)


def _size(block: Block) -> int:
    match block:
        case ToolUse(_, given):
            return len(json.dumps(dict(given)))
        case RedactedThinking(data):
            return len(data)
        case ServerToolUse() | SearchResult():
            return 0
    return len(block.text)
