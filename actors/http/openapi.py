"""``/openapi.json``: every route, described (OpenAPI 3.1.1).

Knows: which parameters, bodies, answers, errors and headers each route has. What a body may hold is
read from the tables of its decoder (`schemas.describe`), what an answer holds from the description
beside its encoder (`schemas.openai.answers`). Refuses to know: how a route does its work.

The document is made when it is first asked for, once for each app. It holds no secret; but where
keys are set, it asks for one as every other route does. A test compares `OPERATIONS` with the
routes that there are, and another one real answers with the document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from attrs import field, fields, frozen

from ...schemas.anthropic import batches as message_batches
from ...schemas.anthropic import blocks as message_blocks
from ...schemas.anthropic import messages
from ...schemas.anthropic import tools as message_tools
from ...schemas.anthropic.answers import MESSAGES
from ...schemas.anthropic.betas import BETA_HEADER
from ...schemas.anthropic.errors import VERSION_HEADER, VERSIONS
from ...schemas.convert import write_json
from ...schemas.describe import Describer, Details
from ...schemas.openai import (
    batches,
    chat,
    chat_messages,
    chat_tools,
    compactions,
    completions,
    items,
    responses,
)
from ...schemas.openai.answers import (
    BATCHES,
    BOOLEAN,
    CHAT,
    COUNT,
    ERRORS,
    INTEGER,
    ITEMS,
    NUMBER,
    OBJECT,
    RESPONSES,
    SECONDS,
    STRING,
    Schema,
    an_object,
    any_of,
    array,
    const,
    list_of,
    nullable,
    one_of,
    ref,
)
from ...schemas.turn import Usage
from ...transport.http.asgi import JSON, send_response
from ..listeners.overview import GatewayStatistics
from ..mcp.server import ServerState
from ..nodes.figures import Figures
from . import conversations
from .idempotency import REPLAYED
from .paging import PAGE
from .request import Call
from .responses import FLAGS

EVENT_STREAM = "text/event-stream"

DETAILS: Details = {
    cls: details
    for module in (
        batches,
        chat,
        chat_messages,
        chat_tools,
        compactions,
        completions,
        items,
        responses,
        messages,
        message_batches,
        message_blocks,
        message_tools,
        conversations,
    )
    for cls, details in module.DETAILS.items()
}

# -- parameters and headers ------------------------------------------------------------------------


def _query(name: str, schema: Schema, about: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": about}


def _header(name: str, schema: Schema, about: str) -> Schema:
    return {"name": name, "in": "header", "schema": schema, "description": about}


def _page(default: int) -> tuple[Schema, ...]:
    limit = {"type": "integer", "minimum": 1, "maximum": PAGE, "default": default}
    return (
        _query("limit", limit, "How many at most."),
        _query("after", STRING, "The id behind which the page begins."),
        _query("order", {**one_of("asc", "desc"), "default": "desc"}, "Newest first, or last."),
    )


_IN_CONVERSATION = _header(
    "x-conversation-id", {**STRING, "minLength": 1}, "The conversation to go on in."
)
_ON_BUSY = _header(
    "x-ccapi-on-busy",
    {**one_of("queue", "reject"), "default": "queue"},
    "What becomes of a turn for a conversation in which another one runs.",
)
_NO_STORE = _header(
    "cache-control", STRING, "`no-store`: no answer that an identical request was given."
)
_IDEMPOTENCY_KEY = _header(
    "idempotency-key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "The same request with the same key is done once, and its answer given again.",
)
_TURN_PARAMETERS = (_IN_CONVERSATION, _ON_BUSY, _NO_STORE, _IDEMPOTENCY_KEY)
_VERSION = _header(VERSION_HEADER, one_of(*VERSIONS), "The version of the Messages API.")
_BETAS = _header(
    BETA_HEADER,
    {"type": "string", "pattern": r"^[ ,]*([a-z0-9][a-z0-9._-]{0,127}([ ,]+|$))*$"},
    "Betas, with commas. One without effect is named in `x-ccapi-ignored`.",
)

_PATH_PARAMETERS = {
    "response_id": {"type": "string", "pattern": "^resp_[0-9A-Za-z_-]+$"},
    "file": {"type": "string", "pattern": "^[a-z_.]+$"},
}


def _answer_header(about: str, schema: Schema = STRING) -> Schema:
    return {"description": about, "schema": schema}


HEADERS: dict[str, Schema] = {
    "x-request-id": _answer_header("The request's own where it was 1-128 visible ASCII."),
    "request-id": _answer_header("The same, as the Messages API calls it."),
    "x-conversation-id": _answer_header("The conversation of the answer."),
    "x-ccapi-cache": _answer_header(
        "Whether an identical request was answered before.", one_of("hit", "miss")
    ),
    "x-ccapi-ignored": _answer_header("Fields of the request that have no effect, with commas."),
    "x-ccapi-lineage": _answer_header(
        "Whether a conversation held the history that the request brings.", one_of("hit", "miss")
    ),
    "x-ccapi-tool-choice": _answer_header("How a tool choice was put to the model."),
    "x-ccapi-history-omitted": _answer_header("How many messages were not replayed.", COUNT),
    "x-ccapi-workspace": _answer_header("Where the agent works; `new`: nothing was done yet."),
    "x-ccapi-child": _answer_header("How the turn got its process."),
    "x-ccapi-lost-turn": _answer_header("A turn that was lost with an earlier gateway."),
    REPLAYED: _answer_header("The answer was given before.", const("true")),
    **{
        f"x-ratelimit-{what}-{of}": _answer_header(f"{told} Of a key with such limits.", schema)
        for of in ("requests", "tokens")
        for what, told, schema in (
            ("limit", "How many there may be.", COUNT),
            ("remaining", "How many are left.", COUNT),
            ("reset", "How long until all are, as in `6m0s`.", STRING),
        )
    },
    "retry-after": _answer_header("Seconds.", COUNT),
    "retry-after-ms": _answer_header("Milliseconds.", COUNT),
    "x-should-retry": _answer_header("`false`: do not send this again.", const("false")),
    "www-authenticate": _answer_header("The scheme of the key.", const("Bearer")),
    "upgrade": _answer_header("What is spoken here.", const("websocket")),
    "etag": _answer_header("Of the file."),
    "content-disposition": _answer_header("What the file is called."),
}

_TURN_HEADERS = (
    "x-conversation-id", "x-ccapi-cache", "x-ccapi-ignored", "x-ccapi-lineage",
    "x-ccapi-tool-choice", "x-ccapi-history-omitted", "x-ccapi-workspace", "x-ccapi-child",
    "x-ccapi-lost-turn", REPLAYED,
    *(
        f"x-ratelimit-{what}-{of}"
        for of in ("requests", "tokens")
        for what in ("limit", "remaining", "reset")
    ),
)  # fmt: skip

ERRORS_OF: dict[int, tuple[str, tuple[str, ...]]] = {
    400: ("The request cannot be taken as it is; `param` names the field.", ()),
    401: ("A key is needed, or it is not valid.", ("www-authenticate", "x-should-retry")),
    402: ("The account has no credit left.", ("x-should-retry",)),
    403: ("The key, the page or the name of the host is not allowed.", ()),
    404: ("There is no such thing, or it is another key's.", ()),
    409: ("It contradicts what is there: another turn runs, or one was lost.", ("x-should-retry",)),
    413: ("The body is too large.", ()),
    415: ("The body is no JSON, or is in a coding that is not taken.", ()),
    422: ("The `Idempotency-Key` was sent with another request.", ()),
    426: ("It is a WebSocket.", ("upgrade",)),
    429: ("Too much at once, or a limit is used up.", ("retry-after", "retry-after-ms")),
    499: ("The turn was interrupted.", ()),
    500: ("The gateway failed; its log says why, under the request's id.", ()),
    502: ("The CLI, or the API behind it, failed.", ("x-should-retry",)),
    503: ("No turn is taken now.", ("retry-after", "retry-after-ms", "x-should-retry")),
    504: ("It took too long.", ("x-should-retry",)),
    529: ("No turn is taken now.", ("retry-after", "retry-after-ms", "x-should-retry")),
}

DIALECTS: dict[str, Schema] = {
    "": ref("Error"),
    "messages-": ref("MessagesError"),
    "any-": any_of("Error", "MessagesError"),
}
"""What an error is put in: OpenAI's envelope, the Messages API's, or that of the two which the
request asks for. By the beginning of the names of such responses."""

_ANYWHERE = (400, 403, 500)
_KEYED = (*_ANYWHERE, 401, 503)
_WITH_BODY = (*_KEYED, 413, 415)
_TURN = (*_WITH_BODY, 404, 409, 422, 429, 499, 502, 504)
_THING = (*_KEYED, 404, 409, 429)
_MESSAGE = (*_TURN, 402, 529)

# -- what is known here of conversations and the gateway -------------------------------------------


def _own_schemas() -> dict[str, Schema]:
    """The objects that are not OpenAI's."""
    describer = Describer({}, written=True)
    describer.ref(Usage)
    describer.ref(GatewayStatistics)
    describer.ref(ServerState)
    found = describer.schemas
    server = found["ServerState"]["properties"]
    mcp_tool = {"name": STRING, "description": STRING, "read_only": BOOLEAN}
    usage, total = found.pop("Usage"), {"total_tokens": COUNT}
    usage = an_object({**usage["properties"], **total})
    conversation = {
        "id": STRING,
        "object": const("conversation"),
        "created_at": SECONDS,
        "metadata": {"type": "object", "additionalProperties": STRING},
        "conversation_id": STRING,
        "last_used_at": SECONDS,
        "model": STRING,
        "profile": one_of("chat", "agent"),
        "workspace": nullable(STRING),
        "phase": STRING,
        "title": nullable(STRING),
        "turns": COUNT,
        "messages": COUNT,
        "usage": ref("ConversationUsage"),
    }
    times = an_object(
        {name: nullable(NUMBER) for name in ("mean", "p50", "p95", "p99", "max")} | {"count": COUNT}
    )
    figures = {each.name: NUMBER if each.name == "cost_usd" else COUNT for each in fields(Figures)}
    counts: Schema = {"type": "object", "additionalProperties": COUNT}
    window = an_object(
        {
            "utilization": nullable(NUMBER),
            "resets_at": nullable(NUMBER),
            "status": nullable(STRING),
        }
    )
    return {
        **found,
        "ConversationUsage": usage,
        "Conversation": an_object(conversation),
        "ConversationExport": an_object(
            {
                **conversation,
                "object": const("conversation.export"),
                "messages": array(ref("ChatMessage")),
            }
        ),
        "DeletedConversation": an_object(
            {
                "id": STRING,
                "object": const("conversation.deleted"),
                "deleted": {"const": True},
                "conversation_id": STRING,
            }
        ),
        "Permission": an_object(
            {
                "turn_id": STRING,
                "request_id": STRING,
                "tool": STRING,
                "input": OBJECT,
                "title": nullable(STRING),
                "description": nullable(STRING),
                "suggestions": array(an_object({"id": STRING, "label": STRING})),
                "expires_at": SECONDS,
            }
        ),
        "Permissions": an_object({"object": const("list"), "data": array(ref("Permission"))}),
        "PermissionReplied": an_object({"request_id": STRING, "behavior": one_of("allow", "deny")}),
        "Model": an_object(
            {
                "id": STRING,
                "object": const("model"),
                "created": SECONDS,
                "owned_by": STRING,
                "name": STRING,
                "description": STRING,
                "profile": one_of("chat", "agent"),
                "resolved_model": STRING,
                "source": one_of("cli", "table"),
                "context_length": COUNT,
                "context_window": COUNT,
                "max_output_tokens": COUNT,
                "max_completion_tokens": COUNT,
                "architecture": an_object(
                    {
                        "modality": STRING,
                        "input_modalities": array(STRING),
                        "output_modalities": array(STRING),
                    }
                ),
                "supported_parameters": array(STRING),
                "supported_reasoning_efforts": nullable(array(STRING)),
            },
            (
                "context_length",
                "context_window",
                "max_output_tokens",
                "max_completion_tokens",
                "architecture",
                "supported_parameters",
                "supported_reasoning_efforts",
            ),
            "Of another maker's model, its sizes and parameters are not known.",
        ),
        "McpServers": an_object(
            {
                "object": const("list"),
                "data": array(an_object({**server, "tools": array(an_object(mcp_tool))})),
                "per_conversation": array(STRING),
            }
        ),
        "Models": an_object({"object": const("list"), "data": array(ref("Model"))}),
        "ItemList": list_of(ref("Item")),
        "ConversationList": list_of(ref("Conversation")),
        "LoginLimits": an_object(
            {
                "name": STRING,
                "status": nullable(STRING),
                "limited_until": nullable(NUMBER),
                "windows": {"type": "object", "additionalProperties": window},
                "overage": nullable(
                    an_object(
                        {
                            "status": nullable(STRING),
                            "resets_at": nullable(NUMBER),
                            "in_use": BOOLEAN,
                        }
                    )
                ),
                "reported_at": nullable(NUMBER),
            }
        ),
        "Statistics": an_object(
            {
                "uptime_seconds": NUMBER,
                "turns": an_object(
                    {"started": COUNT, "finished": COUNT, "failed": counts, "running": COUNT}
                ),
                "latency": an_object({"first_delta_ms": times, "turn_ms": times}),
                "tokens": counts,
                "cost_usd": NUMBER,
                "children": OBJECT,
                "conversations": OBJECT,
                "sessions": OBJECT,
                "cache": counts,
                "events_lost": COUNT,
                "logins": array(ref("LoginLimits")),
                "gateway": ref("GatewayStatistics"),
                "mcp": array(ref("ServerState")),
                "audit": counts,
                "cluster": an_object({"nodes": COUNT} | figures),
                "nodes": array(ref("Node")),
            },
            optional=("cluster", "nodes"),
        ),
        "Node": an_object(
            {
                "id": STRING,
                "url": STRING,
                "since": SECONDS,
                "version": STRING,
                "draining": BOOLEAN,
                "store_ms": NUMBER,
            }
            | figures
        ),
    }


