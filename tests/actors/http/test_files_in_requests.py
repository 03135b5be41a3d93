"""Uploaded files that requests name: each dialect's way, and whose they are."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ccapi.schemas.message import Document, Image
from ccapi.schemas.settings.settings import AuthSettings, ImageSettings, Settings

from ...support.asgi import Client, Response
from ...support.batches import FORM, form, upload
from ...support.gateway_double import GatewayDouble, app_of, open_gateway_double, saying
from ...support.pictures import PDF, png

JSON = dict[str, Any]


def chat(file_id: str) -> tuple[str, JSON, str]:
    part = {"type": "file", "file": {"file_id": file_id}}
    asked = {"model": "haiku", "messages": [{"role": "user", "content": [part]}]}
    return "/v1/chat/completions", asked, "messages[0].content[0].file.file_id"


def responses(file_id: str, kind: str = "input_file") -> tuple[str, JSON, str]:
    said = [{"role": "user", "content": [{"type": kind, "file_id": file_id}]}]
    return "/v1/responses", {"model": "haiku", "input": said}, "input[0].content[0].file_id"


def messages(file_id: str, kind: str = "document") -> tuple[str, JSON, str]:
    block = {"type": kind, "source": {"type": "file", "file_id": file_id}}
    asked = {
        "model": "haiku",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": [block]}],
    }
    return "/v1/messages", asked, "messages.0.content.0.source.file_id"


def message_of(response: Response) -> str:
    text: str = response.json()["error"]["message"]
    return text


@pytest.mark.parametrize("ask", [chat, responses, messages])
async def test_a_file_is_read_where_it_is_named(
    client: Client, gateway: GatewayDouble, ask: Any
) -> None:
    gateway.script = saying("I see.")
    file_id = await upload(client, PDF, "user_data")
    path, asked, place = ask(file_id)
    assert (await client.request("POST", path, json=asked)).status == 200
    [block] = [b for b in gateway.asked[-1].messages[-1].content if isinstance(b, Document)]
    assert (block.media_type, block.name) == ("application/pdf", "in.jsonl")
    assert base64.b64decode(block.data) == PDF
    await client.request("DELETE", f"/v1/files/{file_id}")
    response = await client.request("POST", path, json=asked)
    assert response.status == 404
    assert place in message_of(response)


@pytest.mark.parametrize(
    "ask", [lambda name: responses(name, "input_image"), lambda name: messages(name, "image")]
)
async def test_a_picture_is_one(client: Client, gateway: GatewayDouble, ask: Any) -> None:
    gateway.script = saying("I see.")
    path, asked, _ = ask(await upload(client, png(), "user_data"))
    assert (await client.request("POST", path, json=asked)).status == 200
    assert any(isinstance(block, Image) for block in gateway.asked[-1].messages[-1].content)
    path, asked, place = ask(await upload(client, b"no picture", "user_data"))
    response = await client.request("POST", path, json=asked)
    assert response.status == 400
    assert place in message_of(response)


async def test_a_long_file_is_read_whole(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = saying("I see.")
    text = "word " * 150_000  # three pieces
    body = form(('name="purpose"', b"user_data"), ('name="file"; filename="a"', text.encode()))
    file_id = (await client.request("POST", "/v1/files", body=[body], headers=FORM)).json()["id"]
    path, asked, _ = chat(file_id)
    assert (await client.request("POST", path, json=asked)).status == 200
    [block] = gateway.asked[-1].messages[-1].content
    assert isinstance(block, Document)
    assert base64.b64decode(block.data).decode() == text


async def test_a_file_is_its_keys_and_within_the_limits() -> None:
    settings = Settings(
        auth=AuthSettings(api_keys=("alice", "bob")), images=ImageSettings(max_bytes=1000)
    )
    async with open_gateway_double(settings) as gateway:
        app = app_of(gateway)
        alice, bob = (Client(app, {"x-api-key": name}) for name in ("alice", "bob"))
        for ask in (chat, responses, messages):
            path, asked, place = ask(await upload(alice, b"secret", "user_data"))
            response = await bob.request("POST", path, json=asked)
            assert response.status == 404
            assert place in message_of(response)
            path, asked, place = ask(await upload(alice, b"x" * 1001, "user_data"))
            response = await alice.request("POST", path, json=asked)
            assert response.status == 400
            assert "1000 bytes" in message_of(response)
        assert gateway.asked == []
