"""Pictures and documents, wherever in a history: the model sees them, or the client is told why
not."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccapi.schemas.settings.settings import FileAccessSettings
from tests.support.messages_stub import ToolUse, call
from tests.support.pictures import GIF, PDF, data_url, png

from .served import JSON, Served, assistant, function, open_served, part, spoken, tool, user

ONE, TWO = png(1, 1), png(2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one folder from which pictures may come."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "two.png").write_bytes(TWO)
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Served]:
    access = FileAccessSettings(additional_dirs=(str(folder),))
    with open_served(tmp_path_factory.mktemp("house"), file_access=access) as house:
        yield house


def picture(url: str) -> JSON:
    return {"type": "image_url", "image_url": {"url": url}}


def seen(data: bytes, media_type: str = "image/png", kind: str = "image") -> tuple[str, JSON]:
    encoded = base64.b64encode(data).decode()
    return kind, {"type": "base64", "media_type": media_type, "data": encoded}


def blocks(house: Served, message: int = -1) -> list[Any]:
    """Of one message, without what the CLI adds: where it keeps each picture."""
    said = spoken(house.last)[message][1]
    return [each for each in said if not str(each).startswith("[Image: source: ")]


def test_pictures_stand_where_they_stood(house: Served) -> None:
    house.ask(user([part("/first"), picture(data_url(ONE)), picture(data_url(TWO)), part("both?")]))
    assert blocks(house) == ["/first", seen(ONE), seen(TWO), "both?"]


def test_a_picture_alone(house: Served) -> None:
    house.ask(user([picture(data_url(GIF, "image/gif"))]))
    assert blocks(house) == [seen(GIF, "image/gif")]


def test_the_kind_is_what_the_bytes_say(house: Served) -> None:
    house.ask(user([picture(data_url(ONE, "image/jpeg")), part("?")]))
    assert blocks(house) == [seen(ONE), "?"]


def test_pictures_in_the_history(house: Served) -> None:
    history = [
        user([picture(data_url(ONE)), part("this?")]),
        assistant("A dot."),
        user([part("and this?"), picture(data_url(TWO))]),
        assistant("Six dots."),
        user("Sure?"),
    ]
    answer = house.ask(*history)
    assert answer.headers["x-ccapi-lineage"] == "miss"
    assert blocks(house, 0) == [seen(ONE), "this?"]
    assert blocks(house, 2) == ["and this?", seen(TWO)]
    again = house.ask(*history, assistant(answer.text), user("Really?"))
    assert again.headers["x-ccapi-lineage"] == "hit"
    assert blocks(house, 0) == [seen(ONE), "this?"]
    assert len(house.adopted(answer.conversation_id)) == 1


def test_a_picture_outlives_its_child(house: Served) -> None:
    first = house.ask(user([picture(data_url(ONE)), part("this?")]))
    house.kill_child(first.conversation_id)
    house.ask(user("Sure?"), conversation_id=first.conversation_id)
    assert blocks(house, 0) == [seen(ONE), "this?"]
    assert blocks(house) == ["Sure?"]


def test_a_document(house: Served) -> None:
    file = {"file_data": data_url(PDF, "application/pdf"), "filename": "a.pdf"}
    house.ask(user([{"type": "file", "file": file}, part("Sum it up.")]))
    assert blocks(house) == [seen(PDF, "application/pdf", "document"), "Sum it up."]


@pytest.mark.parametrize(
    ("name", "declared", "text", "encoding"),
    [
        ("a.json", "application/json", '{"grüße": [1, 2]}\n', "utf-8"),
        ("a.yaml", "application/x-yaml", "grüße:\n  - 1\n", "utf-8"),
        ("a.csv", "text/csv", "name,town\r\nÅsa,Köln\r\n", "utf-8-sig"),
        ("a.py", "application/octet-stream", "print('😀')\n", "utf-16"),
    ],
)
def test_a_text_whatever_it_is_called(
    house: Served, name: str, declared: str, text: str, encoding: str
) -> None:
    file = {"file_data": data_url(text.encode(encoding), declared), "filename": name}
    house.ask(user([{"type": "file", "file": file}, part("Sum it up.")]))
    source = {"type": "text", "media_type": "text/plain", "data": text}
    assert blocks(house) == [("document", source), "Sum it up."]


def test_a_picture_that_a_tool_made(house: Served) -> None:
    house.answers(call(ToolUse("draw", {}, "toolu_draw")))
    first = house.ask(user("Draw"), tools=[function("draw")])
    result = tool("toolu_draw", [part("here"), picture(data_url(ONE))])
    answer = house.ask(result, conversation_id=first.conversation_id)
    assert answer.finish_reason == "stop"
    ((call_id, content, failed),) = blocks(house)
    assert (call_id, failed) == ("toolu_draw", False)
    assert content[:2] == ["here", seen(ONE)]


def test_a_file_of_this_machine(house: Served, folder: Path) -> None:
    house.ask(user([picture(str(folder / "two.png")), part("?")]))
    assert blocks(house) == [seen(TWO), "?"]


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,aGVsbG8=",
        "data:image/png;base64,***",
        "https://example.org/a.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://example.org/a.png",
    ],
)
def test_what_cannot_be_seen_is_refused(house: Served, url: str) -> None:
    answer = house.ask(user("one"), user([part("?"), picture(url)]))
    assert answer.status == 400
    assert answer.error["param"] == "messages[1].content[1].image_url.url"
    assert answer.error["type"] == "invalid_request_error"
    assert house.requests == []


def test_a_link_out_of_the_folder_is_refused(house: Served, folder: Path) -> None:
    (folder / "link.png").symlink_to("/etc/passwd")
    answer = house.ask(user([picture(str(folder / "link.png"))]))
    assert answer.status == 400
    assert house.requests == []
