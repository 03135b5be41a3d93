"""The settings: defaults, rules, the order of sources, what an error says and never says."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.settings.rules import MASK
from ccapi.schemas.settings.settings import (
    AuthSettings,
    CacheSettings,
    ClaudeSettings,
    ModelSettings,
    ServerSettings,
    Settings,
    SettingsError,
    StorageSettings,
    check_exposure,
    default_state_directory,
    is_loopback,
)
from ccapi.transport.settings_loader import (
    KEYS,
    SECTIONS,
    SHORT_OPTIONS,
    TABLE_END,
    TABLE_START,
    LoadedSettings,
    load_settings,
    render_json,
    render_toml,
    settings_table,
    with_settings_table,
)

README = Path(__file__).parents[3] / "README.md"
HOME = {"HOME": "/home/me"}
SECRET = "sk-very-secret-4711"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "config/local.toml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def load(toml: str = "", options: Mapping[str, Any] | None = None, **env: str) -> LoadedSettings:
    """Settings from `config/local.toml`, CLAUDE_CODE__-variables and options."""
    if toml:
        write(toml)
    environ = HOME | {f"CLAUDE_CODE__{name}": value for name, value in env.items()}
    return load_settings(environ=environ, options=options)


def errors_of(toml: str = "", options: Mapping[str, Any] | None = None, **env: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(toml, options, **env)
    return [str(problem) for problem in caught.value.problems]


# Defaults


@pytest.mark.parametrize(
    ("variable", "default"),
    [
        ("CLAUDE_CODE__SERVER__HOST", "127.0.0.1"),
        ("CLAUDE_CODE__SERVER__PORT", 8080),
        ("CLAUDE_CODE__CLAUDE__COMMAND", "claude"),
        ("CLAUDE_CODE__CLAUDE__TIMEOUT_SECONDS", 300),
        ("CLAUDE_CODE__CLAUDE__MAX_CONCURRENT_SESSIONS", 10),
        ("CLAUDE_CODE__CLAUDE__USE_INTERACTIVE_SESSIONS", True),
        ("CLAUDE_CODE__CACHE__ENABLED", True),
        ("CLAUDE_CODE__CACHE__MAX_ENTRIES", 1000),
        ("CLAUDE_CODE__CACHE__TTL_SECONDS", 3600),
        ("CLAUDE_CODE__CONVERSATION__MAX_HISTORY_MESSAGES", 20),
        ("CLAUDE_CODE__CONVERSATION__SESSION_TIMEOUT_MINUTES", 30),
        ("CLAUDE_CODE__FILE_ACCESS__ADDITIONAL_DIRS", ()),
        ("CLAUDE_CODE__IMAGES__ALLOW_REMOTE", False),
    ],
)
def test_the_promised_names_and_defaults(variable: str, default: object) -> None:
    (key,) = [key for key in KEYS.values() if key.variable == variable]
    assert key.default == default
    assert getattr(getattr(Settings(), key.section), key.attribute.name) == default


def test_every_key_has_a_meaning_and_a_rule_that_its_default_passes() -> None:
    for key in KEYS.values():
        assert key.help.endswith("."), key.path
        assert key.attribute.metadata["rule"] is not None
    assert {cls.section for cls in SECTIONS.values()} == SECTIONS.keys()
    assert [cls.section for cls in SECTIONS.values()] == list(SECTIONS)


def test_settings_are_made_and_varied_in_code() -> None:
    settings = attrs.evolve(Settings(), server=ServerSettings(port=0))
    assert settings.server.port == 0
    assert settings.claude == ClaudeSettings()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        settings.server.port = 1  # type: ignore[misc]
    assert Settings().claude.env is not Settings().claude.env


def test_the_state_directory_follows_xdg() -> None:
    assert default_state_directory({"XDG_STATE_HOME": "/var/x"}) == Path("/var/x/ccapi")
    home = Path("/home/me/.local/state/ccapi")
    assert default_state_directory(HOME) == home
    assert default_state_directory(HOME | {"XDG_STATE_HOME": "relative"}) == home
    assert load().settings.storage.path == home


def test_the_state_directory_is_looked_up_when_settings_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/var/later")
    assert StorageSettings().path == Path("/var/later/ccapi")


# Rules


BAD = [
    ("server.port", 65536, "from 0 to 65535"),
    ("server.port", -1, "from 0 to 65535"),
    ("server.port", True, "whole number"),
    ("server.port", 80.0, "whole number"),
    ("server.port", "80", "whole number"),
    ("server.host", "", "host name"),
    ("server.host", "http://localhost", "host name"),
    ("server.host", "[::1]", "host name"),
    ("server.host", "localhost:80", "host name"),
    ("server.graceful_seconds", -1.0, "0 or greater"),
    ("server.stall_seconds", 0.0, "greater than 0"),
    ("server.stall_seconds", float("inf"), "greater than 0"),
    ("server.stall_seconds", float("nan"), "greater than 0"),
    ("server.stall_seconds", 10**400, "greater than 0"),
    ("server.max_connections", 0, "at least 1"),
    ("server.allowed_hosts", ["https://a"], "without port"),
    ("server.allowed_hosts", ["a:80"], "without port"),
    ("server.allowed_hosts", "a", "host names"),
    ("server.allowed_hosts", ["a", "a"], "twice"),
    ("server.cors_origins", ["example.org"], "https://example.org"),
    ("server.cors_origins", ["https://example.org/"], "https://example.org"),
    ("server.cors_origins", ["https://u@example.org"], "https://example.org"),
    ("server.cors_origins", ["https://example.org:x"], "https://example.org"),
    ("server.cors_origins", [1], "https://example.org"),
    ("server.tls_cert_file", 1, "path"),
    ("claude.command", "", "program"),
    ("claude.command", " claude", "program"),
    ("claude.command", "cla\nude", "program"),
    ("claude.env", ["A=b"], "map names"),
    ("claude.env", {"A": 1}, "A must be a string"),
    ("claude.env", {"A=B": "c"}, "no environment variable"),
    ("claude.use_interactive_sessions", 1, "true or false"),
    ("auth.api_keys", "key", "visible ASCII"),
    ("auth.api_keys", [""], "visible ASCII"),
    ("auth.api_keys", ["a b"], "visible ASCII"),
    ("auth.api_keys", ["ä"], "visible ASCII"),
    ("auth.api_keys", ["sha256:ab"], "64 hexadecimal digits"),
    ("auth.agent_keys", ["a"], "auth.api_keys does not"),
    ("workspaces.sandbox", "docker", "must be one of"),
    ("workspaces.allowed_hosts", ["http://a.example"], "must list hosts"),
    ("workspaces.allowed_hosts", ["a.example:0"], "must list hosts"),
    ("workspaces.allowed_hosts", ["a.example:x"], "must list hosts"),
    ("auth.api_keys", ["a", "a"], "twice"),
    ("models.default", "", "model id"),
    ("models.available", ["a", 1], "model ids"),
    ("models.aliases", {"gpt-4o": 1}, "model ids to model ids"),
    ("cache.enabled", "yes", "true or false"),
    ("conversation.max_history_messages", 0, "at least 1"),
    ("conversation.max_held_bytes", 0, "at least 1"),
    ("images.allow_remote", "no", "true or false"),
    ("images.max_bytes", 0, "at least 1"),
    ("images.max_count", -1, "at least 0"),
    ("images.fetch_timeout_seconds", 0.0, "greater than 0"),
    ("images.max_redirects", 1.5, "whole number"),
    ("file_access.additional_dirs", "/pictures", "absolute paths"),
    ("file_access.additional_dirs", ["pictures"], "absolute paths"),
    ("file_access.additional_dirs", ["/pictures/../etc"], "absolute paths"),
    ("file_access.additional_dirs", ["/pictures\0"], "absolute paths"),
    ("file_access.additional_dirs", ["/a", "/a"], "twice"),
    ("storage.path", "", "path"),
    ("storage.path", "a\0b", "path"),
    ("storage.path", "~no-user-of-this-name/x", "home directory"),
    ("log.level", "loud", "debug, info, warning, error"),
    ("log.level", ["info"], "debug, info, warning, error"),
    ("log.format", "xml", "auto, console, json"),
]


@pytest.mark.parametrize(("path", "value", "reason"), BAD)
def test_a_bad_value_is_refused_with_source_key_and_reason(
    path: str, value: object, reason: str
) -> None:
    (message,) = errors_of(options={path: value})
    option = SHORT_OPTIONS.get(path, KEYS[path].option)
    assert message.startswith(f"option {option}: {path}: ")
    assert reason in message


def test_a_bad_value_in_code_is_refused_with_its_key() -> None:
    with pytest.raises(SettingsError, match=r"^server\.port: must be .* got 70000$"):
        ServerSettings(port=70000)
    with pytest.raises(SettingsError, match=r"^cache\.enabled: must be true or false"):
        CacheSettings(enabled="no")  # type: ignore[arg-type]


# An array in TOML or JSON is a list, a table a dict.
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def of_type(value: object, wanted: Any) -> bool:
    """Whether `value` is what the annotation of its field says."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin is tuple:
        return isinstance(value, tuple) and all(of_type(item, args[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(
            of_type(name, args[0]) and of_type(item, args[1]) for name, item in value.items()
        )
    if wanted in {int, float, bool, str}:
        return type(value) is wanted
    return isinstance(value, Path) if Path in {wanted, *args} else value in args


@given(path=st.sampled_from(sorted(KEYS)), value=PLAIN)
def test_whatever_a_source_gives_is_of_the_keys_type_or_refused(path: str, value: object) -> None:
    key = KEYS[path]
    try:
        loaded = load_settings(environ=HOME, options={path: value})
    except SettingsError as error:
        refused = error.problems
    else:
        settled = getattr(getattr(loaded.settings, key.section), key.attribute.name)
        refused = ()
        assert of_type(settled, key.type), settled
    assert all(problem.key and problem.reason for problem in refused)


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        ('[server]\ntls_cert_file = "c.pem"', "server.tls_cert_file: needs server.tls_key_file"),
        ('[server]\ntls_key_file = "k.pem"', "server.tls_key_file: needs server.tls_cert_file"),
        ('[models]\ndefault = "gpt-4o"', "models.default: is not in models.available"),
        ('[models.aliases]\ngpt-4o = "nope"', "models.aliases: gpt-4o stands for 'nope'"),
        ('[cluster]\nnode_url = "http://one:1"\nsecret = ""', "cluster.secret: must be set where"),
        ("[cluster]\nbeat_seconds = 0.7", "cluster.beat_seconds: must be at most half of"),
    ],
)
def test_values_that_do_not_go_together_are_refused(toml: str, reason: str) -> None:
    (message,) = errors_of(toml)
    assert message.startswith(f"file config/local.toml: {reason}")


def test_a_conflict_names_the_source_that_set_the_value() -> None:
    (message,) = errors_of('[models]\navailable = ["own"]', MODELS__DEFAULT="other")
    assert message.startswith("environment CLAUDE_CODE__MODELS__DEFAULT: models.default: ")


def test_no_conflict_is_guessed_where_a_value_is_missing() -> None:
    (message,) = errors_of('[models]\navailable = 5\ndefault = "own-model"')
    assert "models.available: must list model ids" in message


def test_an_alias_may_be_the_default_model() -> None:
    settings = ModelSettings(default="gpt-4o", aliases={"gpt-4o": "sonnet"})
    assert settings.default == "gpt-4o"


# Exposure


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_exposure(Settings(server=ServerSettings(host=host)))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.0.1", "::ffff:10.0.0.1", "example.org", "localhost.evil.org"]
)
def test_an_exposed_host_needs_a_key(host: str) -> None:
    server = ServerSettings(host=host)
    with pytest.raises(SettingsError, match=r"^server\.host: .*set auth\.api_keys"):
        check_exposure(Settings(server=server))
    check_exposure(Settings(server=server, auth=AuthSettings(api_keys=("k",))))