# -- operations ------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Operation:
    """One method of one path. `answers` is the content of its good answers, by status; `body` the
    class that the decoder reads the body into; `keyed`: it asks for a key where keys are set."""

    summary: str
    tag: str
    answers: Mapping[int, Mapping[str, Schema]]
    errors: Sequence[int] = _KEYED
    body: type | None = None
    form: Schema | None = None
    """What a form has that is the body."""
    needs_body: bool = True
    parameters: Sequence[Schema] = ()
    headers: Sequence[str] = ()
    keyed: bool = True
    examples: Mapping[str, Any] = field(factory=dict)
    dialect: str = ""
    """The envelope of its errors, of `DIALECTS`."""
    makes: str | None = None
    """The parameter of other paths that the answer's ``id`` can be."""


def _json(schema: Schema) -> dict[int, dict[str, Schema]]:
    return {200: {JSON: {"schema": schema}}}


def _streamed(whole: Schema, events: Schema, end: str | None) -> dict[int, dict[str, Schema]]:
    """The schema of a stream is that of each of its events, as OpenAPI 3.2 has it (there called
    ``itemSchema``). `end`: what the `data` of the last event is, where it is no JSON."""
    data: Schema = {
        "type": "string",
        "contentMediaType": JSON,
        "contentSchema": events,
    }
    if end:
        data = {"anyOf": [{**const(end), "description": "The last event."}, data]}
    event = an_object(
        {"event": STRING, "data": data},
        ("event",),
        "One event of the stream, where the request asks for one. Comments are heartbeats.",
    )
    return {200: {JSON: {"schema": whole}, EVENT_STREAM: {"schema": event}}}


