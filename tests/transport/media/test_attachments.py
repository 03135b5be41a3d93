"""Attachments from request to block: where each comes from, under which limits, told how."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from attrs import define, field

from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.media import Attachment
from ccapi.schemas.message import Document, Image
from ccapi.schemas.settings.settings import FileAccessSettings, ImageSettings, Settings
from ccapi.transport.media.attachments import (
    FETCHED_AT_ONCE,
    AttachmentPolicy,
    resolve,
    resolve_all,
)
from ccapi.transport.media.remote_fetch import RemoteFetcher
from tests.support.pictures import GIF, PDF, data_url, png
from tests.transport.media.test_remote_fetch import Server, moved, saying, serving

PNG = png()


def image(source: str, index: int = 0) -> Attachment:
    return Attachment("image", source, f"messages[{index}].content[0].image_url.url")


def file(source: str, name: str | None = None) -> Attachment:
    return Attachment("file", source, "messages[0].content[0].file.file_data", name)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def policy(*folders: object, **images: object) -> AttachmentPolicy:
    return AttachmentPolicy.of(
        Settings(
            images=ImageSettings(**images),  # type: ignore[arg-type]
            file_access=FileAccessSettings(additional_dirs=tuple(map(str, folders))),
        )
    )


async def error_of(policy: AttachmentPolicy, *attachments: Attachment) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await resolve_all(attachments, policy)
    assert caught.value.status == 400
    assert caught.value.param in {attachment.path for attachment in attachments}
    return caught.value


@define
class Site:
    """A server's pages, by path. `go` lets it answer; `most` were being asked for at once."""

    go: trio.Event = field(factory=trio.Event)
    busy: trio.Event = field(factory=trio.Event)
    running: int = 0
    most: int = 0

    async def answer(self, stream: trio.abc.Stream, head: bytes) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running == FETCHED_AT_ONCE:
            self.busy.set()
        match head.split()[1]:
            case b"/bad":
                answer = moved("ftp://a.example")
            case b"/gone":
                answer = b"HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n"
            case b"/text":
                answer = b"HTTP/1.1 200 x\r\n\r\ninternal secret"
            case b"/pdf":
                answer = b"HTTP/1.1 200 x\r\n\r\n" + PDF
            case b"/slow":
                await trio.sleep_forever()
            case _:
                await self.go.wait()
                answer = b"HTTP/1.1 200 x\r\n\r\n" + PNG
        self.running -= 1
        await stream.send_all(answer)


@asynccontextmanager
async def site() -> AsyncIterator[tuple[Site, Server, AttachmentPolicy]]:
    pages = Site()
    async with serving(pages.answer) as server:
        yield pages, server, attrs.evolve(policy(), fetcher=server.world.fetcher())


# -- sources


async def test_what_the_request_holds_itself() -> None:
    assert await resolve(image(data_url(GIF)), policy()) == Image("image/gif", encoded(GIF))
    document = Document("application/pdf", encoded(PDF), "a.pdf")
    assert await resolve(file(data_url(PDF, "application/pdf"), "a.pdf"), policy()) == document
    assert await resolve(file(encoded(PDF), "a.pdf"), policy()) == document
    error = await error_of(policy(), image(data_url(b"no picture")))
    assert (error.code, error.param) == ("invalid_image", image("").path)


async def test_a_file_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "a.txt").write_bytes(b"secret")
    expected = Image("image/png", encoded(PNG))
    assert await resolve(image(f"{tmp_path}/a.png"), policy(tmp_path)) == expected
    assert await resolve(image(f"file://{tmp_path}/a.png"), policy(tmp_path)) == expected
    found = await error_of(policy(), image(f"{tmp_path}/a.png"))
    missing = await error_of(policy(tmp_path), image(f"{tmp_path}/b.png"))
    assert found.body() == missing.body()
    assert found.code == "file_not_allowed"
    assert "file_access.additional_dirs" in found.message
    text = await error_of(policy(tmp_path), image(f"{tmp_path}/a.txt"))
    assert text.code == "invalid_image"
    assert "secret" not in text.message


async def test_a_url_is_not_fetched_unless_the_operator_wants_it() -> None:
    error = await error_of(policy(), image("https://a.example/b.png"))
    assert error.code == "remote_images_disabled"
    assert "images.allow_remote" in error.message
    assert (
        await error_of(policy(), file("https://a.example/b.pdf"))
    ).code == "remote_files_disabled"


async def test_a_url_is_fetched_over_real_sockets() -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {len(PNG)}\r\n\r\n"
    async with serving(saying(head.encode() + PNG)) as server:
        url = server.world.url("/a.png?sig=secret")
        remote = attrs.evolve(policy(), fetcher=server.world.fetcher())
        assert await resolve(image(url), remote) == Image("image/png", encoded(PNG))
        assert (await error_of(remote, file(url))).code == "invalid_file"
        small = attrs.evolve(remote, max_bytes=len(PNG) - 1)
        assert (await error_of(small, image(url))).code == "image_too_large"
    error = await error_of(remote, image(url))
    assert error.code == "image_fetch_failed"
    assert "secret" not in error.message


