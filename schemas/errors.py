"""The one taxonomy of failures, each with the HTTP status it means.

Knows: whose fault an error is (the client's, the child's, no room, out of time) and how an OpenAI
client sees it. Refuses to know: who raises it, and how it is written to a socket.

Code below a boundary raises plain errors where they occur; the boundary turns anything that is not
a `GatewayError` into `InternalError`, whose message says nothing of internals.
"""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, Self

SDK_PATIENCE_SECONDS = 60.0
"""The longest ``retry-after`` that the openai SDKs obey."""


class GatewayError(Exception):
    """A failure that a client can see.

    Attributes: `status` (HTTP status), `type` (OpenAI error type), `code` (machine-readable
    reason), `param` (the offending field, as in ``messages[2].content``, or None), `message`
    (for people), `retry_after` (seconds after which trying again may help, or None) and
    `should_retry` (False: a machine must not send the same request again, since some of what it
    asked for is done, or since it would fail again; None: the status says whether it may).
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after = retry_after
        self.should_retry: bool | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status} {self.code}: {self.message}>"

    def body(self) -> dict[str, Any]:
        """The OpenAI error envelope: ``{"error": {"message", "type", "param", "code"}}``."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Headers that belong to this failure: ``retry-after`` in whole seconds, rounded up; or
        ``x-should-retry: false``, which the openai SDKs obey whatever the status."""
        if self.should_retry is False:
            return {"x-should-retry": "false"}
        if self.retry_after is None:
            return {}
        return {
            "retry-after": str(max(1, math.ceil(self.retry_after))),
            "retry-after-ms": str(max(1, math.ceil(self.retry_after * 1000))),
        }

    def for_good(self) -> Self:
        """The same failure, of a request that a machine must not send again."""
        error = copy.copy(self)
        error.retry_after, error.should_retry = None, False
        return error


class InternalError(GatewayError):
    """Our bug. The log has the cause under the request id."""


# -- the client's fault ------------------------------------------------------------------------


class CallerError(GatewayError):
    """The request cannot be served as it stands; sending it again unchanged will not help."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_request"


class InvalidRequest(CallerError):
    """A field is missing, of the wrong type or not supported; `param` names it."""


class Unauthenticated(CallerError):
    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message, code=code, param=param)
        # Claude Code tries a wrong key eleven times, unless the answer says not to.
        self.should_retry = False


class Forbidden(CallerError):
    status = 403
    type = "permission_error"
    default_code = "origin_not_allowed"


class NotFound(CallerError):
    """No such thing, or it belongs to another key: the client cannot tell which."""

    status = 404
    type = "not_found_error"
    default_code = "not_found"


class MethodNotAllowed(CallerError):
    status = 405
    default_code = "method_not_allowed"


class Conflict(CallerError):
    status = 409
    type = "conflict_error"
    default_code = "conversation_busy"


class TooLarge(CallerError):
    status = 413
    default_code = "request_too_large"


class UnsupportedMediaType(CallerError):
    status = 415
    default_code = "unsupported_media_type"


class Unprocessable(CallerError):
    """Two requests contradict each other."""

    status = 422
    default_code = "idempotency_key_reused"


class UpgradeRequired(CallerError):
    """What is there speaks another protocol, or another version of it."""

    status = 426
    default_code = "upgrade_required"


class NotImplementedHere(GatewayError):
    """A part of the OpenAI surface that this gateway does not offer."""

    status = 501
    type = "invalid_request_error"
    default_code = "not_implemented"


# -- the fields of a request ----------------------------------------------------------------------
#
# One function for each code they share. `param` is a field's path, as in
# ``messages[2].content``.


def invalid(message: str, param: str) -> InvalidRequest:
    """The value is of the right type, and cannot be taken all the same."""
    return InvalidRequest(message, code="invalid_value", param=param)


def missing(param: str) -> InvalidRequest:
    """A field that some other field makes necessary."""
    return InvalidRequest(f"{param} is required.", code="missing_field", param=param)


def unsupported(message: str, param: str) -> InvalidRequest:
    """OpenAI has it, this gateway does not."""
    return InvalidRequest(message, code="unsupported_parameter", param=param)


# -- no room -------------------------------------------------------------------------------------


class RateLimited(GatewayError):
    """Too much is asked for at once, here or at the API behind the CLI."""

    status = 429
    type = "rate_limit_error"
    default_code = "too_many_turns"


