"""The files of examples/deploy name what exists: paths, settings, options, metrics.

That the image's steps run is tried by hand (examples/deploy/README.md).
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from ccapi.actors.commands.main import main
from ccapi.actors.listeners.stats import open_stats
from ccapi.actors.runtime.bus import Bus
from ccapi.schemas.settings.settings import Settings
from ccapi.transport.settings_loader import KEYS, VARIABLES, load_settings
from tests.support.balanced import CONFIGURATION, configuration, haproxy
from tests.support.readme import ROOT

DEPLOY = ROOT / "examples" / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.is_file())


def text_of(name: str) -> str:
    return (DEPLOY / name).read_text("utf-8")


def dashboard() -> Any:
    return json.loads(text_of("grafana.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_setting_it_names_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    assert set(re.findall(r"\bCLAUDE_CODE__[A-Z_]+\b", text)) <= set(VARIABLES)
    sections = "|".join({key.split(".")[0] for key in KEYS})
    named = re.findall(rf"(?<![\w./-])((?:{sections})\.[a-z_]+)\b(?![./])", text)
    for key in named:
        assert key in KEYS or key.endswith((".json", ".toml", ".md", ".yml", ".yaml")), key


def test_what_the_image_copies_is_there_and_is_all_that_the_build_needs() -> None:
    sources = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", text_of("Dockerfile"))
    copied = [name for line in sources for name in line.split()]
    assert {"pyproject.toml", "README.md", "LICENSE", "schemas", "transport", "actors"} == {*copied}
    assert all((ROOT / name).exists() for name in copied)
    kept = set(re.findall(r"(?m)^!(\S+)$", (ROOT / ".dockerignore").read_text("utf-8")))
    assert kept == {*copied}


def test_the_image_runs_as_no_root_and_asks_for_its_health() -> None:
    image = text_of("Dockerfile").split("\nFROM ")[-1]
    assert re.search(r"(?m)^USER ccapi$", image)
    assert image.index("USER ccapi") < image.index("ENTRYPOINT")
    assert "HEALTHCHECK" in image
    assert re.findall(r"(?m)^FROM (\S+)", text_of("Dockerfile")) == ["debian:bookworm-slim"] * 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_command_of_ccapi_exists_with_its_options(path: Path) -> None:
    for words in re.findall(
        r"\bccapi ((?:serve|doctor|login|config|chat)\b[^`\n(),]*)", path.read_text("utf-8")
    ):
        name, *arguments = shlex.split(words)
        known = {option for each in main.commands[name].params for option in each.opts}
        assert {word for word in arguments if word.startswith("--")} <= known, words


async def test_every_metric_on_the_dashboard_is_one_of_the_gateways() -> None:
    async with open_stats(Bus()) as stats:
        exposed = stats.prometheus().decode()
    known = set(re.findall(r"(?m)^# TYPE (\S+)", exposed))
    buckets = {f"{name}_bucket" for name in re.findall(r"(?m)^# TYPE (\S+) histogram", exposed)}
    expressions = [each["expr"] for panel in dashboard()["panels"] for each in panel["targets"]]
    named = {name for each in expressions for name in re.findall(r"\bccapi_\w+", each)}
    assert len(named) > 10
    assert named <= known | buckets


def test_the_dashboard_is_laid_out_without_overlap() -> None:
    places = [tuple(panel["gridPos"].values()) for panel in dashboard()["panels"]]
    assert len({*places}) == len(places)
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(places)


# -- compose ---------------------------------------------------------------------------------------

GIVEN = {
    "ANTHROPIC_API_KEY": "sk-ant-dummy",
    "CCAPI_KEYS": f'["sha256:{"0" * 64}"]',
    "CCAPI_SECRET": "5" * 64,
    "POSTGRES_PASSWORD": "pa55word",
}
"""What the file `.env` has."""

GATEWAYS = ("one", "two", "three")
VARIABLE = re.compile(r"\$\{(\w+)(:-|:\?|)([^}]*)\}")


def expand(value: str) -> str:
    """As Docker does, where ``:?`` refuses what is missing."""

    def given(found: re.Match[str]) -> str:
        name, how, words = found.groups()
        assert name in GIVEN or how == ":-", f"{name} is not in the list of what .env has"
        return GIVEN.get(name) or (words if how == ":-" else "")

    return VARIABLE.sub(given, value)


def compose(name: str) -> Any:
    return yaml.safe_load(text_of(name))


def environment_of(service: Any) -> dict[str, str]:
    """What the gateway in that container finds: the image's variables, and the service's."""
    image = text_of("Dockerfile").split("\nFROM ")[-1].replace("\\\n", " ")
    fixed = dict(pair for line in re.findall(r"(?m)^ENV (.*)$", image) for pair in pairs_of(line))
    return fixed | {key: expand(str(value)) for key, value in service["environment"].items()}


def pairs_of(line: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (word.partition("=") for word in shlex.split(line))]


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)(s|m)", text)
    assert found is not None, text
    return int(found[1]) * {"s": 1, "m": 60}[found[2]]


@pytest.mark.parametrize("name", ["compose.yaml", "cluster.yaml"])
def test_compose_files_name_what_there_is(name: str) -> None:
    document = compose(name)
    services, volumes = document["services"], {*document["volumes"]}
    named = set()
    for service in services.values():
        assert {*service.get("depends_on", ())} <= {*services}
        for volume in service.get("volumes", ()):
            source, _, _ = volume.partition(":")
            if source.startswith("."):
                assert (DEPLOY / source).is_file()
            else:
                named.add(source)
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "other machines come by TLS"
    assert named == volumes
    described = re.findall(r"(?m)^#   ([A-Z_]+)=", text_of(name))
    needed = {found[0] for found in VARIABLE.findall(text_of(name)) if found[1] != ":-"}
    assert needed <= {*described}


@pytest.mark.parametrize(
    ("name", "service"),
    [("compose.yaml", "ccapi"), *(("cluster.yaml", gateway) for gateway in GATEWAYS)],
)
def test_each_gateway_starts_with_its_settings(name: str, service: str) -> None:
    made = compose(name)["services"][service]
    settings: Settings = load_settings(environ=environment_of(made)).settings
    assert settings.auth.api_keys
    assert seconds(made["stop_grace_period"]) > settings.server.graceful_seconds + 5
    home = "/var/lib/ccapi"
    assert str(settings.storage.path).startswith(home)
    assert [volume.partition(":")[2] for volume in made["volumes"]] == [home]
    if name == "cluster.yaml":
        url, database = urlsplit(settings.cluster.node_url), urlsplit(settings.storage.url)
        assert (url.hostname, url.port) == (service, settings.server.port)
        assert (settings.server.host, settings.cluster.secret) == ("0.0.0.0", GIVEN["CCAPI_SECRET"])
        engine = compose(name)["services"][database.hostname]["environment"]
        assert (database.username, database.path) == (
            engine["POSTGRES_USER"], f"/{engine['POSTGRES_DB']}",
        )  # fmt: skip
        assert database.password == expand(engine["POSTGRES_PASSWORD"])


def test_the_balancer_has_the_gateways_and_no_more(tmp_path: Path) -> None:
    document = compose("cluster.yaml")
    one = load_settings(environ=environment_of(document["services"]["one"])).settings
    text = CONFIGURATION.read_text("utf-8")
    servers = re.findall(r"(?m)^ +server (\w+) (\w+):(\d+)$", text)
    assert servers == [(name, name, str(one.server.port)) for name in GATEWAYS]
    balancer = document["services"]["balancer"]
    [(_, port)] = re.findall(r"(?m)^ +bind (\*):(\d+)$", text)
    assert [each.split(":")[-1] for each in balancer["ports"]] == [port]
    # A check is answered, a connection is taken, and a quiet stream is not cut.
    [host] = re.findall(r"http-check send .* hdr host (\S+)", text)
    assert host in one.server.allowed_hosts
    [most] = map(int, re.findall(r"default-server .*\bmaxconn (\d+)", text))
    assert most < one.server.max_connections_per_address <= one.server.max_connections
    for timeout in re.findall(r"(?m)^ +timeout (?:client|server|tunnel) +(\d+)s", text):
        assert float(timeout) > one.claude.timeout_seconds
    [interval] = re.findall(r"default-server .*\binter (\d+)s", text)
    assert float(interval) < one.cluster.notice_seconds - 1, "it is noticed that one stops"
    file = tmp_path / "haproxy.cfg"
    file.write_text(configuration(1, {name: 2 + n for n, name in enumerate(GATEWAYS)}))
    checked = subprocess.run(
        [haproxy(), "-c", "-f", str(file)], capture_output=True, text=True, check=False, env={}
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr, checked.stderr
