"""LangChain's standard integration tests for chat models, with `ChatOpenAI` on the gateway.

What the gateway can do is declared here, and LangChain tests what is declared. `test_langchain.py`
runs this file, and says where the gateway is in CCAPI_TEST_BASE_URL.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests, chat_models

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]>>endobj\n"
    b"trailer<</Root 1 0 R>>\n%%EOF\n"
)


@pytest.fixture(autouse=True)
def downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_downloads(monkeypatch)


def stub_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures and documents that LangChain's tests download come from here."""

    def get(url: str, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(content=PDF if url.endswith(".pdf") else PNG)

    monkeypatch.setattr(chat_models, "httpx", SimpleNamespace(get=get))


class TestGateway(ChatModelIntegrationTests):
    """With the default model, which is the newest.

    What is not declared, and why: audio, because the CLI has none; image URLs, because these tests
    leave this machine for theirs; Anthropic's message format, because OpenAI's is spoken here; vcr,
    because the answers come from a model behind a real CLI.
    """

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "base_url": os.environ["CCAPI_TEST_BASE_URL"],
            "api_key": "unused",
            "model": "sonnet",
            "stream_usage": True,
            "max_retries": 0,
            "timeout": 30,
        }

    @property
    def model_override_value(self) -> str:
        return "haiku"

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_pdf_tool_message(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:  # type: ignore[override]
        details = ["cache_read_input", "reasoning_output"]
        return {"invoke": details, "stream": details}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        return self._said("Hello, for the second time.", stream)

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        return self._said("Think: is 7 a prime?", stream)

    def _said(self, prompt: str, stream: bool) -> AIMessage:
        model = ChatOpenAI(**self.chat_model_params)
        if not stream:
            return model.invoke(prompt)
        chunks: Iterator[Any] = model.stream(prompt)
        whole = next(chunks)
        for chunk in chunks:
            whole += chunk
        assert isinstance(whole, AIMessage)
        return whole


class TestForcedToolChoice(TestGateway):
    """With a model that can be forced: structured output through a forced tool call, as clients
    without response formats do it."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "model": "claude-sonnet-5"}

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}


class TestToolChoiceInWords(TestForcedToolChoice):
    """The same with the default model, which the gateway can only ask for a call."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "model": "sonnet"}