_CHUNKS = any_of("ChatCompletionChunk", "Error")
_RESPONSE = _streamed(ref("Response"), ref("ResponseEvent"), None)
_CONVERSATION = "/v1/conversations/{conversation_id}"
_RESPONSE_PATH = "/v1/responses/{response_id}"
_FILE = "/v1/files/{file_id}"
_BATCH = "/v1/batches/{batch_id}"
_MESSAGE_BATCHES = "/v1/messages/batches"
_BATCH_ERRORS = (*_KEYED, 529)
_SOCKET: dict[int, dict[str, Schema]] = {}
_TEXT = {"schema": STRING}
_HELLO = {"role": "user", "content": "Hello"}
_MESSAGE_EXAMPLE = {"model": "sonnet", "max_tokens": 1000, "messages": [_HELLO]}
_KINDS_OF_FILES = ("text/html", "text/javascript", "text/css", "image/svg+xml")

_SOCKET_ONLY = Operation(
    summary="A WebSocket: see `x-websocket`",
    tag="WebSocket",
    answers=_SOCKET,
    errors=(400, 401, 403, 426, 500),
)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): Operation(
        summary="Chat completions, streamed or not",
        tag="Chat",
        body=chat.ChatRequest,
        examples={
            "whole": {"messages": [_HELLO]},
            "streamed": {
                "messages": [_HELLO],
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        },
        answers=_streamed(ref("ChatCompletion"), _CHUNKS, "[DONE]"),
        errors=_TURN,
        parameters=_TURN_PARAMETERS,
        headers=_TURN_HEADERS,
    ),
    ("POST", "/v1/completions"): Operation(
        summary="The older completions, for text prompts",
        tag="Chat",
        body=completions.CompletionRequest,
        examples={"whole": {"prompt": "Hello"}, "streamed": {"prompt": "Hello", "stream": True}},
        answers=_streamed(ref("Completion"), any_of("Completion", "Error"), "[DONE]"),
        errors=_TURN,
        parameters=_TURN_PARAMETERS,
        headers=_TURN_HEADERS,
    ),
    ("POST", "/v1/messages"): Operation(
        summary="The Messages API: whole or streamed",
        tag="Messages",
        body=messages.MessagesRequest,
        examples={
            "whole": _MESSAGE_EXAMPLE,
            "streamed": {**_MESSAGE_EXAMPLE, "stream": True},
        },
        answers=_streamed(ref("Message"), ref("MessageEvent"), None),
        errors=_MESSAGE,
        parameters=(*_TURN_PARAMETERS, _VERSION, _BETAS),
        headers=("request-id", *_TURN_HEADERS),
        dialect="messages-",
    ),
    ("GET", _MESSAGE_BATCHES): Operation(
        summary="One's message batches, the last first",
        tag="Batches",
        answers=_json(ref("MessageBatchList")),
        errors=_BATCH_ERRORS,
        parameters=(
            _query(
                "limit",
                {"type": "integer", "minimum": 1, "maximum": 1000, "default": 20},
                "How many at most.",
            ),
            _query("after_id", STRING, "The id behind which the page begins."),
            _query("before_id", STRING, "The id before which the page ends."),
        ),
        headers=("request-id",),
        dialect="messages-",
    ),
    ("POST", _MESSAGE_BATCHES): Operation(
        summary="Have requests answered, when there is room",
        tag="Batches",
        body=message_batches.MessageBatchBody,
        examples={
            "of one": {"requests": [{"custom_id": "a", "params": {**_MESSAGE_EXAMPLE}}]},
        },
        answers=_json(ref("MessageBatch")),
        errors=(*_WITH_BODY, 409, 422, 429, 529),
        parameters=(_IDEMPOTENCY_KEY, _VERSION, _BETAS),
        headers=("request-id", REPLAYED),
        dialect="messages-",
    ),
    ("GET", f"{_MESSAGE_BATCHES}/{{message_batch_id}}"): Operation(
        summary="One message batch",
        tag="Batches",
        answers=_json(ref("MessageBatch")),
        errors=(*_BATCH_ERRORS, 404),
        headers=("request-id",),
        dialect="messages-",
    ),
    ("DELETE", f"{_MESSAGE_BATCHES}/{{message_batch_id}}"): Operation(
        summary="Delete a message batch that has ended",
        tag="Batches",
        answers=_json(ref("DeletedMessageBatch")),
        errors=(*_BATCH_ERRORS, 404),
        headers=("request-id",),
        dialect="messages-",
    ),
    ("POST", f"{_MESSAGE_BATCHES}/{{message_batch_id}}/cancel"): Operation(
        summary="Cancel a message batch; what runs of it ends",
        tag="Batches",
        answers=_json(ref("MessageBatch")),
        errors=(*_BATCH_ERRORS, 404),
        headers=("request-id",),
        dialect="messages-",
    ),
    ("GET", f"{_MESSAGE_BATCHES}/{{message_batch_id}}/results"): Operation(
        summary="What became of each request, line by line",
        tag="Batches",
        answers={200: {"application/x-jsonl": {}}},
        errors=(*_BATCH_ERRORS, 404),
        headers=("request-id",),
        dialect="messages-",
    ),
    ("POST", "/v1/messages/count_tokens"): Operation(
        summary="How many tokens such a request would have a plain model read",
        tag="Messages",
        body=messages.CountRequest,
        examples={"a text": {"model": "sonnet", "messages": [_HELLO]}},
        answers=_json(ref("MessageTokens")),
        errors=tuple(set(_MESSAGE) - {422}),
        parameters=(_VERSION, _BETAS),
        headers=("request-id", *_TURN_HEADERS),
        dialect="messages-",
    ),
    ("POST", "/v1/responses"): Operation(
        summary="The Responses API: whole, streamed or in the background",
        tag="Responses",
        body=responses.ResponseRequest,
        examples={
            "whole": {"input": "Hello"},
            "streamed": {"input": [_HELLO], "stream": True},
            "in the background": {"input": "Hello", "background": True},
        },
        makes="response_id",
        answers=_RESPONSE,
        errors=_TURN,
        parameters=_TURN_PARAMETERS,
        headers=_TURN_HEADERS,
    ),
    ("POST", "/v1/responses/input_tokens"): Operation(
        summary="How many tokens such a request would have a plain model read",
        tag="Responses",
        body=responses.ResponseRequest,
        examples={"a text": {"input": "Hello"}},
        answers=_json(ref("InputTokens")),
        errors=tuple(set(_TURN) - {422}),
        parameters=(_IN_CONVERSATION,),
        headers=_TURN_HEADERS,
    ),
    ("POST", "/v1/responses/compact"): Operation(
        summary="A conversation in fewer words, to go on with",
        tag="Responses",
        body=compactions.CompactRequest,
        examples={"a conversation": {"model": "sonnet", "input": [_HELLO]}},
        answers=_json(ref("CompactedResponse")),
        errors=_TURN,
        parameters=(_IDEMPOTENCY_KEY,),
        headers=("x-ccapi-ignored", REPLAYED),
    ),
    ("GET", _RESPONSE_PATH): Operation(
        summary="A stored response; with `stream=true` its events",
        tag="Responses",
        answers=_RESPONSE,
        errors=(*_KEYED, 404),
        parameters=(
            _query(
                "stream", {**one_of(*FLAGS), "default": "false"}, "Its events, while it runs too."
            ),
            _query(
                "starting_after",
                {"type": "integer", "minimum": 0, "maximum": 999_999_999},
                "The number of the event behind which to begin.",
            ),
        ),
    ),
    ("DELETE", _RESPONSE_PATH): Operation(
        summary="Delete a stored response; one in the background ends",
        tag="Responses",
        answers=_json(ref("DeletedResponse")),
        errors=(*_KEYED, 404),
    ),
    ("POST", f"{_RESPONSE_PATH}/cancel"): Operation(
        summary="End a response in the background",
        tag="Responses",
        answers=_json(ref("Response")),
        errors=(*_KEYED, 404),
    ),
    ("GET", f"{_RESPONSE_PATH}/input_items"): Operation(
        summary="What a response was asked",
        tag="Responses",
        answers=_json(ref("ItemList")),
        errors=(*_KEYED, 404),
        parameters=_page(20),
    ),
    ("GET", "/v1/models"): Operation(
        summary="The models and their other names; with an `anthropic-version` a page of them, by "
        "`limit`, `after_id` and `before_id`",
        tag="Models",
        answers=_json(any_of("Models", "MessageModels")),
        parameters=(_VERSION,),
        headers=("request-id",),
        dialect="any-",
    ),
    ("GET", "/v1/models/{model}"): Operation(
        summary="One model",
        tag="Models",
        answers=_json(any_of("Model", "MessageModel")),
        errors=(*_KEYED, 404),
        parameters=(_VERSION,),
        headers=("request-id",),
        dialect="any-",
    ),
    ("GET", "/v1/files"): Operation(
        summary="One's files; with an `anthropic-version` by `limit` and `page`, or "
        "those whose `ids` are given",
        tag="Files",
        answers=_json(any_of("FileList", "MessageFileList")),
        errors=(*_KEYED, 404),
        parameters=(
            *_page(PAGE),
            _query("purpose", one_of("batch", "user_data", "batch_output"), "Only those for this."),
            _VERSION,
        ),
        headers=("request-id",),
        dialect="any-",
    ),
    ("POST", "/v1/files"): Operation(
        summary="Upload a file",
        tag="Files",
        form=an_object(
            {
                "purpose": one_of("batch", "user_data"),
                "file": {"type": "string", "contentMediaType": "application/octet-stream"},
                "expires_after[anchor]": const("created_at"),
                "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
            },
            ("expires_after[anchor]", "expires_after[seconds]"),
        ),
        makes="file_id",
        answers=_json(any_of("File", "MessageFile")),
        errors=(*_WITH_BODY, 429),
        parameters=(_VERSION,),
        headers=("request-id",),
        dialect="any-",
    ),
    ("GET", _FILE): Operation(
        summary="One file",
        tag="Files",
        answers=_json(any_of("File", "MessageFile")),
        errors=(*_KEYED, 404),
        parameters=(_VERSION,),
        headers=("request-id",),
        dialect="any-",
    ),
    ("DELETE", _FILE): Operation(
        summary="Delete a file",
        tag="Files",
        answers=_json(any_of("DeletedFile", "DeletedMessageFile")),
        errors=(*_KEYED, 404),
        parameters=(_VERSION,),
        headers=("request-id",),
        dialect="any-",
    ),
    ("GET", f"{_FILE}/content"): Operation(
        summary="What is in a file",
        tag="Files",
        answers={200: {"application/octet-stream": {}}},
        headers=("content-disposition", "request-id"),
        errors=(*_KEYED, 404),
        parameters=(_VERSION,),
        dialect="any-",
    ),
    ("GET", "/v1/batches"): Operation(
        summary="One's batches, the last first",
        tag="Batches",
        answers=_json(ref("BatchList")),
        parameters=_page(20)[:2],
    ),
    ("POST", "/v1/batches"): Operation(
        summary="Have the requests in a file answered, when there is room",
        tag="Batches",
        body=batches.BatchBody,
        examples={
            "of chat completions": {
                "input_file_id": "file-1",
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            }
        },
        makes="batch_id",
        answers=_json(ref("Batch")),
        errors=(*_WITH_BODY, 404, 409, 422, 429),
        parameters=(_IDEMPOTENCY_KEY,),
        headers=(REPLAYED,),
    ),
    ("GET", _BATCH): Operation(
        summary="One batch", tag="Batches", answers=_json(ref("Batch")), errors=(*_KEYED, 404)
    ),
    ("POST", f"{_BATCH}/cancel"): Operation(
        summary="Cancel a batch; what runs of it ends",
        tag="Batches",
        answers=_json(ref("Batch")),
        errors=(*_KEYED, 404, 409),
    ),
    ("GET", "/v1/conversations"): Operation(
        summary="One's conversations",
        tag="Conversations",
        answers=_json(ref("ConversationList")),
        parameters=(*_page(PAGE), _query("q", STRING, "Only those that have all these words.")),
    ),
    ("POST", "/v1/conversations"): Operation(
        summary="Open a conversation",
        tag="Conversations",
        body=conversations.NewConversation,
        needs_body=False,
        examples={"with a beginning": {"items": [{**_HELLO, "type": "message"}]}},
        makes="conversation_id",
        answers=_json(ref("Conversation")),
        errors=(*_WITH_BODY, 404, 429),
        headers=("x-conversation-id", "x-ccapi-ignored"),
    ),
    ("GET", _CONVERSATION): Operation(
        summary="One conversation",
        tag="Conversations",
        answers=_json(ref("Conversation")),
        errors=_THING,
        headers=("x-conversation-id",),
    ),
    ("POST", _CONVERSATION): Operation(
        summary="Give a conversation other metadata",
        tag="Conversations",
        body=conversations.ChangedConversation,
        examples={"other metadata": {"metadata": {"topic": "greeting"}}},
        answers=_json(ref("Conversation")),
        errors=(*_THING, 413, 415),
        headers=("x-conversation-id",),
    ),
    ("DELETE", _CONVERSATION): Operation(
        summary="Delete a conversation; a turn that runs there ends",
        tag="Conversations",
        answers=_json(ref("DeletedConversation")),
        errors=_THING,
    ),
    ("GET", f"{_CONVERSATION}/export"): Operation(
        summary="Its messages, to be taken back by `POST /v1/conversations`, or as Markdown",
        tag="Conversations",
        answers={
            200: {
                JSON: {"schema": ref("ConversationExport")},
                "text/markdown": _TEXT,
            }
        },
        errors=_THING,
        parameters=(
            _query("format", {**one_of("json", "markdown"), "default": "json"}, "As what."),
        ),
        headers=("x-conversation-id",),
    ),
    ("GET", f"{_CONVERSATION}/items"): Operation(
        summary="Its items, as far as they are kept",
        tag="Conversations",
        answers=_json(ref("ItemList")),
        errors=_THING,
        parameters=_page(PAGE),
        headers=("x-conversation-id",),
    ),
    ("POST", f"{_CONVERSATION}/items"): Operation(
        summary="Add items without an answer",
        tag="Conversations",
        body=conversations.NewItems,
        examples={"a message": {"items": [{**_HELLO, "type": "message"}]}},
        answers=_json(ref("ItemList")),
        errors=(*_THING, 413, 415, 502, 504),
        headers=("x-conversation-id", "x-ccapi-ignored"),
    ),
    ("GET", f"{_CONVERSATION}/items/{{item_id}}"): Operation(
        summary="One item",
        tag="Conversations",
        answers=_json(ref("Item")),
        errors=_THING,
        headers=("x-conversation-id",),
    ),
    ("DELETE", f"{_CONVERSATION}/items/{{item_id}}"): Operation(
        summary="Refused: an item cannot be taken out of a conversation",
        tag="Conversations",
        answers={},
        errors=_THING,
    ),
    ("GET", f"{_CONVERSATION}/permissions"): Operation(
        summary="The permissions that its agent waits for",
        tag="Conversations",
        answers=_json(ref("Permissions")),
        errors=_THING,
        headers=("x-conversation-id",),
    ),
    ("POST", f"{_CONVERSATION}/permissions/{{request_id}}"): Operation(
        summary="Allow or deny what its agent asks for",
        tag="Conversations",
        body=conversations.PermissionDecision,
        examples={"allow": {"behavior": "allow"}},
        answers=_json(ref("PermissionReplied")),
        errors=(*_THING, 413, 415),
        headers=("x-conversation-id",),
    ),
    ("GET", f"{_CONVERSATION}/events"): _SOCKET_ONLY,
    ("GET", "/v1/overview"): _SOCKET_ONLY,
    ("GET", "/v1/house"): _SOCKET_ONLY,
    ("GET", "/v1/mcp"): Operation(
        summary="The operator's MCP servers: how each stands, and its tools",
        tag="Models",
        answers=_json(ref("McpServers")),
    ),
    ("GET", "/stats"): Operation(
        summary="Counters", tag="Operation", answers=_json(ref("Statistics"))
    ),
    ("GET", "/metrics"): Operation(
        summary="The same counters for Prometheus",
        tag="Operation",
        answers={200: {"text/plain": _TEXT}},
    ),
    ("GET", "/v1/usage"): Operation(
        summary="What the key has used, by day and model; with the scope admin, all keys",
        tag="Operation",
        answers=_json(OBJECT),
    ),
    ("GET", "/openapi.json"): Operation(
        summary="This document", tag="Operation", answers=_json(OBJECT)
    ),
    ("GET", "/health"): Operation(
        summary="The process lives",
        tag="Operation",
        answers=_json(an_object({"status": const("ok")})),
        errors=_ANYWHERE,
        keyed=False,
    ),
    ("GET", "/ready"): Operation(
        summary="Turns are taken, and can be answered",
        tag="Operation",
        answers=_json(an_object({"status": const("ready")})),
        errors=(*_ANYWHERE, 404, 503),
        parameters=(_query("else", const("404"), "The status if not, in place of 503."),),
        keyed=False,
    ),
    ("GET", "/"): Operation(
        summary="The page for people",
        tag="Page",
        answers={200: {"text/html": _TEXT}, 304: {}},
        errors=(*_ANYWHERE, 404),
        headers=("etag",),
        keyed=False,
    ),
    ("GET", "/page/{file}"): Operation(
        summary="A file of the page",
        tag="Page",
        answers={
            200: dict.fromkeys(_KINDS_OF_FILES, _TEXT),
            304: {},
        },
        errors=(*_ANYWHERE, 404),
        headers=("etag",),
        keyed=False,
    ),
}

