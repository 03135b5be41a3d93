"""How the faults of a request's fields are worded: one function for each error code they share.

Knows: the codes. Refuses to know: the fields. `param` is a field's path, as in
``messages[2].content``.
"""

from __future__ import annotations

from .errors import InvalidRequest


def invalid(message: str, param: str) -> InvalidRequest:
    """The value is of the right type, and cannot be taken all the same."""
    return InvalidRequest(message, code="invalid_value", param=param)


def missing(param: str) -> InvalidRequest:
    """A field that some other field makes necessary."""
    return InvalidRequest(f"{param} is required.", code="missing_field", param=param)


def unsupported(message: str, param: str) -> InvalidRequest:
    """OpenAI has it, this gateway does not."""
    return InvalidRequest(message, code="unsupported_parameter", param=param)
