"""The names of tools and calls, as the client has them and as the model sees them.

Knows: which names the Messages API takes, and which are taken. Refuses to know:
where names come from.
"""

from __future__ import annotations

import hashlib
import re

ANSWER_TOOL = "StructuredOutput"
"""The tool by which the model answers where the answer has to suit a schema."""

WEB_SEARCH = "WebSearch"
"""Claude Code's own tool by which an agent has the web searched."""

_TAKEN = frozenset((ANSWER_TOOL, "ToolSearch"))  # the latter makes the CLI hide all other tools

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")


def wire_name(name: str) -> str:
    """What the model sees in place of `name`: the same, wherever it may be.

    Any other name is spelt with what is allowed, and with eight hex digits of its SHA-256, so
    that two names never become one.
    """
    return name if name not in _TAKEN and _PLAIN.fullmatch(name) else _spell(name)


def wire_id(call_id: str) -> str:
    """What the API receives in place of a call's id, which another provider may have made up. What
    is spelt otherwise does not end in an underscore and digits alone (see `entry_of`)."""
    return call_id if _PLAIN.fullmatch(call_id) else _spell(call_id)


def respell(call_id: str, use: int) -> str:
    """`call_id` in a spelling that is no client's, another one for each `use`."""
    return f"{_plain(call_id)}-{_mark(f'{call_id}{chr(0)}{use}')}"


_ENTRY = re.compile(r"(.+)_[0-9]+")


def entry_of(call_id: str) -> str | None:
    """The id that the CLI takes `call_id` to be a part of, if a history has that one too: all but
    an underscore and digits at its end. The CLI drops the result of such a call
    (tests/contract/test_call_ids.py)."""
    found = _ENTRY.fullmatch(call_id)
    return None if found is None else found[1]


def _spell(text: str) -> str:
    return f"{_plain(text)}_{_mark(text)}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)[:55]


def _mark(text: str) -> str:
    """Eight hex digits, a letter among them."""
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"a{mark[1:]}" if mark.isdigit() else mark
