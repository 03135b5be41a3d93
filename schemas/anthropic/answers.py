"""What the gateway writes in this dialect, as JSON Schema: the message, its events, errors.

Knows: every field of `schemas.anthropic.reply`, `errors` and `models`, each beside nothing but its
name and its kind. Refuses to know: routes, and what a request may hold (`schemas.describe`).

A test holds what is really written against it, and finds fields that are missing here.
"""

from __future__ import annotations

from typing import Any

from ..openai.answers import (
    BOOLEAN,
    COUNT,
    OBJECT,
    STRING,
    an_object,
    any_of,
    array,
    const,
    nullable,
    one_of,
    ref,
)
from .models import EDITS, EFFORTS
from .reply import STOP_REASONS

Schema = dict[str, Any]

ERROR_TYPES = (
    "invalid_request_error", "authentication_error", "permission_error", "not_found_error",
    "request_too_large", "rate_limit_error", "billing_error", "timeout_error",
    "overloaded_error", "api_error",
)  # fmt: skip

_DELTA_USAGE: dict[str, Schema] = {
    "input_tokens": COUNT,
    "cache_creation_input_tokens": COUNT,
    "cache_read_input_tokens": COUNT,
    "output_tokens": COUNT,
    "output_tokens_details": an_object({"thinking_tokens": COUNT}),
    "server_tool_use": nullable(OBJECT),
}

_STOPPED: dict[str, Schema] = {
    "stop_reason": nullable(
        one_of(
            *STOP_REASONS.values(),
            "stop_sequence",
            "pause_turn",
            "model_context_window_exceeded",
        )
    ),
    "stop_sequence": nullable(STRING),
    "stop_details": nullable(
        an_object(
            {
                "type": const("refusal"),
                "category": nullable(STRING),
                "explanation": nullable(STRING),
            }
        )
    ),
}

_DELTAS: dict[str, Schema] = {
    "text_delta": {"text": STRING},
    "thinking_delta": {"thinking": STRING},
    "signature_delta": {"signature": STRING},
    "input_json_delta": {"partial_json": STRING},
    "citations_delta": {"citation": OBJECT},
}


_SUPPORTED: dict[str, Schema] = {"supported": BOOLEAN}
_SUPPORT = an_object(_SUPPORTED)


def _support(*names: str) -> Schema:
    return an_object({**_SUPPORTED, **dict.fromkeys(names, _SUPPORT)})


_TIME = nullable({"type": "string", "format": "date-time"})
_MODEL = an_object(
    {
        "type": const("model"),
        "id": STRING,
        "display_name": STRING,
        "created_at": _TIME,
        "lifecycle": one_of("active"),
        "deprecated_at": _TIME,
        "retires_at": _TIME,
        "line": nullable(STRING),
        "max_input_tokens": nullable(COUNT),
        "max_tokens": nullable(COUNT),
        "capabilities": nullable(
            an_object(
                {
                    **dict.fromkeys(
                        (
                            "batch",
                            "citations",
                            "code_execution",
                            "image_input",
                            "pdf_input",
                            "structured_outputs",
                        ),
                        _SUPPORT,
                    ),
                    "context_management": _support(*EDITS),
                    "effort": _support(*EFFORTS),
                    "server_tools": _support("code_execution", "web_search"),
                    "thinking": an_object(
                        {
                            **_SUPPORTED,
                            "types": an_object(
                                dict.fromkeys(
                                    ("adaptive", "between_tools", "disabled", "enabled"), _SUPPORT
                                )
                            ),
                        }
                    ),
                }
            )
        ),
    }
)


def _event(kind: str, **fields: Schema) -> Schema:
    return an_object({"type": const(kind), **fields})


MESSAGE_EVENTS: dict[str, Schema] = {
    each["properties"]["type"]["const"]: each
    for each in (
        _event("message_start", message=ref("Message")),
        _event("ping"),
        _event("content_block_start", index=COUNT, content_block=ref("MessageBlock")),
        _event(
            "content_block_delta",
            index=COUNT,
            delta={"oneOf": [_event(kind, **fields) for kind, fields in _DELTAS.items()]},
        ),
        _event("content_block_stop", index=COUNT),
        _event("message_delta", delta=an_object(_STOPPED), usage=an_object(_DELTA_USAGE)),
        _event("message_stop"),
        _event("error", error=ref("MessagesErrorDetail"), request_id=nullable(STRING)),
    )
}
"""The events of a streamed message, by their types."""