def test_an_ipv4_loopback_address_in_ipv6_clothes_is_loopback() -> None:
    assert is_loopback("::ffff:127.0.0.1")


def test_loading_refuses_exposure_with_the_hosts_source() -> None:
    (message,) = errors_of(SERVER__HOST="0.0.0.0")
    assert message.startswith("environment CLAUDE_CODE__SERVER__HOST: server.host: 0.0.0.0 can be")
    assert load(SERVER__HOST="0.0.0.0", AUTH__API_KEYS='["k"]').settings.auth.api_keys == ("k",)


def test_allowed_hosts_default_to_loopback_and_the_configured_host() -> None:
    server = ServerSettings(host="gateway.lan")
    assert all(map(server.allows_host, ["localhost", "127.0.0.1", "::1", "Gateway.LAN"]))
    assert not server.allows_host("evil.example")
    assert not server.allows_host("")


def test_configured_hosts_replace_the_default() -> None:
    server = ServerSettings(allowed_hosts=("api.example",))
    assert server.allows_host("API.example")
    assert not server.allows_host("localhost")
    assert ServerSettings(allowed_hosts=("*",)).allows_host("anything")


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:5173"]
)
def test_pages_of_this_machine_may_call_by_default(origin: str) -> None:
    assert ServerSettings().allows_origin(origin)
    assert not ServerSettings(cors_origins=("https://a.example",)).allows_origin(origin)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "http://localhost@evil.example",
        "http://localhost.evil.example",
        "file://localhost",
        "http://[::1",
        "http://localhost:3000/path",
        "*",
    ],
)
def test_pages_from_elsewhere_may_not(origin: str) -> None:
    assert not ServerSettings().allows_origin(origin)


