"""What holds for every session's machine, whatever happens and in whatever order.

The invariants are asserted by `tests.support.machine_world`, at every action. Here are the orders:
thousands of scripts, each a string of bytes, which costs Hypothesis far less than rules would and
shrinks as well. A failing script is reported step by step. The theory of operation
(`ccapi.actors.session`) numbers the invariants.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from ccapi.actors.session import replay
from tests.support.machine_world import STEPS, World

STEPS_PER_SCRIPT = 30
# Two bytes a step: which one, and what it chooses.
SCRIPTS = st.binary(min_size=2 * STEPS_PER_SCRIPT, max_size=2 * STEPS_PER_SCRIPT)
VARIANTS = st.integers(0, 255)
# A conversation has to get somewhere before things can go wrong in it.
WHEEL = (
    *STEPS,
    *(World.begin,) * 7,
    *(World.serve, World.child_works, World.read, World.interrupt, World.child_goes) * 2,
    *(World.call, World.bring) * 2,
    *(World.server_answers,) * 3,
)

many = settings(
    max_examples=1500, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(autouse=True, scope="module")
def _short_histories_are_long() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "RECORDED_FROM", 4)
        yield


def play(world: World, script: bytes) -> None:
    for number, choice in zip(script[::2], script[1::2], strict=True):
        step = WHEEL[number % len(WHEEL)]
        note(f"{step.__name__}({choice})")
        step(world, choice)
    if script[0] % 2:
        note("wait_out()")
        world.wait_out()
    world.shut()


@many
@given(variant=VARIANTS, script=SCRIPTS)
def test_with_children_that_keep_to_the_protocol(variant: int, script: bytes) -> None:
    play(World(honest=True, variant=variant), script)


# A child that answers before it was asked, behind another one that died.
@example(
    variant=4,
    script=b"\0\0f\0\n\0\0\0\2" + bytes(11) + b"\xaf\0\x14" + bytes(41),
)
@many
@given(variant=VARIANTS, script=SCRIPTS)
def test_with_children_that_write_anything(variant: int, script: bytes) -> None:
    play(World(honest=False, variant=variant), script)
