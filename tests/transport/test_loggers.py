"""An embedding program decides where log lines go; by default it sees none of them."""

from __future__ import annotations

import io
import subprocess
import sys

from ccapi.transport.loggers import MOST_HELD, HeldLog

QUIET = "from ccapi.transport.loggers import get_logger; get_logger('ccapi.x').warning('w', pid=1)"
LOGGING = "import logging; logging.basicConfig(format='%(name)s %(message)s %(pid)s'); "
STRUCTLOG = (
    "import structlog; structlog.configure(processors=[structlog.processors.JSONRenderer()]); "
)


def run(program: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout, done.stderr


def test_nothing_is_printed_by_default() -> None:
    assert run(QUIET) == ("", "")


def test_lines_go_through_logging_where_that_is_configured() -> None:
    assert run(LOGGING + QUIET) == ("", "ccapi.x w 1\n")


def test_lines_go_through_structlog_where_that_is_configured() -> None:
    assert run(STRUCTLOG + QUIET) == ('{"pid": 1, "event": "w"}\n', "")


def test_a_held_log_keeps_its_lines_until_it_is_released() -> None:
    file = io.StringIO()
    held = HeldLog(file)
    held.write("one\n")
    held.flush()
    assert file.getvalue() == ""
    held.release("first\n")
    held.write("two\n")
    held.release()
    assert file.getvalue() == "first\none\ntwo\n"


def test_a_held_log_has_a_bound() -> None:
    file = io.StringIO()
    held = HeldLog(file)
    for number in range(MOST_HELD + 1):
        held.write(f"{number}\n")
    assert len(file.getvalue().splitlines()) == MOST_HELD + 1
