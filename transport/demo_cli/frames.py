"""The frames the demo CLI prints: the stream-json words of the Claude Code CLI.

Knows the shape of each line as Claude Code 2.1.330 prints it (fields on which no program could
depend are left out). Refuses to know when a line is printed or what is in it. Lines are bytes that
end in a newline, compact like JSON.stringify's; those of deltas are filled into a prepared form,
because a turn has thousands of them.
"""

from __future__ import annotations

import json
import os
import time
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any, Final

Json = dict[str, Any]

VERSION: Final = "2.1.330"
INTERRUPTED: Final = "[Request interrupted by user]"

NO_USAGE: Final[Json] = {
    "input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 0,
    "output_tokens_details": {"thinking_tokens": 0},
    "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
    "service_tier": "standard",
    "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
}

_DELTA_KEYS: Final = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}


def new_uuid() -> str:
    """A random UUID; the uuid module would cost as much as the rest of the start."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


def encode(frame: Json) -> bytes:
    """One line. Raw UTF-8, except that lone surrogates are escaped, as JavaScript does."""
    try:
        return json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(frame, separators=(",", ":")).encode() + b"\n"


class Frames:
    """The lines of one session, each with the session's id and an uuid of its own."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self._stem = new_uuid()[:24]
        self._count = 0
        self._results = 0

    def next_uuid(self) -> str:
        """An UUID that no other frame of this process has."""
        self._count += 1
        return f"{self._stem}{self._count:012x}"

    def line(self, frame: Json) -> bytes:
        """Any frame, with the session's id and an uuid added."""
        return encode({**frame, "session_id": self.session_id, "uuid": self.next_uuid()})

    # -- the session ------------------------------------------------------------------------

    def system(self, subtype: str, **fields: Any) -> bytes:
        """A system frame."""
        return self.line({"type": "system", "subtype": subtype, **fields})

    def lifecycle(self, command: str, state: str) -> bytes:
        """What became of a user frame: queued, started, completed, cancelled or discarded."""
        return self.line({"type": "command_lifecycle", "command_uuid": command, "state": state})

    def init(self, **fields: Any) -> bytes:
        """The frame that opens each turn; `fields` are those that depend on the session."""
        return self.system(
            "init",
            **fields,
            slash_commands=[],
            apiKeySource="none",
            claude_code_version=VERSION,
            output_style="default",
            skills=[],
            plugins=[],
        )

    @staticmethod
    def success(request_id: Any, body: Json | None = None) -> bytes:
        """The answer to a control request; some have no body."""
        response: Json = {"subtype": "success", "request_id": request_id}
        if body is not None:
            response["response"] = body
        return encode({"type": "control_response", "response": response})

    @staticmethod
    def failure(request_id: Any, error: str, code: str) -> bytes:
        """The answer to a control request that is refused."""
        response = {
            "subtype": "error",
            "request_id": request_id,
            "error": error,
            "error_code": code,
        }
        return encode({"type": "control_response", "response": response})

    @staticmethod
    def mcp_message(request_id: str, server: str, message: Json) -> bytes:
        """A control request of our own: a JSON-RPC message for one of the gateway's MCP servers."""
        request = {"subtype": "mcp_message", "server_name": server, "message": message}
        return encode({"type": "control_request", "request_id": request_id, "request": request})

    # -- one turn ---------------------------------------------------------------------------

    def event(self, event: Json, message_id: str) -> bytes:
        """An event of the Messages API stream."""
        return self.line(
            {
                "type": "stream_event",
                "event": event,
                "parent_tool_use_id": None,
                "api_message_id": message_id,
            }
        )

    def deltas(self, index: int, kind: str, texts: list[str], message_id: str) -> bytes:
        """One `content_block_delta` line for each text, joined."""
        head = (
            f'{{"type":"stream_event","event":{{"type":"content_block_delta","index":{index},'
            f'"delta":{{"type":"{kind}","{_DELTA_KEYS[kind]}":'
        )
        middle = (
            f'}}}},"session_id":"{self.session_id}","parent_tool_use_id":null,"uuid":"{self._stem}'
        )
        tail = f'","api_message_id":"{message_id}"}}\n'
        first = self._count + 1
        self._count += len(texts)
        quote = encode_basestring
        while True:
            lines = "".join(
                [
                    f"{head}{quote(text)}{middle}{number:012x}{tail}"
                    for number, text in enumerate(texts, first)
                ]
            )
            try:
                return lines.encode()
            except UnicodeEncodeError:
                quote = encode_basestring_ascii

    def assistant(self, message: Json, uuid: str, **fields: Any) -> bytes:
        """A message of the model, or of the CLI in its place."""
        return encode(
            {
                "type": "assistant",
                "message": message,
                "parent_tool_use_id": None,
                "session_id": self.session_id,
                "uuid": uuid,
                "timestamp": _timestamp(),
                **fields,
            }
        )

    def user(self, content: list[Json], uuid: str) -> bytes:
        """What the CLI itself says as the user."""
        return encode(
            {
                "type": "user",
                "message": {"role": "user", "content": content},
                "parent_tool_use_id": None,
                "session_id": self.session_id,
                "uuid": uuid,
                "timestamp": _timestamp(),
            }
        )

    def result(self, **fields: Any) -> bytes:
        """A result; what `fields` leaves out is that of a success without an API call."""
        index, self._results = self._results, self._results + 1
        return self.line(
            {
                "type": "result",
                "subtype": "success",
                "is_error": False,
                "duration_ms": 0,
                "duration_api_ms": 0,
                "num_turns": 0,
                "stop_reason": None,
                "total_cost_usd": 0,
                "usage": NO_USAGE,
                "modelUsage": {},
                "permission_denials": [],
                **fields,
                "result_index": index,
            }
        )


def message(message_id: str, model: str, content: list[Json], usage: Json) -> Json:
    """A Messages API message as `message_start` and assistant frames carry it."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def synthetic(message_id: str, text: str, stop_reason: str) -> Json:
    """The message the CLI writes itself, where no model spoke."""
    return {
        **message(message_id, "<synthetic>", [{"type": "text", "text": text}], NO_USAGE),
        "stop_reason": stop_reason,
    }


def _timestamp() -> str:
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}Z"
