"""Debian's PostgreSQL as a child of the tests: one engine for all of them, one database for each.

Never by ``pg_ctl``: the engine is our own child, so that it can be killed, waited for and started
again at once. As root it runs as the user ``postgres``, which it asks for.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psycopg

MEMORY_BYTES = 1024**3
"""Free memory from which on an engine's data is there."""

NAME_OF_STANDBY = "standby"

EMPTY = """
delete from conversation; delete from response; delete from usage; delete from api_key;
delete from request; delete from node; delete from allowance; delete from permit;
delete from file; delete from batch; delete from place;
update counter set value = 0 where name = 'keys'
"""


def empty(url: str) -> None:
    """Forget all that a store keeps there."""
    with psycopg.connect(url, autocommit=True) as connection:
        with suppress(psycopg.errors.UndefinedTable):  # nothing opened it
            connection.execute(EMPTY)


def _programs() -> Path:
    """Where Debian keeps them: beside no ``PATH``."""
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)
    assert versions, "PostgreSQL is missing: apt-get install postgresql"
    return versions[-1]


def _as_postgres() -> list[str]:
    if os.getuid():
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


class Engine:
    """One PostgreSQL, with its data in `folder`. `fsync`: it survives a loss of power."""

    def __init__(self, folder: Path, *, fsync: bool = False) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None
        self._places = count()
        self.port = _free_port()

    def make(self) -> None:
        """Make its data, before the first start."""
        if not os.getuid():
            shutil.chown(self.folder, "postgres", "postgres")
        subprocess.run(
            [
                *_as_postgres(), str(_programs() / "initdb"), "-A", "trust", "-U", "postgres",
                "-N", "-E", "UTF8", "--locale=C.UTF-8", "-D", str(self._data),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
        )  # fmt: skip

    def copy(self, other: Engine) -> None:
        """Make its data a copy of another one's, which it follows from its start on as the standby
        `NAME_OF_STANDBY`."""
        if not os.getuid():
            shutil.chown(self.folder, "postgres", "postgres")
        source = f"host=127.0.0.1 port={other.port} user=postgres dbname=postgres"
        named = f"{source} application_name={NAME_OF_STANDBY}"
        kinds = ("-R", "-N", "-X", "stream", "-c", "fast")
        self.program("pg_basebackup", *kinds, "-d", named, "-D", str(self._data))

    def program(self, name: str, *arguments: str) -> None:
        """Run one of PostgreSQL's own."""
        command = [*_as_postgres(), str(_programs() / name), *arguments]
        subprocess.run(command, check=True, cwd=self.folder)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "on" if self._fsync else "off",
            "full_page_writes": "on" if self._fsync else "off",
            "recovery_init_sync_method": "syncfs",
            "max_connections": "200",
            "shared_buffers": "32MB",
            "log_min_messages": "fatal",
            "logging_collector": "off",
            "restart_after_crash": "off",
            # A standby that its primary has left looks for it again soon.
            "wal_retrieve_retry_interval": "200ms",
        }
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_as_postgres(), str(_programs() / "postgres"), "-D", str(self._data), *given],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        until = time.monotonic() + 30
        while True:
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.url("postgres")).close()
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < until, "PostgreSQL does not start"
            time.sleep(0.02)

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def new_place(self) -> str:
        """The URL of a new place for a store, which is empty: a schema of its own. (A database of
        its own is three hundred files.)"""
        name = f"test_{next(self._places)}"
        self.run(f"create schema {name}")
        return f"{self.url('postgres')}?options=-csearch_path%3D{name}"

    def run(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def signal(self, number: int) -> None:
        """Send a signal to the engine and all its processes."""
        assert self._process is not None
        for process in (self._process.pid, *self._children()):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def stop_for_a_while(self) -> None:
        """No process of it does anything, until `go_on`."""
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """All its processes die at once, as at a crash of the machine."""
        assert self._process is not None
        self.signal(signal.SIGKILL)
        self._process.wait(10)
        until = time.monotonic() + 10
        while self._shared_by_the_living():
            assert time.monotonic() < until, "a process of PostgreSQL is left"
            time.sleep(0.005)
        self._process = None

    def _children(self) -> list[int]:
        assert self._process is not None
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self._process.pid or int(fields[1]) == self._process.pid:
                    found.append(int(path.parent.name))
        return found

    def _shared_by_the_living(self) -> bool:
        """Whether a process that this engine started is still there: it would keep the memory that
        the next start needs for itself."""
        for path in Path("/proc").glob("[0-9]*/cwd"):
            with suppress(OSError):
                if Path(os.readlink(path)) == self._data:  # noqa: PTH115
                    return True
        return False

    def stop(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGQUIT)  # at once: nothing of it is needed any more
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None


@contextmanager
def engine(*, fsync: bool = False, on_disk: bool = False) -> Iterator[Engine]:
    """An engine of its own. `on_disk`: its data is where all programs' is."""
    # In memory where there is room: a kill loses none of that, and a disk takes seconds.
    memory = Path("/dev/shm")
    has_room = not on_disk and memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_BYTES
    with tempfile.TemporaryDirectory(
        prefix="ccapi-pg-", dir=memory if has_room else None, ignore_cleanup_errors=True
    ) as folder:
        made = Engine(Path(folder), fsync=fsync)
        made.make()
        try:
            made.start()
            yield made
        finally:
            made.stop()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
