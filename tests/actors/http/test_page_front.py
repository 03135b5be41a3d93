"""The page's files: served to all clients, and fenced in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ccapi.schemas.settings.settings import AuthSettings, PageSettings, Settings
from tests.support.asgi import Client
from tests.support.gateway_double import app_of, open_gateway_double

PAGE = Path(__file__).parents[3] / "transport" / "page"
KEYED = Settings(auth=AuthSettings(api_keys=("k" * 32,)))


async def test_the_page_needs_no_key_and_runs_nothing_but_its_own() -> None:
    async with open_gateway_double(KEYED) as gateway:
        client = Client(app_of(gateway))
        shown = await client.request("GET", "/")
        assert shown.status == 200
        assert shown.headers["content-type"] == "text/html; charset=utf-8"
        policy = shown.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        again = await client.request("GET", "/", headers={"if-none-match": shown.headers["etag"]})
        assert again.status == 304
        assert (await client.request("GET", "/v1/models")).status == 401


async def test_whatever_the_page_names_is_there() -> None:
    async with open_gateway_double() as gateway:
        client = Client(app_of(gateway))
        named = set(re.findall(r'(?:href|src)="page/([^"]+)"', (PAGE / "index.html").read_text()))
        for script in PAGE.glob("*.js"):
            named |= set(re.findall(r'from "\./([^"]+)"', script.read_text()))
        assert len(named) > 15
        for name in named:
            found = await client.request("GET", f"/page/{name}")
            assert found.status == 200, name
            kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
            assert found.headers["content-type"].startswith(kind[name.rpartition(".")[2]])


@pytest.mark.parametrize("path", ["/page/nothing.js", "/page/..%2Fcli.py", "/page/"])
async def test_what_is_no_file_of_the_page_is_a_404(path: str) -> None:
    async with open_gateway_double() as gateway:
        assert (await Client(app_of(gateway)).request("GET", path)).status == 404


async def test_its_files_are_logged_for_those_alone_who_look_closely() -> None:
    async with open_gateway_double() as gateway:
        client = Client(app_of(gateway))
        with capture_logs() as lines:
            for path in ("/", "/page/app.js", "/page/nothing.js", "/health"):
                await client.request("GET", path)
    levels = {line["path"]: line["log_level"] for line in lines if line["event"] == "request"}
    assert levels == {
        "/": "debug", "/page/app.js": "debug", "/page/nothing.js": "info", "/health": "info",
    }  # fmt: skip


async def test_it_can_be_switched_off() -> None:
    async with open_gateway_double(Settings(page=PageSettings(enabled=False))) as gateway:
        client = Client(app_of(gateway))
        assert (await client.request("GET", "/")).status == 404
        assert (await client.request("GET", "/page/app.js")).status == 404


def test_nothing_on_the_page_is_parsed_as_markup_and_nothing_stands_inline() -> None:
    for script in PAGE.glob("*.js"):
        text = script.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, script.name
        assert len(text.splitlines()) <= 400, script.name
    index = (PAGE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=|https?://", index)
