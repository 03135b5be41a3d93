"""What both anthropic SDKs have to see."""

from __future__ import annotations

from typing import Any

from .expected import (
    BOTH,
    COUNTED,
    HELLO,
    JOKE,
    PARALLEL_RESULTS,
    PICTURE,
    TIME,
    TWO_RESULTS,
    WEATHER,
)

_TWO_STEPS = [["tool_use", [WEATHER]], ["tool_use", [TIME]], ["end_turn", []]]
_UNKNOWN = ["NotFoundError", 404, "not_found_error", True]
_BAD = ["BadRequestError", 400, "invalid_request_error", True]

EXPECTED: dict[str, Any] = {
    "chat": ["message", "assistant", "sonnet", HELLO, "end_turn", True],
    "turns": "Your name is Ada.",
    "stream": {
        "text": COUNTED,
        "pieces": True,
        "kinds": [
            "content_block_delta",
            "content_block_start",
            "content_block_stop",
            "message_delta",
            "message_start",
            "message_stop",
        ],
        "same": True,
    },
    "streamed_tools": {"calls": BOTH, "reason": "tool_use", "fragments": True},
    "tool_loop": {"steps": _TWO_STEPS, "text": TWO_RESULTS},
    "parallel_tools": {
        "steps": [["tool_use", BOTH], ["end_turn", []]],
        "text": PARALLEL_RESULTS,
    },
    "tool_runner": {
        "asked": [["get_weather", "Rome"], ["get_time", "Rome"]],
        "text": TWO_RESULTS,
    },
    "streamed_tool_runner": {
        "asked": [["get_weather", "Paris"], ["get_weather", "London"]],
        "text": PARALLEL_RESULTS,
    },
    "tool_choice": {"none": [], "any": 1, "named": ["get_time"], "alone": ["get_weather"]},
    "thinking": {
        "first": ["thinking", "tool_use"],
        "signed": True,
        "second": ["thinking", "text"],
        "text": "The tool says: Sunny in Rome.",
    },
    "adaptive_thinking": ["thinking", "text"],
    "image": PICTURE,
    "documents": "I see 2 document, small and plain.",
    "structured": JOKE,
    "limits": [["1 2 3 4 5 6 7 8 9 10", "max_tokens", None], ["1 2 3 4", "stop_sequence", " 5"]],
    "count_tokens": [True, True, True],
    "models": [True, True, "claude-opus-5-5", "model"],
    "beta": [HELLO, "anthropic-beta:context-management-2025-06-27", True],
    "bearer": HELLO,
    "errors": {
        "unknown": _UNKNOWN,
        "bad": _BAD,
        "empty": _BAD,
        "refused": _BAD,
        "streamed": _UNKNOWN,
        "counted": _UNKNOWN,
        "model": _UNKNOWN,
        "overloaded": ["OverloadedError", 529, "overloaded_error", True],
        "limited": ["RateLimitError", 429, "rate_limit_error", True],
    },
    "place_of_an_error": True,
    "batches": [{"good": HELLO, "bad": "not_found_error"}, 1, "message_batch_deleted"],
    "retries": [
        *[529, 200, "You said: Fail once with 529: b"],
        *[429, 200, "You said: Fail once with 429: b"],
    ],
}
"""By check. An abort is each SDK's own, and stands beside this."""