def test_configured_origins_are_exact_or_any() -> None:
    server = ServerSettings(cors_origins=("https://a.example",))
    assert server.allows_origin("https://a.example")
    assert not server.allows_origin("https://a.example:8443")
    assert not server.allows_origin("http://a.example")
    assert ServerSettings(cors_origins=("*",)).allows_origin("https://b.example")


# Sources


def test_the_later_source_wins_and_every_value_names_its_source() -> None:
    loaded = load(
        "[server]\nport = 1\nmax_connections = 1\nstall_seconds = 1\n",
        {"server.port": 3},
        SERVER__PORT="2",
        SERVER__MAX_CONNECTIONS="2",
    )
    server = loaded.settings.server
    assert (server.port, server.max_connections, server.stall_seconds) == (3, 2, 1.0)
    assert server.heartbeat_seconds == ServerSettings().heartbeat_seconds
    sources = {name: loaded.sources[f"server.{name}"] for name in ("port", "host")}
    assert sources == {"port": "option --port", "host": "default"}
    assert loaded.sources["server.max_connections"] == (
        "environment CLAUDE_CODE__SERVER__MAX_CONNECTIONS"
    )
    assert loaded.sources["server.stall_seconds"] == "file config/local.toml"
    assert loaded.sources.keys() == KEYS.keys()


