"""Which links of a text are to pages that were found, and where they stand."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.search import MAX_LINKS, Source, WebPage, by_url, linked

A, B = WebPage("https://a.example/x", "A"), WebPage("https://b.example/", "B")
PAGES = by_url([A, B])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("See [the page](https://a.example/x).", [("[the page](https://a.example/x)", "A")]),
        ("See https://a.example/x, or not.", [("https://a.example/x", "A")]),
        ("(https://a.example/x)", [("https://a.example/x", "A")]),
        ("**https://b.example**", [("https://b.example", "B")]),
        ("<https://b.example/>", [("https://b.example/", "B")]),
        ("[b](https://b.example) https://a.example/x",
         [("[b](https://b.example)", "B"), ("https://a.example/x", "A")]),
        ("https://a.example/y and a.example/x", []),
        ("[b](https://c.example)", []),
    ],
)  # fmt: skip
def test_links(text: str, found: list[tuple[str, str]]) -> None:
    places = [(text[begin:end], source.title) for begin, end, source in linked(text, PAGES)]
    assert places == found


def test_a_link_says_no_more_than_that_it_is_one() -> None:
    [(_, _, source)] = linked("https://a.example/x", PAGES)
    assert source == Source("https://a.example/x", "A")


@given(st.text("[]()<>ht ps:/a.exml\n", max_size=300))
def test_any_text_is_looked_through(text: str) -> None:
    for begin, end, _ in linked(f"{text}https://b.example{text}", PAGES):
        assert 0 <= begin < end <= 2 * len(text) + len("https://b.example")


@pytest.mark.parametrize("piece", ["[", "[a](", "[a](https://", "https://a.example/x ", "[["])
def test_hostile_text_takes_no_longer_than_its_length(piece: str) -> None:
    begun = time.perf_counter()
    found = [*linked(piece * 50_000, PAGES)]
    assert len(found) <= MAX_LINKS
    assert time.perf_counter() - begun < 3