_ERROR_MESSAGE = an_object({"type": const("error"), "error": ref("ErrorDetail")})

SOCKETS: dict[str, Schema] = {
    "/v1/responses": {
        "summary": "Responses, several at once, each in a lane (`stream_id`)",
        "sends": {
            "oneOf": [
                {
                    **an_object(
                        {"type": const("response.create"), "stream_id": STRING}, ("stream_id",)
                    ),
                    "description": "With the fields of `ResponseRequest` beside its type.",
                },
                an_object(
                    {"type": const("response.cancel"), "response_id": STRING, "stream_id": STRING},
                    ("response_id", "stream_id"),
                ),
                an_object(
                    {
                        "type": const("response.steer"),
                        "previous_response_id": STRING,
                        "input": {"anyOf": [STRING, array(OBJECT)]},
                    }
                ),
            ]
        },
        "receives": {
            "anyOf": [
                ref("ResponseEvent"),
                _ERROR_MESSAGE,
                an_object({"type": const("response.steer.accepted"), "steer": OBJECT}),
                an_object(
                    {"type": const("response.steer.failed"), "steer": OBJECT, "error": OBJECT}
                ),
            ]
        },
    },
    f"{_CONVERSATION}/events": {
        "summary": "Join a conversation: what happens in it, and turns of one's own",
        "parameters": [_query("after", INTEGER, "The last event that the client has.")],
        "sends": {
            "oneOf": [
                {
                    **an_object({"type": const("turn.create"), "ref": {}}, ("ref",)),
                    "description": "With the fields of `ChatRequest` beside its type.",
                },
                an_object(
                    {"type": const("turn.interrupt"), "turn_id": STRING, "ref": {}},
                    ("turn_id", "ref"),
                ),
                {
                    **an_object(
                        {"type": const("permission.reply"), "request_id": STRING, "ref": {}},
                        ("ref",),
                    ),
                    "description": "With the fields of `PermissionDecision` beside its type.",
                },
                an_object({"type": const("ping"), "ref": {}}, ("ref",)),
            ]
        },
        "receives": an_object(
            {
                "type": one_of(
                    "conversation.joined", "turn.started", "turn.finished", "turn.failed",
                    "turn.removed", "turn.accepted", "items.added", "text.delta",
                    "text.ended", "reasoning.delta", "reasoning.ended", "refusal",
                    "tool_call.started", "tool_call.delta",
                    "activity.started", "activity.delta", "activity.ended",
                    "search.started", "search.ended", "text.cited",
                    "permission.requested", "permission.resolved", "phase", "presence",
                    "conversation.closed", "ok", "pong", "error",
                ),
                "event_id": COUNT,
            },
            ("event_id",),
        ),
    },
    "/v1/overview": {
        "summary": "Sessions, children and counters, again whenever something changes",
        "sends": an_object({"type": const("ping")}),
        "receives": an_object({"type": one_of("overview", "pong")}),
    },
    "/v1/house": {
        "summary": "The former name of `/v1/overview`",
        "deprecated": True,
        "sends": an_object({"type": const("ping")}),
        "receives": an_object({"type": one_of("house", "pong")}),
    },
}  # fmt: skip
"""What is said over each WebSocket, as JSON texts: by the client (``sends``) and to it."""


