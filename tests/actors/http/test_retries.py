"""What must not be done twice: an error of a turn that has done something says so to SDKs."""

from collections.abc import Callable

import pytest

from ccapi.actors.session.phases import Limits
from ccapi.schemas.claude.output import ToolUseStarted, TurnResult
from ccapi.schemas.errors import (
    ChildDied,
    GatewayError,
    InternalError,
    NotFound,
    Overloaded,
    RateLimited,
    TurnTimeout,
)
from ccapi.schemas.message import Message
from ccapi.schemas.turn import Failed, Usage
from tests.actors.session.test_machine_agents import working
from tests.support.talk import LOOK, Talk, called, results, user

ERRORS = (
    ChildDied("a"),
    InternalError("a"),
    NotFound("a", code="c", param="p"),
    Overloaded("a", retry_after=1),
    RateLimited("a", code="c", retry_after=0.5),
    TurnTimeout("a"),
)


def last_error(talk: Talk) -> GatewayError:
    outcome = talk.ends[-1].outcome
    assert isinstance(outcome, Failed)
    return outcome.error


def is_final(error: GatewayError) -> bool:
    """Whether a header keeps SDKs from trying again, and none says when to."""
    assert (error.should_retry is False) == (error.headers() == {"x-should-retry": "false"})
    return error.should_retry is False


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_error_for_good_is_the_same_but_for_its_headers(error: GatewayError) -> None:
    final = error.for_good()
    assert type(final) is type(error)
    assert final.body() == error.body()
    assert str(final) == str(error)
    assert is_final(final)
    assert final.for_good().headers() == final.headers()
    assert not is_final(error)


def failed(status: int | None) -> TurnResult:
    return TurnResult(True, "success", 1, "no", "stop_sequence", status, "s", Usage())


def die(talk: Talk) -> None:
    talk.starts()  # else the child may have been dead when it was asked: another one is asked
    talk.gone()


def wait_in_vain(talk: Talk) -> None:
    talk.rings()


def close(talk: Talk) -> None:
    talk.close(Overloaded("Stopping.", code="draining", retry_after=5))


End = Callable[[Talk], None]


def fail(status: int | None) -> End:
    def end(talk: Talk) -> None:
        talk.feed(failed(status))

    return end


ENDS = (die, wait_in_vain, close, *map(fail, (None, 429, 500, 529)))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("acts", [True, False])
def test_an_agent_that_has_begun_to_act_must_not_be_asked_again(end: End, acts: bool) -> None:
    talk = working(limits=Limits(turn=30))
    talk.says("Let me see.")
    if acts:
        talk.feed(ToolUseStarted("t1", "Bash"))
    end(talk)
    assert is_final(last_error(talk)) == acts


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("told", ["to the child that waits", "to another", "as a history"])
def test_what_the_clients_tools_came_to_must_not_be_sent_again(end: End, told: str) -> None:
    talk = Talk(Limits(turn=30))
    history: tuple[Message, ...] = ()
    if told == "as a history":
        history = (user("ask"), called("c1"))
    else:
        talk.turn("ask", tools=(LOOK,))
        talk.ready()
        talk.set_up()
        talk.suspends("c1")
        if told == "to another":
            talk.gone()
    tools = (LOOK,)  # else the turn is harmless, and put before another child by itself
    talk.turn(*history, results(c1="sunny"), tools=tools)
    if told != "to the child that waits":
        talk.ready()
        talk.set_up()
        talk.taken_in()
    end(talk)
    assert is_final(last_error(talk))


def test_results_that_no_child_received_may_come_again() -> None:
    talk = Talk()
    talk.turn("ask", tools=(LOOK,))
    talk.ready()
    talk.set_up()
    talk.suspends("c1")
    talk.gone()
    talk.turn(results(c1="sunny"))
    talk.wake_failed()
    assert not is_final(last_error(talk))


def test_results_that_stand_further_back_in_the_history_do_not_count() -> None:
    for behind, final in (((user("and?"),), True), ((called(text="Well."), user("and?")), False)):
        talk = Talk()
        talk.turn(user("ask"), called("c1"), results(c1="sunny"), *behind, tools=(LOOK,))
        talk.ready()
        talk.set_up()
        talk.taken_in()
        die(talk)
        assert is_final(last_error(talk)) == final
