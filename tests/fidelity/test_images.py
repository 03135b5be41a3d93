"""Pictures and documents, wherever in a history: the model sees them, or the client learns why
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
    with open_served(tmp_path_factory.mktemp("served"), file_access=access) as served:
        yield served


def picture(url: str) -> JSON:
    return {"type": "image_url", "image_url": {"url": url}}


def seen(data: bytes, media_type: str = "image/png", kind: str = "image") -> tuple[str, JSON]:
    encoded = base64.b64encode(data).decode()
    return kind, {"type": "base64", "media_type": media_type, "data": encoded}


def blocks(served: Served, message: int = -1) -> list[Any]:
    """Of one message, without what the CLI adds: where it keeps each picture."""
    said = spoken(served.last)[message][1]
    return [each for each in said if not str(each).startswith("[Image: source: ")]


def test_pictures_stand_where_they_stood(served: Served) -> None:
    served.ask(
        user([part("/first"), picture(data_url(ONE)), picture(data_url(TWO)), part("both?")])
    )
    assert blocks(served) == ["/first", seen(ONE), seen(TWO), "both?"]


def test_a_picture_alone(served: Served) -> None:
    served.ask(user([picture(data_url(GIF, "image/gif"))]))
    assert blocks(served) == [seen(GIF, "image/gif")]


def test_the_kind_is_what_the_bytes_say(served: Served) -> None:
    served.ask(user([picture(data_url(ONE, "image/jpeg")), part("?")]))
    assert blocks(served) == [seen(ONE), "?"]


def test_pictures_in_the_history(served: Served) -> None:
    history = [
        user([picture(data_url(ONE)), part("this?")]),
        assistant("A dot."),
        user([part("and this?"), picture(data_url(TWO))]),
        assistant("Six dots."),
        user("Sure?"),
    ]
    answer = served.ask(*history)
    assert answer.headers["x-ccapi-lineage"] == "miss"
    assert blocks(served, 0) == [seen(ONE), "this?"]
    assert blocks(served, 2) == ["and this?", seen(TWO)]
    again = served.ask(*history, assistant(answer.text), user("Really?"))
    assert again.headers["x-ccapi-lineage"] == "hit"
    assert blocks(served, 0) == [seen(ONE), "this?"]
    assert len(served.adopted(answer.conversation_id)) == 1


def test_a_picture_outlives_its_child(served: Served) -> None:
    first = served.ask(user([picture(data_url(ONE)), part("this?")]))
    served.kill_child(first.conversation_id)
    served.ask(user("Sure?"), conversation_id=first.conversation_id)
    assert blocks(served, 0) == [seen(ONE), "this?"]
    assert blocks(served) == ["Sure?"]


def test_a_document(served: Served) -> None:
    file = {"file_data": data_url(PDF, "application/pdf"), "filename": "a.pdf"}
    served.ask(user([{"type": "file", "file": file}, part("Sum it up.")]))
    assert blocks(served) == [seen(PDF, "application/pdf", "document"), "Sum it up."]


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
    served: Served, name: str, declared: str, text: str, encoding: str
) -> None:
    file = {"file_data": data_url(text.encode(encoding), declared), "filename": name}
    served.ask(user([{"type": "file", "file": file}, part("Sum it up.")]))
    source = {"type": "text", "media_type": "text/plain", "data": text}
    assert blocks(served) == [("document", source), "Sum it up."]


def test_a_picture_that_a_tool_made(served: Served) -> None:
    served.answers(call(ToolUse("draw", {}, "toolu_draw")))
    first = served.ask(user("Draw"), tools=[function("draw")])
    result = tool("toolu_draw", [part("here"), picture(data_url(ONE))])
    answer = served.ask(result, conversation_id=first.conversation_id)
    assert answer.finish_reason == "stop"
    ((call_id, content, failed),) = blocks(served)
    assert (call_id, failed) == ("toolu_draw", False)
    assert content[:2] == ["here", seen(ONE)]


def test_a_file_of_this_machine(served: Served, folder: Path) -> None:
    served.ask(user([picture(str(folder / "two.png")), part("?")]))
    assert blocks(served) == [seen(TWO), "?"]


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
def test_what_cannot_be_seen_is_refused(served: Served, url: str) -> None:
    answer = served.ask(user("one"), user([part("?"), picture(url)]))
    assert answer.status == 400
    assert answer.error["param"] == "messages[1].content[1].image_url.url"
    assert answer.error["type"] == "invalid_request_error"
    assert served.requests == []


def test_a_link_out_of_the_folder_is_refused(served: Served, folder: Path) -> None:
    (folder / "link.png").symlink_to("/etc/passwd")
    answer = served.ask(user([picture(str(folder / "link.png"))]))
    assert answer.status == 400
    assert served.requests == []
