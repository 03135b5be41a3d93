"""The header ``anthropic-beta``: what each value asks for, and what becomes of it here.

A beta is a permission: it lets a request have fields, blocks or tools, and those are judged where
they stand. So a value that the gateway does not know is no reason to refuse a request (the CLI
sends new ones with nearly every version); it is named in ``x-ccapi-ignored``. What is refused is a
beta that would change the answer by itself, in a way that no field shows.

Knows: the names (Anthropic API reference, "Beta headers"; what the CLI sends). Refuses to know:
HTTP, and the fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import InvalidRequest, invalid, unsupported

BETA_HEADER = "anthropic-beta"
MAX_BETAS = 64

HONOURED: dict[str, str] = {
    "advanced-tool-use": "fields of tools, which are judged there",
    "claude-code": "says who asks",
    "effort": "output_config.effort, which every model here takes",
    "extended-cache-ttl": "a field of cache_control, which is taken note of",
    "files-api": "file_id in a source, which is taken",
    "fine-grained-tool-streaming": "input of tools in pieces, as it is always given here",
    "interleaved-thinking": "thinking between calls of tools: as the CLI has it",
    "message-batches": "a route",
    "mid-conversation-system": "system messages among the others, which are taken",
    "model-context-window-exceeded": "a stop reason",
    "oauth": "a way to show a key",
    "pdfs": "documents, which are taken",
    "prompt-caching": "cache_control, which is taken note of",
    "structured-outputs": "output_config.format and strict tools, which are honoured",
    "thinking-token-count": "a figure of the usage, which is always given",
    "token-counting": "a route",
    "token-efficient-tools": "how models of old wrote calls of tools",
    "tool-examples": "a field of tools, which is taken note of",
}
"""By the name without its date: what it permits is there, whether the header says so or not."""

REFUSED: dict[str, str] = {
    "dev-full-thinking": "thinking is given as the CLI receives it, which is in summary",
    "server-side-fallback": "no other model answers in place of the one that is named",
}
"""By the name without its date: it would change the answer, and why it cannot."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_DATE = re.compile(r"-20\d\d-?\d\d-?\d\d$")


def read_betas(values: Iterable[str]) -> frozenset[str]:
    """The names in the header's values, each of which may be a list. Raises `InvalidRequest` for
    what is no name, and for those that are `REFUSED`."""
    names = [name.strip() for value in values for name in value.split(",")]
    names = [name for name in names if name]
    if len(names) > MAX_BETAS:
        raise invalid(f"{BETA_HEADER} must hold at most {MAX_BETAS} values.", BETA_HEADER)
    for name in names:
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"{BETA_HEADER} holds {name[:100]!r}, which is no name of a beta.",
                code="invalid_value",
                param=BETA_HEADER,
            )
        reason = REFUSED.get(plain_name(name))
        if reason is not None:
            raise unsupported(f"{BETA_HEADER}: {name} is not supported: {reason}.", BETA_HEADER)
    return frozenset(names)


def plain_name(name: str) -> str:
    """The beta without its date."""
    return _DATE.sub("", name)


def has_beta(betas: Iterable[str], name: str) -> bool:
    """Whether the beta of that name, of any date, is among them."""
    return any(plain_name(beta) == name for beta in betas)


def ignored_betas(betas: Iterable[str]) -> tuple[str, ...]:
    """Those without effect, as ``x-ccapi-ignored`` names them."""
    return tuple(
        f"{BETA_HEADER}:{beta}" for beta in sorted(betas) if plain_name(beta) not in HONOURED
    )
