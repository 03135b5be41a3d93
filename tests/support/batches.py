"""Files and batches over HTTP, as the tests of the routes use them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import trio

from .asgi import Client, Response

BOUNDARY = "x-border-x"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
ENDED = ("completed", "failed", "expired", "cancelled")


def form(*parts: tuple[str, bytes]) -> bytes:
    """A body of parts; each has the rest of its ``content-disposition``, and its content."""
    return (
        b"".join(
            f"--{BOUNDARY}\r\ncontent-disposition: form-data; {named}\r\n\r\n".encode()
            + content
            + b"\r\n"
            for named, content in parts
        )
        + f"--{BOUNDARY}--\r\n".encode()
    )


def a_form(content: bytes, purpose: str = "batch", name: str = "in.jsonl") -> bytes:
    return form(('name="purpose"', purpose.encode()), (f'name="file"; filename="{name}"', content))


async def upload(client: Client, content: bytes, purpose: str = "batch") -> str:
    body = a_form(content, purpose)
    response = await client.request("POST", "/v1/files", body=[body], headers=FORM)
    assert response.status == 200, response.body
    file_id: str = response.json()["id"]
    return file_id


def line(custom_id: str, text: str = "Hi", **fields: Any) -> dict[str, Any]:
    body = {"model": "haiku", "messages": [{"role": "user", "content": text}]}
    asked = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return asked | fields


def jsonl(lines: Sequence[object]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


async def begin(client: Client, lines: Sequence[object], **fields: Any) -> dict[str, Any]:
    """A batch of these lines."""
    file_id = await upload(client, jsonl(lines))
    response = await create(client, input_file_id=file_id, **fields)
    assert response.status == 200, response.body
    batch: dict[str, Any] = response.json()
    return batch


async def create(client: Client, **fields: Any) -> Response:
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
    return await client.request("POST", "/v1/batches", json=asked)


async def show(client: Client, batch_id: str) -> dict[str, Any]:
    batch: dict[str, Any] = (await client.request("GET", f"/v1/batches/{batch_id}")).json()
    return batch


async def until(client: Client, batch_id: str, *states: str, every: float = 1.0) -> dict[str, Any]:
    """The batch, once it is in one of these states (none: has ended)."""
    with trio.fail_after(200_000):
        while True:
            batch = await show(client, batch_id)
            if batch["status"] in (states or ENDED):
                return batch
            await trio.sleep(every)


async def lines_in(client: Client, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file; none where there is none."""
    if file_id is None:
        return []
    response = await client.request("GET", f"/v1/files/{file_id}/content")
    assert response.status == 200
    assert response.whole
    return [json.loads(each) for each in response.body.splitlines()]
