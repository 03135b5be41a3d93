"""The way of an agent's child to the model's API, on which the gateway puts the login in.

Knows: where the CLI's login is (variables and files of its own), the headers that show it, and
which calls the CLI makes with it. Refuses to know: sandboxes, and what is asked of the model.

What an agent runs can read the memory and environment of the CLI that runs it. So a child in a
sandbox has no login: it has a *stand-in* for each, which is worth nothing anywhere but at its own
door, and only as long as it lives. The door is a listening socket in the child's network. The
gateway serves it: it shows the login in the stand-in's place, to the API and to nothing else.

A cloud provider's login stays with the child: the CLI signs each request to AWS and Google by
itself, for which it must hold the key.
"""

from __future__ import annotations

import json
import os
import secrets
import ssl
import stat
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import urlsplit

import h11
import httpx2
import trio
from attrs import define, field, frozen

from ..loggers import get_logger

log = get_logger("ccapi.login_door")

FILE = ".credentials.json"
STATE = ".claude.json"

LARGEST = 64 * 1024
"""Bytes of a file that is taken for a login."""

RENEWAL_SECONDS = 10.0
"""Longest wait for the CLI to renew a token, usually half a second."""

AGAIN_SECONDS = 1.0
"""Until the CLI is asked again: within seconds of another question it may answer, and not have
renewed the token."""

MARGIN_SECONDS = 300.0
"""A token that expires within these is renewed."""

API = "https://api.anthropic.com"
PATHS = frozenset(("/v1/messages", "/v1/messages/count_tokens"))
"""What the CLI asks of the API with the login."""

_PREFIXES = {
    "ANTHROPIC_API_KEY": "sk-ant-api03-",
    "ANTHROPIC_AUTH_TOKEN": "",
    "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-",
}
"""Variables that are a login, and how the CLI expects each to begin."""

CLOUDS = (
    "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_MANTLE", "CLAUDE_CODE_USE_ANTHROPIC_AWS",
    "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD", "CLAUDE_CODE_USE_GATEWAY",
)  # fmt: skip

BASE_URL = "ANTHROPIC_BASE_URL"
HEADERS = "ANTHROPIC_CUSTOM_HEADERS"
_ASSUME = "_CLAUDE_CODE_ASSUME_FIRST_PARTY_BASE_URL"
"""Set, the CLI asks an API at another address for all that it asks its maker's."""

Secret = Callable[[], Awaitable[str]]
Connect = Callable[[str, int], Awaitable[trio.abc.HalfCloseableStream]]


class NoLogin(Exception):
    """There is no login to be shown."""


# -- logins ----------------------------------------------------------------------------------------


@define(eq=False)
class FileLogin:
    """The login in the CLI's credentials `file`. The CLI itself renews it: `status` is the command
    that has it do so, `env` what that sees."""

    file: Path
    status: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    _lock: trio.Lock = field(factory=trio.Lock, init=False, repr=False)

    def is_there(self) -> bool:
        return bool(_read_login(self.file))

    async def token(self) -> str:
        """The access token, renewed if it is about to expire. Raises `NoLogin`."""
        async with self._lock:  # a renewed token makes the one before it worthless
            login = _read_login(self.file)
            with trio.move_on_after(RENEWAL_SECONDS):
                while _expires_within(MARGIN_SECONDS, login):
                    await self._renew()
                    login = _read_login(self.file) or login
                    if not _expires_within(0, login):
                        break  # good for now, renewed or not
                    await trio.sleep(AGAIN_SECONDS)
        if not login:
            raise NoLogin
        token: str = login["accessToken"]
        return token

    async def _renew(self) -> None:
        """What cannot be renewed is shown as it is: the API says what is wrong with it."""
        log.info("the CLI is asked to renew its login")
        # Under that one the CLI never reads a subscription's login.
        env = {name: text for name, text in self.env.items() if name != "CLAUDE_CODE_SIMPLE"}
        with suppress(OSError):
            await trio.run_process(
                [*self.status],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )


