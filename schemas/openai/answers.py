"""What the gateway writes, as JSON Schema: the objects and events of OpenAI's APIs as it has them.

Knows: every field of `chat_reply`, `completions`, `response_events`, `output_items` and
`compactions`, each beside nothing but its name and its kind. Refuses to know: routes, and what a
request may hold (`schemas.describe`).

A test holds what is really written against it, and finds fields that are missing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from ..turn import FinishReason

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
OBJECT: Schema = {"type": "object"}
NULL: Schema = {"type": "null"}
SECONDS: Schema = {"type": "integer", "description": "Unix seconds."}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def const(value: str) -> Schema:
    return {"type": "string", "const": value}


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": [*values]}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def nullable(schema: Schema) -> Schema:
    if set(schema) == {"type"}:
        return {"type": [schema["type"], "null"]}
    return {"anyOf": [schema, NULL]}


def an_object(
    fields: dict[str, Schema], optional: Sequence[str] = (), description: str = ""
) -> Schema:
    """An object that has all `fields` but the `optional` ones, and may have others."""
    found: Schema = {"type": "object", "properties": fields}
    required = [name for name in fields if name not in optional]
    if required:
        found["required"] = required
    if description:
        found["description"] = description
    return found


def any_of(*names: str) -> Schema:
    return {"anyOf": [ref(name) for name in names]}


# -- errors --------------------------------------------------------------------------------------

_ERROR_FIELDS = {
    "message": STRING,
    "type": STRING,
    "param": nullable(STRING),
    "code": STRING,
}

ERRORS: dict[str, Schema] = {
    "ErrorDetail": an_object(
        _ERROR_FIELDS,
        description="`message` is for people, `code` for machines; `param` is the path of the "
        "field at fault, as `messages[2].content`.",
    ),
    "Error": an_object({"error": ref("ErrorDetail")}),
}

# -- chat and completions --------------------------------------------------------------------------

_FINISH = one_of(*get_args(FinishReason))

_CHAT_USAGE = an_object(
    {
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "prompt_tokens_details": an_object({"cached_tokens": COUNT, "cache_write_tokens": COUNT}),
        "completion_tokens_details": an_object({"reasoning_tokens": COUNT}),
    }
)

_PLACE: Schema = {
    **STRING,
    "description": "The conversation that holds this now. Not where there are several choices.",
}


def _answer(kind: str, choice: str) -> dict[str, Schema]:
    return {
        "id": STRING,
        "object": const(kind),
        "created": SECONDS,
        "model": STRING,
        "choices": array(ref(choice)),
    }


CHAT: dict[str, Schema] = {
    "ChatUsage": _CHAT_USAGE,
    "AnsweredCall": an_object(
        {
            "id": STRING,
            "type": const("function"),
            "function": an_object({"name": STRING, "arguments": STRING}),
        }
    ),
    "AnsweredMessage": an_object(
        {
            "role": const("assistant"),
            "content": nullable(STRING),
            "refusal": nullable(STRING),
            "reasoning_content": STRING,
            "tool_calls": array(ref("AnsweredCall")),
        },
        ("reasoning_content", "tool_calls"),
    ),
    "ChatChoice": an_object(
        {
            "index": COUNT,
            "message": ref("AnsweredMessage"),
            "logprobs": NULL,
            "finish_reason": _FINISH,
        }
    ),
    "ChatCompletion": an_object(
        {
            **_answer("chat.completion", "ChatChoice"),
            "usage": ref("ChatUsage"),
            "conversation_id": _PLACE,
        },
        ("conversation_id",),
    ),
    "ChatDelta": an_object(
        {
            "role": const("assistant"),
            "content": STRING,
            "refusal": STRING,
            "reasoning_content": STRING,
            "tool_calls": array(
                an_object(
                    {
                        "index": COUNT,
                        "id": STRING,
                        "type": const("function"),
                        "function": an_object({"name": STRING, "arguments": STRING}, ("name",)),
                    },
                    ("id", "type"),
                )
            ),
        },
        ("role", "content", "refusal", "reasoning_content", "tool_calls"),
    ),
    "ChunkChoice": an_object(
        {
            "index": COUNT,
            "delta": ref("ChatDelta"),
            "logprobs": NULL,
            "finish_reason": nullable(_FINISH),
        }
    ),
    "ChatCompletionChunk": an_object(
        {
            **_answer("chat.completion.chunk", "ChunkChoice"),
            "usage": ref("ChatUsage"),
            "conversation_id": _PLACE,
        },
        ("usage", "conversation_id"),
        "The last one has `usage` and no choices, where `stream_options.include_usage` asks.",
    ),
    "TextChoice": an_object(
        {
            "text": STRING,
            "index": COUNT,
            "logprobs": NULL,
            "finish_reason": nullable(_FINISH),
        }
    ),
    "Completion": an_object(
        {
            **_answer("text_completion", "TextChoice"),
            "usage": ref("ChatUsage"),
            "conversation_id": _PLACE,
        },
        ("usage", "conversation_id"),
        "Whole, or one chunk of a stream.",
    ),
}

# -- items -----------------------------------------------------------------------------------------

_STATUS = one_of("in_progress", "completed", "incomplete")


def _item(kind: str, fields: dict[str, Schema], optional: Sequence[str] = ()) -> Schema:
    return an_object({"id": STRING, "type": const(kind), **fields}, optional)


def _called(kind: str, member: str) -> Schema:
    fields = {"call_id": STRING, "name": STRING, "namespace": STRING, member: STRING}
    return _item(kind, {**fields, "status": _STATUS}, ("namespace",))


def _result(kind: str) -> Schema:
    output = {"anyOf": [STRING, array(ref("GivenPart"))]}
    fields = {"call_id": STRING, "output": output, "status": _STATUS, "is_error": BOOLEAN}
    return _item(kind, fields, ("is_error",))


_ITEMS: dict[str, Schema] = {
    "GivenPart": {
        "anyOf": [
            an_object({"type": const("input_text"), "text": STRING}),
            an_object({"type": const("input_image"), "image_url": STRING, "detail": STRING}),
            an_object(
                {"type": const("input_file"), "file_data": STRING, "filename": STRING},
                ("filename",),
            ),
        ]
    },
    "OutputText": an_object(
        {
            "type": const("output_text"),
            "text": STRING,
            "annotations": array(OBJECT),
            "logprobs": array(OBJECT),
        }
    ),
    "Refusal": an_object({"type": const("refusal"), "refusal": STRING}),
    "SummaryText": an_object({"type": const("summary_text"), "text": STRING}),
    "MessageItem": _item(
        "message",
        {
            "role": one_of("user", "assistant", "system"),
            "status": _STATUS,
            "content": array(any_of("GivenPart", "OutputText", "Refusal")),
        },
    ),
    "ReasoningItem": _item("reasoning", {"status": _STATUS, "summary": array(ref("SummaryText"))}),
    "FunctionCallItem": _called("function_call", "arguments"),
    "CustomToolCallItem": _called("custom_tool_call", "input"),
    "FunctionCallOutputItem": _result("function_call_output"),
    "CustomToolCallOutputItem": _result("custom_tool_call_output"),
    "McpCallItem": _item(
        "mcp_call",
        {
            "server_label": STRING,
            "name": STRING,
            "arguments": STRING,
            "output": nullable(STRING),
            "error": nullable(
                an_object({"type": const("mcp_tool_execution_error"), "content": nullable(STRING)})
            ),
            "approval_request_id": nullable(STRING),
            "status": one_of("in_progress", "completed", "incomplete", "failed"),
        },
    ),
    "McpListToolsItem": _item(
        "mcp_list_tools",
        {
            "server_label": STRING,
            "tools": array(
                an_object(
                    {
                        "name": STRING,
                        "description": STRING,
                        "input_schema": OBJECT,
                        "annotations": OBJECT,
                    }
                )
            ),
            "error": nullable(STRING),
        },
    ),
    "McpApprovalRequestItem": _item(
        "mcp_approval_request", {"server_label": STRING, "name": STRING, "arguments": STRING}
    ),
    "McpApprovalResponseItem": _item(
        "mcp_approval_response",
        {"approval_request_id": STRING, "approve": BOOLEAN, "reason": nullable(STRING)},
    ),
    "CompactionItem": _item("compaction", {"encrypted_content": STRING}),
}

_WRITTEN = (
    "MessageItem", "ReasoningItem", "FunctionCallItem", "CustomToolCallItem", "McpCallItem",
    "FunctionCallOutputItem", "CustomToolCallOutputItem", "McpListToolsItem",
    "McpApprovalRequestItem", "McpApprovalResponseItem",
)  # fmt: skip

ITEMS: dict[str, Schema] = {
    **_ITEMS,
    "Item": {
        **any_of(*_WRITTEN),
        "description": "What an agent does with tools of its own is an `mcp_call`.",
    },
}


# -- responses -------------------------------------------------------------------------------------


def _echoed_tool(name: str) -> Schema:
    return {
        "type": "object",
        "description": f"{name}, as the request has it.",
        "properties": {"type": STRING, "name": nullable(STRING), "server_label": STRING},
        "required": ["type"],
        "anyOf": [{"required": ["name"]}, {"required": ["server_label"]}],
        "additionalProperties": True,
    }


_RESPONSE_USAGE = an_object(
    {
        "input_tokens": COUNT,
        "input_tokens_details": an_object({"cached_tokens": COUNT, "cache_write_tokens": COUNT}),
        "output_tokens": COUNT,
        "output_tokens_details": an_object({"reasoning_tokens": COUNT}),
        "total_tokens": COUNT,
    }
)

_RESPONSE = an_object(
    {
        "id": STRING,
        "object": const("response"),
        "created_at": SECONDS,
        "status": one_of("in_progress", "completed", "incomplete", "failed", "cancelled"),
        "completed_at": nullable(SECONDS),
        "error": nullable(
            an_object(
                {
                    "code": one_of("rate_limit_exceeded", "invalid_prompt", "server_error"),
                    "message": STRING,
                    "param": nullable(STRING),
                    "type": STRING,
                }
            )
        ),
        "incomplete_details": nullable(
            an_object({"reason": one_of("max_output_tokens", "content_filter", "steered")})
        ),
        "model": STRING,
        "output": array(ref("Item")),
        "usage": nullable(ref("ResponseUsage")),
        "conversation": nullable(an_object({"id": STRING})),
        "instructions": nullable(STRING),
        "background": BOOLEAN,
        "max_output_tokens": nullable(INTEGER),
        "max_tool_calls": nullable(INTEGER),
        "metadata": {"type": "object", "additionalProperties": STRING},
        "parallel_tool_calls": BOOLEAN,
        "previous_response_id": nullable(STRING),
        "prompt_cache_key": nullable(STRING),
        "reasoning": an_object({"effort": nullable(STRING), "summary": nullable(STRING)}),
        "safety_identifier": nullable(STRING),
        "service_tier": STRING,
        "store": BOOLEAN,
        "temperature": NUMBER,
        "text": an_object({"format": {**OBJECT, "required": ["type"]}, "verbosity": STRING}),
        "tool_choice": {"anyOf": [STRING, OBJECT]},
        "tools": array(_echoed_tool("A tool")),
        "top_logprobs": COUNT,
        "top_p": NUMBER,
        "presence_penalty": NUMBER,
        "frequency_penalty": NUMBER,
        "truncation": one_of("auto", "disabled"),
        "user": nullable(STRING),
        "conversation_id": STRING,
    }
)


def _event(kind: str, **fields: Schema) -> Schema:
    return an_object({"type": const(kind), **fields, "sequence_number": COUNT})


_AT: dict[str, Schema] = {"item_id": STRING, "output_index": COUNT}
_PART = {**_AT, "content_index": COUNT}
_THOUGHT = {**_AT, "summary_index": COUNT}
_LOGPROBS: dict[str, Schema] = {"logprobs": array(OBJECT)}
_PARTS = any_of("OutputText", "Refusal")

RESPONSE_EVENTS: dict[str, Schema] = {
    each["properties"]["type"]["const"]: each
    for each in (
        *(
            _event(f"response.{kind}", response=ref("Response"))
            for kind in ("created", "in_progress", "completed", "incomplete", "failed")
        ),
        *(
            _event(f"response.output_item.{what}", output_index=COUNT, item=ref("Item"))
            for what in ("added", "done")
        ),
        *(
            _event(f"response.content_part.{what}", **_PART, part=_PARTS)
            for what in ("added", "done")
        ),
        _event("response.output_text.delta", **_PART, **_LOGPROBS, delta=STRING),
        _event("response.output_text.done", **_PART, **_LOGPROBS, text=STRING),
        _event("response.refusal.delta", **_PART, delta=STRING),
        _event("response.refusal.done", **_PART, refusal=STRING),
        *(
            _event(f"response.reasoning_summary_part.{what}", **_THOUGHT, part=ref("SummaryText"))
            for what in ("added", "done")
        ),
        _event("response.reasoning_summary_text.delta", **_THOUGHT, delta=STRING),
        _event("response.reasoning_summary_text.done", **_THOUGHT, text=STRING),
        *(
            _event(f"response.{name}.delta", **_AT, delta=STRING)
            for name in (
                "function_call_arguments", "custom_tool_call_input", "mcp_call_arguments",
            )
        ),
        _event("response.function_call_arguments.done", **_AT, arguments=STRING),
        _event("response.custom_tool_call_input.done", **_AT, input=STRING),
        _event("response.mcp_call_arguments.done", **_AT, arguments=STRING),
        *(
            _event(f"response.mcp_call.{what}", **_AT)
            for what in ("in_progress", "completed", "failed")
        ),
        *(
            _event(f"response.mcp_list_tools.{what}", **_AT)
            for what in ("in_progress", "completed", "failed")
        ),
        _event(
            "error",
            code=STRING,
            message=STRING,
            param=nullable(STRING),
            error=ref("ErrorDetail"),
        ),
    )
}  # fmt: skip
"""The events of a streamed response, by their types."""

RESPONSES: dict[str, Schema] = {
    "ResponseUsage": _RESPONSE_USAGE,
    "Response": _RESPONSE,
    "ResponseEvent": {"oneOf": [*RESPONSE_EVENTS.values()]},
    "InputTokens": an_object({"object": const("response.input_tokens"), "input_tokens": COUNT}),
    "CompactedResponse": an_object(
        {
            "id": STRING,
            "object": const("response.compaction"),
            "created_at": SECONDS,
            "output": array(any_of("MessageItem", "CompactionItem")),
            "usage": ref("ResponseUsage"),
        }
    ),
    "DeletedResponse": an_object(
        {"id": STRING, "object": const("response"), "deleted": {"const": True}}
    ),
}


def list_of(item: Schema) -> Schema:
    """A page of a list."""
    return an_object(
        {
            "object": const("list"),
            "data": array(item),
            "first_id": nullable(STRING),
            "last_id": nullable(STRING),
            "has_more": BOOLEAN,
        }
    )


BATCHES: dict[str, Schema] = {
    "File": an_object(
        {
            "id": STRING,
            "object": const("file"),
            "bytes": COUNT,
            "created_at": SECONDS,
            "expires_at": nullable(SECONDS),
            "filename": STRING,
            "purpose": one_of("batch", "user_data", "batch_output"),
            "status": const("processed"),
            "status_details": {"type": "null"},
        }
    ),
    "FileList": list_of(ref("File")),
    "DeletedFile": an_object({"id": STRING, "object": const("file"), "deleted": {"const": True}}),
    "Batch": an_object(
        {
            "id": STRING,
            "object": const("batch"),
            "endpoint": STRING,
            "errors": nullable(
                an_object(
                    {
                        "object": const("list"),
                        "data": array(
                            an_object(
                                {
                                    "code": STRING,
                                    "message": STRING,
                                    "param": nullable(STRING),
                                    "line": nullable(COUNT),
                                }
                            )
                        ),
                    }
                )
            ),
            "input_file_id": STRING,
            "completion_window": const("24h"),
            "status": one_of(
                "validating",
                "in_progress",
                "finalizing",
                "cancelling",
                "completed",
                "failed",
                "expired",
                "cancelled",
            ),
            "output_file_id": nullable(STRING),
            "error_file_id": nullable(STRING),
            "created_at": SECONDS,
            "expires_at": SECONDS,
            **{
                f"{state}_at": nullable(SECONDS)
                for state in (
                    "in_progress",
                    "finalizing",
                    "completed",
                    "failed",
                    "expired",
                    "cancelling",
                    "cancelled",
                )
            },
            "request_counts": an_object({"total": COUNT, "completed": COUNT, "failed": COUNT}),
            "metadata": nullable({"type": "object", "additionalProperties": STRING}),
        }
    ),
    "BatchList": list_of(ref("Batch")),
}
"""Files and batches (`schemas.openai.files`, `schemas.openai.batches`)."""