def test_a_named_file_replaces_the_default_one() -> None:
    write("[server]\nport = 1")
    other = write("[server]\nmax_connections = 5", "other.toml")
    loaded = load_settings(other, HOME)
    assert (loaded.settings.server.port, loaded.settings.server.max_connections) == (8080, 5)
    assert loaded.sources["server.max_connections"] == "file other.toml"


def test_the_environment_speaks_json_for_arrays_and_tables() -> None:
    settings = load(
        AUTH__API_KEYS='["a","b"]',
        CLAUDE__ENV='{"A":"b"}',
        SERVER__TLS_CERT_FILE="~/c.pem",
        SERVER__TLS_KEY_FILE="k.pem",
        CONVERSATION__SESSION_TIMEOUT_MINUTES="30",
        CLAUDE__STOP_SECONDS="0.5",
        LOG__LEVEL="debug",
        FILE_ACCESS__ADDITIONAL_DIRS='["/path1", "/path 2"]',
    ).settings
    assert settings.file_access.additional_dirs == ("/path1", "/path 2")
    assert settings.auth.api_keys == ("a", "b")
    assert settings.claude.env == {"A": "b"}
    assert settings.server.tls_cert_file == Path.home() / "c.pem"
    assert settings.server.tls_key_file == Path("k.pem")
    assert type(settings.conversation.session_timeout_minutes) is float
    assert settings.claude.stop_seconds == 0.5
    assert settings.log.level == "debug"


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("FALSE", False), ("0", False)]
)
def test_booleans_in_the_environment(text: str, value: bool) -> None:
    assert load(CACHE__ENABLED=text).settings.cache.enabled is value


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("CACHE__ENABLED", "yes", "must be true or false, got 'yes'"),
        ("CACHE__ENABLED", "", "must be true or false, got ''"),
        ("SERVER__PORT", "eighty", "got 'eighty'"),
        ("SERVER__PORT", "8_0", "got '8_0'"),
        ("SERVER__PORT", "8080.0", "got 8080.0"),
        ("SERVER__PORT", "null", "must not be null"),
        ("SERVER__STALL_SECONDS", "NaN", "greater than 0"),
        ("SERVER__ALLOWED_HOSTS", "example.org", "must be a JSON array of strings"),
        ("SERVER__ALLOWED_HOSTS", '{"a": "b"}', "must list host names"),
        ("SERVER__ALLOWED_HOSTS", "[" * 100_000, "must be a JSON array of strings"),
        ("MODELS__ALIASES", "gpt-4o=sonnet", "must be a JSON object"),
        ("SERVER__TLS_KEY_FILE", "", "must be a path"),
    ],
)
def test_text_that_does_not_mean_the_type_is_refused(variable: str, text: str, reason: str) -> None:
    (message,) = errors_of("", None, **{variable: text})
    assert message.startswith(f"environment CLAUDE_CODE__{variable}: ")
    assert reason in message


