"""The gateway's own page may call it, wherever it is served; no other page may by that."""

from __future__ import annotations

import pytest

from ccapi.actors.http.auth import check_origin, headers_of
from ccapi.schemas.errors import Forbidden
from ccapi.schemas.settings.settings import ServerSettings

HOST = b"ai.example:8080"


def check(origin: bytes, server: ServerSettings | None = None) -> None:
    settings = server or ServerSettings(allowed_hosts=("ai.example",))
    check_origin(settings, headers_of([(b"origin", origin), (b"host", HOST)]))
    check_origin(settings, headers_of([(b"origin", origin)]), [HOST])


def test_a_page_may_call_where_it_came_from() -> None:
    check(b"http://ai.example:8080")
    check(b"https://AI.example:8080")


@pytest.mark.parametrize(
    "origin",
    [b"http://ai.example", b"http://other.example:8080", b"null", b"", b"http://[", b"x://"],
)
def test_another_page_may_not(origin: bytes) -> None:
    with pytest.raises(Forbidden):
        check(origin)


def test_where_any_name_is_answered_to_the_name_says_nothing() -> None:
    with pytest.raises(Forbidden):
        check(b"http://ai.example:8080", ServerSettings(allowed_hosts=("*",)))
