"""The words of a text, for search and for titles.

Knows: what a word is, whatever the case, accents and width of its letters. Every implementation
of the store searches by these words, so that all find the same.

Scripts that put no space between words (Chinese, Japanese, Thai, …) have one word for each letter;
a search for several of them looks for them side by side.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

MAX_WORD = 64
"""Characters of a word that count."""

MAX_WORDS = 20_000
"""Words of one turn that can be found: the first ones."""

MAX_TERMS = 32
"""Terms of a search that count."""

TITLE = 60
"""Characters of a conversation's title."""

_ASCII = re.compile(r"[a-z0-9]+")
# Thai to Khmer, kana, Han (with its extensions): a letter is a word.
_WORD = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]|[^\\W_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


PIECE = 16_384
"""Characters that are looked at in one go, at least."""

_CUT = re.compile("[\\s,.;:!?\u3400-\u4dbf\u4e00-\u9fff]")
"""A letter before which no word is cut: it begins one, or stands in none."""


def words_of(text: str, limit: int = MAX_WORDS) -> list[str]:
    """The first `limit` words of a text, in order, in the form in which they are compared."""
    words: list[str] = []
    for piece in _pieces(text):
        for match in _found(piece):
            if len(words) == limit:
                return words
            words.append(match[0][:MAX_WORD])
    return words


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces, so that no more of it is looked at than is needed: megabytes would take
    many times their length."""
    begin = 0
    while begin < len(text):
        cut = _CUT.search(text, begin + PIECE)
        end = len(text) if cut is None else cut.start()
        yield text[begin:end]
        begin = end


def _found(text: str) -> Iterator[re.Match[str]]:
    if text.isascii():
        return _ASCII.finditer(text.lower())
    bare = "".join(
        letter
        for letter in unicodedata.normalize("NFKD", text.casefold())
        if unicodedata.category(letter) != "Mn"
    )
    return _WORD.finditer(bare.casefold())


def terms_of(query: str) -> tuple[tuple[str, ...], ...]:
    """The terms of a search: each is the words of what stands between spaces. A text is found if
    it has every term, its words side by side; the last word of the last term may be the beginning
    of one. Empty where the query names nothing that could be found."""
    terms = (tuple(words_of(part, MAX_TERMS)) for part in query.split()[:MAX_TERMS])
    return tuple(term for term in terms if term)


def matches(words: Sequence[str], terms: Sequence[Sequence[str]]) -> bool:
    """Whether a text of these words is found by these terms."""
    last = len(terms) - 1
    return all(_holds(words, term, number == last) for number, term in enumerate(terms))


def _holds(words: Sequence[str], term: Sequence[str], is_prefix: bool) -> bool:
    size = len(term)
    for start in range(len(words) - size + 1):
        if list(words[start : start + size - 1]) == list(term[:-1]):
            last = words[start + size - 1]
            if last == term[-1] or (is_prefix and last.startswith(term[-1])):
                return True
    return False


def title_of(text: str) -> str | None:
    """The first words of a text, as they are shown; None where there are none."""
    words = " ".join(text[:1000].split()) or " ".join(text.split())
    words = words.encode("utf-8", "replace").decode()
    if not words:
        return None
    return words if len(words) <= TITLE else words[: TITLE - 1] + "…"