# -- the document ----------------------------------------------------------------------------------


def make_document(*, keyed: bool) -> dict[str, Any]:
    """The document. `keyed`: keys are set, so that routes ask for one."""
    describer = Describer(DETAILS)
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in OPERATIONS.items():
        place = paths.setdefault(path, _path_item(path))
        place[method.lower()] = _operation(method, path, operation, describer, keyed=keyed)
    for path, socket in SOCKETS.items():
        paths[path]["x-websocket"] = socket
    for cls in (chat_messages.ChatMessage, items.InputItem):
        describer.ref(cls)  # to which details refer
    schemas = {
        **describer.schemas,
        "OtherItem": items.OTHER_ITEM,
        **ERRORS,
        **CHAT,
        **ITEMS,
        **RESPONSES,
        **BATCHES,
        **MESSAGES,
        **_own_schemas(),
    }
    components: dict[str, Any] = {
        "schemas": schemas,
        "responses": {
            f"{dialect}{status}": _error(status, schema)
            for dialect, schema in DIALECTS.items()
            for status in ERRORS_OF
        },
        "headers": HEADERS,
    }
    if keyed:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "ccapi",
            "version": version("claude-code-api"),
            "description": "An OpenAI-compatible gateway in front of the Claude Code CLI. Objects "
            "may get fields that are not described here.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": components,
    }


