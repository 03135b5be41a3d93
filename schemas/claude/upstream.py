"""What the CLI's results without an answer mean to a client: errors.

Knows: `TurnResult`'s fields. Refuses to know: when a result comes. Errors go by `is_error` and
`api_error_status`, never by the subtype: an API error comes with the subtype ``success``.

The CLI's own words are for a person before its screen ("Please run /login"). A client of the
gateway has no such screen, so they are replaced by what the gateway's operator can do, and where
they are passed on, without the sentences that are about the screen (`plain`).
"""

from __future__ import annotations

import re
import shlex
import time

from ..errors import (
    ChildError,
    CliUnusable,
    GatewayError,
    InvalidRequest,
    NotFound,
    NotLoggedIn,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    TooLarge,
    TurnTimeout,
)
from .output import LimitState, TurnResult

_TOO_LONG = ("prompt_too_long", "blocking_limit")
"""How the CLI ends what does not fit: the API said so, or it saw it itself."""


def is_not_resumed(result: TurnResult) -> bool:
    """Whether the CLI says by `result`, before it is set up, that it cannot take up the session it
    was to resume: the transcript is gone, cannot be read, or lacks the message.

    Measured: the subtype ``error_during_execution`` with the reason in ``errors``, then status 1.
    """
    failed = result.is_error and result.subtype == "error_during_execution"
    return failed and not result.num_turns and result.api_error_status is None


def is_remembered(status: int | None) -> bool:
    """Whether the CLI may remember what the API said, and ask otherwise from now on: it leaves out
    what the API has refused once. It does not for limits and for the API's own errors."""
    return status is not None and status != 429 and status < 500


RETRY_SECONDS = 30.0
"""When trying again may help, where the CLI does not say when it would have tried."""


NO_LIMIT = LimitState()

_COMMANDS = (
    *("add-dir", "agents", "auto-mode-setup", "clear", "compact", "config", "context"),
    *("cost", "design", "design-login", "doctor", "effort", "exit", "export"),
    *("extra-usage", "fast", "feedback", "fork", "goal", "help", "hooks"),
    *("init", "list-agents", "login", "logout", "mcp", "memory", "model"),
    *(
        "models",
        "permissions",
        "plan",
        "plugin",
        "privacy-settings",
        "rate-limit-options",
        "release-notes",
    ),
    *("reload-plugins", "remote-control", "remote-env", "rename", "resume", "review", "rewind"),
    *("sandbox", "schedule", "settings", "skills", "status", "statusline", "teleport"),
    *("terminal-setup", "upgrade", "usage", "usage-credits", "voice"),
)
"""Commands of the CLI's screen that its texts name."""

_SCREEN = re.compile(
    rf"(?<![\w/.:-])/(?:{'|'.join(_COMMANDS)})(?![\w/-])"
    r"|--model\b|\besc\b|external api key|interactive session|start a new session"
    r"|claude auth login|claude setup-token",
    re.IGNORECASE,
)
_CLAUSES = re.compile(r"( · |(?<=[.!?])\s+|\n+)")

_LOGIN_WORDS = re.compile(r"\blog(?:ged)? in\b|/login\b|\bsign in\b|failed to auth", re.IGNORECASE)
"""How the CLI says that it has no login, where it did not come to asking the API."""

_NO_CREDIT = "Credit balance is too low"
"""The CLI's text for a 400 that says so."""


def plain(text: str) -> str:
    """`text` of the CLI's without the sentences that name a command or a key of its screen."""
    pieces = _CLAUSES.split(text.strip())  # clause, what parts it from the next, clause, …
    kept: list[str] = []
    for index in range(0, len(pieces), 2):
        if not _SCREEN.search(pieces[index]):
            kept += [pieces[index - 1] if kept else "", pieces[index]]
    return "".join(kept).strip()


def how_to_log_in(program: str) -> str:
    """What the operator can do about a login. `program`: the CLI that the gateway runs."""
    return (
        "The gateway's operator can set ANTHROPIC_API_KEY, or CLAUDE_CODE_OAUTH_TOKEN to the token "
        "that `ccapi login --token` prints, in the gateway's environment or in its setting "
        "claude.env, and start it again; or log in on its machine with `ccapi login`. (Both run "
        f"the CLI's own login, of {shlex.quote(program)}.)"
    )


