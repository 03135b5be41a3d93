"""What a turn cost, out of the totals of the CLI's sessions."""

from attrs import evolve

from ccapi.actors.session.usage import NOTHING, Ledger
from ccapi.schemas.claude.output import TurnResult
from ccapi.schemas.turn import Usage


def tokens(count: int) -> Usage:
    return Usage(prompt_tokens=count, completion_tokens=count // 10, cost_usd=count / 1000)


def result(own: int, total: int | None, session: str = "s") -> TurnResult:
    whole = None if total is None else tokens(total)
    return TurnResult(
        False, "success", 1, "", None, None, session, evolve(tokens(own), cost_usd=0.0), total=whole
    )


def test_a_share_is_what_the_total_has_grown_by() -> None:
    ledger = Ledger()
    assert ledger.share(result(10, 10), ledger.bases(None)) == tokens(10)
    share = ledger.share(result(10, 5020), (tokens(10),))  # subagents took the rest
    assert share is not None
    assert share.prompt_tokens == 5010


def test_after_a_clean_exit_the_total_continues() -> None:
    ledger = Ledger()
    ledger.share(result(10, 100), (NOTHING,))
    ledger.close()
    assert ledger.bases("s")[0] == tokens(100)
    share = ledger.share(result(10, 160), ledger.bases("s"))
    assert share is not None
    assert share.prompt_tokens == 60


def test_after_a_kill_it_continues_from_the_last_clean_exit() -> None:
    ledger = Ledger()
    ledger.share(result(10, 100), (NOTHING,))
    ledger.close()
    ledger.share(result(10, 160), ledger.bases("s"))
    share = ledger.share(result(10, 130), ledger.bases("s"))
    assert share is not None
    assert share.prompt_tokens == 30


def test_what_was_thought_to_be_saved_may_not_have_been() -> None:
    """The likeliest base that is possible counts: no turn took less than its own calls."""
    ledger = Ledger()
    ledger.share(result(10, 100), (NOTHING,))
    ledger.close()  # but it was killed before it could save anything
    share = ledger.share(result(10, 40), ledger.bases("s"))
    assert share is not None
    assert share.prompt_tokens == 40


def test_a_total_of_unknown_beginning_gives_no_share() -> None:
    ledger = Ledger()
    assert ledger.bases("another gateway's") == ()
    assert ledger.share(result(10, 100), ()) is None
    assert ledger.share(result(10, None), (NOTHING,)) is None
    assert ledger.bases("s")  # from now on it is known


def test_another_session_begins_anew() -> None:
    ledger = Ledger()
    ledger.share(result(10, 100), (NOTHING,))
    ledger.close()
    assert ledger.share(result(10, 10, "t"), ledger.bases(None)) == tokens(10)
    assert ledger.bases("t") == (NOTHING, tokens(10), NOTHING)
