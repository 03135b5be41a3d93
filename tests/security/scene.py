"""Decoys for an agent to go for: files, a process, sockets and memory that belong to others.

Knows where everything lies that an agent must not reach, and whether it was reached. Refuses to
know who tries, and what holds it back.
"""

from __future__ import annotations

import ctypes
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio
from attrs import frozen

from tests.support.processes import lives

_VICTIM = """
import ctypes, sys, time
kept = ctypes.create_string_buffer(sys.argv[1].encode())
print(ctypes.addressof(kept), flush=True)
time.sleep(600)
"""


@frozen
class Scene:
    """`place` holds it all; `variables` name it for the ways that are tried, `decoys` is what must
    stay as it is: files, and folders that must get no further entry."""

    place: Path
    state: Path
    home: Path
    config: Path
    own: Path
    victim: int
    variables: dict[str, str]
    decoys: dict[Path, object]

    def assert_untouched(self) -> None:
        """Nothing of other users has changed, and the victim lives."""
        assert looks(self.decoys) == self.decoys
        for name in ("settings.json", "CLAUDE.md"):
            assert not (self.config / name).exists()
        assert lives(self.victim)


def looks(paths: Iterable[Path]) -> dict[Path, object]:
    """What is in these files and folders now."""
    return {
        path: sorted(each.name for each in path.iterdir()) if path.is_dir() else path.read_bytes()
        for path in paths
    }


@asynccontextmanager
async def open_scene(
    tmp_path: Path, gateway_port: int = 9, config: Path | None = None
) -> AsyncIterator[Scene]:
    """Put the decoys up while the block runs. Everything lies below `tmp_path`, but for memory.
    `config`: the CLI's folder, else the one in the operator's home."""
    token = f"t0k3n{secrets.token_hex(6)}"
    place = tmp_path
    state, home = place / "state", place / "home"
    config = config or home / ".claude"
    own, other = state / "workspaces" / "own", state / "workspaces" / "other"
    texts = {
        state / "chat" / "secret": token,
        state / "agents" / "1-other" / "home" / "secret": token,
        other / "secret": token,
        other / "movable" / "secret": token,
        config / "projects" / "other" / "one.jsonl": token,
        home / ".ssh" / "id_ed25519": token,
        home / ".ssh" / "authorized_keys": token,
        home / ".bashrc": token,
        place / "tmp" / "secret": token,
        place / "package" / "code.py": token,
        place / "settings.toml": token,
        place / "key.pem": token,
        own / "mine.txt": "mine",
    }
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (own / "planted").symlink_to(other)
    with _memory(token) as shared, _victim(token, state) as victim:
        assert victim.stdout is not None
        address = (await trio.to_thread.run_sync(victim.stdout.readline)).decode().strip()
        async with trio.open_nursery() as nursery:
            ports = [await nursery.start(_answer, token.encode(), each) for each in _sockets(place)]
            variables = {
                "TOKEN": token,
                "VICTIM": str(victim.pid),
                "ADDRESS": address,
                "STATE": str(state),
                "OTHER": str(other),
                "CONFIG": str(config),
                "OPERATOR": str(home),
                "TEMPORARY": str(place / "tmp"),
                "SETTINGS": str(place / "settings.toml"),
                "TLS_KEY": str(place / "key.pem"),
                "PACKAGE": str(place / "package"),
                "LAUNCHER": str(sys.modules["ccapi.transport.sandbox.launcher"].__file__),
                "SOCKET": ports[0],
                "ABSTRACT": ports[1],
                "PORT": ports[2],
                "DATAGRAMS": ports[3],
                "GATEWAY": str(gateway_port),
                "SHARED": str(shared),
                "ADDRESS_OF_MACHINE": _address_of_machine(),
            }
            decoys = [path for path in texts if path.parent != own]
            # Folders in which the gateway and its other children have nothing to write.
            decoys += [other, config / "projects" / "other", home / ".ssh", place / "package"]
            yield Scene(
                place, state, home, config, own, victim.pid, variables, looks(dict.fromkeys(decoys))
            )
            nursery.cancel_scope.cancel()


@contextmanager
def _victim(token: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Stands for the gateway: it has secrets in its arguments, environment and memory, and says
    where in the latter."""
    victim = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _VICTIM, f"{token}.argv"],
        env={"KEY": f"{token}.env"},
        stdout=subprocess.PIPE,
        cwd=cwd,
        start_new_session=True,
    )
    assert victim.stdout is not None
    with victim.stdout:
        try:
            yield victim
        finally:
            victim.kill()
            victim.wait()


@contextmanager
def _memory(token: str) -> Iterator[int]:
    """Shared memory that holds the token: POSIX's under its name, System V's under the id given."""
    posix = Path("/dev/shm", token)
    posix.write_text(token)
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    shared = libc.shmget(0, 4096, 0o1600)  # IPC_PRIVATE, IPC_CREAT
    try:
        ctypes.memmove(libc.shmat(shared, None, 0), token.encode(), len(token))
        yield shared
    finally:
        libc.shmctl(shared, 0, None)  # IPC_RMID
        posix.unlink()


def _sockets(place: Path) -> list[socket.socket]:
    one = socket.socket(socket.AF_UNIX)
    one.bind(str(place / "tmp" / "s"))
    two = socket.socket(socket.AF_UNIX)
    two.bind(f"\0ccapi-{secrets.token_hex(6)}")
    three = socket.socket()
    three.bind(("127.0.0.1", 0))
    four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    four.bind(("127.0.0.1", 0))
    return [one, two, three, four]


async def _answer(token: bytes, bound: socket.socket, task_status: trio.TaskStatus[str]) -> None:
    """Serve every client, and answer with the token."""
    where = bound.getsockname()
    if isinstance(where, bytes):
        told = where[1:].decode()
    else:
        told = where if isinstance(where, str) else str(where[1])
    if bound.type == socket.SOCK_STREAM:
        bound.listen(16)
    bound.setblocking(False)
    with trio.socket.from_stdlib_socket(bound) as server:
        task_status.started(told)
        while True:
            if bound.type == socket.SOCK_DGRAM:
                _, address = await server.recvfrom(1000)
                await server.sendto(token, address)
                continue
            client, _ = await server.accept()
            with client, suppress(OSError), trio.move_on_after(1):
                await client.recv(1000)
                await client.send(b"HTTP/1.0 200 OK\r\n\r\n" + token)


def _address_of_machine() -> str:
    """This machine's own address towards others; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return "127.0.0.2"