def test_unknown_names_are_refused_with_the_nearest_known_one() -> None:
    found = errors_of(
        "[server]\nprot = 1\n[sever]\nport = 1\n[a.b]\nc = 1\n", {"log.levle": 1}, SERVER__PRT="1"
    )
    assert found == [
        "file config/local.toml: server.prot: unknown key (did you mean server.port?)",
        "file config/local.toml: sever: unknown section (did you mean server?)",
        "file config/local.toml: a: unknown section",
        (
            "environment CLAUDE_CODE__SERVER__PRT: unknown setting "
            "(did you mean CLAUDE_CODE__SERVER__PORT?)"
        ),
        "option: log.levle: unknown key (did you mean log.level?)",
    ]


def test_names_count_in_their_exact_case() -> None:
    assert "unknown setting" in errors_of(server__port="1")[0]
    assert "unknown section" in errors_of("[Server]\nport = 1")[0]
    write("")
    others = {"CLAUDE_CODE_MAX_RETRIES": "9", "claude_code__server__port": "1"}
    assert load_settings(environ=HOME | others) == load_settings(environ=HOME)


def test_all_problems_of_all_sources_are_reported_at_once_even_of_overridden_values() -> None:
    found = errors_of(
        'server = 5\n[cache]\nmax_entries = 0\nenabled = "x"\n[models]\ndefault = "nope"\n',
        {"cache.max_entries": 5},
        SERVER__HOST="not a host",
        LOG__LEVEL="loud",
    )
    assert [message.split(": ")[:2] for message in found] == [
        ["file config/local.toml", "server"],
        ["file config/local.toml", "cache.max_entries"],
        ["file config/local.toml", "cache.enabled"],
        ["environment CLAUDE_CODE__LOG__LEVEL", "log.level"],
        ["environment CLAUDE_CODE__SERVER__HOST", "server.host"],
        ["file config/local.toml", "models.default"],
    ]


