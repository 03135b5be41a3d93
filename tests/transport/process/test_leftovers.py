"""The list of a gateway's sessions, and what the next gateway makes of it."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from attrs import evolve

from ccapi.transport.process.leftovers import SessionList, Trace, remove_left, remove_unused

SPARE = f"conv_{'1' * 32}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "workspaces"
    place.mkdir()
    return place


def trace_in(tmp_path: Path, folder: str) -> Trace:
    """A session that has written a transcript, and a file elsewhere."""
    trace = Trace(str(uuid4()), str(tmp_path / "config"), str(tmp_path / "tmp"), folder)
    for path in left_by(trace):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return trace


def left_by(trace: Trace) -> list[Path]:
    config = Path(trace.config)
    return [
        config / "projects" / trace.folder / f"{trace.session_id}.jsonl",
        config / "todos" / f"{trace.session_id}.json",
    ]


def list_of_a_killed_gateway(place: Path, *traces: tuple[Trace, str], spare: str = "") -> None:
    sessions = SessionList(place)
    for trace, conversation_id in traces:
        sessions.add(trace)
        if conversation_id:
            sessions.add(trace, conversation_id)
    if spare:
        sessions.add_spare(spare)
    sessions.close(finished=False)


def test_the_workspace_of_a_spare_goes_with_a_killed_gateway(tmp_path: Path, root: Path) -> None:
    (root / SPARE).mkdir()
    trace = trace_in(tmp_path, "there")
    list_of_a_killed_gateway(tmp_path / "lists", (trace, ""), spare=SPARE)
    assert remove_left(tmp_path / "lists", root, (), lambda *_: None) == {}
    assert list(root.iterdir()) == []
    assert not any(path.exists() for path in left_by(trace))
    assert list((tmp_path / "lists").iterdir()) == []


def test_a_workspace_in_which_a_conversation_has_worked_stays(tmp_path: Path, root: Path) -> None:
    (root / SPARE).mkdir()
    (root / SPARE / "made").write_text("x")
    list_of_a_killed_gateway(tmp_path / "lists", spare=SPARE)
    remove_left(tmp_path / "lists", root, (), lambda *_: None)
    assert (root / SPARE / "made").exists()


@pytest.mark.parametrize("name", ["mine", "../outside", "conv_1"])
def test_only_a_workspace_of_the_gateways_own_goes(name: str, tmp_path: Path, root: Path) -> None:
    (root / name).mkdir()
    remove_unused(root, [name])
    assert (root / name).exists()


def test_a_spare_that_got_another_directory_is_one_session_of_one_conversation(
    tmp_path: Path, root: Path
) -> None:
    """It was listed where it was started, and again where it worked."""
    worked = trace_in(tmp_path, "there")
    started = evolve(worked, folder="parked")
    list_of_a_killed_gateway(tmp_path / "lists", (started, ""), (worked, "conv_kept"))
    found = remove_left(tmp_path / "lists", root, ("conv_kept",), lambda *_: None)
    assert found == {started: "conv_kept", worked: "conv_kept"}
    assert all(path.exists() for path in left_by(worked))
