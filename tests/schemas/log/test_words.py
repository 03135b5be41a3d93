"""Which texts a search finds, and how a conversation is called."""

from __future__ import annotations

import pytest

from ccapi.schemas.log.words import MAX_WORD, TITLE, matches, terms_of, title_of, words_of


@pytest.mark.parametrize(
    ("text", "query", "found"),
    [
        ("The quick brown Fox", "fox", True),
        ("The quick brown Fox", "QUICK", True),
        ("The quick brown fox", "fox quick", True),
        ("The quick brown fox", "fox slow", False),
        ("Permanent", "perm", True),  # the last word may be the beginning of one
        ("Permanent change", "perm change", False),
        ("Café au lait", "cafe", True),
        ("cafe", "CAFÉ", True),
        ("STRASSE", "straße", True),
        ("main.py fails", "main.py", True),
        ("py main", "main.py", False),  # its words stand side by side
        ("東京は日本の首都", "日本", True),
        ("本日", "日本", False),
        ("snake_case", "case", True),
        ("\uff26\uff35\uff2c\uff2c width", "full", True),
        ("words", "\udc00", False),
        ("words", '" OR *', False),
        ("words", "", False),
    ],
)
def test_search(text: str, query: str, found: bool) -> None:
    terms = terms_of(query)
    assert (bool(terms) and matches(words_of(text), terms)) is found


def test_long_words_and_texts_are_bounded() -> None:
    assert words_of("x" * 1000) == ["x" * MAX_WORD]
    assert len(words_of("x " * 100, 7)) == 7


def test_titles() -> None:
    assert title_of(" \n ") is None
    assert title_of("What is\n\n  this?") == "What is this?"
    assert title_of("a" * 100) == "a" * (TITLE - 1) + "…"
    assert title_of("\ud800 hello") == "? hello"
    assert title_of(" " * 5000 + "late") == "late"
