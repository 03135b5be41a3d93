"""The file of MCP servers, in the shape that all clients share: ``{"mcpServers": {NAME: ENTRY}}``.

Knows: what an entry may hold, ``${VAR}`` and ``${VAR:-default}`` in it, and which names a server
may have. Refuses to know: where the text comes from, and how a server is reached.

An entry holds secrets (headers, environment, sometimes the URL), and so does what its variables
stand for. So no error quotes any value: it names the file, the server, the field and, where one is
not set, the variable.

Source: "Connect Claude Code to tools via MCP", Claude Code's documentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from attrs import define, field, frozen

from .settings.rules import MASK, Problem, SettingsError

MAX_FILE_BYTES = 1024 * 1024

MAX_NAME = 56
"""Characters of a server's name that leave one for a tool's: ``mcp__NAME__T`` has 64 at most."""

LEAST_HIDDEN = 6
"""Characters of a value that is covered wherever it would be shown."""

RESERVED = frozenset(("client", "ide"))
"""`client` is the server that stands for a client's own tools; `ide` the CLI keeps for itself."""

_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_TYPES: Mapping[str, Literal["stdio", "http", "sse"]] = {
    "stdio": "stdio",
    "http": "http",
    "streamable-http": "http",
    "streamable_http": "http",
    "streamableHttp": "http",
    "sse": "sse",
}


@frozen
class StdioEntry:
    """A server that is a program, spoken with by its standard input and output. `cwd` is None where
    the file names none. `hidden` are the texts that no log may show: see `covered`."""

    name: str
    command: str = field(repr=False)
    args: tuple[str, ...] = field(repr=False, default=())
    env: Mapping[str, str] = field(repr=False, factory=dict)
    cwd: str | None = field(repr=False, default=None)
    hidden: frozenset[str] = field(repr=False, eq=False, factory=frozenset)

    @property
    def transport(self) -> Literal["stdio"]:
        return "stdio"

    def for_child(self) -> dict[str, Any]:
        """As ``mcp_set_servers`` has it. Without `args` and `env` the CLI answers with an error."""
        return {
            "type": "stdio",
            "command": self.command,
            "args": list(self.args),
            "env": dict(self.env),
        }


@frozen
class UrlEntry:
    """A server at a URL: streamable HTTP (``http``), or server-sent events (``sse``). `is_guarded`:
    a client named it, so that it is connected to only at an address that a client may reach."""

    name: str
    transport: Literal["http", "sse"]
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False, factory=dict)
    hidden: frozenset[str] = field(repr=False, eq=False, factory=frozenset)
    is_guarded: bool = False

    def for_child(self) -> dict[str, Any]:
        return {"type": self.transport, "url": self.url, "headers": dict(self.headers)}


ServerEntry = StdioEntry | UrlEntry


@frozen
class McpConfig:
    """What a file says: the servers that all conversations share, in its order, and those that each
    conversation has for itself."""

    shared: tuple[ServerEntry, ...] = ()
    per_conversation: tuple[ServerEntry, ...] = ()


