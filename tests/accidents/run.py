"""One run: a cluster, clients, accidents, and what came of it."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import quantiles

import trio
from attrs import frozen

from .checker import Report, check, granted_within
from .cluster import open_cluster, wait_quiet
from .injector import ALL, Injector
from .load import Load

CLIENTS = 12
CONVERSATIONS = 100
QUIET_SECONDS = 10.0


@frozen
class Run:
    report: Report
    accidents: dict[str, int]
    takeovers: dict[str, list[float]]
    """By kind: after how many seconds clients had the first of an answer."""
    grants: dict[str, list[float]]
    """By kind: after how many seconds another node had the conversation."""
    turns: list[float]

    @property
    def table(self) -> str:
        report = self.report
        rows = {
            "accidents": ", ".join(f"{name} {n}" for name, n in self.accidents.items()),
            "turns acknowledged": report.acknowledged,
            "acknowledged turns missing": len(report.missing),
            "turns run twice": len(report.twice),
            "appends with an old token accepted": len(report.old_tokens),
            "records out of order, gaps, turns left open": len(report.disorder),
            "records": report.records,
            "leases granted": report.grants,
            "turns lost, and said so": report.lost,
            "refused, yet in the log": dict(report.kept_though_refused),
            "turn p50 / p99": spread(self.turns),
            **{f"another node has it after {name} p50 / p99": spread(took)
               for name, took in self.grants.items() if took},
            "another node has it p50 / p99": spread(_together(self.grants)),
            **{f"the first word after {name} p50 / p99": spread(took)
               for name, took in self.takeovers.items() if took},
            "the first word p50 / p99": spread(_together(self.takeovers)),
            "not acknowledged": ", ".join(f"{what}: {n}" for what, n in report.codes.most_common()),
        }  # fmt: skip
        lines = [f"| {name} | {value} |" for name, value in rows.items()]
        return "\n".join(["| what | measured |", "|---|---|", *lines, *report.violations[:50]])


def _together(by_kind: dict[str, list[float]]) -> list[float]:
    return [each for some in by_kind.values() for each in some]


def spread(took: list[float]) -> str:
    if len(took) < 2:
        return f"n={len(took)}" + "".join(f" {each:.2f} s" for each in took)
    cuts = quantiles(took, n=100, method="inclusive")
    return f"{cuts[49]:.2f} / {cuts[98]:.2f} s (n={len(took)}, max {max(took):.2f})"


async def have_accidents(
    folder: Path,
    seconds: float,
    *,
    seed: int = 1,
    kinds: tuple[str, ...] = ALL,
    unfenced: bool = False,
) -> Run:
    dice = random.Random(seed)
    async with open_cluster(folder, unfenced=unfenced) as cluster:
        load = Load(cluster.balancer.url, dice)
        injector = Injector(cluster, load, dice)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: load.run(clients=CLIENTS, conversations=CONVERSATIONS))
            await trio.sleep(min(2.0, seconds / 10))
            await injector.run(seconds, kinds)
            load.stopping = True
        await wait_quiet(cluster, QUIET_SECONDS)
        report = await trio.to_thread.run_sync(
            check, cluster.database, load.attempts, cluster.notes
        )
        grants = {
            kind: await trio.to_thread.run_sync(granted_within, cluster.database, some)
            for kind, some in injector.by_kind.items()
        }
    turns = [each.ended - each.began for each in load.attempts if each.outcome == "acknowledged"]
    seconds_of = {kind: [each.seconds for each in some] for kind, some in injector.by_kind.items()}
    return Run(report, dict(injector.counts), seconds_of, grants, turns)
