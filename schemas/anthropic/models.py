"""Models as the Messages API lists them, and the pages of such a list.

Knows: the JSON of a model and of a page (Anthropic API reference, "Models"). Refuses to know: which
models there are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..claude.model_traits import ModelSizes
from ..errors import invalid

DEFAULT_LIMIT = 20
MAX_LIMIT = 1000
PAGE_PARAMETERS = ("limit", "after_id", "before_id")

EFFORTS = ("low", "medium", "high", "xhigh", "max")
EDITS = ("clear_thinking_20251015", "clear_tool_uses_20250919", "compact_20260112")
_THINKING = ("adaptive", "between_tools", "disabled", "enabled")


def encode_model(
    id: str,
    name: str,
    created: int,
    sizes: ModelSizes | None,
    efforts: Collection[str],
    *,
    can_skip_thinking: bool,
    searches: bool,
) -> dict[str, Any]:
    """`created` is in Unix seconds; `sizes` None: it is another maker's, of which no more is
    known; `searches`: the web is searched for who asks."""
    return {
        "type": "model",
        "id": id,
        "display_name": name,
        "created_at": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "max_input_tokens": None if sizes is None else sizes.context,
        "max_tokens": None if sizes is None else sizes.output,
        "capabilities": None
        if sizes is None
        else _capabilities(
            efforts,
            thinks=sizes.thinks,
            can_skip_thinking=can_skip_thinking,
            searches=searches,
        ),
    }


def _capabilities(
    efforts: Collection[str], *, thinks: bool, can_skip_thinking: bool, searches: bool
) -> dict[str, Any]:
    """What the gateway makes of the model's, and not what the API would."""
    types = {
        "adaptive": thinks,
        "between_tools": False,
        "disabled": can_skip_thinking,
        "enabled": thinks,
    }
    return {
        "batch": _supported(True),
        "citations": _supported(False),
        "code_execution": _supported(False),
        "context_management": {**_supported(False), **dict.fromkeys(EDITS, _supported(False))},
        "effort": {
            **_supported(bool(efforts)),
            **{effort: _supported(effort in efforts) for effort in EFFORTS},
        },
        "image_input": _supported(True),
        "pdf_input": _supported(True),
        "server_tools": {
            **_supported(searches),
            "code_execution": _supported(False),
            "web_search": _supported(searches),
        },
        "structured_outputs": _supported(True),
        "thinking": {
            **_supported(thinks),
            "types": {name: _supported(types[name]) for name in _THINKING},
        },
    }


def _supported(supported: bool, /) -> dict[str, Any]:
    return {"supported": supported}


def page_of(items: Sequence[dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """The page that `query` asks for. Raises `InvalidRequest`."""
    limit = _read_limit(query.get("limit"))
    after, before = query.get("after_id"), query.get("before_id")
    if after is not None and before is not None:
        raise invalid("before_id cannot be given beside after_id.", "before_id")
    ids = [item["id"] for item in items]
    if before is not None:
        place = _place(before, ids, "before_id")
        found, more = items[max(0, place - limit) : place], place > limit
    else:
        place = 0 if after is None else _place(after, ids, "after_id") + 1
        found, more = items[place : place + limit], len(items) > place + limit
    return {
        "data": [*found],
        "has_more": more,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
    }


def _read_limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_LIMIT
    if given.isascii() and given.isdigit() and len(given) <= 4 and 1 <= int(given) <= MAX_LIMIT:
        return int(given)
    raise invalid(f"limit must be a whole number from 1 to {MAX_LIMIT}.", "limit")


def _place(given: str, ids: Sequence[str], name: str) -> int:
    try:
        return ids.index(given)
    except ValueError:
        raise invalid(f"{name} names nothing of this list.", name) from None
