"""What a search of the web found, and which text is taken from it.

Knows: pages, and stretches of an answer's text. Refuses to know: who searches, and any wire format.

Where the API itself searches, it says which text is taken from which page. Where Claude Code's
``WebSearch`` does, the model knows pages by their links alone: then a text is taken from a page
where it has the page's link (`linked`), and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from attrs import frozen


@frozen
class WebPage:
    """A page that was found. `age` says how old it is, in the search's own words; `sealed` is what
    only the API can read of it (its ``encrypted_content``), empty where the API did not give it."""

    url: str
    title: str
    age: str | None = None
    sealed: str = ""


@frozen
class Source:
    """A page that a text is taken from. `text` are the page's own words, and `sealed` the place in
    it as the API names it (its ``encrypted_index``); both empty where only the link is known."""

    url: str
    title: str
    text: str = ""
    sealed: str = ""


@frozen
class Cited:
    """A stretch of the answer's text is taken from these pages. `start` and `end` are places in the
    whole text of the answer, in characters; `behind` is how many of them have come behind it."""

    start: int
    end: int
    sources: tuple[Source, ...]
    behind: int = 0


_LINK = re.compile(
    r"\[[^\[\]]{0,500}\]\((https?://[^\s()<>]{1,2000})\)|(https?://[^\s()<>\"'`\]]{1,2000})"
)

_STOPS = ".,;:!?*_"
"""What ends a sentence, or a word in Markdown, and no bare link."""

MAX_LINKS = 500


def linked(text: str, pages: Mapping[str, WebPage]) -> Iterable[tuple[int, int, Source]]:
    """The links to `pages`, which are given by their URLs, within `text`: each with the place where
    it begins and where it ends. A link of Markdown counts with its words. O(characters)."""
    for number, found in enumerate(_LINK.finditer(text)):
        if number == MAX_LINKS:
            return
        url, end = found[1], found.end()
        if url is None:
            url = found[2].rstrip(_STOPS)
            end = found.start() + len(url)
        page = pages.get(url) or pages.get(url.rstrip("/"))
        if page is not None:
            yield found.start(), end, Source(page.url, page.title)


def by_url(pages: Iterable[WebPage]) -> dict[str, WebPage]:
    """The pages by their URLs, with and without a slash at the end."""
    known: dict[str, WebPage] = {}
    for page in pages:
        known.setdefault(page.url, page)
        known.setdefault(page.url.rstrip("/"), page)
    return known
