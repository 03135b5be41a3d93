"""Errors as the Messages API has them: the envelope, its types and statuses, and who receives it.

Knows: which requests speak this dialect, and what each failure of the gateway is called in it
(Anthropic API reference, "Errors"). Refuses to know: who raises one, and how it is sent.
"""

from __future__ import annotations

from typing import Any

from ..errors import (
    CallerError,
    CliUnusable,
    Forbidden,
    GatewayError,
    InvalidRequest,
    NotFound,
    NotImplementedHere,
    Overloaded,
    RateLimited,
    TooLarge,
    TurnTimeout,
    Unauthenticated,
)

VERSION_HEADER = "anthropic-version"
VERSION = "2026-10-21"
FORMER_VERSION = "2023-06-01"
VERSIONS = (VERSION, FORMER_VERSION)
"""The versions of the API that are spoken here. In all that the gateway answers they are alike; the
later one has no sampling, and no citations in what users say."""

NO_THREADS = "thread_unsupported_request"
"""The code by which the SDKs know that they have to go on without a thread, as their tool runners
do."""

NO_CREDIT = "insufficient_quota"
"""The account has no credit: in this API that is no limit of a rate."""

_CODES = (NO_THREADS,)
"""Codes that the API has too, in ``details``."""

_PLACES = {"conversation_id": "x-conversation-id"}
"""What stands elsewhere in this dialect."""

_OVERLOADED = 529
"""What the API answers where it has no room. No RFC knows it; the SDKs do."""

_ROUTES = ("/v1/messages",)
"""Paths, and all below them, that are this dialect's alone."""

_OPENAI_ROUTES = (
    "/v1/chat", "/v1/completions", "/v1/responses", "/v1/conversations", "/v1/batches",
)  # fmt: skip
"""Paths, and all below them, that are never this dialect's."""

_TYPES: tuple[tuple[type[GatewayError], str], ...] = (
    (Unauthenticated, "authentication_error"),
    (Forbidden, "permission_error"),
    (NotFound, "not_found_error"),
    (TooLarge, "request_too_large"),
    (RateLimited, "rate_limit_error"),
    (TurnTimeout, "timeout_error"),
    (CliUnusable, "api_error"),
    (Overloaded, "overloaded_error"),
    (CallerError, "invalid_request_error"),
    (NotImplementedHere, "invalid_request_error"),
)
"""The first class that an error is of names its type; any other is an ``api_error``."""


def speaks_messages(path: str, *, versioned: bool) -> bool:
    """Whether a request for `path` is answered in this dialect. `versioned`: it has an
    ``anthropic-version``, as the SDKs send it with every request; that decides where both dialects
    have the route, or neither has."""
    if _is_below(path, _ROUTES):
        return True
    return versioned and not _is_below(path, _OPENAI_ROUTES)


def _is_below(path: str, routes: tuple[str, ...]) -> bool:
    return f"{path}/".startswith(tuple(f"{route}/" for route in routes))


def status_of(error: GatewayError) -> int:
    """The HTTP status of `error` in this dialect."""
    if error.code == NO_CREDIT:
        return 402
    if isinstance(error, Overloaded) and not isinstance(error, CliUnusable):
        return _OVERLOADED
    return error.status


def encode_error(error: GatewayError, request_id: str | None) -> dict[str, Any]:
    """The envelope: ``{"type": "error", "error": {"type", "message"}, "request_id"}``. It has no
    field for the place in the request, so that the message names it."""
    message, param = error.message, error.param
    param = None if param is None else _PLACES.get(param, param)
    if param is not None and param not in message:
        message = f"{param}: {message}"
    told: dict[str, Any] = {"type": _type_of(error), "message": message}
    if error.code in _CODES:
        told["details"] = {"error_code": error.code}
    return {"type": "error", "error": told, "request_id": request_id}


def _type_of(error: GatewayError) -> str:
    if error.code == NO_CREDIT:
        return "billing_error"
    return next((kind for each, kind in _TYPES if isinstance(error, each)), "api_error")


def read_version(given: str | None) -> str:
    """The version of the API that the client speaks; the former one, where it does not say. Raises
    `InvalidRequest`."""
    if given is not None and given not in VERSIONS:
        raise InvalidRequest(
            f"{VERSION_HEADER} must be {' or '.join(VERSIONS)}: no other version of the Messages "
            "API is spoken here.",
            code="invalid_value",
            param=VERSION_HEADER,
        )
    return given or FORMER_VERSION


def dotted(error: InvalidRequest) -> InvalidRequest:
    """The same error, its path as this dialect writes it: ``messages.2.content``."""
    if error.param is None or "[" not in error.param:
        return error
    path = error.param.replace("[", ".").replace("]", "")
    message = error.message.replace(error.param, path)
    return InvalidRequest(message, code=error.code, param=path)
