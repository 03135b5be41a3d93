"""Who may have the web searched, what a client without that reads, and how searches that were made
are written, over turns that the tests play themselves."""

from __future__ import annotations

from typing import Any

import pytest

from ccapi.schemas.search import Cited, Source, WebPage
from ccapi.schemas.settings.settings import (
    AuthSettings,
    ClaudeSettings,
    PermissionSettings,
    Settings,
)
from ccapi.schemas.turn import ToolChoice
from ccapi.schemas.turn_items import SearchEnded, SearchStarted, TextDelta

from ...support.asgi import Client
from ...support.chat import CHAT, STREAM, ask, chunks, completion
from ...support.gateway_double import Asked, app_of, open_gateway_double, saying
from ...support.responses import RESPONSES, check_item, events, read

KEYS = ("key-a-long-enough", "key-b-long-enough")
OFF = Settings(claude=ClaudeSettings(web_search=False))
DENIED = Settings(permissions=PermissionSettings(deny=("Bash", "WebSearch(x)")))
KEYED = Settings(auth=AuthSettings(api_keys=KEYS, search_keys=KEYS[1:]))
ALONE = Settings(auth=AuthSettings(api_keys=KEYS[:1]))


@pytest.mark.parametrize(
    ("settings", "key", "may"),
    [
        (Settings(), None, True),
        (OFF, None, False),
        (DENIED, None, False),
        (KEYED, KEYS[0], False),
        (KEYED, KEYS[1], True),
        (ALONE, KEYS[0], True),
    ],
)
async def test_a_search_is_for_those_who_may_and_named_to_others(
    settings: Settings, key: str | None, *, may: bool
) -> None:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with open_gateway_double(settings) as double:
        double.script = saying("Hello")
        client = Client(app_of(double))
        one = await ask(client, headers, web_search_options={})
        body: dict[str, Any] = {
            "model": "sonnet",
            "input": "Hi",
            "tools": [{"type": "web_search"}],
            "tool_choice": "required",
        }
        two = await client.request("POST", RESPONSES, json=body, headers=headers)
        body["tool_choice"] = {"type": "web_search"}
        three = await client.request("POST", RESPONSES, json=body, headers=headers)
    for asked in double.asked:
        assert (asked.options.search is not None) is may
    choices = [asked.options.tool_choice for asked in double.asked[1:]]
    ignored = [answer.headers.get("x-ccapi-ignored") for answer in (one, two, three)]
    kinds = [tool["type"] for tool in two.json()["tools"]]
    assert completion(one).choices[0].message.content == "Hello"
    assert read(two).status == "completed"
    if may:
        assert choices == [ToolChoice("required"), ToolChoice("named", "web_search")]
        assert (ignored, kinds) == ([None] * 3, ["web_search"])
    else:
        assert choices == [ToolChoice()] * 2
        named = "tools.web_search, tool_choice"
        assert (ignored, kinds) == (["web_search_options", named, named], [])


async def test_an_answer_that_searched_is_nothing_for_the_cache() -> None:
    async with open_gateway_double() as double:
        double.script = saying("Hello")
        client = Client(app_of(double))
        for _ in range(2):
            answer = await ask(client, web_search_options={}, temperature=0)
            assert "x-ccapi-cache" not in answer.headers
    assert len(double.asked) == 2


PAGE = WebPage("https://a.example/", "A", None, "sealed")
NOTE = {"title": "A", "url": PAGE.url}


async def searching(asked: Asked) -> None:
    """An emoji counts as one character; the second search never ends."""
    text = "See \N{FACE WITH TEARS OF JOY} "
    for item in (
        TextDelta(text),
        SearchStarted("s1", '{"query":"plums"}'),
        SearchEnded("s1", (PAGE,)),
        TextDelta("\n\nBl"),
        TextDelta("ue, so"),
        Cited(len(text) + 2, len(text) + 6, (Source(PAGE.url, "A", "Blue!", "index"),), 4),
        SearchStarted("s2", "[]"),
    ):
        await asked.port.deliver(item)
    asked.end("length")


async def test_how_searches_and_citations_are_written() -> None:
    async with open_gateway_double() as double:
        double.script = searching
        client = Client(app_of(double))
        whole = completion(await ask(client)).choices[0].message
        streamed = await client.request("POST", CHAT, json=STREAM)
        responded = await client.request("POST", RESPONSES, json={"input": "Hi"})
        body = {"input": "Hi", "stream": True}
        shown = await client.request("POST", RESPONSES, json=body)
    place = {"start_index": 8, "end_index": 12}
    assert whole.content is not None
    assert whole.content[8:12] == "Blue"
    note = {"type": "url_citation", "url_citation": {**place, **NOTE}}
    assert [each.model_dump() for each in whole.annotations or ()] == [note]
    deltas = [
        choice.delta.model_dump() for each in chunks(streamed.body) for choice in each.choices
    ]
    assert [each["annotations"] for each in deltas if "annotations" in each] == [[note]]
    assert read(responded).status == "incomplete"
    output = responded.json()["output"]
    for item in output:
        check_item(item)
    assert [item["type"] for item in output] == [
        "message", "web_search_call", "message", "web_search_call",
    ]  # fmt: skip
    assert [item["status"] for item in output[1::2]] == ["completed", "failed"]
    [part] = output[2]["content"]
    assert part["annotations"] == [
        {"type": "url_citation", "start_index": 2, "end_index": 6, **NOTE}
    ]
    assert part["text"][2:6] == "Blue"
    last = events(shown.body)[-1]["response"]["output"]
    assert [{**item, "id": ""} for item in last] == [{**item, "id": ""} for item in output]
