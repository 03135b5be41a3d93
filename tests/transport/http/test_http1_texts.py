"""What a client receives for a request that is not HTTP: words, and nothing in Python's
notation."""

from __future__ import annotations

import pytest

from ...support.http_client import echo, knock, open_door

POST = b"POST / HTTP/1.1\r\nhost: here\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "message"),
    [
        (b"GET /health\r\n\r\n", "The request is not valid HTTP: illegal request line."),
        (
            b"GET / HTTP/1.1\r\nhost b'here\r\n\r\n",
            "The request is not valid HTTP: illegal header line.",
        ),
        (
            POST + b"transfer-encoding: chunked\r\n\r\nno-number\r\n",
            "The request is not valid HTTP: illegal chunk header.",
        ),
        (
            POST + b"transfer-encoding: chunked\r\n\r\n1\r\naXY",
            "The request is not valid HTTP: malformed chunk footer.",
        ),
        (
            b"GET / HTTP/1.1\r\n\r\n",
            "The request is not valid HTTP: Missing mandatory Host: header.",
        ),
        (
            POST + b"transfer-encoding: gzip\r\n\r\n",
            "The request cannot be read: Only Transfer-Encoding: chunked is supported.",
        ),
    ],
)
async def test_an_error_is_described_in_words(request_bytes: bytes, message: str) -> None:
    async with open_door(echo) as port, knock(port) as client:
        await client.send(request_bytes)
        assert (await client.response()).error["message"] == message
