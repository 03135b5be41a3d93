"""The files of examples/deploy name what exists: paths, settings, options, metrics.

That the image's steps run is tried by hand (examples/deploy/README.md).
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from ccapi.actors.commands.main import main
from ccapi.actors.listeners.stats import open_stats
from ccapi.actors.runtime.bus import Bus
from ccapi.transport.settings_loader import KEYS, VARIABLES
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