def covered(text: str, hidden: Iterable[str]) -> str:
    """`text` without what an entry hides (its `hidden`): for the log and for errors."""
    for secret in sorted(hidden, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def read_config(
    text: bytes,
    source: str,
    environ: Mapping[str, str],
    per_conversation: Sequence[str] = (),
) -> McpConfig:
    """The servers of a file. `source` is the file's name, for errors; `environ` has the variables;
    `per_conversation` names the servers that each conversation has for itself.

    Raises `SettingsError` with every problem of the file.
    """
    reader = _Reader(source, environ)
    entries = reader.entries(text)
    known = {entry.name for entry in entries}
    for name in per_conversation:
        if not reader.problems and name not in known:
            reader.problems.append(
                Problem("mcp.per_conversation", f"names {_shown(name)}, which {source} does not")
            )
    if reader.problems:
        raise SettingsError(reader.problems)
    return McpConfig(
        shared=tuple(entry for entry in entries if entry.name not in per_conversation),
        per_conversation=tuple(entry for entry in entries if entry.name in per_conversation),
    )


class _Refused(Exception):
    """What is wrong with a field. `key` is its path within the file."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key
        self.reason = reason


@define
class _Reader:
    source: str
    environ: Mapping[str, str] = field(repr=False)
    problems: list[Problem] = field(factory=list)
    hidden: set[str] = field(factory=set, repr=False)

    def entries(self, text: bytes) -> list[ServerEntry]:
        """The entries that are sound; what is wrong with the others goes to `problems`."""
        try:
            servers = self._servers(text)
        except _Refused as refused:
            self._note(refused)
            return []
        entries: list[ServerEntry] = []
        for name, given in servers.items():
            try:
                entry = self._entry(name, given)
            except _Refused as refused:
                self._note(refused)
            else:
                entries += [] if entry is None else [entry]
        return entries

    def _note(self, refused: _Refused) -> None:
        self.problems.append(Problem(refused.key, refused.reason, self.source))

    def _servers(self, text: bytes) -> Mapping[str, Any]:
        if len(text) > MAX_FILE_BYTES:
            raise _Refused("", f"is larger than {MAX_FILE_BYTES} bytes")
        try:
            whole = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_unique)
        except UnicodeDecodeError:
            raise _Refused("", "is not UTF-8") from None
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise _Refused("", f"is not JSON: {error.msg} ({where})") from None
        except (ValueError, RecursionError):
            raise _Refused("", "is not JSON: a number too long, or nested too deeply") from None
        servers = whole.get("mcpServers") if isinstance(whole, dict) else None
        if not isinstance(servers, dict):
            raise _Refused("", "must be an object with an object mcpServers in it")
        if isinstance(servers, _Doubled):
            raise _Refused("mcpServers", f"has the name {_shown(servers.name)} twice")
        return servers

    def _entry(self, name: str, given: Any) -> ServerEntry | None:
        """None where the entry says that it is not to be used."""
        key = f"mcpServers.{_shown(name)}"
        reason = name_error(name)
        if reason is not None:
            raise _Refused(key, reason)
        if not isinstance(given, dict):
            raise _Refused(key, "must be an object")
        if isinstance(given, _Doubled):
            raise _Refused(key, f"has the field {_shown(given.name)} twice")
        kind = self._kind(key, given)
        self.hidden.clear()
        if given.get("disabled") is True:
            return None
        if kind == "stdio":
            cwd = None if given.get("cwd") is None else self._text(f"{key}.cwd", given["cwd"])
            if cwd is not None and not cwd.startswith("/"):
                raise _Refused(f"{key}.cwd", "must be an absolute path")
            command = self._word(f"{key}.command", given["command"])
            args = self._list(f"{key}.args", given.get("args"))
            env = self._environment(f"{key}.env", given.get("env"))
            return StdioEntry(name, command, args, env, cwd, self._hidden(env))
        url = self._url(f"{key}.url", given["url"])
        headers = self._headers(f"{key}.headers", given.get("headers"))
        return UrlEntry(name, kind, url, headers, self._hidden(headers))

    def _hidden(self, values: Mapping[str, str]) -> frozenset[str]:
        """The values of an environment or of headers, and of all variables of the entry. Shorter
        ones would cover what only looks like them."""
        found = {*self.hidden, *values.values()}
        return frozenset(value for value in found if len(value) >= LEAST_HIDDEN)

    def _kind(self, key: str, given: Mapping[str, Any]) -> Literal["stdio", "http", "sse"]:
        named = given.get("type")
        if named is None:
            found = [field for field in ("command", "url") if field in given]
            if len(found) != 1:
                what = "has both" if found else "has neither"
                raise _Refused(key, f"{what} command and url: its type must say what it is")
            return "stdio" if found == ["command"] else "http"
        kind = _TYPES.get(named) if isinstance(named, str) else None
        if kind is None:
            raise _Refused(f"{key}.type", "must be stdio, http, streamable-http or sse")
        wanted = "command" if kind == "stdio" else "url"
        if wanted not in given:
            raise _Refused(key, f"needs {wanted}")
        return kind

    # -- values ------------------------------------------------------------------------------------

    def _text(self, key: str, given: Any) -> str:
        """A string, its variables replaced."""
        if not isinstance(given, str):
            raise _Refused(key, "must be a string")

        def value(found: re.Match[str]) -> str:
            name, default = found[1], found[2]
            text = self.environ.get(name, default)
            if text is None:
                raise _Refused(key, f"needs the environment variable {name}, which is not set")
            if name in self.environ:
                self.hidden.add(text)
            return text

        text = _VARIABLE.sub(value, given)
        if "\0" in text:
            raise _Refused(key, "must not hold NUL")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Refused(key, "must be text that UTF-8 can hold") from None
        return text

    def _word(self, key: str, given: Any) -> str:
        text = self._text(key, given)
        if not text.strip():
            raise _Refused(key, "must not be empty")
        return text

    def _list(self, key: str, given: Any) -> tuple[str, ...]:
        if given is None:
            return ()
        if not isinstance(given, list):
            raise _Refused(key, "must be an array of strings")
        return tuple(self._text(f"{key}[{number}]", each) for number, each in enumerate(given))

    def _strings(self, key: str, given: Any) -> dict[str, str]:
        if given is None:
            return {}
        if not isinstance(given, dict):
            raise _Refused(key, "must be an object of strings")
        if isinstance(given, _Doubled):
            raise _Refused(key, f"has the name {_shown(given.name)} twice")
        return {name: self._text(f"{key}.{_shown(name)}", each) for name, each in given.items()}

    def _environment(self, key: str, given: Any) -> Mapping[str, str]:
        env = self._strings(key, given)
        for name in env:
            if not name or "=" in name or not name.isascii() or not name.isprintable():
                raise _Refused(key, "has a name that no environment variable can have")
        return env

    def _url(self, key: str, given: Any) -> str:
        url = self._text(key, given)
        try:
            parts = urlsplit(url)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound or not all("!" <= char <= "~" for char in url):
            raise _Refused(key, "must be a URL that begins with http:// or https://")
        return url

    def _headers(self, key: str, given: Any) -> Mapping[str, str]:
        headers = self._strings(key, given)
        for name, text in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise _Refused(key, "has a name that no header can have")
            if not _HEADER_VALUE.fullmatch(text):
                raise _Refused(f"{key}.{name}", "must be one line that a header can hold")
        return headers


class _Doubled(dict[str, Any]):
    """A JSON object that has a name twice."""

    name = ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    names = [name for name, _ in pairs]
    doubled = _Doubled(made)
    doubled.name = next(name for name in names if names.count(name) > 1)
    return doubled


def name_error(name: str) -> str | None:
    """Why no server may have this name; None where one may."""
    if not _NAME.fullmatch(name):
        return "is no name of a server: it stands in tools' names, so letters, digits, _ and - only"
    if "__" in name:
        return "is no name of a server: __ separates it from the tool in mcp__SERVER__TOOL"
    if len(name) > MAX_NAME:
        return f"is no name of a server: it may have {MAX_NAME} characters"
    if name in RESERVED:
        return "is a name that the gateway or the CLI uses itself"
    return None


def _shown(name: str) -> str:
    """A name that others chose, safe inside a message."""
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= 80 else f"{text[:80]}…"
