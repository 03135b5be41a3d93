"""What is imported is declared, and under which name the project is installed."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib import metadata

import pytest

from .sources import FLOORS, MODULES, ROOT, nodes_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


DECLARED = {name_of(each) for each in PROJECT["dependencies"]}
WITH_EXTRA = {"transport/mcp/": "mcp", "transport/store/postgres/": "cluster"}
"""Where the sources may import what only an extra brings."""


def extra_of(place: str) -> set[str]:
    """The packages that an extra brings to this place."""
    extras = [extra for room, extra in WITH_EXTRA.items() if place.startswith(room)]
    return {name_of(each) for name in extras for each in PROJECT["optional-dependencies"][name]}


def imported() -> dict[str, str]:
    """Every module of others that the sources import, top level alone, and one place that does."""
    found: dict[str, str] = {}
    for path in MODULES:
        for node in nodes_of(path):
            match node:
                case ast.Import(aliases):
                    names = [alias.name for alias in aliases]
                case ast.ImportFrom(str(module), _, 0):
                    names = [module]
                case _:
                    continue
            for name in names:
                place = f"{path}:{node.lineno}"
                if not place.startswith((*WITH_EXTRA,)):
                    found[name.split(".")[0]] = place
                else:  # one that stands elsewhere too is judged there
                    found.setdefault(name.split(".")[0], place)
    return {name: place for name, place in found.items() if name not in sys.stdlib_module_names}


owners_of_modules = cache(metadata.packages_distributions)


@pytest.mark.parametrize(("module", "place"), sorted(imported().items()))
def test_what_is_imported_is_declared(module: str, place: str) -> None:
    owners = {name_of(owner) for owner in owners_of_modules().get(module, ())}
    assert owners & (DECLARED | extra_of(place)), (
        f"{place} imports {module}, of {owners or 'nothing installed'}"
    )


def test_the_distribution_is_called_as_the_original_was() -> None:
    assert PROJECT["name"] == "claude-code-api"
    assert metadata.version("claude-code-api") == PROJECT["version"]
    assert set(PROJECT["scripts"]) == {"ccapi", "claude-code-api"}


@pytest.mark.parametrize("path", ["README.md", *FLOORS, ".ci/run"])
def test_no_text_tells_people_to_install_another_projects_package(path: str) -> None:
    """``ccapi`` on the package index is another project's."""
    files = (ROOT / path).rglob("*.py") if (ROOT / path).is_dir() else [ROOT / path]
    for file in files:
        assert not re.search(r"install\s+\S*\bccapi\b", file.read_text("utf-8")), file


def test_every_folder_of_the_sources_is_installed() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in MODULES.values()}
    names = {".".join(("ccapi", *folder.parts)) for folder in folders}
    assert set(tool["packages"]) == set(tool["package-dir"]) == names
