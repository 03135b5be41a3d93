"""Stop texts: the answer ends before the first one, however it comes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccapi.schemas.claude.stops import StopCutter


def cut(pieces: list[str], stops: list[str]) -> list[str]:
    """What is delivered of `pieces`, piece by piece, and at the end."""
    cutter = StopCutter(stops)
    return [*(cutter.feed(piece) for piece in pieces), cutter.finish()]


def expected(text: str, stops: list[str]) -> str:
    """`text` up to the stop text that is complete first; of two that end together, the longer."""
    for end in range(1, len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            return text[: end - max(map(len, met))]
    return text


# Few letters, so that stop texts occur, overlap, and are each other's beginnings and ends.
TEXTS = st.text("ab", min_size=1, max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4)


@st.composite
def pieces_of(draw: st.DrawFn) -> list[str]:
    text = draw(TEXTS)
    borders = sorted(draw(st.sets(st.integers(0, len(text)), max_size=len(text))))
    return [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)], strict=True)]


@settings(max_examples=500)  # stop texts within others are rare
@given(pieces_of(), STOPS)
def test_all_is_delivered_up_to_the_first_stop_text(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    delivered = "".join(cut(pieces, stops))
    assert delivered == expected(text, stops)
    cutter = StopCutter(stops)
    cutter.feed(text)
    assert text.startswith(delivered + (cutter.met or ""))
    assert (cutter.met is None) == (delivered == text)
    assert not any(stop in delivered for stop in stops)


@given(pieces_of(), st.text("ab", min_size=1, max_size=4))
def test_one_stop_text_cuts_where_it_is_found_first(pieces: list[str], stop: str) -> None:
    assert "".join(cut(pieces, [stop])) == "".join(pieces).split(stop)[0]


@given(pieces_of(), STOPS)
def test_no_part_of_a_stop_text_is_delivered_before_it_is_known(
    pieces: list[str], stops: list[str]
) -> None:
    """At any time what is out is right, whatever comes next."""
    cutter, said, out = StopCutter(stops), "", ""
    for piece in pieces:
        said += piece
        out += cutter.feed(piece)
        for stop in stops:
            for size in range(1, len(stop) + 1):
                assert expected(said + stop[-size:], stops).startswith(out)
        assert cutter.cut == any(stop in said for stop in stops)


@given(pieces_of(), STOPS, TEXTS)
def test_nothing_comes_after_a_stop_text(pieces: list[str], stops: list[str], more: str) -> None:
    cutter = StopCutter(stops)
    for piece in [*pieces, stops[0]]:
        cutter.feed(piece)
    assert cutter.cut
    assert cutter.met in stops
    assert cutter.feed(more) == ""
    assert cutter.finish() == ""


@pytest.mark.parametrize(
    ("pieces", "delivered"),
    [
        (["one", " END"], ["one", " ", ""]),
        (["one E", "N", "D two"], ["one ", "", "", ""]),
        (["one E", "N", "d two"], ["one ", "", "ENd two", ""]),
        (["one E", "N"], ["one ", "", "EN"]),
        (["E", "E", "END", "x"], ["", "E", "E", "", ""]),
        (["END"], ["", ""]),
        ([""], ["", ""]),
    ],
)
def test_what_may_be_a_stop_text_is_held_back(pieces: list[str], delivered: list[str]) -> None:
    assert cut(pieces, ["END"]) == delivered


@pytest.mark.parametrize("pieces", [["abc"], ["ab", "c"], ["a", "b", "c"]])
def test_of_two_stop_texts_the_one_that_is_complete_first_counts(pieces: list[str]) -> None:
    """A model that stops by itself would never have said the c."""
    assert "".join(cut(pieces, ["abc", "b"])) == "a"
    assert "".join(cut(pieces, ["bc", "abc"])) == ""


@pytest.mark.parametrize("stops", [[], [""], ["", ""]])
def test_no_stop_text_cuts_nothing(stops: list[str]) -> None:
    assert cut(["a", "b"], stops) == ["a", "b", ""]


def test_what_a_regular_expression_would_read_is_text() -> None:
    assert "".join(cut(["a.b", "|.*"], [".*"])) == "a.b|"
