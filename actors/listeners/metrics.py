"""Metrics as this project uses them: prometheus-client's, that can also be read back.

Knows: counters, a bounded number of label values, durations with exact percentiles. Refuses to
know: what is counted, and when.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.samples import Sample

RECENT = 1000
"""Durations of which the percentiles are taken: the last so many."""

LABEL_VALUES = 64
"""Values that one label may take. Error codes, reasons and phases are few, but they are open
words; beyond so many, what is new counts as ``other``."""


def _totals(counter: Counter) -> Iterator[Sample]:
    for metric in counter.collect():
        yield from (sample for sample in metric.samples if sample.name.endswith("_total"))


def bounded(value: str, seen: set[str]) -> str:
    """`value`, or ``other`` where `seen` has no room for one more."""
    if value not in seen and len(seen) >= LABEL_VALUES:
        return "other"
    seen.add(value)
    return value


class Count:
    """A counter. An amount below zero counts as nothing: Prometheus refuses it, and amounts come
    from the CLI, which must not be able to end the actor."""

    def __init__(self, registry: CollectorRegistry, name: str, help: str) -> None:
        self._counter = Counter(name, help, registry=registry)

    def add(self, amount: float = 1) -> None:
        self._counter.inc(max(0, amount))

    def read(self) -> float:
        return sum(sample.value for sample in _totals(self._counter))


class Counts:
    """A counter with one label; `known` values are shown from the start, as zero."""

    def __init__(
        self, registry: CollectorRegistry, name: str, help: str, label: str, known: tuple[str, ...]
    ) -> None:
        self._counter = Counter(name, help, [label], registry=registry)
        self._label = label
        self._seen: set[str] = set()
        self._by_value: dict[str, Counter] = {}
        for value in known:
            self.add(value, 0)

    def add(self, value: str, amount: float = 1) -> None:
        value = bounded(value, self._seen)
        counter = self._by_value.get(value)
        if counter is None:
            counter = self._by_value[value] = self._counter.labels(value)
        counter.inc(max(0, amount))

    def read(self) -> dict[str, int]:
        return {sample.labels[self._label]: int(sample.value) for sample in _totals(self._counter)}


class Durations:
    """A histogram in seconds, and the latest values in full for exact percentiles."""

    def __init__(
        self, registry: CollectorRegistry, name: str, help: str, buckets: tuple[float, ...]
    ) -> None:
        self._histogram = Histogram(name, help, buckets=buckets, registry=registry)
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, seconds: float) -> None:
        self._histogram.observe(seconds)
        self._recent.append(seconds)

    def read(self) -> dict[str, float | None]:
        """Milliseconds over the last `RECENT` values; None while there are none."""
        values = sorted(self._recent)

        def milliseconds(seconds: float) -> float:
            return round(seconds * 1000, 3)

        def rank(share: float) -> float | None:
            # Nearest rank: a value that was measured, not one between two.
            return milliseconds(values[math.ceil(share * len(values)) - 1]) if values else None

        return {
            "count": len(values),
            "mean": milliseconds(math.fsum(values) / len(values)) if values else None,
            "p50": rank(0.5),
            "p95": rank(0.95),
            "p99": rank(0.99),
            "max": rank(1),
        }


class Metrics:
    """Makes metrics of one registry, all under the project's prefix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def count(self, name: str, help: str) -> Count:
        return Count(self.registry, f"ccapi_{name}", help)

    def counts(self, name: str, help: str, label: str, *known: str) -> Counts:
        return Counts(self.registry, f"ccapi_{name}", help, label, known)

    def durations(self, name: str, help: str, buckets: tuple[float, ...]) -> Durations:
        return Durations(self.registry, f"ccapi_{name}_seconds", help, buckets)

    def gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"ccapi_{name}", help, labels, registry=self.registry)
