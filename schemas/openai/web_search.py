"""OpenAI's search of the web: how a request asks for it, and what of that has an effect here.

Knows: the tool ``web_search`` of the Responses API with its older names, and the field
``web_search_options`` of chat completions (OpenAI API reference). Refuses to know: who may search
(`actors.answering`), and how searches and annotations are written (`schemas.openai.output_items`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import invalid
from ..turn import SearchWish

SEARCH = re.compile(r"web_search(_preview)?(_\d{4}_\d\d_\d\d)?")
"""The types of the tool, with or without a version."""

MAX_DOMAINS = 100
"""As OpenAI allows."""

MAX_PLACE = 255
"""Characters of a city or a time zone."""

SIZES = ("low", "medium", "high")
PLACES = ("city", "region", "country", "timezone")


def read_search_tool(
    path: str, kind: str, filters: Any, location: Any, size: str | None
) -> tuple[SearchWish, tuple[str, ...]]:
    """The search that a tool of the type `kind` at `path` asks for, and which fields of it have no
    effect. Raises `InvalidRequest`."""
    vain = _check_size(size, f"{path}.search_context_size", f"tools.{kind}.search_context_size")
    domains: dict[str, tuple[str, ...]] = {}
    for name, value in (_object(filters, f"{path}.filters") or {}).items():
        if name in ("allowed_domains", "blocked_domains"):
            domains[name] = read_domains(value, f"{path}.filters.{name}")
        elif value is not None:
            vain = (*vain, f"tools.{kind}.filters.{name[:64]}")
    if len([each for each in domains.values() if each]) > 1:
        raise invalid("A search has either allowed_domains or blocked_domains.", f"{path}.filters")
    wish = SearchWish(
        allowed=domains.get("allowed_domains", ()),
        blocked=domains.get("blocked_domains", ()),
        location=read_location(location, f"{path}.user_location"),
        names=(f"tools.{kind}",),
    )
    return wish, vain


def read_search_options(given: Mapping[str, Any]) -> tuple[SearchWish, tuple[str, ...]]:
    """The same of ``web_search_options``."""
    path = "web_search_options"
    size = given.get("search_context_size")
    if size is not None and not isinstance(size, str):
        raise invalid(
            f"{path}.search_context_size must be a string.", f"{path}.search_context_size"
        )
    vain = _check_size(size, f"{path}.search_context_size", f"{path}.search_context_size")
    known = ("search_context_size", "user_location")
    vain = (*vain, *(f"{path}.{name[:64]}" for name, value in given.items() if name not in known))
    location = _object(given.get("user_location"), f"{path}.user_location")
    if location is not None:
        _check_kind(location, f"{path}.user_location")
        location = _object(location.get("approximate"), f"{path}.user_location.approximate")
    where = read_location(location, f"{path}.user_location.approximate")
    return SearchWish(location=where, names=(path,)), vain


def read_domains(given: Any, path: str) -> tuple[str, ...]:
    """Raises `InvalidRequest`."""
    if given is None:
        return ()
    if not isinstance(given, list | tuple) or len(given) > MAX_DOMAINS:
        raise invalid(f"{path} must be a list of at most {MAX_DOMAINS} domains.", path)
    for index, domain in enumerate(given):
        if not isinstance(domain, str) or not 0 < len(domain) <= MAX_PLACE:
            place = f"{path}[{index}]"
            raise invalid(f"{place} must be a domain of at most {MAX_PLACE} characters.", place)
    return tuple(given)


def read_location(given: Any, path: str) -> tuple[tuple[str, str], ...]:
    """A place as ``user_location`` says it. Raises `InvalidRequest`."""
    location = _object(given, path)
    if location is None:
        return ()
    _check_kind(location, path)
    parts: list[tuple[str, str]] = []
    for name in PLACES:
        value = location.get(name)
        if value in (None, ""):
            continue
        if not isinstance(value, str) or len(value) > MAX_PLACE:
            place = f"{path}.{name}"
            raise invalid(f"{place} must be text of at most {MAX_PLACE} characters.", place)
        parts.append((name, value))
    return tuple(parts)


def _check_kind(location: Mapping[str, Any], path: str) -> None:
    if location.get("type") not in (None, "approximate"):
        raise invalid(f"{path}.type must be approximate.", f"{path}.type")


def _check_size(size: str | None, path: str, name: str) -> tuple[str, ...]:
    if size not in (None, *SIZES):
        raise invalid(f"{path} must be one of {', '.join(SIZES)}.", path)
    return () if size is None else (name,)


def _object(given: Any, path: str) -> Mapping[str, Any] | None:
    if given is None or isinstance(given, Mapping):
        return given
    raise invalid(f"{path} must be an object.", path)
