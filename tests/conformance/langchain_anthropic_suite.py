"""LangChain's standard integration tests for chat models, with `ChatAnthropic` on the gateway.

What the gateway can do is declared here, and LangChain tests what is declared.
`test_langchain_anthropic.py` runs this file, and says where the gateway is in CCAPI_TEST_BASE_URL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests

from .langchain_suite import stub_downloads


@pytest.fixture(autouse=True)
def downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_downloads(monkeypatch)


class Gateway(ChatModelIntegrationTests):
    """What both classes of tests share.

    What is not declared, and why: audio, because the API has none; image URLs, because these tests
    leave this machine for theirs; JSON mode, because the API has none; vcr, because the answers
    come from a model behind a real CLI.
    """

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAnthropic

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "base_url": os.environ["CCAPI_TEST_BASE_URL"].removesuffix("/v1"),
            "api_key": "unused",
            "model": "sonnet",
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
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:  # type: ignore[override]
        details = ["cache_read_input", "cache_creation_input"]
        return {"invoke": details, "stream": details}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        return self._said("Hello, for the second time.", stream)

    def invoke_with_cache_creation_input(self, *, stream: bool = False) -> AIMessage:
        return self._said("Hello, for the third time.", stream)

    def _said(self, prompt: str, stream: bool) -> AIMessage:
        model = ChatAnthropic(**self.chat_model_params)
        if not stream:
            return model.invoke(prompt)
        chunks: Iterator[Any] = model.stream(prompt)
        whole = next(chunks)
        for chunk in chunks:
            whole += chunk
        assert isinstance(whole, AIMessage)
        return whole


class TestGateway(Gateway):
    """With the default model, which is the newest."""

    @pytest.mark.xfail(
        reason="models of pydantic 1 with a schema; ChatAnthropic does not take them"
    )
    def test_structured_output_pydantic_2_v1(self, model: BaseChatModel) -> None:
        super().test_structured_output_pydantic_2_v1(model)


class TestForcedToolChoice(Gateway):
    """With a model that can be forced: structured output through a forced tool call."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "model": "claude-sonnet-5"}

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}
