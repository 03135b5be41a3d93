"""What a client receives for an exception that reached the border of the gateway.

Knows: which exceptions are meant for clients. Refuses to know: how an error is encoded.
"""

from __future__ import annotations

from ...schemas.errors import GatewayError, InternalError
from ...transport.loggers import get_logger

log = get_logger("ccapi.boundary")


def as_gateway_error(error: Exception) -> GatewayError:
    """The error that the client receives. One that is not meant for clients goes to the log, and
    the client receives an `InternalError`.

    A nursery wraps what fails inside it; a single `GatewayError` is found in there.
    """
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]
    if isinstance(cause, GatewayError):
        return cause
    log.error("request_failed", exc_info=error)
    return InternalError("The gateway failed on this request; its log has the cause.")