def _read_login(path: Path) -> dict[str, Any]:
    """What a credentials file holds of a subscription's login; nothing where it holds none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return {}
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return {}
        data = file.read(LARGEST + 1)
    try:
        login = json.loads(data)["claudeAiOauth"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return login if isinstance(login, dict) and isinstance(login.get("accessToken"), str) else {}


def _expires_within(seconds: float, login: Mapping[str, Any]) -> bool:
    due = login.get("expiresAt")
    return isinstance(due, int | float) and due / 1000 < time() + seconds


def _kept_key(state: Path) -> str | None:
    """The key of a login at the console, which the CLI keeps in its ``.claude.json``."""
    try:
        key = json.loads(state.read_bytes())["primaryApiKey"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return key if isinstance(key, str) and key else None


def _constant(value: str) -> Secret:
    async def show() -> str:
        return value

    return show


# -- the door --------------------------------------------------------------------------------------


@frozen
class LoginDoor:
    """Where the API is, and what is shown to it. `logins` has the secret of each stand-in;
    `headers` are the operator's own, which go with every request."""

    host: str
    port: int
    prefix: str
    tls: ssl.SSLContext | None = field(repr=False)
    logins: Mapping[str, Secret] = field(repr=False)
    headers: Sequence[tuple[bytes, bytes]] = field(factory=tuple, repr=False)

    async def open(
        self, request: h11.Request, connect: Connect
    ) -> tuple[trio.abc.HalfCloseableStream, bytes]:
        """A connection to the API, and the words with which `request` begins there.

        Raises what `connect` does, `NoLogin` and `DoorShut`.
        """
        head = await self._head(request)
        stream = await connect(self.host, self.port)
        if self.tls is not None:
            secured = trio.SSLStream(
                stream, self.tls, server_hostname=self.host, https_compatible=True
            )
            try:
                await secured.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            stream = TlsStream(secured)
        return stream, head

    async def _head(self, request: h11.Request) -> bytes:
        target = request.target.decode("ascii")
        if target.partition("?")[0] not in PATHS:
            raise DoorShut(404, "not_found_error", f"Agents have no call to {target}.")
        own = {name for name, _ in self.headers}
        fields, shown = [], 0
        for name, value in request.headers:
            if name in (b"x-api-key", b"authorization"):
                value = await self._shown(name, value)
                shown += 1
            if name not in _NOT_PASSED_ON and name not in own:
                fields.append((name, value))
        if not shown:
            raise DoorShut(401, "authentication_error", "No login is shown.")
        authority = f"[{self.host}]" if ":" in self.host else self.host
        if self.port != (80 if self.tls is None else 443):
            authority += f":{self.port}"
        fields += [(b"host", authority.encode()), *self.headers, (b"connection", b"close")]
        first = b"%s %s HTTP/1.1\r\n" % (request.method, (self.prefix + target).encode("ascii"))
        # One request for each connection: whatever follows it goes without a login.
        return b"".join([first, *(b"%s: %s\r\n" % each for each in fields), b"\r\n"])

    async def _shown(self, name: bytes, value: bytes) -> bytes:
        scheme, _, token = value.rpartition(b" ")
        secret = self.logins.get(token.decode("latin-1"))
        if secret is None or scheme.lower() not in (b"", b"bearer"):
            raise DoorShut(401, "authentication_error", "This is no login of this agent's.")
        told = (await secret()).encode("latin-1")
        return b"Bearer " + told if name == b"authorization" else told


_NOT_PASSED_ON = frozenset((b"host", b"connection", b"keep-alive", b"upgrade", b"te"))


class DoorShut(Exception):
    """The request is none of those for which the login is there."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind

    def response(self) -> bytes:
        """The whole response, worded as the API's own errors are."""
        error = {"type": self.kind, "message": f"ccapi: {self}"}
        body = json.dumps({"type": "error", "error": error}).encode()
        head = f"HTTP/1.1 {self.status} Refused\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


class TlsStream(trio.abc.HalfCloseableStream):
    """A TLS stream as one that can be closed by halves, which here means whole."""

    def __init__(self, stream: trio.SSLStream[trio.abc.HalfCloseableStream]) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.aclose()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


# -- what a child is given instead -----------------------------------------------------------------


@define(eq=False)
class Logins:
    """The operator's logins, for all children. `env` is what the CLI sees outside of sandboxes."""

    env: Mapping[str, str] = field(repr=False)
    state: Path
    file: FileLogin
    _tls: ssl.SSLContext | None = field(default=None, init=False, repr=False)

    def held_back(self, env: Mapping[str, str]) -> tuple[dict[str, str], LoginDoor] | None:
        """`env` with stand-ins for the logins that the CLI would use, and the door at which they
        are worth something. None: a cloud provider has the login, there is none, or the API's
        address is no URL.

        May take a while; for a thread.
        """
        if any(env.get(name, "").lower() not in ("", "0", "false", "no", "off") for name in CLOUDS):
            return None
        found: dict[str, Secret] = {
            name: _constant(env[name].strip()) for name in _PREFIXES if env.get(name)
        }
        if not found:
            if self.file.is_there():
                found["CLAUDE_CODE_OAUTH_TOKEN"] = self.file.token
            elif key := _kept_key(self.state):
                found["ANTHROPIC_API_KEY"] = _constant(key)
            else:
                return None
        base = env.get(BASE_URL) or API
        try:
            url = urlsplit(base)
            port = url.port or (443 if url.scheme == "https" else 80)
        except ValueError:
            return None
        if url.scheme not in ("http", "https") or not url.hostname:
            return None
        stand_ins = {name: _PREFIXES[name] + secrets.token_urlsafe(48) for name in found}
        door = LoginDoor(
            url.hostname,
            port,
            url.path.rstrip("/"),
            self._context() if url.scheme == "https" else None,
            {stand_ins[name]: secret for name, secret in found.items()},
            _headers(env.get(HEADERS, "")),
        )
        seen = {name: value for name, value in env.items() if name not in (BASE_URL, HEADERS)}
        if url.hostname == "api.anthropic.com":
            seen[_ASSUME] = "1"
        return {**seen, **stand_ins}, door

    def _context(self) -> ssl.SSLContext:
        """With the authorities of the operator's own, like the CLI's."""
        if self._tls is None:
            made = httpx2.create_ssl_context(trust_env=False)
            for name in ("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"):
                with suppress(OSError, ssl.SSLError):
                    if self.env.get(name):
                        made.load_verify_locations(self.env[name])
            self._tls = made
        return self._tls


def _headers(given: str) -> tuple[tuple[bytes, bytes], ...]:
    """Of lines like ``Name: value``, those that can be sent."""
    found = []
    for line in given.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip().isascii() and value.isascii():
            found.append((name.strip().lower().encode(), value.strip().encode()))
    return tuple(found)
