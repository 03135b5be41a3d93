"""The model of the demo: small, pleasant, deterministic, and honest about being scripted.

Knows what to answer to a prompt given what was said before, and how words are cut into tokens.
It answers so that a reader can see the conversation is real: it numbers the turns, counts the
messages it was given and quotes what was said earlier. Refuses to know frames and failures.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple

from . import demo_agent

_TOKENS: Final = re.compile(r"\S{1,12}\s*|\s+")
_TOOL_REQUEST: Final = re.compile(
    r"\s*(?:please )?(?:use|call) `?([\w.-]+)`?\s*(\{.*\})?", re.IGNORECASE | re.DOTALL
)
_ORDER: Final = re.compile(
    r"\n?\[From the application [^\]]*You must call (?:the tool `([\w-]+)`|at least one)[^\]]*\]\Z"
)
_MOST: Final = 1000  # how far it counts
_LONGEST: Final = 1000  # characters of a quotation

_ABILITIES: Final = """\
I am the **demo CLI**: a small stand-in for Claude Code, so that you can try this gateway \
without an account. Everything around me is real: the stream, the conversation, the usage.

Try one of these:

| You write | I do |
|---|---|
| `count to 20` | count, token by token (you can interrupt me) |
| `repeat: anything` | say exactly that |
| `what did I say first?` | look it up in our conversation |
| `how many messages?` | count what I was given |
| `show me some markdown` | show headings, a list and code |
| `what is your system prompt?` | quote it |
| `use some_tool {"key": "value"}` | call that tool, if you gave me one of this name |

Anything else I repeat back to you, with the number of the turn."""

_MARKDOWN: Final = """\
## A little of everything

1. *Emphasis* and **strong emphasis**
2. `inline code` and a [link](https://example.com/)
3. A quotation:

> The map is not the territory.

```python
def greet(name: str) -> str:
    return f"Hello, {name}!"
```

| token | what it is |
|---|---|
| delta | one piece of an answer |
| turn | a question and its answer |

- [x] streamed
- [ ] understood"""


class Prompt(NamedTuple):
    """What the model is shown: the last text of the user, and what came before it."""

    text: str
    earlier: list[str]  # the user's earlier texts, oldest first
    messages: int  # of both sides, this one included
    images: int
    tool_results: list[str]  # that came with this message
    system: str
    model: str
    agent: bool = False  # it has Claude Code's own tools


def tokens(text: str) -> list[str]:
    """Cut into pieces of a word or so; joined they are the text again."""
    return _TOKENS.findall(text)


def answer(prompt: Prompt) -> str:
    """The answer in Markdown. The same prompt always gets the same one."""
    if prompt.tool_results:
        return after_tools(prompt.tool_results)
    text = prompt.text.strip()
    lower = text.lower()
    if lower.startswith(("repeat:", "say:")):
        return text.partition(":")[2].strip() or "(nothing)"
    if counting := re.search(r"\bcount (?:up )?to (\d+)", lower):
        return _count(counting[1])
    if "system prompt" in lower:
        return (
            f"My system prompt is:\n\n{_quote(prompt.system)}"
            if prompt.system
            else ("I was given no system prompt.")
        )
    if asked := re.search(r"what (?:did i|was the) .*\b(first|last|before)\b", lower):
        return _recall(prompt.earlier, asked[1])
    if re.search(r"how many (messages|turns)", lower):
        return (
            f"I have been given **{prompt.messages}** message{_s(prompt.messages)} so far;"
            f" this is turn **{len(prompt.earlier) + 1}**."
        )
    if "markdown" in lower:
        return _MARKDOWN
    if re.search(r"\b(which|what) model\b", lower):
        return f"I answer as `{prompt.model}`, but I am only the demo CLI of the demo."
    if lower.rstrip("?!. ") in ("help", "who are you", "what are you", "what can you do"):
        return _ABILITIES + (demo_agent.ABILITIES if prompt.agent else "")
    if re.match(r"(hello|hi|hey|good (morning|day|evening))\b", lower) and len(lower) < 40:
        return (
            f"Hello! This is turn **{len(prompt.earlier) + 1}** of our conversation."
            " Ask me `what can you do?` to see what I know."
        )
    return _echo(prompt, text)


def tool_request(text: str, tools: list[str]) -> tuple[str, dict[str, Any]] | None:
    """The name and arguments of the tool that `use <tool> {json}` asks for, if it is offered."""
    asked = re.match(
        r"\s*(?:please )?(?:use|call) `?([\w.-]+)`?\s*(\{.*\})?", text, re.IGNORECASE | re.DOTALL
    )
    if asked is None or asked[1] not in tools:
        return None
    try:
        return asked[1], json.loads(asked[2] or "{}")
    except ValueError:
        return asked[1], {}


def part_order(text: str, tools: list[str]) -> tuple[str, str | None]:
    """What was said without the gateway's own words behind it, by which a tool has to be called;
    and that tool, the first one where any will do."""
    order = _ORDER.search(text)
    if order is None:
        return text, None
    return text[: order.start()], order[1] or next(iter(tools), None)


def after_tools(results: list[str]) -> str:
    """What is said once the tools have answered."""
    return "\n\n".join(f"The tool answered:\n\n{_quote(result)}" for result in results)


def result_text(result: dict[str, Any]) -> str:
    """The text of a tool's result: its content may be a string or blocks."""
    content = result.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(block.get("text", "(no text)") for block in content or [])


def instance_of(schema: Any, text: str = "") -> Any:
    """A value of a JSON schema's shape, `text` wherever it wants a string.

    Only what shapes a value is looked at (type, enum, const, properties, items, the first of
    anyOf); bounds and patterns are not.
    """
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return instance_of(schema[several][0], text)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            return {
                name: instance_of(part, text) for name, part in schema.get("properties", {}).items()
            }
        case "array":
            return [instance_of(schema["items"], text)] if "items" in schema else []
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return text


def _echo(prompt: Prompt, text: str) -> str:
    said = f"You said:\n\n{_quote(text)}" if text else "You said nothing."
    seen = f" and sent {prompt.images} image{_s(prompt.images)}" if prompt.images else ""
    return (
        f"{said}\n\nThis is turn **{len(prompt.earlier) + 1}** of our conversation{seen};"
        f" I have been given {prompt.messages} message{_s(prompt.messages)} so far."
    )


def _count(digits: str) -> str:
    end = int(digits[:6])
    numbers = ", ".join(str(number) for number in range(1, min(end, _MOST) + 1))
    return f"{numbers}, and so on." if end > _MOST else f"{numbers or 'I am there already'}."


def _recall(earlier: list[str], which: str) -> str:
    if not earlier:
        return "Nothing before this: it is the first thing you said."
    name, said = ("first", earlier[0]) if which == "first" else ("last", earlier[-1])
    return f"The {name} thing you said was:\n\n{_quote(said)}"


def _quote(text: str) -> str:
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    return "\n".join(f"> {line}" for line in shown.splitlines())


def _s(count: int) -> str:
    return "" if count == 1 else "s"
