"""Files of this machine: what is inside the allowed folders, and nothing else."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ccapi.schemas.media import TooManyBytes
from ccapi.transport.media import local_files
from ccapi.transport.media.local_files import NotAllowed, read_allowed

LIMIT = 1000


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    """A folder with some files; beside it one with a secret."""
    folder = tmp_path / "allowed"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "a b.png").write_bytes(b"picture")
    (folder / "top.png").write_bytes(b"top")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "secret").write_bytes(b"secret")
    return folder


def read(source: object, *folders: object, limit: int = LIMIT) -> bytes:
    return read_allowed(str(source), [str(folder) for folder in folders], limit)


def test_a_file_inside_is_read_by_its_path_or_its_url(allowed: Path) -> None:
    path = allowed / "in" / "a b.png"
    url = str(path).replace(" ", "%20")
    for source in (path, f"file://{url}", f"file:{url}", f"FILE://localhost{url}"):
        assert read(source, "/nowhere-at-all", allowed) == b"picture"
    assert read(f"{allowed}/./in//a b.png", allowed) == b"picture"
    assert read(allowed / "top.png", f"{allowed}/") == b"top"


@pytest.mark.parametrize(
    "source",
    [
        "{0}/missing",
        "{0}",
        "{0}/",
        "{0}/in",
        "{0}/top.png/x",
        "{0}/../outside/secret",
        "{0}/in/../../outside/secret",
        "{0}/../allowed/top.png",
        "{0}-not/secret",
        "{0}/../outside/missing",
        "{0}/top.png\0",
        "{0}/\udcff\ud800",
        "{0}/" + "x" * 5000,
        "/etc/passwd",
        "/",
        "",
        "top.png",
        "./top.png",
        "~/top.png",
        "/{0}/top.png",
        "file://elsewhere{0}/top.png",
        "file://{0}/top.png?x",
        "file://{0}/top.png#x",
        "file://{0}/%2e%2e/outside/secret",
        "file://{0}%2f..%2foutside%2fsecret",
        "file://{0}/top.png%00",
        "file:top.png",
        "file:///etc/passwd",
    ],
)
def test_everything_else_is_refused_alike(allowed: Path, source: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        read(source.format(allowed), allowed)
    assert str(caught.value) == ""


def test_without_folders_nothing_is_read(allowed: Path) -> None:
    with pytest.raises(NotAllowed):
        read(allowed / "top.png")


def test_links_inside_are_followed_and_links_out_are_not(allowed: Path, tmp_path: Path) -> None:
    (allowed / "good").symlink_to("in/a b.png")
    (allowed / "folder").symlink_to("in")
    (allowed / "bad").symlink_to(tmp_path / "outside" / "secret")
    (allowed / "out").symlink_to("../outside")
    (allowed / "loop").symlink_to("loop")
    (allowed / "self").symlink_to("/proc/self/environ")
    assert read(allowed / "good", allowed) == b"picture"
    assert read(allowed / "folder" / "a b.png", allowed) == b"picture"
    for name in ("bad", "out/secret", "loop", "self"):
        with pytest.raises(NotAllowed):
            read(allowed / name, allowed)


def test_the_folder_itself_may_be_reached_through_a_link(allowed: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(allowed)
    assert read(link / "top.png", link) == b"top"
    assert read(allowed / "top.png", link) == b"top"
    with pytest.raises(NotAllowed):
        read(link / "top.png", allowed)  # what is outside by its name is not looked at


def test_only_regular_files_are_read(allowed: Path) -> None:
    os.mkfifo(allowed / "pipe")  # opened as files are, it would wait for a writer
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(allowed)  # a socket's path must be short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        for name in ("pipe", "socket"):
            with pytest.raises(NotAllowed):
                read(allowed / name, allowed)
    with pytest.raises(NotAllowed):
        read("/dev/zero", "/dev")


@pytest.mark.parametrize("part", ["top.png", "in"])
def test_what_becomes_a_link_in_between_is_not_followed(
    allowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The swap happens after the path was found to be inside, before anything is opened."""
    walk = local_files._read
    (tmp_path / "outside" / "a b.png").write_bytes(b"secret")

    def swap_and_read(*args: object) -> bytes:
        (allowed / part).rename(tmp_path / "aside")
        (allowed / part).symlink_to(tmp_path / "outside" / ("secret" if part == "top.png" else ""))
        return walk(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(local_files, "_read", swap_and_read)
    with pytest.raises(NotAllowed):
        read(allowed / ("top.png" if part == "top.png" else "in/a b.png"), allowed)


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_changes_after_the_last_look_is_not_read_either(
    allowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nor does it hang: a pipe that is opened as files are waits for a writer."""
    look = os.stat

    def look_and_swap(path: object, **options: object) -> os.stat_result:
        found = look(path, **options)  # type: ignore[arg-type]
        if path == "top.png":
            (allowed / "top.png").unlink()
            if kind == "pipe":
                os.mkfifo(allowed / "top.png")
            else:
                (allowed / "top.png").symlink_to(tmp_path / "outside" / "secret")
        return found

    monkeypatch.setattr(os, "stat", look_and_swap)
    with pytest.raises(NotAllowed):
        read(allowed / "top.png", allowed)
    monkeypatch.undo()
    assert (allowed / "top.png").is_fifo() or (allowed / "top.png").is_symlink()


def test_the_limit_is_exact(allowed: Path) -> None:
    path = allowed / "big"
    path.write_bytes(bytes(LIMIT))
    assert len(read(path, allowed)) == LIMIT
    path.write_bytes(bytes(LIMIT + 1))
    with pytest.raises(TooManyBytes):
        read(path, allowed)


def test_a_file_without_a_size_is_bounded_as_it_is_read() -> None:
    """Files of /proc say that they are empty, and are not."""
    path = Path("/proc/self/status")
    if path.exists():  # elsewhere there is no such file to try
        assert path.stat().st_size == 0
        with pytest.raises(TooManyBytes):
            read(path.resolve(), "/proc", limit=100)


def test_nothing_stays_open(allowed: Path) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    for name in ("top.png", "in/a b.png", "in", "missing", "in/missing"):
        try:
            read(allowed / name, allowed)
        except NotAllowed:
            pass
    assert len(list(Path("/dev/fd").iterdir())) == before
