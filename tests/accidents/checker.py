"""What the database and the clients' notes say afterwards, and where they contradict each other.

It shares no code with the store: its own statements, its own idea of a log. What must hold:

- every turn that a client has received the end of is in the log, once, ended, with that answer, and
  in the order in which the client received them;
- no prompt was given to a child twice, or stands in two turns, but for one that its client has sent
  again after an answer that allows it, or that failed as the log says; and none has ended twice;
- no record was written under a token after a later one was granted, and tokens never fall;
- a log has no gap; turns are numbered in order, each with a start, its prompts and one end.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psycopg
from attrs import define, field

from .load import Attempt, Takeover

ENDS = ("end", "failed", "lost")


class Line(NamedTuple):
    conversation: str
    seq: int
    token: int
    turn: int
    kind: str
    body: bytes


@define
class Report:
    acknowledged: int = 0
    missing: list[str] = field(factory=list)
    twice: list[str] = field(factory=list)
    old_tokens: list[str] = field(factory=list)
    disorder: list[str] = field(factory=list)
    records: int = 0
    grants: int = 0
    lost: int = 0
    kept_though_refused: Counter[str] = field(factory=Counter)
    codes: Counter[str] = field(factory=Counter)

    @property
    def violations(self) -> list[str]:
        return [*self.missing, *self.twice, *self.old_tokens, *self.disorder]


@define
class _Turn:
    conversation: str
    number: int
    marks: list[str] = field(factory=list)
    answer: str = ""
    end: str = ""


def check(url: str, attempts: Sequence[Attempt], notes: Path) -> Report:
    report = Report()
    with psycopg.connect(url, autocommit=True) as connection:
        lines = [
            Line(*row)
            for row in connection.execute(
                "select id, seq, log.token, turn, kind, body from log join conversation using(n) "
                "order by id, seq"
            )
        ]
        heads = connection.execute(
            "select id, head, open_turn, token, (select count(*) from turn where turn.n = c.n "
            "and state = 'running') from conversation c"
        ).fetchall()
        audit = connection.execute(
            "select n, what, token, owner, seq from audit order by number"
        ).fetchall()
    report.records = len(lines)
    turns = _check_logs(report, lines, heads)
    _check_grants(report, audit)
    _check_notes(report, turns, attempts)
    _check_children(report, notes, attempts)
    return report


def granted_within(url: str, takeovers: Sequence[Takeover]) -> list[float]:
    """After how many seconds another node had each of these conversations. What comes behind that
    is a new child's start, and the model."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = [
            connection.execute(
                "select extract(epoch from min(at))::float8 - %s from audit "
                "join conversation using(n) where what = 'grant' and id = %s "
                "and at > to_timestamp(%s)", [each.since, each.conversation, each.since]
            ).fetchone()
            for each in takeovers
        ]  # fmt: skip
    return [row[0] for row in found if row is not None and row[0] is not None]


def _check_logs(
    report: Report, lines: list[Line], heads: list[tuple[str, int, int | None, int, int]]
) -> list[_Turn]:
    logs: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        logs[line.conversation].append(line)
    turns: list[_Turn] = []
    for name, head, open_turn, token, running in heads:
        log = logs[name]
        if [each.seq for each in log] != [*range(1, head + 1)]:
            report.disorder.append(f"{name}: a gap, or not {head} records")
        if open_turn is not None or running:
            report.disorder.append(f"{name}: a turn was left open")
        if any(a.token > b.token for a, b in pairwise(log)) or (log and log[-1].token > token):
            report.disorder.append(f"{name}: tokens fall")
        turns += _turns_of(report, name, log)
    return turns


def _turns_of(report: Report, name: str, log: list[Line]) -> Iterator[_Turn]:
    """The turns of one log. An end under another token than the start is a loss that another node
    has written, or of a lease that was renewed."""
    current: _Turn | None = None
    number = 0
    for line in log:
        where = f"{name}: record {line.seq} ({line.kind})"
        if line.kind == "start":
            number += 1
            if current is not None:
                report.disorder.append(f"{where}: the turn before it is open")
            if line.turn != number:
                report.disorder.append(f"{where}: turn {line.turn}, not {number}")
            current = _Turn(name, number)
            continue
        if current is None or line.turn != number:
            report.disorder.append(f"{where}: in no turn")
            continue
        if line.kind == "user":
            current.marks += re.findall(r"mark-[0-9a-f]+", line.body.decode())[:1]
        elif line.kind == "assistant":
            content = json.loads(line.body)["content"]
            current.answer += "".join(each for each in content if isinstance(each, str))
        elif line.kind in ENDS:
            current.end = line.kind
            report.lost += line.kind == "lost"
            yield current
            current = None
    if current is not None:
        report.disorder.append(f"{name}: turn {number} has no end")
        yield current


def _check_grants(
    report: Report, audit: list[tuple[int, str, int, str | None, int | None]]
) -> None:
    """A conversation's grants and records, in the order in which they were done."""
    granted: dict[int, int] = {}
    owners: dict[int, str | None] = {}
    for n, what, token, owner, seq in audit:
        if what == "grant":
            report.grants += 1
            again = token == granted.get(n) and owner == owners[n]  # the same grant, confirmed
            if token <= granted.get(n, 0) and not again:
                report.old_tokens.append(f"{n}: token {token} for {owner} after {granted[n]}")
            granted[n], owners[n] = token, owner
        elif token != granted.get(n):
            report.old_tokens.append(
                f"{n}: record {seq} under token {token}, when {granted.get(n)} was granted"
            )


def _check_notes(report: Report, turns: list[_Turn], attempts: Sequence[Attempt]) -> None:
    places: dict[str, list[_Turn]] = defaultdict(list)
    for turn in turns:
        for mark in turn.marks:
            places[mark].append(turn)
    asked = {each.mark: each for each in attempts}
    for mark, found in places.items():
        ends = [turn.end for turn in found]
        # One that failed was not done: the same idempotency key may have it done.
        asked[mark].may_run += ends.count("failed")
        if len(found) > asked[mark].may_run or ends.count("end") > 1:
            report.twice.append(f"{mark} stands in turns {ends}, answers {asked[mark].answers}")
    last: dict[str, int] = {}
    for attempt in sorted(attempts, key=lambda each: each.ended):
        ended = [turn for turn in places[attempt.mark] if turn.end == "end"]
        if attempt.outcome != "acknowledged":
            report.codes[f"{attempt.status} {attempt.code}"] += 1
            if ended and attempt.outcome == "refused":
                report.kept_though_refused[attempt.code] += 1
            continue
        report.acknowledged += 1
        if not ended:
            states = [turn.end for turn in places[attempt.mark]]
            report.missing.append(f"{attempt.mark} was acknowledged, and is {states or 'nowhere'}")
            continue
        turn = ended[0]
        if turn.conversation != attempt.conversation:
            report.disorder.append(f"{attempt.mark} is in another conversation")
        if turn.answer.strip() != attempt.answer.strip():
            report.disorder.append(f"{attempt.mark}: {turn.answer!r}, told {attempt.answer!r}")
        if turn.number <= last.get(turn.conversation, 0):
            report.disorder.append(f"{attempt.mark}: turn {turn.number} out of order")
        last[turn.conversation] = turn.number


def _check_children(report: Report, notes: Path, attempts: Sequence[Attempt]) -> None:
    ran = Counter(notes.read_text().split()) if notes.exists() else Counter()
    for each in attempts:
        if ran[each.mark] > each.may_run:
            report.twice.append(f"{each.mark} ran {ran[each.mark]} times, answers {each.answers}")