def not_logged_in(program: str, reason: str = "") -> NotLoggedIn:
    """No turn can succeed; `reason`: why, where it is known."""
    why = reason or "The Claude Code CLI behind this gateway is not logged in."
    return NotLoggedIn(f"{why} {how_to_log_in(program)}")


def says_no_login(text: str) -> bool:
    """Whether the CLI says by `text` that it has no login."""
    return bool(_LOGIN_WORDS.search(text))


def control_error(what: str, text: str, program: str = "claude") -> GatewayError:
    """The error for a request of the gateway's that the CLI refused with `text`; `what` failed."""
    if says_no_login(text):
        return not_logged_in(program)
    return ChildError(f"{what}: {plain(text) or 'it gives no reason.'}")


def _login_refused(status: int, text: str, program: str) -> CliUnusable:
    said = plain(text).rstrip(".")
    said = "" if said.lower().startswith("not logged in") else said
    about = f"{status}: {said}" if said else f"{status}"
    reason = f"The API refused the login of the Claude Code CLI behind this gateway ({about})."
    if status == 401:
        return not_logged_in(program, reason)
    # It is taken, but not for this: other requests may be answered.
    return CliUnusable(f"{reason} {how_to_log_in(program)}", code="cli_not_logged_in")


def _used_up(limit: LimitState, program: str) -> QuotaExhausted:
    assert limit.resets_at is not None
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(limit.resets_at))
    name = f" ({limit.name})" if limit.name else ""
    return QuotaExhausted(
        f"The usage limit{name} of the account behind this gateway is reached, until {until}. "
        f"With another login it could answer before. {how_to_log_in(program)}",
        retry_after=max(1.0, limit.resets_at - time.time()),
    )


def _no_credit(program: str) -> QuotaExhausted:
    return QuotaExhausted(
        "The account behind this gateway has no credit left at the API. Its owner can buy some in "
        f"the Anthropic Console, or use another login. {how_to_log_in(program)}",
        code="insufficient_quota",
    )


def _no_such_model(model: str) -> NotFound:
    named = f"model {model!r}" if model else "model"
    return NotFound(
        f"The API does not know the {named}, or the login of this gateway may not use it. Its "
        "operator decides by models.available which models requests may name, and by "
        "models.aliases what else they may be called.",
        code="model_not_found",
        param="model",
    )


def upstream_error(
    result: TurnResult,
    retry_after: float | None = None,
    *,
    model: str = "",
    program: str = "claude",
    limit: LimitState = NO_LIMIT,
) -> GatewayError:
    """The error for a result without an answer of the model.

    `retry_after`: seconds for which the CLI last waited before it asked the API again; it goes by
    what the API says. `model` is the one that was asked for, `program` the CLI that runs, `limit`
    what the child last reported of its account's.
    """
    text = plain(result.text) or "The CLI gave no answer."
    wait = RETRY_SECONDS if retry_after is None else retry_after
    match result.api_error_status:
        case 400 if result.terminal_reason in _TOO_LONG:
            return InvalidRequest(text, code="context_length_exceeded", param="messages")
        case 400 if result.text.startswith(_NO_CREDIT):
            return _no_credit(program)
        case 400:
            return InvalidRequest(text, code="upstream_rejected")
        case 401 | 403 as status:
            return _login_refused(status, result.text, program)
        case 404:
            return _no_such_model(model)
        case 413:
            return TooLarge(text)
        case 429 if limit.resets_at is not None:
            return _used_up(limit, program)
        case 429:
            return RateLimited(text, code="upstream_rate_limited", retry_after=wait)
        case 529:
            return Overloaded(text, code="upstream_overloaded", retry_after=wait)
        case None if result.terminal_reason in _TOO_LONG:
            return InvalidRequest(text, code="context_length_exceeded", param="messages")
        case None if "timed out" in text.lower():
            return TurnTimeout(text, code="upstream_timeout")
        case None if "connection refused" in text.lower() or "unable to connect" in text.lower():
            return ChildError(text, code="upstream_unreachable")
        case None if says_no_login(result.text):
            return not_logged_in(program)
        case _:
            return ChildError(text)
