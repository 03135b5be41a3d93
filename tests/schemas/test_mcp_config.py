"""The file of MCP servers (schemas.mcp_config)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.mcp_config import (
    MAX_FILE_BYTES,
    McpConfig,
    StdioEntry,
    UrlEntry,
    covered,
    read_config,
)
from ccapi.schemas.settings.settings import SettingsError


def read(
    servers: object, environ: Mapping[str, str] | None = None, own: Sequence[str] = ()
) -> McpConfig:
    text = json.dumps({"mcpServers": servers}).encode()
    return read_config(text, "mcp.json", environ or {}, own)


def error_of(text: bytes | dict[str, Any], environ: Mapping[str, str] | None = None) -> str:
    if isinstance(text, dict):
        text = json.dumps({"mcpServers": text}).encode()
    with pytest.raises(SettingsError) as raised:
        read_config(text, "mcp.json", environ or {})
    return str(raised.value)


# -- what is taken ---------------------------------------------------------------------------------


def test_every_kind_of_server_is_read_in_the_order_of_the_file() -> None:
    servers = {
        "files": {"command": "npx", "args": ["-y", "server"], "env": {"ROOT": "/srv"}},
        "notes": {"type": "stdio", "command": "notes", "cwd": "/srv"},
        "web": {"type": "http", "url": "https://example.org/mcp", "headers": {"X-Key": "k"}},
        "older": {"type": "streamable-http", "url": "http://127.0.0.1:1/mcp"},
        "oldest": {"type": "sse", "url": "http://[::1]:8000/sse"},
        "untyped": {"url": "http://localhost/"},
    }
    assert read(servers).shared == (
        StdioEntry("files", "npx", ("-y", "server"), {"ROOT": "/srv"}),
        StdioEntry("notes", "notes", cwd="/srv"),
        UrlEntry("web", "http", "https://example.org/mcp", {"X-Key": "k"}),
        UrlEntry("older", "http", "http://127.0.0.1:1/mcp"),
        UrlEntry("oldest", "sse", "http://[::1]:8000/sse"),
        UrlEntry("untyped", "http", "http://localhost/"),
    )


def test_variables_stand_wherever_other_clients_take_them() -> None:
    environ = {"BIN": "/opt/x", "TOKEN": "t0", "EMPTY": ""}
    servers = {
        "a": {
            "command": "${BIN}/run",
            "args": ["--key=${TOKEN}", "${EMPTY}", "${NONE:-x y}", "$TOKEN", "${NO-DASH}"],
            "env": {"T": "${TOKEN}${TOKEN}"},
        },
        "b": {"url": "http://${HOST:-localhost}:80/", "headers": {"A": "Bearer ${TOKEN}"}},
    }
    a, b = read(servers, environ).shared
    assert isinstance(a, StdioEntry)
    assert isinstance(b, UrlEntry)
    assert a.command == "/opt/x/run"
    assert a.args == ("--key=t0", "", "x y", "$TOKEN", "${NO-DASH}")
    assert a.env == {"T": "t0t0"}
    assert b.url == "http://localhost:80/"
    assert b.headers == {"A": "Bearer t0"}


def test_servers_of_each_conversation_are_kept_apart_as_a_child_takes_them() -> None:
    servers = {
        "a": {"command": "a"},
        "b": {"type": "sse", "url": "http://b/"},
        "c": {"url": "http://c/", "headers": {"K": "v"}},
    }
    config = read(servers, own=["b", "a"])
    assert [entry.name for entry in config.shared] == ["c"]
    assert [entry.for_child() for entry in config.per_conversation] == [
        {"type": "stdio", "command": "a", "args": [], "env": {}},
        {"type": "sse", "url": "http://b/", "headers": {}},
    ]
    assert config.shared[0].for_child() == {
        "type": "http",
        "url": "http://c/",
        "headers": {"K": "v"},
    }


def test_a_server_can_be_switched_off_and_other_clients_fields_are_passed_over() -> None:
    servers = {
        "a": {"command": "a", "disabled": True},
        "b": {"command": "b", "disabled": False, "autoApprove": ["x"], "timeout": 7},
    }
    assert read(servers).shared == (StdioEntry("b", "b"),)


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert read_config(b'\xef\xbb\xbf{"mcpServers": {}}', "f", {}) == McpConfig()


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "mcp.json: is not JSON: Expecting value (line 1, column 1)"),
        (b'{"mcpServers": {"a": }}', "mcp.json: is not JSON: Expecting value (line 1, column 22)"),
        (b"\xff", "mcp.json: is not UTF-8"),
        (b"[" * 100_000, "mcp.json: is not JSON: a number too long, or nested too deeply"),
        (b"[]", "mcp.json: must be an object with an object mcpServers in it"),
        (b"{}", "mcp.json: must be an object with an object mcpServers in it"),
        (b'{"mcpServers": []}', "mcp.json: must be an object with an object mcpServers in it"),
        (b" " * (MAX_FILE_BYTES + 1), "mcp.json: is larger than 1048576 bytes"),
        (
            b'{"mcpServers": {"a": {"command": "a"}, "a": {"command": "b"}}}',
            "mcp.json: mcpServers: has the name a twice",
        ),
    ],
)
def test_a_file_that_is_none_is_refused(text: bytes, reason: str) -> None:
    assert error_of(text) == reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("my server", "letters, digits, _ and - only"),
        ("", "letters, digits, _ and - only"),
        ("sérv", "letters, digits, _ and - only"),
        ("a__b", "__ separates it from the tool"),
        ("x" * 57, "may have 56 characters"),
        ("client", "the gateway or the CLI uses itself"),
    ],
)
def test_a_name_that_no_tool_can_carry_is_refused(name: str, reason: str) -> None:
    said = error_of({name: {"command": "a"}})
    assert said.startswith("mcp.json: mcpServers.")
    assert reason in said


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (1, "a: must be an object"),
        ({"foo": 1}, "a: has neither command and url: its type must say what it is"),
        ({"command": "a", "url": "http://a"}, "a: has both command and url"),
        ({"type": "ws", "url": "ws://a"}, "a.type: must be stdio, http, streamable-http or sse"),
        ({"type": ["stdio"], "command": "a"}, "a.type: must be stdio"),
        ({"type": "http", "command": "a"}, "a: needs url"),
        ({"type": "stdio", "url": "http://a"}, "a: needs command"),
        ({"command": ""}, "a.command: must not be empty"),
        ({"command": ["a"]}, "a.command: must be a string"),
        ({"command": "a", "args": "b"}, "a.args: must be an array of strings"),
        ({"command": "a", "args": ["b", 7]}, "a.args[1]: must be a string"),
        ({"command": "a", "args": ["\0"]}, "a.args[0]: must not hold NUL"),
        ({"command": "a", "args": ["\ud800"]}, "a.args[0]: must be text that UTF-8 can hold"),
        ({"command": "a", "env": ["A=b"]}, "a.env: must be an object of strings"),
        ({"command": "a", "env": {"A": 1}}, "a.env.A: must be a string"),
        ({"command": "a", "env": {"A=": ""}}, "a.env: has a name that no environment variable"),
        ({"command": "a", "cwd": "here"}, "a.cwd: must be an absolute path"),
        ({"url": "ftp://a"}, "a.url: must be a URL that begins with http:// or https://"),
        ({"url": "http://"}, "a.url: must be a URL"),
        ({"url": "http://a:99999/"}, "a.url: must be a URL"),
        ({"url": "http://a/ b"}, "a.url: must be a URL"),
        ({"url": "http://a", "headers": {"a b": "c"}}, "a.headers: has a name that no header"),
        ({"url": "http://a", "headers": {"A": "x\r\nB: y"}}, "a.headers.A: must be one line"),
    ],
)
def test_an_entry_of_another_shape_is_refused(entry: Any, reason: str) -> None:
    assert f"mcp.json: mcpServers.{reason}" in error_of({"a": entry})


def test_all_problems_are_told_at_once() -> None:
    said = error_of({"a": {"foo": 1}, "b": {"command": "${GONE}"}, "c": {"command": "c"}})
    assert said.splitlines() == [
        "mcp.json: mcpServers.a: has neither command and url: its type must say what it is",
        "mcp.json: mcpServers.b.command: needs the environment variable GONE, which is not set",
    ]


def test_a_name_of_per_conversation_has_to_be_in_the_file() -> None:
    with pytest.raises(SettingsError) as raised:
        read({"a": {"command": "a"}}, own=["b"])
    assert str(raised.value) == "mcp.per_conversation: names b, which mcp.json does not"


# -- secrets ---------------------------------------------------------------------------------------


def test_an_entry_shows_no_value_when_it_is_printed() -> None:
    servers = {
        "a": {"command": "hush", "args": ["hush"], "env": {"A": "hush"}},
        "b": {"url": "http://hush/", "headers": {"A": "hush"}},
    }
    assert "hush" not in repr(read(servers))


def test_values_of_variables_headers_and_environments_can_be_covered() -> None:
    servers = {
        "a": {"command": "a", "args": ["--k=${KEY}"], "env": {"A": "in-the-file", "B": "short"}},
        "b": {"url": "http://b/${KEY}", "headers": {"A": "Bearer ${TOKEN}"}},
        "c": {"command": "c", "args": ["${UNSET:-default}"]},
    }
    a, b, c = read(servers, {"KEY": "key-value", "TOKEN": "token-value"}).shared
    assert a.hidden == {"key-value", "in-the-file"}
    assert b.hidden == {"key-value", "token-value", "Bearer token-value"}
    assert c.hidden == frozenset()
    said = covered("no: in-the-file, key-value, short", a.hidden)
    assert said == "no: ********, ********, short"


secret = st.text("abcdefXYZ0123\n\0 \ud800é:", min_size=6, max_size=12)
place = st.sampled_from(["command", "arg", "env", "url", "header", "header name", "cwd", "type"])


@given(secret, place, st.booleans())
def test_no_value_of_a_variable_is_ever_in_an_error(value: str, where: str, missing: bool) -> None:
    text = "x${SECRET}" + ("${GONE}" if missing else "")
    entry: dict[str, Any] = {"command": "a"}
    match where:
        case "command":
            entry = {"command": text}
        case "arg":
            entry = {"command": "a", "args": [text]}
        case "env":
            entry = {"command": "a", "env": {"A": text}}
        case "cwd":
            entry = {"command": "a", "cwd": text}
        case "url":
            entry = {"url": text}
        case "header":
            entry = {"url": "http://a", "headers": {"A": text}}
        case "header name":
            entry = {"url": "http://a", "headers": {"A b": text}}
        case "type":
            entry = {"type": text, "url": text}
    try:
        read({"a": entry}, {"SECRET": value})
    except SettingsError as error:
        said = f"{error} {error!r} {error.__cause__!r}"
        assert value not in said
        assert ascii(value)[1:-1] not in said
        assert not missing or where == "type" or "GONE" in said or "b" in said
