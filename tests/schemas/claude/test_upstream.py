"""What the CLI's results mean to an OpenAI client."""

import re
import time

import pytest
from attrs import evolve

from ccapi.schemas.claude.output import LimitState, TurnResult
from ccapi.schemas.claude.upstream import control_error, plain, upstream_error
from ccapi.schemas.errors import (
    ChildError,
    CliUnusable,
    GatewayError,
    InvalidRequest,
    NotFound,
    NotLoggedIn,
    Overloaded,
    RateLimited,
    TooLarge,
    TurnTimeout,
)
from ccapi.schemas.turn import Usage

# An API error comes with the subtype "success".
FAILED = TurnResult(
    is_error=True,
    subtype="success",
    num_turns=1,
    text="API Error: it says why",
    stop_reason="stop_sequence",
    api_error_status=None,
    session_id="s",
    usage=Usage(),
)


@pytest.mark.parametrize(
    ("status", "kind", "told", "code"),
    [
        (400, InvalidRequest, 400, "upstream_rejected"),
        (401, NotLoggedIn, 503, "cli_not_logged_in"),
        (403, CliUnusable, 503, "cli_not_logged_in"),
        (404, NotFound, 404, "model_not_found"),
        (413, TooLarge, 413, "request_too_large"),
        (429, RateLimited, 429, "upstream_rate_limited"),
        (500, ChildError, 502, "upstream_failed"),
        (503, ChildError, 502, "upstream_failed"),
        (529, Overloaded, 503, "upstream_overloaded"),
        (None, ChildError, 502, "upstream_failed"),
        (418, ChildError, 502, "upstream_failed"),
    ],
)
def test_errors_go_by_the_status_of_the_api(
    status: int | None, kind: type[GatewayError], told: int, code: str
) -> None:
    error = upstream_error(evolve(FAILED, api_error_status=status))
    assert (type(error), error.status, error.code) == (kind, told, code)
    if code != "model_not_found":
        assert "API Error: it says why" in error.message


@pytest.mark.parametrize("status", [429, 529])
def test_a_retry_is_advised_where_waiting_helps(status: int) -> None:
    assert "retry-after" in upstream_error(evolve(FAILED, api_error_status=status)).headers()


@pytest.mark.parametrize("status", [400, 404, 413, 500, None])
def test_no_retry_is_advised_where_it_may_not_help(status: int | None) -> None:
    assert upstream_error(evolve(FAILED, api_error_status=status)).headers() == {}


NO_LOGIN = [
    "Not logged in · Please run /login",
    "Invalid API key · Please log in again",
    "Login expired · Please run /login",
    "OAuth token revoked · Please run /login",
    "Failed to authenticate: this login reached its time limit. Run `claude auth login`",
    "Cloud gateway session expired — run /login to reconnect.",
]


@pytest.mark.parametrize("text", NO_LOGIN)
def test_a_missing_login_is_known_by_its_words(text: str) -> None:
    error = upstream_error(evolve(FAILED, text=text))
    assert (type(error), error.status, error.code) == (NotLoggedIn, 503, "cli_not_logged_in")


# --- words for who runs the gateway ---------------------------------------------------------------

SCREEN = re.compile(
    r"(?<![\w.])/(login|model|upgrade|usage-credits|compact|status)\b|--model|\besc\b"
)


def in_words_of_the_gateway(error: GatewayError) -> bool:
    return not SCREEN.search(error.message)


@pytest.mark.parametrize("text", NO_LOGIN)
@pytest.mark.parametrize("status", [None, 401])
def test_without_a_login_the_operator_reads_what_to_do(text: str, status: int | None) -> None:
    failed = evolve(FAILED, text=text, api_error_status=status)
    error = upstream_error(failed, program="/opt/my cli/claude")
    assert in_words_of_the_gateway(error)
    for advice in ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "claude.env"):
        assert advice in error.message
    for command in ("`ccapi login --token`", "`ccapi login`", "'/opt/my cli/claude'"):
        assert command in error.message


@pytest.mark.parametrize("status", [None, 401, 403])
def test_without_a_login_no_sdk_tries_again(status: int | None) -> None:
    error = upstream_error(evolve(FAILED, text="Please run /login", api_error_status=status), 3.0)
    assert error.type != "overloaded_error"
    assert error.headers() == {"x-should-retry": "false"}


@pytest.mark.parametrize("text", NO_LOGIN)
def test_a_request_of_the_gateways_that_is_refused_for_lack_of_a_login(text: str) -> None:
    error = control_error("It could not be set up", text, "/opt/claude")
    assert (type(error), error.code) == (NotLoggedIn, "cli_not_logged_in")
    assert "`ccapi login`" in error.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no such model. Run /model to choose another.", "It failed: no such model."),
        ("Run /model.", "It failed: it gives no reason."),
    ],
)
def test_any_other_refusal_is_said_without_the_words_of_the_screen(text: str, message: str) -> None:
    error = control_error("It failed", text)
    assert (type(error), error.message) == (ChildError, message)


def test_why_the_api_refuses_a_login_is_passed_on() -> None:
    key = "Invalid API key · Fix external API key"
    error = upstream_error(evolve(FAILED, text=key, api_error_status=401))
    assert "(401: Invalid API key)" in error.message
    assert "external" not in error.message


def test_an_unknown_model_is_named_with_the_settings_that_decide() -> None:
    text = (
        "There's an issue with the selected model (claude-x). It may not exist or you may not have "
        "access to it. Run --model to pick a different model."
    )
    error = upstream_error(evolve(FAILED, text=text, api_error_status=404), model="claude-x")
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert in_words_of_the_gateway(error)
    for word in ("'claude-x'", "models.available", "models.aliases"):
        assert word in error.message


