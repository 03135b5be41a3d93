"""What the CLI's results mean to an OpenAI client."""

import pytest
from attrs import evolve

from ccapi.schemas.errors import (
    ChildError,
    GatewayError,
    InvalidRequest,
    NotFound,
    Overloaded,
    RateLimited,
    TooLarge,
)
from ccapi.schemas.frames import TurnResult
from ccapi.schemas.turn import Usage
from ccapi.schemas.upstream import finish_reason, upstream_error

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
    ("stop_reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("from_the_future", "stop"),
        (None, "stop"),
    ],
)
def test_finish_reasons(stop_reason: str | None, finish: str) -> None:
    assert finish_reason(evolve(FAILED, is_error=False, stop_reason=stop_reason)) == finish


@pytest.mark.parametrize(
    ("status", "kind", "told", "code"),
    [
        (400, InvalidRequest, 400, "upstream_rejected"),
        (401, Overloaded, 503, "cli_not_logged_in"),
        (403, Overloaded, 503, "cli_not_logged_in"),
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
    assert error.message == "API Error: it says why"


@pytest.mark.parametrize("status", [429, 529])
def test_a_retry_is_advised_where_waiting_helps(status: int) -> None:
    assert "retry-after" in upstream_error(evolve(FAILED, api_error_status=status)).headers()


@pytest.mark.parametrize("status", [400, 404, 413, 500, None])
def test_no_retry_is_advised_where_it_may_not_help(status: int | None) -> None:
    assert upstream_error(evolve(FAILED, api_error_status=status)).headers() == {}


@pytest.mark.parametrize(
    "text", ["Not logged in · Please run /login", "Invalid API key · Please log in again"]
)
def test_a_missing_login_is_known_by_its_words(text: str) -> None:
    error = upstream_error(evolve(FAILED, text=text))
    assert (error.status, error.code) == (503, "cli_not_logged_in")


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_error_always_says_something(text: str) -> None:
    assert upstream_error(evolve(FAILED, text=text)).message == "The CLI gave no answer."
