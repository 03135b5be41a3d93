"""LangChain's `ChatOpenAI` on the gateway: its standard tests of a chat model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import langchain

NOT_DECLARED = {
    "test_anthropic_inputs": "Anthropic's own message format; OpenAI's is spoken here",
    "test_audio_inputs": "audio; the CLI has none",
    "test_stream_time": "the timing of recorded HTTP; there is nothing to record",
}
"""What LangChain skips, because `langchain_suite` does not declare it, and why."""


async def test_langchains_own_tests_pass(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    suite = langchain.Suite("langchain_suite", NOT_DECLARED)
    assert await langchain.run(suite, tmp_path, record_property) > 55