MESSAGES: dict[str, Schema] = {
    "MessageBatch": an_object(
        {
            "id": STRING,
            "type": const("message_batch"),
            "processing_status": one_of("in_progress", "canceling", "ended"),
            "request_counts": an_object(
                dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), COUNT)
            ),
            "created_at": STRING,
            "expires_at": STRING,
            "cancel_initiated_at": nullable(STRING),
            "ended_at": nullable(STRING),
            "archived_at": {"type": "null"},
            "results_url": nullable(STRING),
        }
    ),
    "MessageBatchList": an_object(
        {
            "data": array(ref("MessageBatch")),
            "has_more": BOOLEAN,
            "first_id": nullable(STRING),
            "last_id": nullable(STRING),
        }
    ),
    "DeletedMessageBatch": an_object({"id": STRING, "type": const("message_batch_deleted")}),
    "MessageFile": an_object(
        {
            "id": STRING,
            "type": const("file"),
            "filename": STRING,
            "mime_type": STRING,
            "size_bytes": COUNT,
            "created_at": STRING,
            "expires_at": nullable(STRING),
            "downloadable": BOOLEAN,
        }
    ),
    "MessageFileList": an_object(
        {
            "data": array(ref("MessageFile")),
            "next_page": nullable(STRING),
            "has_more": BOOLEAN,
            "first_id": nullable(STRING),
            "last_id": nullable(STRING),
        }
    ),
    "DeletedMessageFile": an_object({"id": STRING, "type": const("file_deleted")}),
    "MessageText": an_object(
        {"type": const("text"), "text": STRING, "citations": array(OBJECT)}, ("citations",)
    ),
    "MessageThinking": _event("thinking", thinking=STRING, signature=STRING),
    "MessageRedactedThinking": _event("redacted_thinking", data=STRING),
    "MessageToolUse": _event("tool_use", id=STRING, name=STRING, input=OBJECT),
    "MessageServerToolUse": _event("server_tool_use", id=STRING, name=STRING, input=OBJECT),
    "MessageSearchResult": _event(
        "web_search_tool_result",
        tool_use_id=STRING,
        content={
            "oneOf": [
                array(
                    _event(
                        "web_search_result",
                        url=STRING,
                        title=STRING,
                        encrypted_content=STRING,
                        page_age=nullable(STRING),
                    )
                ),
                _event("web_search_tool_result_error", error_code=STRING),
            ]
        },
    ),
    "MessageBlock": any_of(
        "MessageText",
        "MessageThinking",
        "MessageRedactedThinking",
        "MessageToolUse",
        "MessageServerToolUse",
        "MessageSearchResult",
    ),
    "Message": an_object(
        {
            "id": STRING,
            "type": const("message"),
            "role": const("assistant"),
            "model": STRING,
            "content": array(ref("MessageBlock")),
            **_STOPPED,
            "usage": an_object(
                {
                    **_DELTA_USAGE,
                    "cache_creation": nullable(
                        an_object(
                            {
                                "ephemeral_5m_input_tokens": COUNT,
                                "ephemeral_1h_input_tokens": COUNT,
                            }
                        )
                    ),
                    "service_tier": one_of("standard", "priority", "batch"),
                    "inference_geo": nullable(STRING),
                }
            ),
        }
    ),
    "MessageEvent": {"oneOf": [*MESSAGE_EVENTS.values()]},
    "MessageModel": _MODEL,
    "MessageModels": an_object(
        {
            "data": array(ref("MessageModel")),
            "has_more": BOOLEAN,
            "first_id": nullable(STRING),
            "last_id": nullable(STRING),
        }
    ),
    "MessageTokens": an_object({"input_tokens": COUNT}),
    "MessagesErrorDetail": an_object(
        {
            "type": one_of(*ERROR_TYPES),
            "message": STRING,
            "details": an_object({"error_code": STRING}),
        },
        ("details",),
    ),
    "MessagesError": an_object(
        {
            "type": const("error"),
            "error": ref("MessagesErrorDetail"),
            "request_id": nullable(STRING),
        }
    ),
}
