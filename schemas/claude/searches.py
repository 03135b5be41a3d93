"""Searches of the web in the words of the Messages API: the blocks by which it says what it looked
for, what it found and what a text is taken from, read and written.

Knows: ``server_tool_use``, ``web_search_tool_result`` and ``web_search_result_location`` (Anthropic
API reference, "Web search tool"). Refuses to know: frames and requests around them.

Written from the same words they are the same bytes, whichever way they came: a client that brings a
block back brings the one that it received.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..convert import write_json
from ..message import Citations, ServerBlock
from ..search import Source, WebPage
from ..turn import SEARCH_TOOL
from ..turn_items import SearchEnded, SearchStarted

USE, RESULT, LOCATION = "server_tool_use", "web_search_tool_result", "web_search_result_location"


def encode_use(started: SearchStarted) -> dict[str, Any]:
    given = json.loads(started.input)
    return {"type": USE, "id": started.id, "name": SEARCH_TOOL, "input": given}


def encode_result(ended: SearchEnded) -> dict[str, Any]:
    content: Any = [_encode_page(page) for page in ended.pages]
    if ended.error is not None:
        content = {"type": "web_search_tool_result_error", "error_code": ended.error}
    return {"type": RESULT, "tool_use_id": ended.id, "content": content}


def _encode_page(page: WebPage) -> dict[str, Any]:
    return {
        "type": "web_search_result",
        "title": page.title,
        "url": page.url,
        "encrypted_content": page.sealed,
        "page_age": page.age,
    }


def encode_sources(sources: Iterable[Source]) -> list[dict[str, Any]]:
    return [
        {
            "type": LOCATION,
            "cited_text": each.text,
            "url": each.url,
            "title": each.title,
            "encrypted_index": each.sealed,
        }
        for each in sources
    ]


ID = "srvtoolu_"
"""How the id of each search begins that the API made."""


def block_of(search: SearchStarted | SearchEnded) -> ServerBlock:
    """The block, as the conversation remembers it. The API would not take that of an agent's
    search, which it did not make: it reads of that in words."""
    encoded = encode_use(search) if isinstance(search, SearchStarted) else encode_result(search)
    if not search.id.startswith(ID):
        encoded = {"type": "text", "text": _in_words(search)}
    return ServerBlock(write_json(encoded).decode())


def _in_words(search: SearchStarted | SearchEnded) -> str:
    match search:
        case SearchStarted(input=given):
            return f"[{SEARCH_TOOL}: {given}]"
        case SearchEnded(error=str(error)):
            return f"[{SEARCH_TOOL} failed: {error}]"
    found = [f"{page.title} ({page.url})" for page in search.pages]
    return f"[{SEARCH_TOOL} found: {', '.join(found) or 'nothing'}]"


def citations_of(sources: Iterable[Source]) -> Citations:
    return Citations(write_json(encode_sources(sources)).decode())


def read_search(block: Mapping[str, Any]) -> SearchStarted | SearchEnded | None:
    """What a block says of a search; None: it is about something else."""
    match block:
        case {"type": "server_tool_use", "id": str(id), "name": name} if name == SEARCH_TOOL:
            return SearchStarted(id, write_json(block.get("input") or {}).decode())
        case {"type": "web_search_tool_result", "tool_use_id": str(id)}:
            content = block.get("content")
            error = content.get("error_code") if isinstance(content, Mapping) else None
            pages = () if isinstance(content, Mapping) else tuple(read_pages(content))
            return SearchEnded(id, pages, error if isinstance(error, str) else None)
    return None


def read_pages(content: Any) -> Iterator[WebPage]:
    for page in content if isinstance(content, list | tuple) else ():
        if isinstance(page, Mapping) and isinstance(page.get("url"), str):
            age = page.get("page_age")
            yield WebPage(
                page["url"],
                _text(page, "title"),
                age if isinstance(age, str) else None,
                _text(page, "encrypted_content"),
            )


def read_sources(citations: Any) -> Iterator[Source]:
    """The pages among what a text cites."""
    for each in citations if isinstance(citations, list | tuple) else ():
        if isinstance(each, Mapping) and each.get("type", LOCATION) == LOCATION:
            yield Source(
                _text(each, "url"),
                _text(each, "title"),
                _text(each, "cited_text"),
                _text(each, "encrypted_index"),
            )


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