def _path_item(path: str) -> dict[str, Any]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    plain = {"type": "string", "minLength": 1}
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _PATH_PARAMETERS.get(name, plain),
        }
        for name in names
    ]
    return {"parameters": parameters} if parameters else {}


def _operation(
    method: str, path: str, operation: Operation, describer: Describer, *, keyed: bool
) -> dict[str, Any]:
    headers = _headers("x-request-id", *operation.headers)
    answers: dict[str, Any] = {}
    for status, content in operation.answers.items():
        about = "Not modified." if status == 304 else "As asked."
        answers[str(status)] = {"description": about, "headers": headers} | (
            {"content": dict(content)} if content else {}
        )
        if operation.makes is not None:
            answers[str(status)]["links"] = _links(operation.makes)
    errors = set(operation.errors) - (set() if keyed and operation.keyed else {401})
    for status in sorted(errors):
        name = f"{operation.dialect}{status}"
        answers[str(status)] = {"$ref": f"#/components/responses/{name}"}
    found: dict[str, Any] = {
        "operationId": _operation_id(method, path),
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": answers,
    }
    if operation.parameters:
        found["parameters"] = [*operation.parameters]
    if operation.body is not None:
        body: dict[str, Any] = {"schema": describer.ref(operation.body)}
        if operation.examples:
            examples = operation.examples.items()
            body["examples"] = {name: {"value": value} for name, value in examples}
        found["requestBody"] = {"required": operation.needs_body, "content": {JSON: body}}
    if operation.form is not None:
        content = {"multipart/form-data": {"schema": operation.form}}
        found["requestBody"] = {"required": True, "content": content}
    if keyed and operation.keyed:
        found["security"] = [{"bearer": []}, {"key": []}]
    return found