def test_a_file_that_is_not_toml_is_refused_with_its_line() -> None:
    (message,) = errors_of("[server]\nport = \n")
    assert message.startswith("file config/local.toml: is not valid TOML: ")
    assert "line 2" in message


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^file no\.toml: does not exist$"):
        load_settings(Path("no.toml"), HOME)
    with pytest.raises(SettingsError, match=r"cannot be read: Is a directory$"):
        load_settings(tmp_path, HOME)
    Path("latin.toml").write_bytes(b'[server]\nhost = "\xe4"')
    with pytest.raises(
        SettingsError, match=r"^file latin\.toml: is not UTF-8 text \(at byte 17\)$"
    ):
        load_settings(Path("latin.toml"), HOME)
    with pytest.raises(SettingsError, match=r"^file big\.toml: is not valid TOML"):
        load_settings(write(f"a = {'9' * 5000}", "big.toml"), HOME)
    deep = write(f"a = {'[' * 100_000}", "deep.toml")
    with pytest.raises(SettingsError, match=r"^file deep\.toml: is nested too deeply$"):
        load_settings(deep, HOME)


def test_a_missing_default_file_is_no_problem() -> None:
    assert set(load().sources.values()) == {"default"}


# Secrets


def test_no_secret_appears_in_anything_that_is_shown() -> None:
    loaded = load(
        f'[auth]\napi_keys = ["{SECRET}"]\n', CLAUDE__ENV=json.dumps({"TOKEN": f"x{SECRET}"})
    )
    for text in (repr(loaded), render_toml(loaded), render_json(loaded)):
        assert SECRET not in text
        assert "***" in text
    assert "TOKEN" in render_toml(loaded)


@pytest.mark.parametrize(
    ("toml", "env"),
    [
        (f'[auth]\napi_keys = "{SECRET}"', {}),
        (f'[auth]\napi_keys = ["{SECRET} ", "{SECRET}"]', {}),
        (f'[auth]\napi_keys = ["{SECRET}", "{SECRET}"]', {}),
        (f'[auth]\napi_keys = {{ "a" = "{SECRET}" }}', {}),
        (f'[claude]\nenv = ["{SECRET}"]', {}),
        (f'[claude]\nenv = {{ A = "{SECRET}\\u0000" }}', {}),
        (f'[auth]\napi_keys = ["{SECRET}', {}),
        ("", {"AUTH__API_KEYS": SECRET}),
        ("", {"AUTH__API_KEYS": f'["{SECRET}'}),
        ("", {"AUTH__API_KEYS": f'"{SECRET}"'}),
        ("", {"AUTH__API_KEY": SECRET}),
        ("", {"CLAUDE__ENV": f"A={SECRET}"}),
        ("", {"CLAUDE__ENV": f'{{"A=": "{SECRET}"}}'}),
    ],
)
def test_a_refused_secret_is_not_quoted(toml: str, env: dict[str, str]) -> None:
    messages = errors_of(toml, None, **env)
    assert messages
    assert SECRET not in "".join(messages)


def test_the_mask_is_refused_as_a_secret() -> None:
    secret = "what-all-nodes-share"
    shown = render_toml(
        load(AUTH__API_KEYS='["k"]', CLAUDE__ENV='{"A": "b"}', CLUSTER__SECRET=secret)
    )
    assert secret not in shown
    found = errors_of(shown)
    secrets = ["claude.env", "auth.api_keys", "cluster.secret"]
    assert [message.split(": ")[1] for message in found] == secrets
    assert all("mask" in message for message in found)