HIT = "You've hit your 5-hour limit · /upgrade or /usage-credits to finish what you want on."


@pytest.mark.parametrize(("seconds", "again"), [(7200.0, "false"), (45.0, None)])
def test_an_account_that_is_used_up_says_when_it_goes_on(seconds: float, again: str | None) -> None:
    limit = LimitState(time.time() + seconds, "five_hour")
    failed = evolve(FAILED, text=HIT, api_error_status=429)
    error = upstream_error(failed, 2.0, limit=limit)
    assert (error.status, error.code) == (429, "upstream_rate_limited")
    assert seconds - 5 < int(error.headers()["retry-after"]) <= seconds + 1
    # The openai SDKs would not wait longer than a minute, but ask again at once.
    assert error.headers().get("x-should-retry") == again
    assert "five_hour" in error.message
    assert in_words_of_the_gateway(error)


def test_a_limit_counts_for_nothing_but_a_429() -> None:
    limit = LimitState(time.time() + 7200, "five_hour")
    assert upstream_error(evolve(FAILED, api_error_status=500), limit=limit).headers() == {}


def test_an_account_without_credit_is_not_an_error_of_the_client() -> None:
    failed = evolve(FAILED, text="Credit balance is too low", api_error_status=400)
    error = upstream_error(failed)
    assert (error.status, error.code) == (429, "insufficient_quota")
    assert error.headers() == {"x-should-retry": "false"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Too long · /compact makes it shorter", "Too long"),
        ("It is so. Please double press esc to edit it. Yes.", "It is so. Yes."),
        ("Run /usage-credits to go on. Limit reached", "Limit reached"),
        ("API Error: it can't help. Start a new session to continue.\n\nMore: https://x/login",
         "API Error: it can't help.\n\nMore: https://x/login"),
        ("no POST /v1/messages here; see /model/x and a/model", None),
        ("There is no file /etc/config. Look at ./status", None),
        ("Run /model to switch", ""),
    ],
)  # fmt: skip
def test_sentences_about_the_clis_screen_are_left_out(text: str, said: str | None) -> None:
    assert plain(text) == (text if said is None else said)


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_error_always_says_something(text: str) -> None:
    assert upstream_error(evolve(FAILED, text=text)).message == "The CLI gave no answer."


@pytest.mark.parametrize("status", [400, None])
@pytest.mark.parametrize("reason", ["prompt_too_long", "blocking_limit"])
def test_what_does_not_fit_is_known_by_the_terminal_reason(status: int | None, reason: str) -> None:
    error = upstream_error(evolve(FAILED, api_error_status=status, terminal_reason=reason))
    assert (type(error), error.code, error.param) == (
        InvalidRequest,
        "context_length_exceeded",
        "messages",
    )


@pytest.mark.parametrize("reason", [None, "api_error", "image_error"])
def test_another_400_is_the_apis_own(reason: str | None) -> None:
    error = upstream_error(evolve(FAILED, api_error_status=400, terminal_reason=reason))
    assert error.code == "upstream_rejected"


@pytest.mark.parametrize("status", [401, 413, 429, 500])
def test_the_terminal_reason_counts_for_nothing_else(status: int) -> None:
    plain = upstream_error(evolve(FAILED, api_error_status=status))
    error = upstream_error(
        evolve(FAILED, api_error_status=status, terminal_reason="prompt_too_long")
    )
    assert (type(error), error.code) == (type(plain), plain.code)


# As the CLI says it.
TIMED_OUT = (
    "Request timed out. If the API is slow to answer, or a proxy or gateway holds responses, set "
    "API_TIMEOUT_MS above 1500."
)
REFUSED = (
    "API Error: Connection refused \u2014 a firewall or proxy may be blocking it (ECONNREFUSED)"
)
LOST = "API Error: Connection to the API was lost (ECONNRESET). This is usually temporary."


@pytest.mark.parametrize(
    ("text", "kind", "status", "code"),
    [
        (TIMED_OUT, TurnTimeout, 504, "upstream_timeout"),
        (REFUSED, ChildError, 502, "upstream_unreachable"),
        ("Unable to connect to API (ENOTFOUND)", ChildError, 502, "upstream_unreachable"),
        (LOST, ChildError, 502, "upstream_failed"),
    ],
)
def test_where_the_api_gave_no_answer_the_text_decides(
    text: str, kind: type[GatewayError], status: int, code: str
) -> None:
    error = upstream_error(evolve(FAILED, text=text))
    assert (type(error), error.status, error.code) == (kind, status, code)
    assert error.message == text


def test_words_count_for_nothing_where_there_is_a_status() -> None:
    """They are the API's, then, and may be any client's."""
    for text in (TIMED_OUT, REFUSED, "Not logged in"):
        error = upstream_error(evolve(FAILED, text=text, api_error_status=500))
        assert error.code == "upstream_failed"


@pytest.mark.parametrize("status", [429, 529])
@pytest.mark.parametrize(("wait", "told"), [(None, "30"), (3.556, "4"), (0.0, "1")])
def test_the_retry_that_is_advised_is_the_clis_own(
    status: int, wait: float | None, told: str
) -> None:
    error = upstream_error(evolve(FAILED, api_error_status=status), wait)
    assert error.headers()["retry-after"] == told


@pytest.mark.parametrize("status", [400, 500, None])
def test_what_the_cli_waited_for_before_counts_for_nothing_else(status: int | None) -> None:
    assert upstream_error(evolve(FAILED, api_error_status=status), 3.0).headers() == {}
