"""The settings: every key, its default, its meaning and what it may hold.

Knows the words of the configuration: frozen attrs classes, one per section, whose fields carry
their help text (typed-settings) and their rule. An instance that exists has passed its rules.
Refuses to know where a value came from: files, environment and command line are read by
`ccapi.transport.settings_loader`.

Units are in the names (`_seconds`, `_minutes`, `_bytes`). No message here holds a secret.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import attrs
import typed_settings as ts
from attrs import frozen

from ..keys import KeyLimits
from ..mcp_connection import origin_of
from . import rules
from .logins import LoginSettings, check_logins
from .rules import Problem, SettingsError, is_loopback

__all__ = [
    "AuditSettings",
    "AuthSettings",
    "BatchSettings",
    "CacheSettings",
    "ClaudeSettings",
    "ClusterSettings",
    "ConversationSettings",
    "FileAccessSettings",
    "FileSettings",
    "IdempotencySettings",
    "ImageSettings",
    "LimitSettings",
    "LogSettings",
    "LoginSettings",
    "McpSettings",
    "ModelSettings",
    "PageSettings",
    "PermissionSettings",
    "Problem",
    "ResponseSettings",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "StorageSettings",
    "WebSocketSettings",
    "WorkspaceSettings",
    "check_exposure",
    "complaint",
    "default_state_directory",
    "is_loopback",
]

AGENT_PREFIX = "agent/"
"""What begins the names of models that are asked to be agents."""

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


MIB = 1024 * 1024


def complaint(attribute: "attrs.Attribute[Any]", value: object) -> str | None:
    """What `attribute`'s rule has against `value`; quotes the value unless it is secret."""
    rule: rules.Rule | None = attribute.metadata.get("rule")
    reason = None if rule is None else rule(value)
    if reason is None or attribute.metadata["secret"]:
        return reason
    shown = repr(value)
    return f"{reason}, got {shown if len(shown) <= 80 else shown[:80] + '…'}"


def _validate(section: "Section", attribute: "attrs.Attribute[Any]", value: object) -> None:
    reason = complaint(attribute, value)
    if reason is not None:
        raise SettingsError([Problem(f"{section.section}.{attribute.name}", reason)])


def key(
    default: object,
    rule: rules.Rule,
    help: str,
    *,
    secret: bool = False,
    default_text: str = "",
) -> Any:
    """A field with its default (called for a fresh one if callable), rule and help text."""
    make: Any = ts.secret if secret else ts.option
    source = {"factory": default} if callable(default) else {"default": default}
    metadata = {"rule": rule, "secret": secret, "default_text": default_text}
    return make(**source, validator=_validate, help=help, metadata=metadata)


class Section:
    """What all sections share. `conflicts` yields (key, reason) for values that are sound each
    but not together."""

    section: ClassVar[str]

    def __attrs_post_init__(self) -> None:
        problems = [Problem(f"{self.section}.{key}", why) for key, why in self.conflicts()]
        if problems:
            raise SettingsError(problems)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from ()