def _operation_id(method: str, path: str) -> str:
    words = path.replace("{", "by_").replace("}", "").replace(".", "_").split("/")
    return "_".join([method.lower(), *filter(None, words)])


def _links(parameter: str) -> dict[str, Any]:
    """Where the ``id`` of an answer leads: what is there of one thing, and of nothing within it."""
    return {
        _operation_id(method, path): {
            "operationId": _operation_id(method, path),
            "parameters": {parameter: "$response.body#/id"},
        }
        for (method, path), operation in OPERATIONS.items()
        if f"{{{parameter}}}" in path and path.count("{") == 1 and operation.answers
    }


def _headers(*names: str) -> dict[str, Schema]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _error(status: int, schema: Schema) -> dict[str, Any]:
    about, headers = ERRORS_OF[status]
    return {
        "description": about,
        "headers": _headers("x-request-id", *headers),
        "content": {JSON: {"schema": schema}},
    }


class Document:
    """The document of one app, made when it is first asked for."""

    def __init__(self, *, keyed: bool) -> None:
        self._keyed = keyed
        self._body = b""

    def __repr__(self) -> str:
        return f"<Document {len(self._body)} bytes>"

    async def show(self, call: Call) -> None:
        """``GET /openapi.json``."""
        if not self._body:
            self._body = write_json(make_document(keyed=self._keyed))
        await send_response(call.send, 200, JSON, self._body)