async def test_what_the_operator_set_is_what_the_fetcher_does() -> None:
    fetcher = policy(allow_remote=True, fetch_timeout_seconds=2.5, max_redirects=1).fetcher
    assert fetcher == RemoteFetcher(timeout_seconds=2.5, max_redirects=1)
    inside = await error_of(policy(allow_remote=True), image("http://127.0.0.1/a.png"))
    assert inside.code == "invalid_image_url"


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("bad", "invalid_image_url", "must be an http or https URL."),
        ("gone", "image_fetch_failed", "answered with status 404."),
        ("text", "invalid_image", "must be a PNG, JPEG, GIF or WebP image."),
    ],
)
async def test_how_a_fetch_that_failed_is_reported(end: str, code: str, words: str) -> None:
    async with site() as (_, server, remote):
        error = await error_of(remote, image(server.world.url(f"/{end}")))
    assert (error.code, error.message) == (code, f"{image('').path} {words}")


async def test_a_document_is_fetched_too_and_a_page_of_text_is_none() -> None:
    async with site() as (_, server, remote):
        error = await error_of(remote, file(server.world.url("/text")))
        assert (error.code, "secret" in error.message) == ("invalid_file", False)
        url = server.world.url("/pdf")
        document = Document("application/pdf", encoded(PDF), "a.pdf")
        assert await resolve(file(url, "a.pdf"), remote) == document


@pytest.mark.parametrize("source", ["", "a.png", "ftp://a.example/a.png", "javascript:1"])
async def test_other_sources_are_refused(source: str) -> None:
    assert (await error_of(policy("/"), image(source))).code == "invalid_image_url"
    assert (await error_of(policy("/"), file("ftp://a.example/a.pdf"))).code == "invalid_file_url"


# -- limits


async def test_the_size_of_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    sources = (data_url(PNG), f"{tmp_path}/a.png")
    for source in sources:
        await resolve(image(source), policy(tmp_path, max_bytes=len(PNG)))
        error = await error_of(policy(tmp_path, max_bytes=len(PNG) - 1), image(source))
        assert error.code == "image_too_large"
        assert f"{len(PNG) - 1} bytes (images.max_bytes)" in error.message


async def test_the_size_of_all(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    both = (image(f"{tmp_path}/a.png", 0), image(data_url(PNG), 1))
    blocks = await resolve_all(both, policy(tmp_path, max_total_bytes=2 * len(PNG)))
    assert blocks == (Image("image/png", encoded(PNG)),) * 2
    error = await error_of(policy(tmp_path, max_total_bytes=2 * len(PNG) - 1), *both)
    assert (error.code, error.param) == ("image_too_large", both[0].path)
    assert "images.max_total_bytes" in error.message


async def test_the_number_of_all() -> None:
    three = [image(data_url(GIF), index) for index in range(3)]
    assert len(await resolve_all(three, policy(max_count=3))) == 3
    error = await error_of(policy(max_count=2), *three)
    assert (error.code, error.param) == ("too_many_attachments", three[2].path)
    assert await resolve_all((), policy(max_count=0)) == ()


# -- several at once


async def test_several_are_fetched_at_once_but_not_all_and_keep_their_order() -> None:
    got: list[Image | Document] = []

    async def bring(attachments: Sequence[Attachment], remote: AttachmentPolicy) -> None:
        got.extend(await resolve_all(attachments, remote))

    async with site() as (pages, server, remote), trio.open_nursery() as nursery:
        urls = [image(server.world.url(f"/{index}"), index) for index in range(7)]
        nursery.start_soon(bring, [*urls[:3], image(data_url(GIF), 7), *urls[3:]], remote)
        await pages.busy.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        pages.go.set()
    assert pages.most == FETCHED_AT_ONCE
    assert len(server.heads) == 7
    kinds = [block.media_type for block in got]
    assert kinds == ["image/png"] * 3 + ["image/gif"] + ["image/png"] * 4


async def test_the_first_failure_ends_the_others() -> None:
    async with site() as (_, server, remote):
        paths = ("/slow", "/gone", "/slow")
        attachments = [image(server.world.url(path), n) for n, path in enumerate(paths)]
        error = await error_of(remote, *attachments)
    assert (error.code, error.param) == ("image_fetch_failed", attachments[1].path)


async def test_errors_that_need_no_fetch_are_raised_before_one() -> None:
    async with site() as (_, server, remote):
        error = await error_of(remote, image(server.world.url("/x"), 0), image("data:,x", 1))
        assert error.code == "invalid_image"
        assert server.world.asked == []


async def test_giving_up_gives_up_all() -> None:
    async with site() as (_, server, remote):
        with trio.move_on_after(0.1) as scope:
            await resolve_all([image(server.world.url("/slow"), n) for n in range(3)], remote)
        assert scope.cancelled_caught
