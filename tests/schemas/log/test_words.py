"""Which texts a search finds, and how a conversation is called."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.log import words
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


LETTERS = st.sampled_from("aZé ß.ﬁ\u0301\u0345\u3099がか東京本ไ1_\u00a0…\U0001f600,Σς\n")


@given(st.text(LETTERS | st.characters(codec="utf-8"), max_size=60), st.integers(1, 9))
def test_the_words_are_the_same_in_pieces(text: str, piece: int) -> None:
    whole = words_of(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "PIECE", piece)
        assert words_of(text) == whole


@pytest.mark.parametrize("unit", ["hello, ", "\u4f60\u597d", "hello \U0001f600 "])
def test_no_more_is_looked_at_than_is_needed(unit: str) -> None:
    text = unit * 500_000
    tracemalloc.start()
    try:
        assert len(words_of(text, 1000)) == 1000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