# Rendering

NAME = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1).filter(
    lambda name: name != MASK
)
TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1)


@given(
    timeout=st.floats(min_value=0, max_value=1e12, exclude_min=True),
    cert=TEXT.filter(lambda text: not text.startswith("~")),
    aliases=st.dictionaries(NAME, st.just("sonnet")),
    hosts=st.lists(st.from_regex(r"[a-z]{1,9}", fullmatch=True), unique=True),
    on=st.booleans(),
)
def test_what_is_shown_is_toml_that_means_the_same(
    timeout: float, cert: str, aliases: dict[str, str], hosts: list[str], on: bool
) -> None:
    options = {
        "claude.timeout_seconds": timeout,
        "server.tls_cert_file": cert,
        "server.tls_key_file": "/key",
        "models.aliases": aliases,
        "server.allowed_hosts": hosts,
        "cache.enabled": on,
    }
    loaded = load_settings(environ=HOME, options=options)
    document = tomllib.loads(render_toml(loaded))
    flat = {
        f"{section}.{key}": value
        for section in document
        for key, value in document[section].items()
    }
    assert load_settings(environ={}, options=flat).settings == loaded.settings
    shown = json.loads(render_json(loaded))["settings"]
    assert shown.pop("logins") == []  # a list of tables: no option means it
    told = {
        section: {key: value for key, value in keys.items() if value is not None}
        for section, keys in shown.items()
    }
    assert told == document


def test_every_line_names_its_source_and_unset_keys_are_comments() -> None:
    lines = render_toml(load("[server]\nport = 9")).splitlines()
    assert "port = 9  # file config/local.toml" in lines
    assert 'host = "127.0.0.1"  # default' in lines
    assert "# tls_key_file is unset  # default" in lines
    assert sum("  # " in line for line in lines) == len(KEYS)


def test_a_file_name_cannot_break_out_of_its_comment() -> None:
    path = write("[server]\nport = 9", "a\nport = 1.toml")
    assert tomllib.loads(render_toml(load_settings(path, HOME)))["server"]["port"] == 9


def test_every_control_character_of_a_path_is_escaped() -> None:
    path = "/" + "".join(map(chr, [*range(1, 32), 0x22, 0x5C, 0x7F, 0x85, 0x2028]))
    loaded = load(STORAGE__PATH=path)
    assert tomllib.loads(render_toml(loaded))["storage"]["path"] == path


def test_a_path_that_is_not_utf_8_can_be_shown() -> None:
    loaded = load(STORAGE__PATH="/a\udcffb")
    assert tomllib.loads(render_toml(loaded))["storage"]["path"] == "/a\N{REPLACEMENT CHARACTER}b"
    render_toml(loaded).encode()


# The README's table


def test_the_table_has_every_key_with_its_variable() -> None:
    rows = settings_table().splitlines()[2:]
    assert len(rows) == len(KEYS)
    for row, key in zip(rows, KEYS.values(), strict=True):
        assert row.startswith(f"| `{key.path}` | `{key.variable}` | ")
        assert row.replace("\\|", "").count("|") == 5


def test_the_readme_has_the_table_as_it_is_generated() -> None:
    text = README.read_text("utf-8")
    if len(text.splitlines()) > 50 or TABLE_START in text:
        assert with_settings_table(text) == text, (
            "renew it: python -m ccapi.transport.settings_loader README.md"
        )


def test_the_table_is_renewed_between_its_markers_only() -> None:
    renewed = with_settings_table(f"before\n{TABLE_START}\nold\n{TABLE_END}\nafter")
    assert renewed == f"before\n{TABLE_START}\n{settings_table()}\n{TABLE_END}\nafter"
    assert with_settings_table(renewed) == renewed
    with pytest.raises(ValueError, match="settings"):
        with_settings_table("no markers")