@frozen(kw_only=True)
class ServerSettings(Section):
    section: ClassVar[str] = "server"

    host: str = key(
        "127.0.0.1",
        rules.host,
        "Address to listen on. Anything but loopback needs a key: `ccapi key create`, or "
        "`auth.api_keys`.",
    )
    port: int = key(8080, rules.whole(0, 65535), "Port to listen on; 0 takes a free one.")
    graceful_seconds: float = key(
        30.0, rules.not_negative, "How long running turns may finish after a stop signal."
    )
    stall_seconds: float = key(
        30.0, rules.positive, "A client that reads no byte for this long counts as disconnected."
    )
    heartbeat_seconds: float = key(
        15.0,
        rules.positive,
        "Time without data in a stream after which a comment is sent to keep it open.",
    )
    max_body_bytes: int = key(20 * MIB, rules.whole(1), "Largest request body; more is a 413.")
    max_bodies_bytes: int = key(
        128 * MIB,
        rules.whole(1),
        "Size of all request bodies and WebSocket messages under way; more wait up to 30 s, "
        "and then get a 503.",
    )
    min_body_bytes_per_second: float = key(
        8192.0,
        rules.not_negative,
        "Least rate of a request body, once it has taken `stall_seconds`; a slower one is a 408. "
        "0: any.",
    )
    max_header_bytes: int = key(65536, rules.whole(1024), "Largest request head.")
    head_timeout_seconds: float = key(
        10.0, rules.positive, "Time a connection has to send its request head."
    )
    max_connections: int = key(1000, rules.whole(1), "Connections open at once; more wait.")
    max_connections_per_address: int = key(
        250,
        rules.whole(1),
        "Of these, from one address (of IPv6, one /64 network); more are closed at once, the idle "
        "ones first. This machine's own addresses, where a reverse proxy may be, have nine tenths "
        "of all. Raise it for a proxy on another machine.",
    )
    allowed_hosts: tuple[str, ...] = key(
        (),
        rules.each(
            lambda host: host == "*" or rules.is_host(host),
            "must list host names without port, or *",
        ),
        "Host names requests may be addressed to (`*`: any), against DNS rebinding. "
        "Empty: the loopback names and `server.host`.",
    )
    cors_origins: tuple[str, ...] = key(
        (),
        rules.each(rules.is_origin, "must list origins such as https://example.org, or *"),
        "Origins whose pages may call from a browser (`*`: any). "
        "Empty: pages from this machine, on any port.",
    )
    tls_cert_file: Path | None = key(  # noqa: RUF009
        None, rules.optional_path, "Certificate chain (PEM); with `tls_key_file`, serves TLS."
    )
    tls_key_file: Path | None = key(  # noqa: RUF009
        None, rules.optional_path, "Private key (PEM)."
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.tls_cert_file is not None and self.tls_key_file is None:
            yield "tls_cert_file", "needs server.tls_key_file too"
        if self.tls_key_file is not None and self.tls_cert_file is None:
            yield "tls_key_file", "needs server.tls_cert_file too"

    def allows_host(self, host: str) -> bool:
        """Whether a request may be addressed to `host` (no port, an IPv6 address without
        brackets); RFC 9110 7.2 makes the comparison ignore case."""
        names = self.allowed_hosts or (*LOOPBACK_NAMES, self.host)
        return "*" in names or host.lower() in map(str.lower, names)

    def allows_origin(self, origin: str) -> bool:
        """Whether a page from `origin` (the header as it came) may call from a browser."""
        if self.cors_origins:
            return "*" in self.cors_origins or origin in self.cors_origins
        if origin == "*" or not rules.is_origin(origin):
            return False
        parts = urlsplit(origin)
        return parts.scheme in {"http", "https"} and is_loopback(parts.hostname or "")


@frozen(kw_only=True)
class WebSocketSettings(Section):
    section: ClassVar[str] = "websocket"

    max_connections: int = key(
        800,
        rules.whole(0),
        "WebSockets open at once, of all `server.max_connections`; more is a 429.",
    )
    max_message_bytes: int = key(
        20 * MIB, rules.whole(1024), "Longest message of a client; a longer one ends its WebSocket."
    )
    ping_seconds: float = key(
        20.0, rules.positive, "Time without a message of a client after which it is sent a ping."
    )
    pong_seconds: float = key(20.0, rules.positive, "Longest time until the client's pong.")
    idle_seconds: float = key(
        0.0,
        rules.not_negative,
        "Time without a message in either direction after which a WebSocket is closed; 0: never.",
    )


@frozen(kw_only=True)
class ClaudeSettings(Section):
    section: ClassVar[str] = "claude"

    command: str = key(
        "claude", rules.command, "The Claude Code CLI: the name or the path of the program."
    )
    env: Mapping[str, str] = key(
        dict, rules.environment, "Environment variables for the CLI's processes.", secret=True
    )
    allow_credentials_file: bool = key(
        False,
        rules.boolean,
        "Serve other machines also with the login in the CLI's credentials file, although any "
        "client can then ask the model for the account's e-mail address.",
    )
    timeout_seconds: float = key(300.0, rules.positive, "Longest turn.")
    idle_timeout_seconds: float = key(
        120.0, rules.positive, "Longest time without output of a child during a turn."
    )
    start_timeout_seconds: float = key(30.0, rules.positive, "Longest start of a child.")
    max_concurrent_sessions: int = key(10, rules.whole(1), "Children running at once.")
    max_waiting_turns: int = key(
        64, rules.whole(0), "Turns that may wait for a child; more is a 429."
    )
    queue_timeout_seconds: float = key(30.0, rules.not_negative, "Longest wait for a child.")
    prewarm: int = key(
        2, rules.whole(0), "Children kept ready for new conversations, as far as there is room."
    )
    prewarm_agents: int = key(
        1,
        rules.whole(0),
        "Agents kept ready for new conversations, in at most a quarter of "
        "`claude.max_concurrent_sessions`. In a sandbox they serve those that name no workspace.",
    )
    recycle: Literal["key", "all", "off"] = key(
        "key",
        rules.one_of("key", "all", "off"),
        "Which conversations may share a child, one after the other: those of one API key; all; "
        "or none (off).",
    )
    recycle_limit: int = key(
        1000, rules.whole(1), "Conversations that a child serves before another takes its place."
    )
    max_child_bytes: int = key(
        400_000_000,
        rules.whole(0),
        "Memory from which on a child serves no further conversation; 0: any.",
    )
    palette: int = key(
        50,
        rules.whole(0, 300),
        "System prompts that a new child learns, so that it can change from one to another.",
    )
    use_interactive_sessions: bool = key(
        True, rules.boolean, "Keep a conversation's child between turns; otherwise one per request."
    )
    freeze_after_seconds: float = key(
        30.0,
        rules.not_negative,
        "Idle time after which a child is stopped from using CPU; 0: never.",
    )
    hibernate_after_seconds: float = key(
        300.0,
        rules.not_negative,
        "Idle time after which a child ends, to be resumed on demand; 0: never.",
    )
    tool_wait_seconds: float = key(
        600.0,
        rules.positive,
        "How long a child waits for the results of its tool calls; they may come later too, "
        "but another child then receives them.",
    )
    web_search: bool = key(
        True,
        rules.boolean,
        "Have the web searched for requests that ask for it (`web_search`). The API does that, and "
        "each search costs money. Where keys are needed, only those with the scope `search` may.",
    )
    max_retries: int = key(2, rules.whole(0), "The CLI's own retries of an API call.")
    max_line_bytes: int = key(64 * MIB, rules.whole(65536), "Longest line a child may print.")
    stop_seconds: float = key(
        5.0, rules.not_negative, "Time a child has to end by itself before it is killed."
    )


@frozen(kw_only=True)
class AuthSettings(Section):
    section: ClassVar[str] = "auth"

    api_keys: tuple[str, ...] = key(
        (),
        rules.api_keys,
        "Keys of which clients must send one, each as it is or as `sha256:` and its hash in "
        "hexadecimal. Empty: no key is needed.",
        secret=True,
    )
    agent_keys: tuple[str, ...] = key(
        (),
        rules.api_keys,
        "Those of `auth.api_keys` whose clients may use agents. Where no key is needed, every "
        "client may.",
        secret=True,
    )
    search_keys: tuple[str, ...] = key(
        (),
        rules.api_keys,
        "Those of `auth.api_keys` whose clients may have the web searched. Empty: a key that is "
        "alone in `auth.api_keys` may, and of several none.",
        secret=True,
    )
    admin_keys: tuple[str, ...] = key(
        (),
        rules.api_keys,
        "Those of `auth.api_keys` whose clients see the numbers of all keys. Empty: a key that is "
        "alone in `auth.api_keys` does, and of several none.",
        secret=True,
    )
    allow_query_key: bool = key(
        False,
        rules.boolean,
        "Take a WebSocket's key from `?api_key=` too. Proxies may log such addresses.",
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        keys = {*map(rules.hash_key, self.api_keys)}
        for name in ("agent_keys", "search_keys", "admin_keys"):
            if not {*map(rules.hash_key, getattr(self, name))} <= keys:
                yield name, "holds a key that auth.api_keys does not"

    def hashed(self) -> "AuthSettings":
        """The same without any key: only what it takes to know one again."""
        return attrs.evolve(
            self,
            api_keys=tuple(map(rules.hash_key, self.api_keys)),
            agent_keys=tuple(map(rules.hash_key, self.agent_keys)),
            search_keys=tuple(map(rules.hash_key, self.search_keys)),
            admin_keys=tuple(map(rules.hash_key, self.admin_keys)),
        )


def _tokens(window: str) -> Any:
    return key(0, rules.whole(0), f"Tokens of a key {window}, read and written. 0: any number.")


def _usd(window: str) -> Any:
    return key(
        0.0,
        rules.not_negative,
        f"US dollars of a key {window}, by the CLI's figure. 0: any amount.",
    )


@frozen(kw_only=True)
class LimitSettings(Section):
    """The limits of a key that gives none of its own (`schemas.keys.KeyLimits`)."""

    section: ClassVar[str] = "limits"

    concurrent_turns: int = key(
        0,
        rules.whole(0),
        "Turns of a key at once. 0: any number. The limits of this section hold for each key that "
        "has none of its own, and where no key is needed for all clients together.",
    )
    turns_per_minute: int = key(
        0, rules.whole(0), "Turns that a key may begin in a minute. 0: any number."
    )
    tokens_per_5h: int = _tokens("in this hour and the four before it")
    tokens_per_day: int = _tokens("in a day (UTC)")
    tokens_per_week: int = _tokens("in a week from Monday (UTC)")
    tokens_per_month: int = _tokens("in a month (UTC)")
    usd_per_5h: float = _usd("in this hour and the four before it")
    usd_per_day: float = _usd("in a day (UTC)")
    usd_per_week: float = _usd("in a week from Monday (UTC)")
    usd_per_month: float = _usd("in a month (UTC)")

    def as_limits(self) -> KeyLimits:
        return KeyLimits(**attrs.asdict(self))


@frozen(kw_only=True)
class ModelSettings(Section):
    section: ClassVar[str] = "models"

    default: str = key(
        "sonnet",
        rules.model,
        "Model of a request that names none.",
    )
    available: tuple[str, ...] = key(
        ("opus", "sonnet", "haiku", "claude-opus-4-8", "claude-sonnet-5", "claude-haiku-4-5"),
        rules.each(rules.is_visible_ascii, "must list model ids"),
        "Model ids that requests may name.",
    )
    aliases: Mapping[str, str] = key(
        dict, rules.model_map, "Other names for them, such as `gpt-4o` for `sonnet`."
    )
    versions: bool = key(
        True,
        rules.boolean,
        "Where a family's name is offered (`opus`), requests may also name its ids, of whichever "
        "version (`claude-opus-4-5-20251101`). Clients such as Claude Code do.",
    )
    agents: bool = key(
        True,
        rules.boolean,
        "Offer every model as `agent/NAME` too: Claude Code with its own tools, in a workspace.",
    )
    include_reasoning: bool = key(
        False,
        rules.boolean,
        "Give the model's thinking as `reasoning_content` to requests that do not say.",
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        agents = {f"{AGENT_PREFIX}{name}" for name in self.available} if self.agents else set()
        models = {*self.available, *agents}
        if self.default not in {*models, *self.aliases}:
            yield "default", f"is not in models.available, got {self.default!r}"
        for name, model in self.aliases.items():
            if model not in models:
                yield "aliases", f"{name} stands for {model!r}, which is not in models.available"


@frozen(kw_only=True)
class CacheSettings(Section):
    section: ClassVar[str] = "cache"

    enabled: bool = key(True, rules.boolean, "Answer identical requests from memory.")
    max_entries: int = key(1000, rules.whole(1), "Answers kept.")
    ttl_seconds: float = key(3600.0, rules.positive, "Age at which an answer is dropped.")
    max_bytes: int = key(64 * MIB, rules.whole(1), "Size of all answers kept.")


@frozen(kw_only=True)
class ConversationSettings(Section):
    section: ClassVar[str] = "conversation"

    session_timeout_minutes: float = key(
        30.0,
        rules.positive,
        "Idle time after which a conversation leaves memory; one that a client has open stays.",
    )
    max_history_messages: int = key(
        20,
        rules.whole(1),
        "Messages replayed into a new child for a request that brings its history.",
    )
    max_queued_turns: int = key(
        16, rules.whole(0), "Turns that may wait in one conversation; more is a 429."
    )
    max_conversations: int = key(10000, rules.whole(1), "Conversations in memory.")
    max_items_bytes: int = key(
        64 * MIB,
        rules.whole(1),
        "Size of the messages of conversations that are kept to be shown; the oldest go first, and "
        "what a child holds stays as it is.",
    )
    max_held_bytes: int = key(
        256 * MIB,
        rules.whole(1),
        "Size of the messages kept for conversations whose transcripts lack them (answers cut "
        "short, open tool calls, cached answers). Beyond it, those asleep for longest are dropped.",
    )


@frozen(kw_only=True)
class ResponseSettings(Section):
    section: ClassVar[str] = "responses"

    max_stored: int = key(
        1000, rules.whole(1), "Responses kept to be fetched and continued; the oldest go first."
    )
    max_bytes: int = key(64 * MIB, rules.whole(1), "Size of all responses kept.")
    ttl_seconds: float = key(30 * 86400.0, rules.positive, "Age at which a response is dropped.")


@frozen(kw_only=True)
class IdempotencySettings(Section):
    section: ClassVar[str] = "idempotency"

    keep_seconds: float = key(
        86400.0,
        rules.positive,
        "How long the answer to a request with an `Idempotency-Key` is kept, to be given again.",
    )
    max_stored: int = key(
        10_000, rules.whole(1), "Such answers kept; the oldest go first, and may be done again."
    )
    max_bytes: int = key(
        64 * MIB,
        rules.whole(1),
        "Size of all such answers, compressed, beside `storage.max_bytes`; the oldest go first.",
    )
    max_answer_bytes: int = key(
        8 * MIB,
        rules.whole(1),
        "Size of one such answer. A longer one is given once; to a second try the client gets 409.",
    )


@frozen(kw_only=True)
class FileSettings(Section):
    section: ClassVar[str] = "files"

    max_files: int = key(1000, rules.whole(1), "Uploaded files of one API key.")
    max_bytes: int = key(200 * MIB, rules.whole(1), "Size of one uploaded file.")
    max_key_bytes: int = key(
        1024 * MIB, rules.whole(1), "Size of all files of one API key, uploads under way included."
    )
    max_total_bytes: int = key(
        10 * 1024 * MIB, rules.whole(1), "The same of all keys, beside `storage.max_bytes`."
    )
    keep_days: float = key(
        30.0,
        rules.not_negative,
        "Days after which a file is deleted, where its client asks for no less. 0: never.",
    )


@frozen(kw_only=True)
class BatchSettings(Section):
    section: ClassVar[str] = "batches"

    max_open: int = key(20, rules.whole(1), "Batches of one API key that have not ended.")
    max_requests: int = key(50_000, rules.whole(1, 1_000_000), "Requests of one batch.")
    max_concurrent: int = key(
        0,
        rules.whole(0),
        "Requests of all batches that run at once. 0: half of `claude.max_concurrent_sessions`.",
    )
    window_hours: float = key(
        24.0, rules.positive, "How long a batch may take; what has not run by then does not run."
    )
    keep_days: float = key(
        29.0, rules.positive, "Days after which a batch and its results are deleted."
    )


@frozen(kw_only=True)
class ImageSettings(Section):
    section: ClassVar[str] = "images"

    allow_remote: bool = key(
        False,
        rules.boolean,
        "Fetch images that requests name by http(s) URL, from public addresses only.",
    )
    max_bytes: int = key(
        10 * MIB, rules.whole(1), "Largest image or file in a request, once decoded."
    )
    max_total_bytes: int = key(
        20 * MIB, rules.whole(1), "Size of all images and files of a request, once decoded."
    )
    max_count: int = key(20, rules.whole(0), "Images and files in a request.")
    fetch_timeout_seconds: float = key(
        10.0, rules.positive, "Longest fetch of an image, redirects included."
    )
    max_redirects: int = key(3, rules.whole(0), "Redirects followed for an image.")


@frozen(kw_only=True)
class FileAccessSettings(Section):
    section: ClassVar[str] = "file_access"

    additional_dirs: tuple[str, ...] = key(
        (),
        rules.each(rules.is_absolute_path, "must list absolute paths"),
        "Folders from which requests may name files of this machine, and that agents may work in "
        "beside their own. Empty: none.",
    )
    skip_permissions: bool = key(
        False,
        rules.boolean,
        "Let agents do whatever they like, unasked. Not for root, which the CLI refuses.",
    )


@frozen(kw_only=True)
class WorkspaceSettings(Section):
    section: ClassVar[str] = "workspaces"

    root: Path | None = key(  # noqa: RUF009
        None,
        rules.optional_path,
        "Folder of the agents' working directories: one for each conversation, and those that "
        "requests name.",
        default_text="`workspaces` under `storage.path`",
    )
    keep_days: float = key(
        7.0,
        rules.not_negative,
        "How long the working directory of a conversation's own is kept after the conversation has "
        "ended. Those that requests name are never removed.",
    )
    setting_sources: tuple[str, ...] = key(
        (),
        rules.each(
            lambda source: source in ("user", "project", "local"),
            "must list user, project or local",
        ),
        "Claude Code's own settings that agents load (`user`, `project`, `local`), with CLAUDE.md "
        "and the permissions in them. Empty: none.",
    )
    sandbox: Literal["auto", "bubblewrap", "landlock", "off"] = key(
        "auto",
        rules.one_of("auto", "bubblewrap", "landlock", "off"),
        "What keeps agents within their workspace: bubblewrap, Landlock (Linux 6.12), or the first "
        "of them that this machine has. Where there is none, `auto` warns and the others refuse.",
    )
    network: bool = key(
        True,
        rules.boolean,
        "Let agents' tools reach public addresses, by HTTP proxy. Without it they reach the API "
        "and `workspaces.allowed_hosts` alone, which needs a sandbox.",
    )
    allowed_hosts: tuple[str, ...] = key(
        (),
        rules.each(rules.is_host_and_port, "must list hosts, with or without :port"),
        "Further hosts that agents may reach from a sandbox, also private ones: `name`, "
        "`name:port`, `.domain`.",
    )


@frozen(kw_only=True)
class PermissionSettings(Section):
    section: ClassVar[str] = "permissions"

    mode: Literal["default", "acceptEdits", "plan", "dontAsk"] = key(
        "default",
        rules.one_of("default", "acceptEdits", "plan", "dontAsk"),
        "What agents may do unasked, before any rule: Claude Code's permission mode.",
    )
    allow: tuple[str, ...] = key(
        (),
        rules.each(rules.is_permission_rule, "must list rules such as Bash(git status:*)"),
        "Rules of what agents may do without asking, as in Claude Code.",
    )
    deny: tuple[str, ...] = key(
        (),
        rules.each(rules.is_permission_rule, "must list rules such as Read(./secrets/**)"),
        "Rules of what agents may never do, even where a client allows it.",
    )
    timeout_seconds: float = key(
        60.0,
        rules.positive,
        "How long an agent waits for permission; without an answer it is denied.",
    )


@frozen(kw_only=True)
class McpSettings(Section):
    section: ClassVar[str] = "mcp"

    enabled: bool = key(
        False,
        rules.boolean,
        "Give conversations the tools of the MCP servers in `mcp.config_file`.",
    )
    config_file: Path = key(  # noqa: RUF009
        Path("mcp_config.json"),
        rules.path,
        "The servers, as JSON in the usual shape (`mcpServers`); SIGHUP reads it again.",
    )
    strict: bool = key(
        False,
        rules.boolean,
        "Start only when every server is ready within `mcp.start_timeout_seconds`.",
    )
    debug: bool = key(
        False,
        rules.boolean,
        "Log all that servers write to stderr, and the name of every message to and from them.",
    )
    start_timeout_seconds: float = key(
        30.0, rules.positive, "Longest start of a server, until its tools are listed."
    )
    call_timeout_seconds: float = key(
        300.0, rules.positive, "Longest call of a tool; then it is cancelled, and an error result."
    )
    max_result_bytes: int = key(
        16 * MIB, rules.whole(65536), "Longest message of a server; a longer result is an error."
    )
    per_conversation: tuple[str, ...] = key(
        (),
        rules.each(rules.is_visible_ascii, "must list names of servers"),
        "Servers that every agent's conversation has for itself, started in its workspace.",
    )
    allowed_urls: tuple[str, ...] = key(
        (),
        rules.each(
            lambda value: isinstance(value, str) and origin_of(value) == value,
            "must list origins such as https://mcp.example.org or http://127.0.0.1:9000",
        ),
        "Origins whose URLs a response may name as the `server_url` of an MCP server. Private "
        "addresses need an origin with that very address, or localhost.",
    )


def default_state_directory(environ: Mapping[str, str] | None = None) -> Path:
    """`$XDG_STATE_HOME/ccapi`, else `~/.local/state/ccapi`.

    A relative XDG_STATE_HOME is ignored, as the XDG Base Directory Specification says. Raises
    SettingsError where no home directory can be found."""
    environ = os.environ if environ is None else environ
    given = Path(environ.get("XDG_STATE_HOME", ""))
    if given.is_absolute():
        return given / "ccapi"
    try:
        home = Path(environ.get("HOME") or Path.home())
    except RuntimeError as error:
        problem = Problem("storage.path", "must be set where there is no home directory")
        raise SettingsError([problem]) from error
    return home / ".local" / "state" / "ccapi"


@frozen(kw_only=True)
class StorageSettings(Section):
    section: ClassVar[str] = "storage"

    path: Path = key(  # noqa: RUF009
        default_state_directory,
        rules.path,
        "Folder for what outlives the process, the children's working directories among it.",
        default_text="`$XDG_STATE_HOME/ccapi`, else `~/.local/state/ccapi`",
    )
    persist: bool = key(
        True,
        rules.boolean,
        "Whether conversations and responses are kept in a database in that folder, so that they "
        "outlive the process. One gateway at a time has it open.",
    )
    url: str = key(
        "",
        rules.optional_database,
        "The PostgreSQL database in which they are kept instead, as in "
        "`postgresql://user:password@host:5432/name` (the extra `cluster`). Several gateways share "
        "it where `cluster.node_url` is set. Empty: the database in the folder.",
        secret=True,
    )
    retention_days: float = key(
        0.0,
        rules.not_negative,
        "Days after which a conversation that was not used is deleted. 0: never.",
    )
    max_bytes: int = key(
        0,
        rules.whole(0),
        "Bytes that the database may take: beyond, what was not used for longest is deleted. "
        "0: any number.",
    )

    @property
    def place(self) -> Path | str:
        """Where conversations are kept: a folder, or the URL of a database."""
        return self.url or self.path.expanduser()

    @property
    def shown_place(self) -> str:
        """The same for people, without a secret."""
        if not self.url:
            return str(self.path)
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


BEATS_IN_A_LEASE = 4
"""Where nothing else is set."""


@frozen(kw_only=True)
class ClusterSettings(Section):
    section: ClassVar[str] = "cluster"

    node_url: str = key(
        "",
        rules.optional_origin,
        "Where the other gateways on the same database reach this one, as in "
        "`http://10.0.0.5:8080`. Empty: there are no others.",
    )
    secret: str = key(
        "",
        rules.optional_secret,
        "What all gateways on the same database share, and by which they know each other.",
        secret=True,
    )
    lease_seconds: float = key(
        1.2,
        rules.positive,
        "How long a gateway's conversations stay its own after its last sign of life (a beat). 5 "
        "where the database's disk is slow.",
    )
    beat_seconds: float = key(
        0.0, rules.not_negative, "How often a gateway beats. 0: four times in `lease_seconds`."
    )
    connect_seconds: float = key(
        0.3, rules.positive, "Longest connection attempt from one gateway to another."
    )
    release_seconds: float = key(
        2.0,
        rules.not_negative,
        "How long a conversation without a child stays with its gateway after it was used.",
    )
    notice_seconds: float = key(
        3.0,
        rules.not_negative,
        "How long a gateway that stops is still there at least, and passes on what it is asked: "
        "longer than balancers and other gateways need to notice. 0: only while its turns run.",
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.node_url and not self.secret:
            yield "secret", "must be set where cluster.node_url is"
        if self.beat > self.lease_seconds / 2:
            yield "beat_seconds", "must be at most half of cluster.lease_seconds"

    @property
    def beat(self) -> float:
        """Seconds between two beats."""
        return self.beat_seconds or self.lease_seconds / BEATS_IN_A_LEASE


@frozen(kw_only=True)
class PageSettings(Section):
    section: ClassVar[str] = "page"

    enabled: bool = key(
        True, rules.boolean, "Serve a page for people at `/`: conversations, and the live overview."
    )


@frozen(kw_only=True)
class AuditSettings(Section):
    section: ClassVar[str] = "audit"

    path: Path | None = key(  # noqa: RUF009
        None,
        rules.optional_path,
        "File to which a JSON line is appended for each turn, decision about a tool, refused key, "
        "deletion and export. Unset: none.",
    )


@frozen(kw_only=True)
class LogSettings(Section):
    section: ClassVar[str] = "log"

    level: Literal["debug", "info", "warning", "error"] = key(
        "info", rules.one_of("debug", "info", "warning", "error"), "Least level that is written."
    )
    format: Literal["auto", "console", "json"] = key(
        "auto",
        rules.one_of("auto", "console", "json"),
        "For people, for machines, or by whether stderr is a terminal.",
    )


@frozen(kw_only=True)
class Settings:
    """All settings. `Settings()` has every default; `attrs.evolve` makes variants."""

    server: ServerSettings = attrs.field(factory=ServerSettings)
    claude: ClaudeSettings = attrs.field(factory=ClaudeSettings)
    websocket: WebSocketSettings = attrs.field(factory=WebSocketSettings)
    auth: AuthSettings = attrs.field(factory=AuthSettings)
    limits: LimitSettings = attrs.field(factory=LimitSettings)
    models: ModelSettings = attrs.field(factory=ModelSettings)
    cache: CacheSettings = attrs.field(factory=CacheSettings)
    conversation: ConversationSettings = attrs.field(factory=ConversationSettings)
    responses: ResponseSettings = attrs.field(factory=ResponseSettings)
    idempotency: IdempotencySettings = attrs.field(factory=IdempotencySettings)
    files: FileSettings = attrs.field(factory=FileSettings)
    batches: BatchSettings = attrs.field(factory=BatchSettings)
    images: ImageSettings = attrs.field(factory=ImageSettings)
    file_access: FileAccessSettings = attrs.field(factory=FileAccessSettings)
    workspaces: WorkspaceSettings = attrs.field(factory=WorkspaceSettings)
    permissions: PermissionSettings = attrs.field(factory=PermissionSettings)
    mcp: McpSettings = attrs.field(factory=McpSettings)
    storage: StorageSettings = attrs.field(factory=StorageSettings)
    cluster: ClusterSettings = attrs.field(factory=ClusterSettings)
    page: PageSettings = attrs.field(factory=PageSettings)
    audit: AuditSettings = attrs.field(factory=AuditSettings)
    log: LogSettings = attrs.field(factory=LogSettings)
    logins: tuple[LoginSettings, ...] = ()

    def __attrs_post_init__(self) -> None:
        check_logins(self.logins)


def without_keys(settings: Settings) -> Settings:
    """The same settings, with the hashes of the callers' keys in place of the keys."""
    return attrs.evolve(settings, auth=settings.auth.hashed())


def check_exposure(settings: Settings, *, has_stored_keys: bool = False) -> None:
    """Raise SettingsError if callers from other machines would need no key.

    Not part of `Settings` itself: a program may make its settings in steps, and only who is
    about to listen is exposed."""
    host = settings.server.host
    if not (is_loopback(host) or settings.auth.api_keys or has_stored_keys):
        reason = (
            f"{host} can be reached from other machines, and any program there could use your "
            "Claude account: make a key with ccapi key create, set auth.api_keys, or listen on "
            "127.0.0.1"
        )
        raise SettingsError([Problem("server.host", reason)])
