"""The pages for people are true of the code, and README.zh-CN.md keeps in step with README.md.

Commands are compared here; tests/end_to_end/test_readme.py runs those that can run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache

import click
import pytest

from ccapi.actors.commands.main import main
from ccapi.schemas.settings.settings import Settings
from ccapi.transport.settings_loader import KEYS, settings_table
from tests.support.readme import ROOT, blocks, read, ways_in

BOTH = ("README.md", "README.zh-CN.md")
PAGES = (*BOTH, "CONTRIBUTING.md", "CHANGELOG.md")
LARGEST_PICTURE = 150_000
EVENTS = {"conversation.joined", "conversation.closed"}
"""Types of events that look like settings."""

every_page = pytest.mark.parametrize("page", PAGES)
both = pytest.mark.parametrize("page", BOTH)


def prose(page: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"(?ms)^```.*?^```", "", read(page))


def spans(page: str) -> set[str]:
    """What a page's prose has in backticks."""
    return set(re.findall(r"`([^`\n]+)`", prose(page)))


def slugs(page: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"(?m)^#+ (.+)$", prose(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@cache
def sources() -> str:
    """All code, its adjacent string literals joined."""
    files = (
        p for floor in ("schemas", "transport", "actors") for p in (ROOT / floor).rglob("*.py")
    )
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text("utf-8") for path in sorted(files)))


# -- the two READMEs -------------------------------------------------------------------------------


def test_the_chinese_readme_has_the_commands_of_the_english_one() -> None:
    """Every code block before the reference is there, the same and in the same order."""
    assert blocks(read("README.zh-CN.md")) == blocks(ways_in(read("README.md")))


def codes(page: str) -> set[str]:
    return set(re.findall(r"(?m)^\| (\d{3} `\w+`) \|", read(page)))


def test_both_know_the_same_errors() -> None:
    assert codes("README.md") == codes("README.zh-CN.md")
    assert len(codes("README.md")) > 10


@pytest.mark.parametrize("code", sorted(codes("README.md")))
def test_an_error_of_the_table_is_one_of_the_gateways(code: str) -> None:
    assert f'"{code.split("`")[1]}"' in sources()


def said() -> list[str]:
    """What the troubleshooting tables quote from the terminal and the log."""
    part = read("README.md").split("## Troubleshooting")[1].split("In an answer")[0]
    return re.findall(r"(?m)^\| `([^`]+)` \|", part)


@pytest.mark.parametrize("words", said())
def test_what_the_gateway_says_is_quoted_as_it_says_it(words: str) -> None:
    assert words in sources()
    assert f"| `{words}` |" in read("README.zh-CN.md")


def test_settings_of_the_chinese_readme_are_those_of_the_table() -> None:
    def rows(text: str) -> dict[str, str]:
        found = re.findall(r"(?m)^(\| `([a-z]+\.[a-z_]+)` \| .+ \| .+ \|) [^|]+\|$", text)
        return {key: row for row, key in found}

    chinese, known = rows(read("README.zh-CN.md")), rows(settings_table())
    assert len(chinese) > 10
    assert chinese == {key: known[key] for key in chinese}


# -- what the pages name ---------------------------------------------------------------------------


@every_page
def test_every_path_it_names_is_there(page: str) -> None:
    """Paths of the project in prose, those with a folder of its own in front."""
    folder = re.compile(r"(actors|transport|schemas|tests|examples)/[\w./-]*")
    for path in filter(folder.fullmatch, spans(page)):
        assert (ROOT / path).exists(), path
        assert not path.endswith("/") or (ROOT / path).is_dir(), path


@every_page
def test_its_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page).replace("\n", " ")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        assert not path or (ROOT / path).exists(), target
        assert not anchor or anchor in slugs(path or page), target


@every_page
def test_every_setting_it_names_exists(page: str) -> None:
    sections = {key.split(".")[0] for key in KEYS}
    for span in spans(page):
        section, _, rest = span.partition(".")
        if section in sections and re.fullmatch(r"[a-z_]+", rest) and span not in EVENTS:
            assert span in KEYS, span


def test_the_picture_is_there_and_small() -> None:
    for page in BOTH:
        (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", read(page))
        assert 10_000 < (ROOT / picture).stat().st_size < LARGEST_PICTURE


RUN = re.compile(r"(?m)(?:^|&& )(?:\S+=\S+ )?(?:\S+/)?ccapi (.*?)(?: &&|$)")


def commands(page: str) -> Iterator[list[str]]:
    """The words after ``ccapi`` wherever a block runs it."""
    for language, body in blocks(read(page)):
        if language == "sh":
            yield from (shlex.split(words) for words in RUN.findall(body))


@every_page
def test_the_commands_exist_with_their_options(page: str) -> None:
    assert isinstance(main, click.Group)
    for name, *args in commands(page):
        command = main.commands[name]
        if isinstance(command, click.Group):
            command = command.commands[args[0]]
        known = {option for each in command.params for option in each.opts}
        assert {word for word in args if word.startswith("--")} <= known, (name, args)


def test_commands_are_found() -> None:
    assert ["serve", "--demo"] in list(commands("README.md"))
    assert ["chat", "--model", "agent/sonnet"] in list(commands("README.md"))


def test_settings_are_what_the_table_is_made_from() -> None:
    sections = set(Settings.__annotations__) - {"logins"}  # an array of tables, of a file alone
    assert {key.split(".")[0] for key in KEYS} == sections


@every_page
def test_modules_it_runs_exist(page: str) -> None:
    for name in re.findall(r"python -m ((?:ccapi|tests)[\w.]*)", read(page)):
        path = ROOT.joinpath(*name.removeprefix("ccapi.").split("."))
        assert path.is_dir() or path.with_suffix(".py").exists(), name