class QuotaExhausted(RateLimited):
    """The account behind the CLI has used up what it may. `retry_after` says when it may go on,
    which is later than an SDK should wait; None: not by itself."""

    default_code = "upstream_rate_limited"

    def headers(self) -> dict[str, str]:
        """Beyond a minute the openai SDKs would not wait as long as `retry-after` says, but try."""
        soon = self.retry_after is not None and self.retry_after <= SDK_PATIENCE_SECONDS
        return super().headers() | ({} if soon else {"x-should-retry": "false"})


class LimitReached(RateLimited):
    """An API key has used what it may. `limit` names which limit, as the settings do; `resets_at`,
    when it may go on (Unix seconds, as `now`), can be later than an SDK should wait."""

    default_code = "key_limit_reached"

    def __init__(self, message: str, *, limit: str, now: float, resets_at: float) -> None:
        super().__init__(message, retry_after=max(resets_at - now, 0.001))
        self.limit = limit
        self.resets_at = resets_at

    def body(self) -> dict[str, Any]:
        """The envelope, with ``limit`` and ``resets_at`` (Unix seconds)."""
        body = super().body()
        body["error"] |= {"limit": self.limit, "resets_at": math.ceil(self.resets_at)}
        return body

    def headers(self) -> dict[str, str]:
        """Beyond a minute the openai SDKs would not wait as long as `retry-after` says, but try."""
        soon = self.retry_after is not None and self.retry_after <= SDK_PATIENCE_SECONDS
        return super().headers() | ({} if soon else {"x-should-retry": "false"})


class Overloaded(GatewayError):
    """The gateway cannot take the request now: draining, no CLI, no capacity."""

    status = 503
    type = "overloaded_error"
    default_code = "no_capacity"


def draining(retry_after: float | None = 5.0) -> Overloaded:
    """The gateway stops and takes no more work; another one may serve the client after
    `retry_after` seconds."""
    return Overloaded("The gateway is stopping.", code="draining", retry_after=retry_after)


STORAGE_RETRY_SECONDS = 2.0
"""When a client may try again: an SDK's two retries see an engine through its start, and where one
of several gateways is cut off, no balancer sends them there any more."""


def storage_unavailable(what: str) -> Overloaded:
    """The store has a fault, so that `what` is so (a clause, as in "Usage cannot be read now")."""
    text = f"{what}: the gateway's storage has a fault, which its log names."
    return Overloaded(text, code="storage_unavailable", retry_after=STORAGE_RETRY_SECONDS)


class Elsewhere(Overloaded):
    """Another node has the conversation: `node_id`, which is reached at `url`. A client receives
    this only where its request could not be passed on."""

    default_code = "conversation_elsewhere"

    def __init__(self, node_id: str, url: str) -> None:
        super().__init__("Another node has this conversation just now.", retry_after=0.5)
        self.node_id = node_id
        self.url = url


class NodeLost(GatewayError):
    """The node that did what was asked is gone, and it is not known how far it came."""

    status = 502
    type = "upstream_error"
    default_code = "node_lost"


def node_lost() -> NodeLost:
    """What was asked of another node may have been done there."""
    return NodeLost(
        "The node that had this conversation is gone. Whether this was done is not known: look at "
        "the conversation before you try again."
    ).for_good()


class CliUnusable(Overloaded):
    """No turn can succeed before the operator has done something: there is no CLI, or it is not
    logged in. To send the request again would not help, and no SDK should."""

    type = "server_error"
    default_code = "cli_not_found"

    def headers(self) -> dict[str, str]:
        """``x-should-retry: false``, which the openai SDKs obey whatever the status."""
        return {"x-should-retry": "false"}


class NotLoggedIn(CliUnusable):
    """The CLI has no login, or the API does not take it."""

    default_code = "cli_not_logged_in"


# -- the child's fault ---------------------------------------------------------------------------


class ChildError(GatewayError):
    """The CLI, or the API behind it, failed the turn."""

    status = 502
    type = "upstream_error"
    default_code = "upstream_failed"


class ChildDied(ChildError):
    """The process ended, or could not be started, while a turn needed it."""

    default_code = "child_died"


class HistoryNotWritten(ChildDied):
    """A history could not be put where the process would take it up."""

    default_code = "history_not_written"


class ChildProtocolError(ChildError):
    """The process wrote what is not stream-json, or a line over the limit."""

    default_code = "child_protocol_error"


# -- out of time ---------------------------------------------------------------------------------


class TurnTimeout(GatewayError):
    status = 504
    type = "timeout_error"
    default_code = "turn_timeout"


class TurnInterrupted(GatewayError):
    """The turn was stopped by the client that asked for it, or by another that may stop it.

    The status is nginx's "client closed request": the client that would read it has usually gone.
    """

    status = 499
    type = "invalid_request_error"
    default_code = "turn_interrupted"
