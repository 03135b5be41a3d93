"""LangChain's `ChatAnthropic` on the gateway: its standard tests of a chat model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import langchain

NOT_DECLARED = {
    "test_audio_inputs": "audio; the API has none",
    "test_json_mode": "a JSON mode; the API has none, but schemas",
    "test_stream_time": "the timing of recorded HTTP; there is nothing to record",
    "test_structured_output_pydantic_2_v1": "models of pydantic 1 with a schema: this is"
    " LangChain's own fault (TypeError before anything is sent)",
}
"""What LangChain skips, because `langchain_anthropic_suite` does not declare it, or expects
to fail, and why."""


async def test_langchains_own_tests_pass(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    suite = langchain.Suite("langchain_anthropic_suite", NOT_DECLARED)
    assert await langchain.run(suite, tmp_path, record_property) > 50
