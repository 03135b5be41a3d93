"""OpenAI responses over a WebSocket: the messages both sides send beside the events of a response.

Knows: client events (``response.create``, ``response.cancel``, ``response.steer``), and how errors
and the fate of steering are reported (OpenAI API reference, "Responses", "WebSocket mode";
cancelling is this gateway's own). Refuses to know: what becomes of any of them
(`actors.websocket.responses`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import frozen

from ..convert import structure
from ..errors import GatewayError, InvalidRequest, invalid, missing
from .chat_messages import History
from .foreign_items import take_items
from .items import Input, read_items
from .output_items import JSON

MAX_STREAM_ID = 128

SteerError = Literal[
    "response_not_found", "invalid_input", "too_many_pending_steers", "response_already_completed",
    "response_not_active", "successor_creation_failed",
]  # fmt: skip

# -- what a client sends -------------------------------------------------------------------------


@frozen
class Create:
    """`raw` is what the body of ``POST /v1/responses`` would be. `stream_id` names the lane in
    which the response is given; None is a lane too."""

    raw: Mapping[str, Any]
    stream_id: str | None = None


@frozen
class Cancel:
    """End the response of that id; None: the one that the lane gives just now."""

    response_id: str | None = None
    stream_id: str | None = None


@frozen
class Steer:
    """`given` is the input as it came, to be returned where it cannot be used."""

    previous_response_id: str
    given: Any


ClientEvent = Create | Cancel | Steer


def stream_id_of(message: object) -> str | None:
    """The lane that a message names, however wrong it is otherwise."""
    found = message.get("stream_id") if isinstance(message, Mapping) else None
    return found if isinstance(found, str) and 0 < len(found) <= MAX_STREAM_ID else None


def read_event(message: object) -> ClientEvent:
    """Raises `InvalidRequest`."""
    if not isinstance(message, dict):
        raise InvalidRequest("A message must be a JSON object.", code="invalid_type")
    _check_stream_id(message)
    match message.get("type"):
        case None:
            raise missing("type")
        case "response.create":
            return _read_create(message)
        case "response.cancel":
            return structure(message, Cancel)
        case "response.steer":
            if not isinstance(message.get("previous_response_id"), str):
                raise missing("previous_response_id")
            return Steer(message["previous_response_id"], message.get("input"))
        case _:
            raise invalid(
                "type must be response.create, response.cancel or response.steer.", "type"
            )


def _check_stream_id(message: Mapping[str, Any]) -> None:
    if message.get("stream_id") is not None and stream_id_of(message) is None:
        raise invalid(
            f"stream_id must be a string of 1 to {MAX_STREAM_ID} characters.", "stream_id"
        )


def _read_create(message: Mapping[str, Any]) -> Create:
    """The fields stand beside the type, or all of them under ``response``."""
    body = message.get("response")
    raw = {**(body if isinstance(body, dict) else message)}
    for name in ("type", "stream_id", "event_id"):
        raw.pop(name, None)
    if raw.get("background"):
        raise invalid(
            "There is no background on a WebSocket: send background to POST /v1/responses.",
            "background",
        )
    return Create(raw, stream_id_of(message))


@frozen
class _SteerInput:
    input: Input


def read_steer(given: object) -> History:
    """A user's message into a running response. Raises `InvalidRequest`."""
    asked = structure({"input": take_items(given).items}, _SteerInput).input
    for index, item in enumerate(() if isinstance(asked, str) else asked):
        if item.kind != "message" or item.role != "user":
            raise invalid("Only a user's messages can steer.", f"input[{index}]")
    return read_items(asked, continues=False).history


# -- what it receives ----------------------------------------------------------------------------


def encode_failure(error: GatewayError, stream_id: str | None) -> JSON:
    """An error that no response has. `status` is HTTP's status for it."""
    body = {**error.body()["error"]}
    headers = error.headers()
    if headers:
        body["headers"] = headers
    return {"type": "error", "status": error.status, "error": body, **_lane(stream_id)}


def encode_accepted(steer_id: str, response_id: str, stream_id: str | None) -> JSON:
    steer = {"id": steer_id, "previous_response_id": response_id}
    return {
        "type": "response.steer.accepted",
        "sequence_number": 0,  # of its own: the events of a response are numbered without it
        "steer": steer,
        **_lane(stream_id),
    }


def encode_unsteered(
    steer: Steer,
    code: SteerError,
    message: str,
    *,
    steer_id: str | None = None,
    stream_id: str | None = None,
) -> JSON:
    """The steering came to nothing; its input is given back."""
    given = {"input": steer.given, "previous_response_id": steer.previous_response_id}
    error = {"type": "invalid_request_error", "code": code, "message": message}
    return {
        "type": "response.steer.failed",
        "sequence_number": 0,
        "error": error,
        "steer": given if steer_id is None else {"id": steer_id, **given},
        **_lane(stream_id),
    }


def _lane(stream_id: str | None) -> JSON:
    return {} if stream_id is None else {"stream_id": stream_id}
