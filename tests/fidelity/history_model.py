"""Histories as clients have them, and what the Messages API should read in one.

Knows OpenAI's messages and the Messages API's, and how the one reads in the words of the other.
Refuses to know the gateway: none of its code is used here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from attrs import frozen
from hypothesis import strategies as st

from tests.support.messages_stub import Reply, Text, ToolUse

from .served import JSON, Spoken, assistant, called, function, joined, part, tool, user

TOOLS = [function(name) for name in ("get_weather", "Bash", "search-2", "Read")]

ODD_TEXTS = (
    *("/help", "/clear now", "/usr/bin/env", "/", "!ls", "#note", "@README.md", "@/etc/hostname x"),
    *(
        "a\n\n\nb",
        "  indented",
        "ends in space  \n",
        "\n\nbegins so",
        "\ttab",
        "carriage\r\nreturn",
    ),
    *("日本語 🦀 é", "a\u2028b\u2029c", "nul \0 and \x1b[31m", "\ufeffmarked", "e\u0301 \u200d"),
    *('{"role":"user","content":"hi"}', '{"type":"result"}', "[]", "null", '"', "\\u0041", "\\"),
    *("Human: one\n\nAssistant: two", "<system-reminder>x</system-reminder>", "ultrathink"),
    *("[Request interrupted by user]", "No response requested.", "x" * 99),
)

# What counts as blank differs between languages; the Messages API refuses what is blank to it.
_blank = "".join(map(chr, (*range(0x21), *range(0x7F, 0xA1)))) + "\u1680\u2028\u2029\u202f\u205f"
_blank += "\u3000\ufeff" + "".join(map(chr, range(0x2000, 0x2010)))

texts = st.one_of(
    st.sampled_from(ODD_TEXTS),
    st.text(min_size=1, max_size=40).filter(lambda text: text.strip(_blank)),
)
"""Something is said. Lone surrogates have no UTF-8, so no client can send them."""

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
arguments = st.dictionaries(st.text(max_size=8), _values, max_size=3)


@frozen
class Exchange:
    """What was asked, and the answer to it."""

    asked: tuple[JSON, ...]
    answer: JSON

    @property
    def reply(self) -> Reply:
        """The same answer as the model gives it."""
        said = (Text(self.answer["content"], 2),) if self.answer["content"] else ()
        calls = (
            ToolUse(each["function"]["name"], json.loads(each["function"]["arguments"]), each["id"])
            for each in self.answer.get("tool_calls", ())
        )
        return Reply((*said, *calls))


@frozen
class History:
    """Exchanges, and what is asked now."""

    exchanges: tuple[Exchange, ...]
    asked: tuple[JSON, ...]

    def before(self, number: int) -> list[JSON]:
        """The messages of the first `number` exchanges."""
        exchanges = self.exchanges[:number]
        return [each for exchange in exchanges for each in (*exchange.asked, exchange.answer)]

    @property
    def messages(self) -> list[JSON]:
        return [*self.before(len(self.exchanges)), *self.asked]


_contents = texts | st.lists(texts.map(part), min_size=1, max_size=3)
_questions = st.lists(_contents.map(user), min_size=1, max_size=2)


@st.composite
def histories(draw: st.DrawFn, least: int = 0, most: int = 3) -> History:
    """A history of `least` to `most` exchanges, each of them a question or the results of the
    calls before it (and perhaps a question besides), with an answer that may call tools."""
    exchanges: list[Exchange] = []
    asked = draw(_questions)
    for number in range(draw(st.integers(least, most))):
        given = draw(st.lists(st.tuples(st.sampled_from(TOOLS), arguments), max_size=3))
        calls = [
            called(f"call_{number}_{index}", chosen["function"]["name"], values)
            for index, (chosen, values) in enumerate(given)
        ]
        said = draw(st.none() | texts if calls else texts)
        exchanges.append(Exchange(tuple(asked), assistant(said, *calls)))
        asked = _results(draw, calls) if calls else draw(_questions)
    return History(tuple(exchanges), tuple(asked))


def _results(draw: st.DrawFn, calls: Sequence[JSON]) -> list[JSON]:
    results = [
        tool(each["id"], draw(_contents), **draw(st.sampled_from(({}, {}, {"is_error": True}))))
        for each in draw(st.permutations(calls))
    ]
    return results + (draw(_questions) if draw(st.booleans()) else [])


def expected(messages: Iterable[JSON]) -> Spoken:
    """How the Messages API should receive these."""
    return joined(_translated(message) for message in messages)


def _translated(message: JSON) -> tuple[str, list[object]]:
    content: list[object] = list(_texts(message["content"]))
    if message["role"] == "tool":
        result = message["tool_call_id"], content, message.get("is_error", False)
        return "user", [result]
    for call in message.get("tool_calls", ()):
        given = call["function"]
        content.append((call["id"], given["name"], json.loads(given["arguments"])))
    return message["role"], content


def _texts(content: str | list[JSON] | None) -> list[str]:
    if isinstance(content, list):
        return [each["text"] for each in content]
    return [] if content is None else [content]
