"""Pictures and files in chat requests: what of them reaches the turn, and how they are refused."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ccapi.schemas.message import Document, Image
from ccapi.schemas.settings.settings import FileAccessSettings, ImageSettings, Settings

from ...support.asgi import Client, Response
from ...support.chat import CHAT, NO_STORE, STREAM, answered, ask, completion, open_front, report
from ...support.embedded import script
from ...support.gateway_double import GatewayDouble, app_of, open_gateway_double, saying
from ...support.pictures import GIF, PDF, data_url, jpeg, png

PNG = base64.b64encode(png()).decode()
REMOTE = "https://example.com/cat.png"


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def document(data: bytes, name: str = "a.pdf") -> dict[str, Any]:
    url = data_url(data, "application/pdf")
    return {"type": "file", "file": {"file_data": url, "filename": name}}


def showing(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [text("Look:"), *parts]}]


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayDouble]:
    async with open_gateway_double() as double:
        double.script = saying("I see.")
        yield double


@pytest.fixture
async def client(gateway: GatewayDouble) -> Client:
    return Client(app_of(gateway))


async def ask_with(settings: Settings, *parts: dict[str, Any]) -> tuple[Response, GatewayDouble]:
    async with open_gateway_double(settings) as gateway:
        gateway.script = saying("I see.")
        return await ask(Client(app_of(gateway)), messages=showing(*parts)), gateway


def assert_refused(response: Response, code: str, param: str) -> None:
    assert response.status == 400
    assert response.error["type"] == "invalid_request_error"
    assert (response.error["code"], response.error["param"]) == (code, param)


# -- taken ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_data_url_reaches_the_turn(
    client: Client, gateway: GatewayDouble, stream: bool
) -> None:
    messages = showing(image(data_url(png())), image(data_url(GIF, "image/png")), text("Well?"))
    assert (await ask(client, messages=messages, stream=stream)).status == 200
    [message] = gateway.asked[0].messages
    look, first, second, well = message.content
    assert (look, well) == ("Look:", "Well?")
    assert first == Image("image/png", PNG)
    assert second == Image("image/gif", base64.b64encode(GIF).decode()), "by its bytes"


async def test_attachments_anywhere_in_the_history(client: Client, gateway: GatewayDouble) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "draw", "arguments": "{}"}}
    messages = [
        *showing(image(data_url(png()))),
        {"role": "assistant", "content": "A point."},
        *showing(document(PDF)),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [image(data_url(jpeg()))]},
    ]
    tools = [{"type": "function", "function": {"name": "draw"}}]
    completion(await ask(client, messages=messages, tools=tools))
    first, _, second, _, result = gateway.asked[0].messages
    assert first.content[1] == Image("image/png", PNG)
    assert second.content[1] == Document("application/pdf", base64.b64encode(PDF).decode(), "a.pdf")
    [drawn] = result.results[0].content
    assert isinstance(drawn, Image)
    assert drawn.media_type == "image/jpeg"


async def test_other_pictures_are_another_request(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = gateway.remembered("I see.")
    for picture, outcome in [(png(), "miss"), (png(2), "miss"), (png(), "hit")]:
        response = await ask(client, messages=showing(image(data_url(picture))))
        assert response.headers["x-ccapi-cache"] == outcome


async def test_a_local_file_in_an_allowed_folder(tmp_path: Path) -> None:
    folder = tmp_path / "allowed"
    folder.mkdir()
    (folder / "cat.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    settings = Settings(file_access=FileAccessSettings(additional_dirs=(str(folder),)))
    for url in (f"{folder}/cat.png", f"file://{folder}/cat.png"):
        response, gateway = await ask_with(settings, image(url))
        assert completion(response).choices
        assert gateway.asked[0].messages[0].content[1] == Image("image/png", PNG)
    outside = [
        f"{tmp_path}/secret.png",
        f"{folder}/link.png",
        f"{folder}/../secret.png",
        f"{folder}/missing.png",
        str(folder),
    ]
    errors = []
    for url in outside:
        response, gateway = await ask_with(settings, image(url))
        assert_refused(response, "file_not_allowed", "messages[0].content[1].image_url.url")
        errors.append(response.error["message"])
        assert (gateway.made, gateway.asked) == ([], [])
    assert len(set(errors)) == 1, "the error says nothing of what is there"


# -- refused ---------------------------------------------------------------------------------------


async def test_nothing_is_read_from_this_machine_unless_allowed(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(png())
    response, _ = await ask_with(Settings(), image(str(tmp_path / "cat.png")))
    assert_refused(response, "file_not_allowed", "messages[0].content[1].image_url.url")


@pytest.mark.parametrize("stream", [False, True])
async def test_remote_pictures_are_off(
    client: Client, gateway: GatewayDouble, stream: bool
) -> None:
    messages = [{"role": "user", "content": "Hi"}, *showing(text("and"), image(REMOTE))]
    response = await ask(client, messages=messages, stream=stream)
    assert_refused(response, "remote_images_disabled", "messages[1].content[2].image_url.url")
    assert "images.allow_remote" in response.error["message"]
    assert (gateway.made, gateway.asked) == ([], [])


async def test_remote_pictures_are_never_this_machines(tmp_path: Path) -> None:
    settings = Settings(images=ImageSettings(allow_remote=True))
    response, gateway = await ask_with(settings, image("http://127.0.0.1:9/cat.png"))
    assert response.status == 400
    assert response.error["param"] == "messages[0].content[1].image_url.url"
    assert gateway.asked == []


@pytest.mark.parametrize(
    ("part", "code", "field"),
    [
        (image("data:image/png;base64,!!!"), "invalid_image", "image_url.url"),
        (image(data_url(b"GIF but not really")), "invalid_image", "image_url.url"),
        (image(data_url(PDF)), "invalid_image", "image_url.url"),
        (image("cat.png"), "invalid_image_url", "image_url.url"),
        (document(b"\x00\x01\x02"), "invalid_file", "file.file_data"),
        ({"type": "image_url"}, "missing_field", "image_url"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_no_attachment_is_a_400(
    client: Client, gateway: GatewayDouble, part: dict[str, Any], code: str, field: str
) -> None:
    response = await ask(client, messages=showing(part))
    assert_refused(response, code, f"messages[0].content[1].{field}")
    assert (gateway.made, gateway.asked) == ([], [])


async def test_limits_of_size_and_number() -> None:
    small = Settings(images=ImageSettings(max_bytes=200, max_total_bytes=300, max_count=3))
    fits, big = image(data_url(png(padding=50))), image(data_url(png(padding=200)))
    tiny = image(data_url(png()))
    cases = [
        ([fits, big], "image_too_large", 2, "images.max_bytes"),
        ([fits, fits, fits], "image_too_large", 3, "images.max_total_bytes"),
        ([tiny] * 4, "too_many_attachments", 4, "images.max_count"),
    ]
    for parts, code, index, setting in cases:
        response, gateway = await ask_with(small, *parts)
        assert_refused(response, code, f"messages[0].content[{index}].image_url.url")
        assert setting in response.error["message"]
        assert gateway.asked == []
    response, _ = await ask_with(small, tiny, tiny)
    assert completion(response).choices


# -- over a real child -----------------------------------------------------------------------------


async def test_the_child_is_given_the_picture_and_its_history_is_recognised(
    tmp_path: Path,
) -> None:
    async with open_front(tmp_path) as (client, _):
        shown = showing(image(data_url(png())), document(PDF))
        first = await ask(client, NO_STORE, messages=shown)
        said = [*shown, answered(first), {"role": "user", "content": script(report=True)}]
        again = await client.request("POST", CHAT, json=STREAM | {"messages": said})
        assert again.headers["x-ccapi-lineage"] == "hit"
        said[0]["content"][1] = image(data_url(png(2)))
        other = await ask(client, NO_STORE, messages=said)
        assert other.headers["x-ccapi-lineage"] == "miss"
        content = report(other)["history"][0]["content"]
        assert [block["type"] for block in content] == ["text", "image", "document"]
        source = content[1]["source"]
        assert source["media_type"] == "image/png"
        assert base64.b64decode(source["data"]) == png(2)
