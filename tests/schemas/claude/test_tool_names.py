"""The names that the model receives."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.claude.tool_names import ANSWER_TOOL, wire_name


@pytest.mark.parametrize(
    "name", ["get_weather", "a", "-dash", "9", "A-b_c", "x" * 64, "Bash", "__proto__"]
)
def test_a_plain_name_is_its_own(name: str) -> None:
    assert wire_name(name) == name


@pytest.mark.parametrize("name", [ANSWER_TOOL, "ToolSearch"])
def test_a_name_that_means_something_to_the_cli_is_another(name: str) -> None:
    assert wire_name(name) != name
    assert wire_name(name).startswith(f"{name}_")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("get weather", "get_weather_dce3870e"),
        ("mail.send", "mail_send_"),
        ("Wetter/Köln", "Wetter_K_ln_"),
        ("", "_"),
        ("name\n", "name__"),
        ("\ud800", "__"),
    ],
)
def test_any_other_name_is_spelt(name: str, told: str) -> None:
    assert wire_name(name).startswith(told)


def test_a_long_name_is_cut() -> None:
    assert len(wire_name("x" * 65)) == 64
    assert wire_name("x" * 65) != wire_name("x" * 66)


NAMES = st.text(st.sampled_from("ab_. /é") | st.characters(exclude_categories=()), max_size=70)


@given(NAMES, NAMES)
def test_names_are_plain_and_never_become_one(one: str, other: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", wire_name(one))
    assert (wire_name(one) == wire_name(other)) == (one == other)
    assert wire_name(one) not in (ANSWER_TOOL, "ToolSearch")
