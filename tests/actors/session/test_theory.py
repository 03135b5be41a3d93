"""The theory of operation says what the code does: its transitions, invariants and timers."""

import re
from pathlib import Path

import pytest

from ccapi.actors import session
from ccapi.actors.session.phases import Phase
from ccapi.actors.session.timers import Timer
from tests.support import machine_world

THEORY = str(session.__doc__)
NUMBERS = [int(number) for number in re.findall(r"^ ?(\d+)\. ", THEORY, re.MULTILINE)]


def named(paths: list[Path]) -> set[int]:
    text = " ".join(path.read_text("utf-8") for path in paths)
    found = re.findall(r"[Ii]nvariants? (\d+)(?: and (\d+))?", text)
    return {int(number) for pair in found for number in pair if number}


def test_the_invariants_are_numbered() -> None:
    assert list(range(1, 15)) == NUMBERS


def test_each_invariant_is_named_where_the_code_keeps_it() -> None:
    code = Path(str(session.__file__)).parent.glob("*.py")
    assert named([path for path in code if path.name != "__init__.py"]) == set(NUMBERS)


def test_each_invariant_is_named_where_the_property_tests_check_it() -> None:
    assert named([Path(machine_world.__file__)]) == set(NUMBERS)


@pytest.mark.parametrize("phase", Phase)
def test_each_phase_can_be_reached_and_all_but_one_can_be_left(phase: Phase) -> None:
    assert re.search(rf"^    {phase.name} +[a-z]", THEORY, re.MULTILINE), "it has its line"
    edges = machine_world.TRANSITIONS
    assert any(after is phase for _, after in edges)
    assert any(before is phase for before, _ in edges) is (phase is not Phase.CLOSED)


@pytest.mark.parametrize("timer", Timer)
def test_each_timer_has_its_line(timer: Timer) -> None:
    assert re.search(rf"^    {timer.name} +\S", THEORY, re.MULTILINE)
